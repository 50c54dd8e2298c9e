#!/bin/bash
# Takes a Debian machine with a Rust toolchain to a running container: installs what is missing, builds coracle,
# installs it for one ordinary user, makes a small image on the spot and runs it. Safe to run again.
#
#   ./contrib/setup.sh                 as yourself; sudo is used only for what is missing on the machine
#   ./contrib/setup.sh --user NAME     as root, for the ordinary user NAME (made if there is none; default: coracle)
#
#   --prefix DIR     install DIR/bin/coracle             (default: ~/.local of the user)
#   --glibc          build against the system's C library, statically (default: musl where the toolchain has it)
#   --with-tests     also install what the tests use: a registry, skopeo, strace, …; builds the suite pjdfstest
#   --no-packages    install nothing; name what is missing and stop
#   --no-run         stop after the installation
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=contrib/lib.sh
. "$here/contrib/lib.sh"

pjdfstest=0.2.2
user='' prefix='' libc=musl with_tests='' packages=yes container=yes
while [ $# -gt 0 ]; do
    case $1 in
    --user) user=${2:?--user needs a name}; shift ;;
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    --glibc) libc=glibc ;;
    --with-tests) with_tests=yes ;;
    --no-packages) packages='' ;;
    --no-run) container='' ;;
    -h | --help) usage "$0"; exit 0 ;;
    *) fail "unknown option $1" "see $0 --help" ;;
    esac
    shift
done

# 1. The user --------------------------------------------------------------------------------------------------------
if [ "$(id -u)" = 0 ]; then
    user=${user:-${SUDO_USER:-coracle}}
    if ! id "$user" >/dev/null 2>&1; then
        step "making the user $user"
        useradd --create-home --shell /bin/bash "$user" || fail "cannot make the user $user" "useradd --create-home $user"
    fi
    [ "$(id -u "$user")" != 0 ] || fail "coracle is set up for an ordinary user, not for root" "$0 --user NAME"
else
    [ -z "$user" ] || [ "$user" = "$(id -un)" ] || fail "only root can set up another user" "sudo $0 --user $user"
    user=$(id -un)
fi
target_user "$user"
prefix=$(realpath -m "${prefix:-$user_home/.local}")

# 2. Packages --------------------------------------------------------------------------------------------------------
step "packages"
# command or file that must be there = Debian package that brings it
wanted=(newuidmap=uidmap slirp4netns=slirp4netns pasta=passt gcc=gcc /usr/include/stdio.h=libc6-dev make=make
    /etc/ssl/certs/ca-certificates.crt=ca-certificates)
[ $libc = glibc ] || wanted+=(musl-gcc=musl-tools)
if [ -n "$with_tests" ]; then
    wanted+=(docker-registry=docker-registry skopeo=skopeo htpasswd=apache2-utils openssl=openssl gpg=gnupg gpgv=gpgv strace=strace umoci=umoci
        curl=curl ip=iproute2 redis-cli=redis-tools mmdebstrap=mmdebstrap crun=crun setfacl=acl
        /usr/sbin/setcap=libcap2-bin git=git python3=python3 fuse-overlayfs=fuse-overlayfs
        podman-compose=podman-compose)
fi
missing=()
for want in "${wanted[@]}"; do
    have "${want%%=*}" || missing+=("${want#*=}")
done
if [ -z "${BUSYBOX:-}" ] && ! "$here/contrib/make-busybox-image.sh" /dev/null 2>/dev/null; then
    missing+=(busybox-static)
