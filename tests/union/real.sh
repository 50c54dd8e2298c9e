#!/bin/bash
# Real programs on the union, by hand: dpkg and apt in a Debian of its own, git, cargo, python's venv, redis that syncs
# every write, sqlite with a write-ahead log. Each works in a directory of the mount and checks its own result; the same
# once more on the kernel's overlay says whether a failure is ours.
#
#   tests/union/real.sh [PROGRAM…]      PROGRAM: debian git cargo venv redis sqlite (default: what the machine has)
#
#   CORACLE=…  the coracle to test (default: from PATH)
#   DEBIAN=…   a tar of a Debian's root (default: made by mmdebstrap, needs a mirror)
# As an ordinary user with subordinate ids.
set -euo pipefail
programs=("$@")
[ ${#programs[@]} -gt 0 ] || programs=(debian git cargo venv redis sqlite)

if [ -z "${REAL_INSIDE:-}" ]; then
    if [[ " ${programs[*]} " == *" debian "* ]] && [ -z "${DEBIAN:-}" ]; then
        DEBIAN=$(mktemp -d)/debian.tar
        mmdebstrap --quiet --mode=unshare --variant=minbase "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$DEBIAN"
    fi
    CORACLE=$(command -v "${CORACLE:-coracle}") DEBIAN=${DEBIAN:-} REAL_INSIDE=1 \
        exec unshare --user --map-root-user --map-auto --mount --pid --fork --kill-child --mount-proc "$0" "${programs[@]}"
fi

export PATH=$PATH:/usr/sbin:/sbin
mount -t tmpfs -o mode=755 tmpfs /mnt
status=0

run_debian() {
    [ -d "$root/debian" ] || { echo "no DEBIAN"; return 1; }
    local dir=$root/debian
    mount --rbind /dev "$dir/dev"
    cp /etc/resolv.conf /etc/hosts "$dir/etc/" 2>/dev/null || true
    for file in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d; do
        [ -e $file ] && cp -a $file "$dir/etc/apt/"
    done
    chroot "$dir" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -euc '
        apt-get -q update
        apt-get -q -y --no-install-recommends install less file nginx-light
        dpkg --verify
        dpkg -s less file | grep -c "^Status: install ok installed" | grep -qx 2
        apt-get -q -y --no-install-recommends --reinstall install tar
        apt-get -q -y purge less nginx-light
        ! test -e /usr/bin/less
        dpkg --audit'
    umount -l "$dir/dev"
}

run_git() {
    mkdir "$root/git"; cd "$root/git"
    git init -q origin; cd origin
    git config user.name x; git config user.email x@x
    for number in $(seq 400); do mkdir -p "d$((number % 20))"; seq "$number" >"d$((number % 20))/f$number"; done
    git add .; git commit -q -m one; git tag v1
    for number in $(seq 1 7 400); do echo more >>"d$((number % 20))/f$number"; done
    git commit -q -a -m two; cd ..
    git clone -q origin clone; cd clone
    git checkout -q v1; git checkout -q -; git gc -q; git fsck --strict
    [ -z "$(git status --porcelain)" ]
}

run_cargo() {
    mkdir -p "$root/cargo" "$root/cargo-home"; cd "$root/cargo"
    export CARGO_HOME=$root/cargo-home HOME=$root/cargo-home
    cargo init -q --name small --vcs none .
    cargo build -q; cargo test -q >/dev/null; echo '// changed' >>src/main.rs; cargo build -q
    [ "$(./target/debug/small)" = 'Hello, world!' ]
    cargo clean -q
}

run_venv() {
    python3 -m venv --without-pip "$root/venv"
    "$root/venv/bin/python" -c 'import sys, json, sqlite3, compileall; assert sys.prefix != sys.base_prefix'
    cp -r "$(python3 -c 'import json; print(json.__path__[0])')" "$root/venv/own"
    "$root/venv/bin/python" -m compileall -q "$root/venv/own"
}

run_redis() {
    mkdir "$root/redis"; cd "$root/redis"
    redis-server --port 0 --unixsocket "$root/redis/s" --appendonly yes --appendfsync always --dir "$root/redis" --daemonize yes --pidfile "$root/redis/pid" >/dev/null
    until redis-cli -s s ping >/dev/null 2>&1; do sleep 0.05; done
    for number in $(seq 300); do echo "SET key$number $number"; done | redis-cli -s s >/dev/null
    redis-cli -s s bgrewriteaof >/dev/null; sleep 1
    redis-cli -s s set last one >/dev/null
    kill -9 "$(cat pid)"; sleep 0.2; rm -f s
    redis-server --port 0 --unixsocket "$root/redis/s" --appendonly yes --dir "$root/redis" --daemonize yes --pidfile "$root/redis/pid" >/dev/null
    until redis-cli -s s ping 2>/dev/null | grep -q PONG; do sleep 0.05; done
    [ "$(redis-cli -s s get key300)" = 300 ] && [ "$(redis-cli -s s get last)" = one ]
    redis-cli -s s shutdown nosave 2>/dev/null || true
}

run_sqlite() {
    mkdir "$root/sqlite"; cd "$root/sqlite"
    python3 - <<'PYTHON'
import os, sqlite3, signal, time
def connect():
    c = sqlite3.connect("db", timeout=30, isolation_level=None)
    c.execute("pragma journal_mode=wal"); c.execute("pragma synchronous=full")
    return c
c = connect(); c.execute("create table t(writer, number)")
children = []
for writer in range(3):
    pid = os.fork()
    if pid == 0:
        own = connect()
        for number in range(200):
            own.execute("insert into t values(?, ?)", (writer, number))
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
assert c.execute("select count(*) from t").fetchone() == (600,)
pid = os.fork()
if pid == 0:
    own = connect()
    while True:
        own.execute("begin"); own.execute("insert into t values(9, 1)"); own.execute("insert into t values(9, 2)"); own.execute("commit")
time.sleep(0.3); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
c = connect()
assert c.execute("pragma integrity_check").fetchone() == ("ok",)
assert c.execute("select count(*) % 2 from t where writer = 9").fetchone() == (0,)
c.execute("pragma wal_checkpoint(truncate)"); c.execute("vacuum")
PYTHON
}

for driver in kernel ours; do
    place=/mnt/$driver
    mkdir -p $place/lower $place/upper $place/work $place/merged
    if [ -n "$DEBIAN" ] && [[ " ${programs[*]} " == *" debian "* ]]; then
        mkdir $place/lower/debian
        tar -C $place/lower/debian --exclude='./dev/*' -xpf "$DEBIAN"
    fi
    options=lowerdir=$place/lower,upperdir=$place/upper,workdir=$place/work
    case $driver in
    kernel) mount -t overlay overlay -o "userxattr,$options" $place/merged ;;
    ours) "$CORACLE" fuse-overlayfs -o "$options" $place/merged ;;
    esac
    root=$place/merged
    for program in "${programs[@]}"; do
        start=$(date +%s%N)
        if timeout 300 bash -c "$(declare -f run_$program); root=$root; set -euo pipefail; run_$program" >/mnt/log 2>&1 </dev/null; then verdict=ok; else verdict=FAILED status=1; fi
        printf '%-7s %-7s %-6s %6d ms\n' $driver "$program" $verdict $((($(date +%s%N) - start) / 1000000))
        [ $verdict = ok ] || tail -n 15 /mnt/log | sed 's/^/    /'
        cd /
    done
done
exit $status
