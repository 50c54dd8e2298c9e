# What the scripts of this directory share. They run in the VM as tester, in a systemd user session.
set -u
failures=0
# check WHAT COMMAND...: the command succeeds
check() {
    local what=$1
    shift
    if "$@"; then echo "ok   $what"; else echo "FAIL $what"; failures=$((failures + 1)); fi
}
# is WHAT FOUND EXPECTED
is() {
    if [ "$2" = "$3" ]; then echo "ok   $1"; else printf 'FAIL %s\n     found:    %s\n     expected: %s\n' "$1" "$2" "$3"; failures=$((failures + 1)); fi
}
# eventually COMMAND...: waits until it succeeds, two minutes at most: an emulated machine is slow
eventually() {
    local end=$((SECONDS + 120))
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.3
    done
}
finish() {
    [ $failures = 0 ] || { echo "$failures failed"; exit 1; }
    exit 0
}
