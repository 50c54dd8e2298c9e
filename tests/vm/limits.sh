# limits of memory, processors, processes and devices: where the cgroup comes from, what is kept, what is told
coracle import -q image.tar localhost/busybox >/dev/null
group() { echo "/sys/fs/cgroup$(coracle inspect -f '{{.State.CgroupPath}}' "$1")"; }
value() { cat "$(group "$1")/$2"; }
kept() { is "$1" "$(value c "$2")" "$3"; }

# A login's cgroup belongs to root: the user manager makes a scope.
coracle run -d --name c -m 64m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 --pids-limit 50 --cpuset-cpus 0 \
    --device-read-bps /dev/vda:1mb --device-write-iops /dev/vda:100 --cgroup-conf memory.high=60000000 busybox sleep 1000 >/dev/null
id=$(coracle inspect -f '{{.Id}}' c)
is "the cgroup is in a scope of its own" "$(group c | grep -c "/coracle-$id.scope/coracle-$id$")" 1
kept "memory" memory.max 67108864
kept "reserved memory" memory.low 33554432
kept "processors" cpu.max "50000 100000"
kept "shares" cpu.weight 20
kept "processes" pids.max 50
kept "which processors" cpuset.cpus 0
kept "what the user writes to a file" memory.high 59998208
is "devices" "$(value c io.max | sed 's/^[0-9:]* //')" "rbps=1048576 wbps=max riops=max wiops=100"
is "inspect says what was asked" "$(coracle inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.CpuQuota}} {{.HostConfig.CpuShares}} {{.HostConfig.PidsLimit}} {{.HostConfig.CgroupManager}}' c)" \
    "67108864 134217728 500000000 50000 512 50 systemd"
is "info lists the controllers" "$(coracle info -f '{{.Host.CgroupControllers}} {{.Host.CgroupManager}} {{.Host.CgroupsVersion}}')" "[cpu cpuset io memory pids] systemd v2"
is "a program of exec is held to it, too" "$(coracle exec c cat /proc/self/cgroup)" "0::/"
coracle exec c sh -c 'sleep 100 & sleep 100' &
exec_pid=$!
eventually sh -c "[ \$(grep -c . $(group c)/cgroup.procs) -ge 3 ]"
check "it is in the container's cgroup" test "$(grep -c . "$(group c)/cgroup.procs")" -ge 3

# stats
row=$(coracle stats --no-stream --no-reset --format '{{.PIDs}} {{.MemLimit}} {{.MemUsage}}' c)
is "stats shows the processes and the limit of the cgroup" "$(echo "$row" | cut -d' ' -f1,2)" "$(value c pids.current) 67108864"
bytes=$(coracle stats --no-stream --no-reset --format '{{.MemUsageBytes}}' c)
check "stats shows its memory: $bytes" sh -c 'case "$1" in 0B*) exit 1 ;; *"/ 64MiB") ;; *) exit 1 ;; esac' sh "$bytes"
for column in CPUPerc MemPerc NetIO BlockIO UpTime AVGCPU; do
    check "stats has $column" test -n "$(coracle stats --no-stream --no-reset --format "{{.$column}}" c)"
done
kill $exec_pid

# update
coracle update -m 128m --cpus 1 --pids-limit 60 --cpu-shares 1024 c >/dev/null
kept "update: memory" memory.max 134217728
kept "update: processors" cpu.max "100000 100000"
kept "update: processes" pids.max 60
kept "update: shares" cpu.weight 39
is "update is remembered" "$(coracle inspect -f '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}' c)" "134217728 60"
kept "what was not named stays" cpuset.cpus 0
coracle restart -t 0 c >/dev/null
kept "and holds at the next start" memory.max 134217728
coracle pause c >/dev/null
is "pause freezes it" "$(value c cgroup.freeze)" 1
coracle unpause c >/dev/null
scope=$(dirname "$(group c)")
coracle rm -f -t 0 c >/dev/null
check "the scope goes with the container" eventually test ! -e "$scope"

# memory
coracle run --name hog -m 64m busybox sh -c 'exec tail -c 200000000 /dev/zero' >/dev/null 2>&1
is "a hog of memory is killed" $? 137
is "and the reason is known" "$(coracle inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' hog)" "true 137"
is "and told" "$(coracle events --stream=false --since 10m --filter container=hog --filter event=oom | wc -l)" 1
coracle rm hog >/dev/null
coracle run --rm -m 64m busybox sh -c 'tail -c 200000000 /dev/zero; sleep 0.1; exit 3' >/dev/null 2>&1
is "one whose child is killed goes on" $? 3

