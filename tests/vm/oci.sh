# An OCI runtime's --systemd-cgroup: a scope of the user's systemd.
mkdir -p bundle/rootfs
tar -C bundle/rootfs -xf image.tar
(cd bundle && coracle oci spec --rootless 2>/dev/null || coracle oci spec)
jq '.process.args = ["sleep", "1000"] | .process.terminal = false | .linux.cgroupsPath = "web.slice:coracle:one"
    | .linux.resources = {memory: {limit: 67108864}, pids: {limit: 50}}' bundle/config.json >config && mv config bundle/config.json
oci() { coracle oci --systemd-cgroup "$@"; }
check "create" oci create --bundle bundle --pid-file pid one
group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(cat pid)/cgroup")
is "it is in the scope that the bundle names, in its slice" "${group#*/user@1000.service}" /web.slice/coracle-one.scope/container
is "which the manager knows" "$(systemctl --user is-active coracle-one.scope)" active
is "memory" "$(cat $group/memory.max)" 67108864
is "processes" "$(cat $group/pids.max)" 50
systemctl --user daemon-reload
is "they stay when the manager looks again" "$(cat $group/memory.max)" 67108864
check "start" oci start one
is "exec" "$(oci exec one cat /proc/self/cgroup)" 0::/
check "update" oci update --memory 33554432 one
is "is kept" "$(cat $group/memory.max)" 33554432
check "pause" oci pause one
is "freezes it" "$(cat $group/cgroup.freeze)" 1
check "resume" oci resume one
check "delete" oci delete --force one
check "the scope goes with it" eventually test ! -e "${group%/*}"
jq '.linux.cgroupsPath = "::two" | .process.args = ["true"]' bundle/config.json >config && mv config bundle/config.json
check "run in the foreground" oci run --bundle bundle two
check "leaves no scope" eventually sh -c '! systemctl --user -q is-active two.scope'
finish