fi
if [ ${#missing[@]} -gt 0 ]; then
    install="apt-get install --no-install-recommends -y ${missing[*]}"
    [ -n "$packages" ] || fail "missing: ${missing[*]}" "sudo $install"
    command -v apt-get >/dev/null || fail "missing (by their Debian names): ${missing[*]}" "install them with this system's package manager and run this again"
    may_be_root || fail "missing: ${missing[*]}" "su -c '$install'"
    say "installing ${missing[*]}"
    without_starting_services apt_install "${missing[@]}"
    # A release without one of them (passt is young) is not the end of it.
    for want in "${wanted[@]}"; do
        have "${want%%=*}" && continue
        case ${want#*=} in
        passt | crun | mmdebstrap | podman-compose) warn "no ${want%%=*}: this system has no package ${want#*=}" "none needed; what uses it is left out" ;;
        *) fail "apt-get could not install ${want#*=}" "sudo apt-get update && sudo $install" ;;
        esac
    done
fi

# 3. Subordinate ids -------------------------------------------------------------------------------------------------
step "subordinate ids of $user"
for kind in uid gid; do
    have_range /etc/sub$kind && continue
    first=$(next_range)
    add="usermod --add-sub${kind}s $first-$((first + 65535)) $user"
    may_be_root || fail "$user has no range in /etc/sub$kind" "su -c '$add'"
    say "giving $user $first-$((first + 65535)) in /etc/sub$kind"
    as_root usermod --add-sub${kind}s "$first-$((first + 65535))" "$user" || fail "cannot extend /etc/sub$kind" "sudo $add"
done
for helper in newuidmap newgidmap; do
    path=$(command -v $helper) || fail "no $helper in PATH" "sudo apt-get install uidmap"
    [ -u "$path" ] || has_setid_capability "$path" || fail "$path is not setuid root" "sudo chmod u+s $path"
done

# 4. The kernel ------------------------------------------------------------------------------------------------------
step "user namespaces and devices"
if ! as_user unshare --user --map-root-user true 2>/dev/null; then
    refused=''
    for knob in kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0; do
        file=/proc/sys/${knob%%=*}; file=${file//./\/}
        [ -r "$file" ] && [ "$(cat "$file")" != "${knob#*=}" ] && refused=$knob
    done
    [ "$(cat /proc/sys/user/max_user_namespaces 2>/dev/null || echo 1)" != 0 ] || refused=user.max_user_namespaces=15000
    [ -z "$refused" ] || fail "this machine forbids user namespaces to ordinary users" "sudo sysctl -w $refused   (and a file in /etc/sysctl.d to keep it)"
    fail "this kernel gives no user namespace to ordinary users" "run 'unshare --user --map-root-user true' as $user to see why; in a container or chroot this cannot work"
fi
for device in /dev/fuse /dev/net/tun; do
    as_user test -r $device -a -w $device && continue
    if [ ! -c $device ] && may_be_root; then as_root modprobe "$(basename $device)" 2>/dev/null || true; fi
    if [ -c $device ] && may_be_root; then
        say "making $device usable by everyone"
        as_root chmod 666 $device || true
    fi
    as_user test -r $device -a -w $device || warn "$user cannot use $device" "sudo modprobe $(basename $device); sudo chmod 666 $device"
done

# 5. Build -----------------------------------------------------------------------------------------------------------
step "building coracle"
find_cargo
choose_target "$libc"
say "$("$cargo" --version), target $rust_target"
cd "$here"
# What is here already needs no registry; what is not may need patience.
offline=(--offline)
if ! "$cargo" fetch --quiet --locked --offline --target "$rust_target" 2>/dev/null; then
    offline=()
    again env CARGO_NET_RETRY=5 "$cargo" fetch --quiet --locked --target "$rust_target" ||
        fail "the crate registry cannot be reached and not every crate is here already" "connect once and run this again"
fi
"$cargo" build --release --locked "${offline[@]}" --target "$rust_target" --bin coracle || fail "the build failed" "see the compiler's message above"

# 6. Install ---------------------------------------------------------------------------------------------------------
built=${CARGO_TARGET_DIR:-$here/target}/$rust_target/release/coracle
binary=$prefix/bin/coracle
step "installing $binary"
install_as_user "$built" "$binary" || fail "cannot write $binary" "$0 --prefix DIR"
say "$(as_user "$binary" --version)"
if [ -n "$with_tests" ] && ! as_user test -x "$prefix/bin/pjdfstest"; then
    # No Debian has it. Whoever runs the tests without it is told what is skipped.
    say "building pjdfstest $pjdfstest, which the tests of the union file system use"
    suite=${CARGO_TARGET_DIR:-$here/target}/pjdfstest
    if env -u CARGO_TARGET_DIR CARGO_NET_RETRY=5 "$cargo" install --quiet --locked --debug --root "$suite" "pjdfstest@$pjdfstest"; then
        install_as_user "$suite/bin/pjdfstest" "$prefix/bin/pjdfstest" || fail "cannot write $prefix/bin/pjdfstest" "$0 --prefix DIR"
    else
        warn "pjdfstest cannot be built" "none needed; what uses it is left out"
    fi
fi
case ":$user_path:" in
*":$prefix/bin:"*) ;;
*) warn "$prefix/bin is not in the PATH of $user" "export PATH=$prefix/bin:\$PATH   (in ~/.profile to keep it)" ;;
esac

# 7. Quadlet ---------------------------------------------------------------------------------------------------------
# Where systemd runs, users' systemds have coracle make services of Quadlet files, unless somebody else does that here.
ours=$here/contrib/systemd/podman-user-generator generator=/etc/systemd/user-generators/podman-user-generator
if [ -d /run/systemd/system ] && ! cmp -s "$ours" $generator; then
    step "services of Quadlet files"
    remedy="sudo install -D -m 755 $ours $generator   (for all users; or, for $user alone: $binary quadlet enable)"
    if [ -e $generator ] || [ -e /usr/lib/systemd/user-generators/podman-user-generator ]; then
        warn "podman makes them on this machine, and goes on doing so" "$remedy"
    elif may_be_root && as_root install -D -m 755 "$ours" $generator; then
        say "installed $generator; \`systemctl --user daemon-reload\` reads the files again"
    else
        warn "cannot write $generator" "$remedy"
    fi
fi
[ -n "$container" ] || exit 0

# 8. A container -----------------------------------------------------------------------------------------------------
step "making an image from this machine's busybox"
"$here/contrib/make-busybox-image.sh" |
    as_user "$binary" import --change 'CMD ["/bin/sh"]' - localhost/busybox:latest >/dev/null ||
    fail "the image could not be imported" "$binary doctor"

step "$ coracle run --rm localhost/busybox echo hello from a container"
answer=$(as_user "$binary" run --rm localhost/busybox echo hello from a container </dev/null) || fail "the container did not run" "$binary doctor"
echo "$answer"
[ "$answer" = "hello from a container" ] || fail "the container said something else" "$binary doctor"
step "ready: try 'coracle run --rm -it localhost/busybox' as $user"
