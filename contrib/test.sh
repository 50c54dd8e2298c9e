#!/bin/bash
# Builds and runs every test, as an ordinary user: containers without root are what is tested.
#
#   ./contrib/test.sh [--user NAME] [--bin FILE] [FILTER…]
#
#   FILTER        run only the tests whose name contains one of these
#   --user NAME   as root: who runs them (default: coracle; contrib/setup.sh makes that user). Root only compiles.
#   --bin FILE    test this coracle instead of the debug build
#
# A test that needs something this machine lacks is skipped and says what. CORACLE_TEST_REQUIRE=all, or a list such as
# CORACLE_TEST_REQUIRE=fuse,tun,registry, makes that a failure. `./contrib/setup.sh --with-tests` installs all of it.
# CORACLE_TEST_RETRIES=2 gives up to two failed tests a second try, and lists them; more failures stay failures.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=contrib/lib.sh
. "$here/contrib/lib.sh"
umask 022

user='' binary=${CORACLE_BIN:-} filters=()
while [ $# -gt 0 ]; do
    case $1 in
    --user) user=${2:?--user needs a name}; shift ;;
    --bin) binary=$(realpath "${2:?--bin needs a file}"); shift ;;
    -h | --help) usage "$0"; exit 0 ;;
    *) filters+=("$1") ;;
    esac
    shift
done
if [ "$(id -u)" = 0 ]; then
    user=${user:-${SUDO_USER:-coracle}}
    id "$user" >/dev/null 2>&1 || fail "no user $user to run the tests as" "./contrib/setup.sh --user $user"
    [ "$(id -u "$user")" != 0 ] || fail "the tests are for an ordinary user" "$0 --user NAME"
else
    user=$(id -un)
fi
target_user "$user"
find_cargo

# The user must be able to read what the tests read and run what root compiled. A checkout in a private directory is
# copied to where that holds.
source=$here
if ! as_user test -r "$here/Cargo.toml" -a -x "$here/contrib"; then
    source=$(mktemp -d /var/tmp/coracle-tests.XXXXXX)
    trap 'rm -rf "$source"' EXIT
    say "$user cannot read $here: working on a copy in $source"
    tar -C "$here" --exclude=./target --exclude=./.git -cf - . | tar -C "$source" -xf -
    chmod -R a+rX "$source"
    export CARGO_TARGET_DIR=$source/target
fi
cd "$source"

step "building the tests"
artifacts=$(mktemp)
log=$(mktemp)
trap 'rm -f "$artifacts" "$log"; [ "$source" = "$here" ] || rm -rf "$source"' EXIT
cargo test --workspace --locked --no-run --message-format=json-render-diagnostics >"$artifacts" ||
    fail "the tests do not build" "see the compiler's message above"

# Each test binary with the directory of its package.
binaries() {
    sed -n '/"reason":"compiler-artifact".*"profile":{[^}]*"test":true}.*"executable":"/s/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"executable":"\([^"]*\)".*/\1\t\2/p' "$artifacts"
}
[ -n "$(binaries)" ] || fail "cargo built no test" "report this as a bug, with the output of cargo test --no-run"

# A shell starts background jobs with SIGINT ignored; what is tested must see it.
keep=(env --default-signal=INT,QUIT "CORACLE_TEST_REQUIRE=${CORACLE_TEST_REQUIRE:-}" "RUST_BACKTRACE=${RUST_BACKTRACE:-0}")
[ -z "$binary" ] || keep+=("CORACLE_BIN=$binary")
[ -z "${CORACLE_TEST_STRIKES:-}" ] || keep+=("CORACLE_TEST_STRIKES=$CORACLE_TEST_STRIKES")
[ -z "${CORACLE_TEST_RETRIES:-}" ] || keep+=("CORACLE_TEST_RETRIES=$CORACLE_TEST_RETRIES")
[ -z "${PODMAN:-}" ] || keep+=("PODMAN=$PODMAN")
[ -z "${PJDFSTEST:-}" ] || keep+=("PJDFSTEST=$PJDFSTEST")

status=0 broken=0
while IFS=$'\t' read -r package executable; do
    step "$(basename "$package")/$(basename "${executable%-*}"), as $user"
    ended=0
    # shellcheck disable=SC2016 # expands in the user's shell
    as_user "${keep[@]}" sh -c 'cd "$1" && shift && exec "$@"' sh "$package" "$executable" "${filters[@]}" </dev/null 2>&1 |
        tee -a "$log" || ended=$?
    if [ $ended != 0 ]; then
        status=1
        # A binary that died has no closing line of its own to count.
        tail -n 4 "$log" | grep -Eq '^test result: FAILED|^[0-9]+ passed, [1-9][0-9]* failed' || broken=$((broken + 1))
    fi
done < <(binaries)

if [ ${#filters[@]} = 0 ]; then
    step "examples in the documentation"
    cargo test --workspace --locked --doc --quiet 2>&1 | tee -a "$log" || { status=1; broken=$((broken + 1)); }
fi

# One line for all of them.
awk -v broken=$broken '
    /^test result: / { gsub(";", ""); for (i = 2; i <= NF; i++) { if ($i == "passed") passed += $(i - 1); if ($i == "failed") failed += $(i - 1); if ($i == "ignored") skipped += $(i - 1) } }
    /^[0-9]+ passed, [0-9]+ failed/ { gsub(",", ""); passed += $1; failed += $3; skipped += $5 }
    END { printf "\n%d passed, %d failed, %d skipped\n", passed, failed + broken, skipped }' "$log"
exit $status
