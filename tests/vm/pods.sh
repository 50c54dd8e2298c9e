# Limits of a pod as a whole: a slice that its containers' scopes are in, as long as one of them runs.
coracle import -q image.tar localhost/busybox >/dev/null
group() { echo "/sys/fs/cgroup$(coracle inspect -f '{{.State.CgroupPath}}' "$1")"; }
coracle pod create -m 64m --cpus 0.5 -c 512 --device-read-bps /dev/vda:1mb --network none p >/dev/null
coracle run -d --pod p --name one busybox sleep 1000 >/dev/null
coracle run -d --pod p --name two -m 32m busybox sleep 1000 >/dev/null
path=$(coracle pod inspect p | jq -r '(if type == "array" then .[0] else . end).CgroupPath')
slice=/sys/fs/cgroup$path
is "the pod has a slice" "${path##*/}" "app-coracle_pod_$(coracle pod inspect p | jq -r '(if type == "array" then .[0] else . end).Id').slice"
for name in one two; do
    check "$name is in it" sh -c 'case "$1" in "$2"/*) ;; *) exit 1 ;; esac' sh "$(group $name)" "$slice"
done
is "memory of all" "$(cat $slice/memory.max)" 67108864
is "processors of all" "$(cat $slice/cpu.max)" "50000 100000"
is "their weight" "$(cat $slice/cpu.weight)" 20
is "devices" "$(sed 's/^[0-9:]* //' $slice/io.max)" "rbps=1048576 wbps=max riops=max wiops=max"
is "a container may have limits of its own" "$(cat "$(group two)/memory.max")" 33554432
is "they are the manager's, and stay when it looks again" "$(systemctl --user daemon-reload; cat $slice/memory.max $slice/cpu.max | tr '\n' ' ')" "67108864 50000 100000 "
# Each would have enough for itself.
coracle run --pod p --name hog busybox sh -c 'exec tail -c 100000000 /dev/zero' >/dev/null 2>&1
is "a hog of memory is killed for the sake of the pod" "$? $(coracle inspect -f '{{.State.OOMKilled}}' hog)" "137 true"
is "the others go on" "$(coracle inspect -f '{{.State.Running}}' one two | tr '\n' ' ')" "true true "
coracle pod stop -t 0 p >/dev/null
check "the slice goes with the last of them" eventually test ! -e $slice
coracle pod start p >/dev/null
check "it is there again" eventually test -e $slice
is "with its limits" "$(cat $slice/memory.max)" 67108864
coracle pod rm -f -t 0 p >/dev/null
check "and gone with the pod" eventually test ! -e $slice
is "nothing failed" "$(systemctl --user --failed --no-legend --plain | wc -l)" 0
[ $failures = 0 ] || journalctl -q --no-pager -n 60 --user
finish
