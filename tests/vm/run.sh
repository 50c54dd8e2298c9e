#!/bin/bash
# Runs the tests that need systemd and cgroup v2, in a VM that vm.sh makes on the first call: as root, see vm.sh.
#
#   tests/vm/run.sh [--bin FILE] [NAME…]       NAME: limits, freezer, journald, boot, quadlet, systemd, update; all of them without one
#
# --bin FILE: the coracle to test (default: target/debug/coracle)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=$here/../../target/debug/coracle
if [ "${1:-}" = --bin ]; then
    bin=$(realpath "$2")
    shift 2
fi
[ $# -gt 0 ] || set -- limits freezer journald boot quadlet systemd update
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$here/../../contrib/make-busybox-image.sh" "$tmp/image.tar" >/dev/null
# Without what only a debugger reads: the VM gets it through an emulated network.
strip -o "$tmp/coracle" "$bin" && bin=$tmp/coracle
# The VM gets one file: the shared part, then the test.
script() { cat "$here/lib.sh" "$here/$1.sh" >"$tmp/$1.sh"; }
failed=()
for name; do
    echo "== $name"
    after=()
    case $name in
    boot | quadlet)
        script $name-before
        script $name-after
        after=(--after "$tmp/$name-after.sh")
        first=$name-before
        ;;
    *)
        script "$name"
        first=$name
        ;;
    esac
    "$here/vm.sh" run --bin "$bin" --file "$tmp/image.tar" --timeout 600 ${after[@]+"${after[@]}"} "$tmp/$first.sh" || failed+=("$name")
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
