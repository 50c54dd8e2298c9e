#!/bin/bash
# Runs the tests that need systemd and cgroup v2, in a VM that vm.sh makes on the first call: as root, see vm.sh.
#
#   tests/vm/run.sh [--bin FILE] [NAME…]       all of them without a name:
#
#   limits flags pods freezer                  what containers may use, and who keeps them to it
#   journald boot quadlet login sockets update systemd oci
#   same                                       the same Quadlet files under podman; makes another VM, which has it
#   v1 hybrid                                  the VM with cgroups of version 1, and of both
#
# --bin FILE: the coracle to test (default: target/debug/coracle)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=$here/../../target/debug/coracle
if [ "${1:-}" = --bin ]; then
    bin=$(realpath "$2")
    shift 2
fi
[ $# -gt 0 ] || set -- limits flags pods freezer journald boot quadlet login sockets update systemd oci same v1 hybrid
cache=${VM_DIR:-/var/cache/coracle-vm}
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
    after=() files=() words=() first=$name seconds=900
    case $name in
    boot | quadlet | login)
        first=$name-before
        script $name-after
        after=(--after "$tmp/$name-after.sh")
        ;;
    same) seconds=1800 files=(--file "$here/../../contrib/systemd/podman-user-generator") ;;
    update) files=(--file "$here/../../contrib/systemd/coracle-auto-update.service" --file "$here/../../contrib/systemd/coracle-auto-update.timer") ;;
    hybrid) first=v1 words=(hybrid) ;;
    esac
    case $name in
    quadlet | sockets | same)
        "$here/vm.sh" build
        [ -e "$cache/nginx.tar" ] || { "$here/nginx-image.sh" "$cache/nginx.tar.part" && mv "$cache/nginx.tar.part" "$cache/nginx.tar"; }
        files+=(--file "$cache/nginx.tar")
        ;;
    esac
    script "$first"
    (
        case $name in
        same) export VM_DIR=$cache-podman VM_EXTRA="podman ${VM_EXTRA:-}" ;;
        v1) export VM_APPEND="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" ;;
        hybrid) export VM_APPEND="systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" ;;
        esac
        "$here/vm.sh" run --bin "$bin" --file "$tmp/image.tar" ${files[@]+"${files[@]}"} --timeout $seconds ${after[@]+"${after[@]}"} \
            "$tmp/$first.sh" ${words[@]+"${words[@]}"}
    ) || failed+=("$name")
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
