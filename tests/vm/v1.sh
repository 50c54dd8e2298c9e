# A host with cgroups of version 1, or of both: no limits, with a word about it.
mode=none
[ -e /sys/fs/cgroup/cgroup.procs ] && mode=v2
[ -d /sys/fs/cgroup/memory ] && mode=v1
[ -e /sys/fs/cgroup/unified/cgroup.procs ] && mode=hybrid
is "this is such a host" "$mode" "${1:-v1}"
coracle import -q image.tar localhost/busybox >/dev/null
is "a plain run has nothing to say" "$(coracle run --rm busybox echo hello 2>&1)" hello
coracle run -d --name c busybox sleep 1000 >/dev/null 2>err
is "nor what runs in the background" "$(grep -vc lingering err)" 0
is "exec" "$(coracle exec c echo hello)" hello
coracle pause c >/dev/null
is "pause" "$(coracle inspect -f '{{.State.Status}}' c)" paused
coracle unpause c >/dev/null
check "stats" coracle stats --no-stream --no-reset c
coracle rm -f -t 0 c >/dev/null
out=$(coracle run --rm -m 64m --cpus 0.5 busybox echo hello 2>err)
is "with limits it runs" "$out" hello
is "with one warning" "$(wc -l <err)" 1
is "that says why" "$(grep -c 'limits of cpu, memory are not kept: .*cgroups of version 1' err)" 1
cat err
coracle run --rm --pids-limit 50 busybox sh -c 'ulimit -u' 2>err
is "--pids-limit by what there is" "$(grep -c 'RLIMIT_NPROC' err)" 1
coracle run --rm --strict -m 64m busybox true 2>/dev/null
is "--strict: it does not run" $? 125
is "info has no controllers" "$(coracle info -f '{{.Host.CgroupControllers}} {{.Host.CgroupsVersion}}')" "[] v1"
coracle doctor | grep -i cgroup
finish
