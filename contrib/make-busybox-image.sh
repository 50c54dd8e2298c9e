#!/bin/bash
# Writes the file system of a small image to a tar archive, from the static busybox of this machine. Needs no
# privileges and no network; the same busybox gives the same bytes.
#
#   contrib/make-busybox-image.sh | coracle import - localhost/busybox
#   contrib/make-busybox-image.sh busybox.tar
set -euo pipefail

fail() { echo "make-busybox-image: $1" >&2; exit 1; }

case ${1:-} in
-h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
output=${1:--}
[ "$output" != - ] || [ ! -t 1 ] || fail "refusing to write an archive to a terminal; name a file"

busybox=
for candidate in ${BUSYBOX:-} /bin/busybox /usr/bin/busybox /bin/busybox-static /usr/bin/busybox.static; do
    [ -x "$candidate" ] || continue
    # A dynamic executable could not start in an image without libraries.
    if ! ldd "$candidate" 2>/dev/null | grep -q -e '=>' -e /ld-; then
        busybox=$candidate
        break
    fi
done
[ -n "$busybox" ] || fail "no static busybox here: apt-get install busybox-static (or BUSYBOX=/path/to/it)"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sys,tmp,usr/bin,usr/sbin,sbin,var/tmp,var/run}
cp "$busybox" "$root/bin/busybox"
chmod 755 "$root" "$root/bin/busybox"
chmod 700 "$root/root"
chmod 1777 "$root/tmp" "$root/var/tmp"
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
cat >"$root/etc/passwd" <<'X'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
X
cat >"$root/etc/group" <<'X'
root:x:0:
daemon:x:1:
tty:x:5:
www-data:x:33:
users:x:100:
nogroup:x:65534:
X
printf 'NAME="busybox"\nID=busybox\n' >"$root/etc/os-release"

archive() {
    tar -C "$root" --create --format=pax --pax-option='delete=atime,delete=ctime' --sort=name --mtime=@0 \
        --owner=0 --group=0 --numeric-owner .
}
if [ "$output" = - ]; then archive; else archive >"$output"; fi
