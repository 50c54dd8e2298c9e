#!/bin/bash
# Runs pjdfstest (the Rust port, from crates.io) on a tmpfs, the kernel's overlay, a fuse-overlayfs and ours, and lists
# what fails where. As an ordinary user with subordinate ids; exits with 1 if a case fails on ours that passes on the
# kernel's overlay and is not listed below with its reason. `union::pjdfstest` of the test suite runs it on the kernel's
# overlay and ours.
#
#   tests/union/pjdfstest.sh [PATTERN…]
#
#   PATTERN           only these cases, for example: rename chmod::
#   CORACLE=…         the coracle to test (default: from PATH)
#   PJDFSTEST=…       the suite's binary (default: from PATH, else `cargo install` puts it below target/)
#   FUSE_OVERLAYFS=…  the one to compare with (default: fuse-overlayfs from PATH, left out if there is none)
#   ON=…              on which of them: plain, kernel, fuse-overlayfs, ours (default: all; the last two are compared)
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
version=0.2.2

# Cases that ours may fail, each with the reason.
expected=()

if [ -z "${PJDFSTEST_INSIDE:-}" ]; then
    suite=${PJDFSTEST:-$(command -v pjdfstest || true)}
    if [ -z "$suite" ]; then
        root=${CARGO_TARGET_DIR:-$here/target}/pjdfstest
        suite=$root/bin/pjdfstest
        [ -x "$suite" ] || cargo install --locked --root "$root" --version $version pjdfstest
    fi
    CORACLE=$(command -v "${CORACLE:-coracle}") PJDFSTEST=$suite PJDFSTEST_INSIDE=1 \
        exec unshare --user --map-root-user --map-auto --mount --pid --fork --kill-child --mount-proc bash "$0" "$@"
fi

mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p /mnt/lower /mnt/plain
cat >/mnt/config.toml <<'CONFIG'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
CONFIG

mounted() {
    local name=$1
    mkdir -p /mnt/$name/upper /mnt/$name/work /mnt/$name/merged
    echo "lowerdir=/mnt/lower,upperdir=/mnt/$name/upper,workdir=/mnt/$name/work"
}
results() { # NAME DIRECTORY
    chmod 755 "$2"
    (cd "$2" && "$PJDFSTEST" -c /mnt/config.toml -p "$2" "${patterns[@]}" 2>/mnt/"$1".messages) >/mnt/$1.out || true
    sed -n 's/^\([a-z_0-9:]*\)  *\(ok\|FAILED\|skipped\)$/\1 \2/p' /mnt/$1.out | sort -u >/mnt/$1.results
    sed -n 's/^Summary: //p' /mnt/$1.out | sed "s/^/$1: /"
}
patterns=("$@")
names=()
for name in ${ON:-plain kernel fuse-overlayfs ours}; do
    case $name in
    plain) ;;
    kernel) mount -t overlay overlay -o "userxattr,$(mounted kernel)" /mnt/kernel/merged ;;
    fuse-overlayfs)
        command -v "${FUSE_OVERLAYFS:-fuse-overlayfs}" >/dev/null || continue
        "${FUSE_OVERLAYFS:-fuse-overlayfs}" -o "$(mounted fuse-overlayfs)" /mnt/fuse-overlayfs/merged 2>/dev/null
        ;;
    ours) "$CORACLE" fuse-overlayfs -o "$(mounted ours)" /mnt/ours/merged ;;
    *) echo "there is no $name to run on" >&2; exit 2 ;;
    esac
    directory=/mnt/$name/merged
    [ "$name" != plain ] || directory=/mnt/plain
    results "$name" "$directory"
    names+=("$name")
done

failed() { grep ' FAILED$' "/mnt/$1.results" | cut -d ' ' -f 1 || true; }
for name in "${names[@]}"; do
    printf '\nfailed on %s:\n' "$name"
    failed "$name" | sed 's/^/  /'
done
[ -e /mnt/kernel.results ] && [ -e /mnt/ours.results ] || exit 0
# A suite that broke off has found nothing.
count() { wc -l <"/mnt/$1.results"; }
if [ "$(count kernel)" != "$(count ours)" ] || [ "$(count ours)" = 0 ]; then
    printf '\ncases on the kernel'\''s overlay: %s, on ours: %s\n' "$(count kernel)" "$(count ours)"
    cat /mnt/kernel.messages /mnt/ours.messages
    exit 1
fi
new=$(comm -13 <(failed kernel | sort) <(failed ours | sort) | grep -vxF -f <(printf '%s\n' "${expected[@]-}") || true)
if [ -n "$new" ]; then
    printf '\nfailed on ours alone:\n%s\n' "$new"
    for name in $new; do grep -A 12 "^$name" /mnt/ours.out || true; done
    exit 1
fi
printf '\nnothing fails on ours that passes on the kernel'\''s overlay\n'
