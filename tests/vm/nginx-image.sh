#!/bin/bash
# Writes the file system of an image with Debian's nginx, and busybox for a shell, to a tar archive: as root, with mmdebstrap.
#
#   tests/vm/nginx-image.sh nginx.tar
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/root"
"$here/../../contrib/make-busybox-image.sh" "$tmp/busybox.tar" >/dev/null
mmdebstrap --variant=extract --include=nginx-light --dpkgopt='path-exclude=/usr/share/man/*' \
    "${VM_SUITE:-trixie}" "$tmp/nginx.tar" 2>"$tmp/log" || { tail -n 5 "$tmp/log" >&2; exit 1; }
# Extracted, not installed: what base-files and the packages' scripts would make comes from busybox's image.
tar -C "$tmp/root" -xf "$tmp/nginx.tar"
rm -rf "$tmp"/root/{dev,proc,sys,run,tmp} "$tmp"/root/usr/share/{doc,perl,locale,man} "$tmp"/root/usr/lib/x86_64-linux-gnu/perl-base
tar -C "$tmp/root" -xf "$tmp/busybox.tar" --skip-old-files
ln -sfn usr/lib "$tmp/root/lib"
ln -sfn usr/lib64 "$tmp/root/lib64"
mkdir -p "$tmp"/root/var/{log,lib}/nginx "$tmp/root/etc/nginx/sites-enabled"
ln -sfn ../sites-available/default "$tmp/root/etc/nginx/sites-enabled/default"
# As images of nginx have it: whoever runs it reads its logs.
ln -sfn /dev/stdout "$tmp/root/var/log/nginx/access.log"
ln -sfn /dev/stderr "$tmp/root/var/log/nginx/error.log"
tar -C "$tmp/root" --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner . >"$1"
