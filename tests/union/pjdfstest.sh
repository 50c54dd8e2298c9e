#!/bin/bash
# Runs pjdfstest (the Rust port, from crates.io) on a tmpfs, the kernel's overlay, a fuse-overlayfs and ours, and lists
# what fails where. As an ordinary user with subordinate ids; exits with 1 if a case fails on ours that passes on the
# kernel's overlay and is not listed below with its reason.
#
#   tests/union/pjdfstest.sh [PATTERN…]
#
#   PATTERN           only these cases, for example: rename chmod::
#   CORACLE=…         the coracle to test (default: from PATH)
#   PJDFSTEST=…       the suite's binary (default: from PATH, else `cargo install` puts it below target/)
#   FUSE_OVERLAYFS=…  the one to compare with (default: fuse-overlayfs from PATH, left out if there is none)
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
        # Needs libacl1-dev.
        [ -x "$suite" ] || cargo install --locked --root "$root" --version $version pjdfstest
    fi
    CORACLE=$(command -v "${CORACLE:-coracle}") PJDFSTEST=$suite PJDFSTEST_INSIDE=1 \
        exec unshare --user --map-root-user --map-auto --mount --pid --fork --kill-child --mount-proc "$0" "$@"
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
names=(plain kernel)
results plain /mnt/plain
mount -t overlay overlay -o "userxattr,$(mounted kernel)" /mnt/kernel/merged
results kernel /mnt/kernel/merged
if command -v "${FUSE_OVERLAYFS:-fuse-overlayfs}" >/dev/null; then
    "${FUSE_OVERLAYFS:-fuse-overlayfs}" -o "$(mounted fuse-overlayfs)" /mnt/fuse-overlayfs/merged 2>/dev/null
    results fuse-overlayfs /mnt/fuse-overlayfs/merged
    names+=(fuse-overlayfs)
fi
"$CORACLE" fuse-overlayfs -o "$(mounted ours)" /mnt/ours/merged
results ours /mnt/ours/merged
names+=(ours)

failed() { grep ' FAILED$' "/mnt/$1.results" | cut -d ' ' -f 1 || true; }
for name in "${names[@]}"; do
    printf '\nfailed on %s:\n' "$name"
    failed "$name" | sed 's/^/  /'
done
new=$(comm -13 <(failed kernel | sort) <(failed ours | sort) | grep -vxF -f <(printf '%s\n' "${expected[@]-}") || true)
if [ -n "$new" ]; then
    printf '\nfailed on ours alone:\n%s\n' "$new"
    for name in $new; do grep -A 12 "^$name" /mnt/ours.out || true; done
    exit 1
fi
printf '\nnothing fails on ours that passes on the kernel'\''s overlay\n'
