#!/bin/bash
# Measures what a lazy pull is good for: the time until a container says its first word, and until its image is here and
# verified, each against a whole pull of the same image into an empty store.
#
#   tests/perf/lazy.sh [--rounds N] [--command TEXT] IMAGE…
#
#   IMAGE           one in a registry, best one on this machine; with layers that have tables of contents
#                   (push --compression-format zstd:chunked) the first word may take 0.3 of a whole pull, and never may the
#                   end take more than 1.1 of it. Of ordinary images the first figure depends on the order in the archives.
#   --rounds N      how often each is measured, in turn; medians count (default 3)
#   --command TEXT  what the container's shell does (default: echo first)
#
#   CORACLE=…       the coracle to measure (default: from PATH)
#
# Stores are made below TMPDIR, each used once, and deleted at the end: files that are made where others were just deleted
# cost more on ext4.
set -euo pipefail
rounds=3 command='echo first' images=()
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2; shift ;;
    --command) command=$2; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) images+=("$1") ;;
    esac
    shift
done
fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
coracle=$(command -v "${CORACLE:-coracle}") || fail "no ${CORACLE:-coracle}: CORACLE=/path/to/it"
[ ${#images[@]} -gt 0 ] || fail 'name an image: tests/perf/lazy.sh localhost:5000/large:1'

place=$(mktemp -d)
clean_up() {
    # Files of users inside belong to subordinate ids.
    rm -rf "$place" 2>/dev/null || unshare --user --map-root-user --map-auto rm -rf "$place" || true
}
trap clean_up EXIT

now() { date +%s%N; }
# Prints milliseconds to the first line and to the end of one run in a store of its own.
once() { # POLICY IMAGE
    local home=$place/$RANDOM$RANDOM begin first='' end
    mkdir -p "$home/data" "$home/run"
    chmod 700 "$home/run"
    begin=$(now)
    while IFS= read -r _; do [ -n "$first" ] || first=$(now); done < <(
        XDG_DATA_HOME=$home/data XDG_RUNTIME_DIR=$home/run "$coracle" run --rm -q --network none --tls-verify=false \
            --pull="$1" "$2" /bin/sh -c "$command" 2>"$home/error" </dev/null
    )
    end=$(now)
    [ -n "$first" ] || fail "$2: no output: $(tail -n 1 "$home/error")"
    echo $(((first - begin) / 1000000)) $(((end - begin) / 1000000))
}
median() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

code=0
for image in "${images[@]}"; do
    rm -f "$place"/*.times
    for _ in $(seq "$rounds"); do
        for policy in lazy always; do
            once $policy "$image" >>"$place/$policy.times"
        done
    done
    lazy_first=$(cut -d' ' -f1 "$place/lazy.times" | median) lazy_end=$(cut -d' ' -f2 "$place/lazy.times" | median)
    first=$(cut -d' ' -f1 "$place/always.times" | median) end=$(cut -d' ' -f2 "$place/always.times" | median)
    printf '%s\n' "$image"
    printf '  first output  lazy %7d ms   whole %7d ms   %s\n' "$lazy_first" "$first" \
        "$(awk "BEGIN { printf \"%.3f x\", $lazy_first / $first }")"
    printf '  all verified  lazy %7d ms   whole %7d ms   %s (must be at most 1.1 x)\n' "$lazy_end" "$end" \
        "$(awk "BEGIN { printf \"%.3f x\", $lazy_end / $end }")"
    awk "BEGIN { exit !($lazy_end > 1.1 * $end) }" && code=1
done
exit $code