# processes
out=$(coracle run --rm --pids-limit 50 busybox sh -c 'i=0; while [ $i -lt 80 ]; do sleep 20 & i=$((i + 1)); done; wait' 2>&1)
check "a fork bomb finds an end" sh -c 'echo "$1" | grep -qi "can.t fork"' sh "$out" || echo "$out" | tail -3
coracle run -d --name c busybox sleep 1000 >/dev/null
kept "in the background there is podman's limit of processes" pids.max 2048
is "inspect shows it" "$(coracle inspect -f '{{.HostConfig.PidsLimit}}' c)" 2048
coracle rm -f -t 0 c >/dev/null

# processors: between two looks at the counter
coracle run -d --name c --cpus 0.5 busybox sh -c 'while :; do :; done' >/dev/null
used() { value c cpu.stat | sed -n 's/^usage_usec //p'; }
now() { cut -d' ' -f1 /proc/uptime | tr -d .; }
u0=$(used) t0=$(now)
sleep 5
u1=$(used) t1=$(now)
share=$(((u1 - u0) / 100 / (t1 - t0)))
check "a hog of processors has half of one: $share %" test $share -ge 45 -a $share -le 55
coracle rm -f -t 0 c >/dev/null

# where it comes from
systemd-run --user --scope -q -p Delegate=yes -u coracle-test.scope coracle run -d --name c -m 64m busybox sleep 1000 >/dev/null
is "what is delegated is used" "$(group c | grep -c "/coracle-test.scope/coracle-")" 1
kept "with its limits" memory.max 67108864
coracle rm -f -t 0 c >/dev/null
systemd-run --user -q --wait -p Delegate=yes coracle run --name c -m 64m busybox cat /proc/self/cgroup
is "in a service as well" "$(coracle logs c)" "0::/"
coracle rm c >/dev/null
systemd-run --user -q -u plain.service coracle run --name c -m 64m busybox sleep 1000
eventually coracle exec c true 2>/dev/null
is "a service without Delegate= gets a scope for the container" "$(group c | grep -c '/coracle-.*.scope/')" 1
kept "with its limits" memory.max 67108864
is "and keeps the supervisor" "$(grep -c plain.service "/proc/$(coracle inspect -f '{{.State.ConmonPid}}' c)/cgroup")" 1
coracle rm -f -t 0 c >/dev/null
sudo su tester -c 'env -u XDG_RUNTIME_DIR -u DBUS_SESSION_BUS_ADDRESS coracle run -d --name c -m 64m busybox sleep 1000' >/dev/null
is "su has its scope, too" "$(value c memory.max)" 67108864
coracle rm -f -t 0 c >/dev/null
systemctl --user stop dbus.socket dbus.service 2>/dev/null
coracle run -d --name c -m 64m busybox sleep 1000 >/dev/null
is "without a message bus as well" "$(value c memory.max)" 67108864
coracle rm -f -t 0 c >/dev/null
coracle run -d --name c -m 64m --cgroup-parent web.slice busybox sleep 1000 >/dev/null
is "a slice of one's own" "$(group c | grep -c /web.slice/coracle-)" 1
coracle rm -f -t 0 c >/dev/null
is "a plain run asks nobody" "$(coracle run --rm busybox sh -c 'cat /proc/self/cgroup' | grep -c scope)" 0
coracle run -d --name c --cgroups disabled busybox sleep 1000 >/dev/null
check "--cgroups disabled: none" sh -c '! echo "$1" | grep -q coracle-' sh "$(group c)"
coracle rm -f -t 0 c >/dev/null

# a controller that is missing: from the leaves up, nobody has io any more
find /sys/fs/cgroup/user.slice/user-1000.slice -depth -name cgroup.subtree_control |
    while read -r file; do echo -io | sudo tee "$file" >/dev/null 2>&1; done
echo -io | sudo tee /sys/fs/cgroup/user.slice/cgroup.subtree_control >/dev/null
out=$(coracle run --rm -m 64m --device-read-bps /dev/vda:1mb busybox true 2>&1)
is "the container runs, with one warning" "$? $(echo "$out" | wc -l)" "0 1"
is "info lists it" "$(coracle info -f '{{.Host.CgroupControllers}}')" "[cpu cpuset memory pids]"
is "it names the controller and the line that gives it" "$(echo "$out" | grep -c 'limits of io are not kept.*Delegate=cpu cpuset io memory pids')" 1
is "doctor too" "$(coracle doctor 2>/dev/null | grep -c 'io.*Delegate=cpu cpuset io memory pids')" 1
coracle run --rm --strict --device-read-bps /dev/vda:1mb busybox true 2>/dev/null
is "--strict: it does not run" $? 125

# what it costs
ms() { local t0; t0=$(date +%s%N); for _ in 1 2 3 4 5; do "$@" >/dev/null; done; echo $((($(date +%s%N) - t0) / 5000000)); }
echo "run: $(ms coracle run --rm busybox true) ms, in a scope: $(ms coracle run --rm --pids-limit 50 busybox true) ms"
finish
