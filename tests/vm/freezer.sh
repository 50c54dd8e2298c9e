# pause with the freezer of a delegated cgroup; stats from its controllers' files
coracle import -q image.tar localhost/busybox >/dev/null
# A session's cgroup belongs to root; one of the user manager's is delegated.
systemd-run --user --scope -q coracle run -d --name c busybox sh -c 'while :; do echo tick; sleep 0.1; done' >/dev/null
pid=$(coracle inspect -f '{{.State.Pid}}' c)
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup)
check "the container has a cgroup of its own" test "${group##*/}" = "coracle-$(coracle inspect -f '{{.Id}}' c)"
is "it is not frozen" "$(cat $group/cgroup.freeze)" 0
coracle pause c >/dev/null
is "pause freezes the cgroup" "$(cat $group/cgroup.freeze) $(grep frozen $group/cgroup.events)" "1 frozen 1"
is "its state says so" "$(coracle inspect -f '{{.State.Status}}' c)" paused
before=$(coracle logs c | wc -l)
sleep 2
is "nothing of it runs" "$(coracle logs c | wc -l)" "$before"
is "exec waits for nobody: it is refused" "$(coracle exec c true 2>&1 | grep -c paused)" 1
coracle unpause c >/dev/null
is "unpause thaws it" "$(cat $group/cgroup.freeze)" 0
more() { [ "$(coracle logs c | wc -l)" -gt "$before" ]; }
check "and it goes on" eventually more
check "exec from a session, whose cgroup is not delegated" coracle exec c true
row=$(coracle stats --no-stream --no-reset --format '{{.PIDs}} {{.MemUsage}}' c)
pids=$(cat $group/pids.current 2>/dev/null || wc -l <$group/cgroup.procs)
check "stats counts processes: $row" test "${row%% *}" -ge 1 -a "${row%% *}" -le $((pids + 1))
if [ -e $group/memory.current ]; then
    check "stats shows memory: $row" sh -c 'case "$1" in *" 0B /"*) exit 1 ;; esac' sh "$row"
fi
coracle pause c >/dev/null
coracle rm -f -t 0 c >/dev/null
check "a frozen container can be removed, and its cgroup with it" test ! -e $group
finish
