# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # names that cross files: here, user, rust_target
# What setup.sh, test.sh and .ci/run share. Sourced, not run.

# usermod, modprobe and the like; an ordinary user's PATH may lack them.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '    %s\n' "$*"; }
step() { printf '\033[1m==>\033[0m %s\n' "$*"; }
[ -t 1 ] || step() { printf '==> %s\n' "$*"; }

# warn WHAT REMEDY: goes on. fail WHAT REMEDY: ends the script.
warn() { printf 'warning: %s\n    remedy: %s\n' "$1" "$2" >&2; }
fail() {
    printf 'error: %s\n    remedy: %s\n' "$1" "$2" >&2
    exit 1
}

# usage FILE: prints the comment at the head of a script.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$1"; }

# have COMMAND|FILE
have() {
    case $1 in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

# --- root, only where it must be ---

may_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# again COMMAND…: up to three times, for what needs a network.
again() {
    local pause
    for pause in 5 20; do
        "$@" && return
        say "trying again in $pause s" >&2
        sleep $pause
    done
    "$@"
}

# apt_install PACKAGE…: all at once, or else those that can be had. Says why on standard error.
apt_install() {
    # A mirror may stumble, and the machine's own upgrades may be at work.
    local patient=(-o Acquire::Retries=5 -o Acquire::http::Timeout=60 -o Acquire::https::Timeout=60 -o DPkg::Lock::Timeout=300)
    local get=(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq "${patient[@]}")
    local apt=("${get[@]}" -y --no-install-recommends install) package
    "${apt[@]}" "$@" </dev/null >/dev/null 2>&1 && return
    say "refreshing the package lists"
    again "${get[@]}" update </dev/null || true
    again "${apt[@]}" "$@" </dev/null >/dev/null && return
    for package; do "${apt[@]}" "$package" </dev/null >/dev/null || true; done
}

# Packages such as docker-registry would start a service on this machine; nothing here wants it.
without_starting_services() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e $policy ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
    # In a shell of its own, so that an interruption takes the file away too.
    (
        trap 'as_root rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
        "$@"
    ) || status=$?
    return $status
}

# --- the ordinary user ---

# target_user NAME: sets user, user_id, user_home, user_path, user_runtime_dir.
target_user() {
    user=$1
    user_id=$(id -u "$user")
    if [ "$(id -u)" = "$user_id" ]; then
        user_home=${HOME:?HOME is not set}
        user_path=$PATH
        user_runtime_dir=${XDG_RUNTIME_DIR:-}
    else
        user_home=$(getent passwd "$user" | cut -d: -f6)
        user_path=$user_home/.local/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
        user_runtime_dir=
    fi
    # Not every way to become a user sets XDG_RUNTIME_DIR (su, runuser, cron); the directory may be there all the same.
    if [ -z "$user_runtime_dir" ] && [ -d "/run/user/$user_id" ] && [ "$(stat -c %u "/run/user/$user_id")" = "$user_id" ]; then
        user_runtime_dir=/run/user/$user_id
    fi
}

# as_user COMMAND…: runs it as the ordinary user, in that user's environment and home, standard streams as they are.
as_user() {
    local run=()
    if [ "$(id -u)" = "$user_id" ]; then
        [ -z "$user_runtime_dir" ] || run=(env "XDG_RUNTIME_DIR=$user_runtime_dir")
    else
        run=(runuser -u "$user" -- env -i -C "$user_home" "HOME=$user_home" "USER=$user" "LOGNAME=$user"
            "PATH=$user_path" "SHELL=/bin/bash" "LANG=C.UTF-8" "TERM=${TERM:-dumb}")
        [ -z "$user_runtime_dir" ] || run+=("XDG_RUNTIME_DIR=$user_runtime_dir")
    fi
    "${run[@]}" "$@"
}

# install_as_user FROM TO: as root the file may not be readable by the user, so it goes through standard input. The new
# file takes the old one's name at once: running containers keep the old one.
install_as_user() {
    # shellcheck disable=SC2016 # expands in the user's shell
    as_user sh -c 'umask 022 && mkdir -p "$(dirname "$1")" && cat >"$1.new" && chmod 755 "$1.new" && mv -f "$1.new" "$1"' sh "$2" <"$1"
}

# have_range FILE: has the user 65536 subordinate ids in /etc/subuid or /etc/subgid (by name or by number)?
have_range() {
    [ -r "$1" ] && awk -F: -v name="$user" -v id="$user_id" '($1 == name || $1 == id) && $3 >= 65536 { found = 1 } END { exit !found }' "$1"
}

# The first id above every range of both files, so that one number serves both.
next_range() {
    cat /etc/subuid /etc/subgid 2>/dev/null | awk -F: 'BEGIN { next_id = 100000 } NF >= 3 && $2 + $3 > next_id { next_id = $2 + $3 } END { print next_id }'
}

# Some distributions give newuidmap a file capability instead of the setuid bit.
has_setid_capability() { command -v getcap >/dev/null && getcap "$1" | grep -q cap_set.id; }

# --- the toolchain ---

# Sets cargo, and puts its directory into PATH.
find_cargo() {
    cargo=$(command -v cargo || true)
    [ -n "$cargo" ] || { [ ! -x "$HOME/.cargo/bin/cargo" ] || cargo=$HOME/.cargo/bin/cargo; }
    if [ -z "$cargo" ] && [ "$(id -u)" = 0 ] && [ -x "$user_home/.cargo/bin/cargo" ]; then
        fail "root has no Rust toolchain, but $user has" "run this as $user, without sudo in front; it asks for sudo where it must"
    fi
    [ -n "$cargo" ] || fail "no Rust toolchain: cargo is not in PATH" "install Rust with rustup or your distribution, then run this again"
    PATH=$(dirname "$cargo"):$PATH
    local need have_version
    need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/Cargo.toml" | head -n 1)
    have_version=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$need" "${have_version%%-*}" | sort -V | head -n 1)" = "$need" ] ||
        fail "rustc $have_version is too old: coracle needs $need" "rustup update stable"
}

# choose_target musl|glibc: sets rust_target and the environment that target is built in.
choose_target() {
    local arch host musl
    host=$(rustc -vV | sed -n 's/^host: //p')
    arch=${host%%-*}
    musl=$arch-unknown-linux-musl
    rust_target=$host
    if [ "$1" = musl ]; then
        if ! has_std "$musl" && command -v rustup >/dev/null; then
            say "fetching the standard library for $musl"
            again timeout 300 rustup target add "$musl" >/dev/null 2>&1 || true
        fi
        if has_std "$musl"; then
            rust_target=$musl
            export "CC_${musl//-/_}=${CC_MUSL:-musl-gcc}"
            return
        fi
        say "this toolchain has no $musl: building a static binary with the system's C library"
    fi
    # With --target the flag reaches the binary only, not build scripts and procedural macros.
    export "CARGO_TARGET_$(printf %s "$host" | tr 'a-z-' 'A-Z_')_RUSTFLAGS=-C target-feature=+crt-static"
}

has_std() { compgen -G "$(rustc --print sysroot)/lib/rustlib/$1/lib/libstd-*.rlib" >/dev/null; }
