# Every flag of limits in its file; stats live and in agreement with the files; the cgroup namespace.
coracle import -q image.tar localhost/busybox >/dev/null
group() { echo "/sys/fs/cgroup$(coracle inspect -f '{{.State.CgroupPath}}' "$1")"; }
value() { cat "$(group "$1")/$2"; }
kept() { is "$1" "$(value c "$2")" "$3"; }
device=$(tr -d '\n' </sys/class/block/vda/dev)
coracle run -d --name c -m 64m --memory-swap 96m --cpu-period 50000 --cpu-quota 20000 --cpuset-mems 0 --cpuset-cpus 0-1 \
    --device-read-bps /dev/vda:1mb --device-write-bps /dev/vda:2mb --device-read-iops /dev/vda:10 --device-write-iops /dev/vda:20 \
    --cgroup-conf memory.high=60000000 busybox sh -c 'while :; do dd if=/dev/zero of=/file bs=1M count=2 conv=fsync; sleep 1; done' >/dev/null
kept "--memory-swap counts both" memory.swap.max 33554432
kept "--cpu-period, --cpu-quota" cpu.max "20000 50000"
kept "--cpuset-mems" cpuset.mems 0
kept "--cpuset-cpus" cpuset.cpus 0-1
kept "--device-…" io.max "$device rbps=1048576 wbps=2097152 riops=10 wiops=20"
kept "--cgroup-conf" memory.high 59998208
# Which kernels have a file for weights, and which of them one for single devices, differs.
coracle run -d --name weight --blkio-weight 500 busybox sleep 1000 >/dev/null
if [ -e "$(group weight)/io.weight" ]; then
    is "--blkio-weight" "$(value weight io.weight | head -n 1)" "default 4950"
else
    is "--blkio-weight" "$(value weight io.bfq.weight | head -n 1)" "default 500"
fi
coracle rm -f -t 0 weight >/dev/null
if coracle run -d --name weight --blkio-weight-device /dev/vda:300 busybox sleep 1000 >/dev/null 2>err; then
    check "--blkio-weight-device" sh -c 'grep -q "^$2 " "$1"' sh "$(group weight)"/io*.weight "$device"
else
    is "--blkio-weight-device: what this kernel refuses is told" "$(grep -c "write \"$device [0-9]*\" to io.weight: operation not supported" err) $(wc -l <err)" "1 1"
fi
coracle rm -f -t 0 weight >/dev/null 2>&1

# stats
counted() { # SHOWN BEFORE AFTER: between two looks at the file
    [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]
}
before=$(value c cpu.stat | sed -n 's/^usage_usec //p')
nano=$(coracle stats --no-stream --no-reset --format '{{.CPUNano}}' c)
after=$(value c cpu.stat | sed -n 's/^usage_usec //p')
check "stats: processor time $before <= $((nano / 1000)) <= $after" counted $((nano / 1000)) "$before" "$after"
coracle pause c >/dev/null
memory=$(value c memory.current)
shown=$(coracle stats --no-stream --no-reset --format '{{.MemUsageBytes}}' c | sed 's/ .*//')
check "stats: memory of the file, $memory: $shown" awk -v file="$memory" -v shown="$shown" 'BEGIN {
    number = shown + 0; unit = shown; sub(/^[0-9.]+/, "", unit)
    scale["B"] = 1; scale["KiB"] = 1024; scale["MiB"] = 1048576; scale["GiB"] = 1073741824
    exit !(number * scale[unit] >= file * 0.98 - 4096 && number * scale[unit] <= file * 1.02 + 4096) }'
is "stats: processes" "$(coracle stats --no-stream --no-reset --format '{{.PIDs}}' c)" "$(value c pids.current)"
written=$(value c io.stat | sed -n "s/^$device .*wbytes=\([0-9]*\).*/\1/p")
io=$(coracle stats --no-stream --no-reset --format '{{.BlockIO}}' c)
check "stats: bytes written, $written: $io" awk -v file="$written" -v shown="${io#*/ }" 'BEGIN {
    number = shown + 0; unit = shown; sub(/^[0-9.]+/, "", unit)
    scale["B"] = 1; scale["kB"] = 1000; scale["MB"] = 1000000; scale["GB"] = 1000000000
    exit !(file > 0 && number * scale[unit] >= file * 0.99 && number * scale[unit] <= file * 1.01) }'
coracle unpause c >/dev/null
timeout 40 coracle stats --no-reset --interval 2 c >live
check "stats is live" test "$(grep -c "^[0-9a-f]\{12\} " live)" -ge 2
is "with all columns" "$(head -n 1 live | tr -s ' ')" "ID NAME CPU % MEM USAGE / LIMIT MEM % NET IO BLOCK IO PIDS CPU TIME AVG CPU %"

# update, by all its flags
coracle update -m 80m --memory-swap 160m --memory-reservation 40m --cpu-shares 1024 --cpus 0.5 --cpuset-cpus 1 --cpuset-mems 0 --pids-limit 60 \
    --device-read-bps /dev/vda:3mb --device-write-bps /dev/vda:4mb --device-read-iops /dev/vda:30 --device-write-iops /dev/vda:40 c >/dev/null
is "update" $? 0
kept "-m" memory.max 83886080
kept "--memory-swap" memory.swap.max 83886080
kept "--memory-reservation" memory.low 41943040
kept "--cpus" cpu.max "50000 100000"
kept "--cpuset-cpus" cpuset.cpus 1
kept "--pids-limit" pids.max 60
kept "--device-…" io.max "$device rbps=3145728 wbps=4194304 riops=30 wiops=40"
coracle rm -f -t 0 c >/dev/null

is "--cgroup-conf stands before what is a limit by default" "$(coracle run -d --name c --cgroup-conf pids.max=77 busybox sleep 1000 >/dev/null; value c pids.max)" 77
coracle rm -f -t 0 c >/dev/null
# the namespace, the modes, the parent
is "--cgroupns private" "$(coracle run --rm --cgroupns private -m 64m busybox cat /proc/self/cgroup)" 0::/
is "--cgroupns host" "$(coracle run --rm --cgroupns host -m 64m busybox cat /proc/self/cgroup | grep -c '/coracle-.*.scope/coracle-')" 1
systemd-run --user -q -u stays.service coracle run --name c --cgroups no-conmon -m 64m busybox sleep 1000
eventually coracle exec c true 2>/dev/null
is "--cgroups no-conmon: the supervisor stays" "$(grep -c stays.service "/proc/$(coracle inspect -f '{{.State.ConmonPid}}' c)/cgroup") $(group c | grep -c /stays.service/)" "1 0"
coracle rm -f -t 0 c >/dev/null
systemd-run --user -q -u split.service -p Delegate=yes coracle run --name c --cgroups split -m 64m busybox sleep 1000
eventually coracle exec c true 2>/dev/null
is "--cgroups split: all in the unit" "$(group c | grep -c /split.service/)" 1
kept "with its limits" memory.max 67108864
coracle rm -f -t 0 c >/dev/null
own=/user.slice/user-1000.slice/user@1000.service/app.slice
systemd-run --user -q --scope -p Delegate=yes -u parent.scope coracle run -d --name c --cgroup-parent $own/parent.scope/mine -m 64m busybox sleep 1000 >/dev/null
is "--cgroup-parent with a path" "$(group c | grep -c /parent.scope/mine/coracle-)" 1
kept "and limits" memory.max 67108864
coracle rm -f -t 0 c >/dev/null
finish
