#!/bin/bash
# Compares coracle with a podman on this machine, in one run: medians of interleaved measurements, their ratio, and
# what the ratio must be. Needs hyperfine, jq and a static busybox. Trust the ratios; milliseconds are this machine's.
#
#   tests/perf/run.sh [--rounds N] [--runs N] [--json FILE] [CASE…]
#
#   CASE        only the cases whose name contains one of these words, for example: exec 'run none' memory
#   --rounds N  how often both are measured in turn (default 5)
#   --runs N    measurements of each per round (default 5)
#   --json FILE every single time, for other tools
#
#   CORACLE=…   the coracle to measure (default: from PATH)
#   PODMAN=…    the podman, or another build of coracle, to compare with (default: podman from PATH)
#
# Both work in a home of their own below TMPDIR; neither your images nor your containers are touched.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)

rounds=5 runs=5 json='' wanted=()
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2; shift ;;
    --runs) runs=$2; shift ;;
    --json) json=$2; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) wanted+=("$1") ;;
    esac
    shift
done
fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
for tool in hyperfine jq; do command -v $tool >/dev/null || fail "no $tool: apt-get install $tool"; done
ours=$(command -v "${CORACLE:-coracle}") || fail "no ${CORACLE:-coracle}: CORACLE=/path/to/it"
theirs=$(command -v "${PODMAN:-podman}") || fail "no ${PODMAN:-podman} to compare with: PODMAN=/path/to/it"

place=$(mktemp -d)
export HOME=$place/home XDG_RUNTIME_DIR=$place/run TMPDIR=$place/tmp
mkdir -p "$HOME" "$XDG_RUNTIME_DIR" "$TMPDIR"
chmod 700 "$XDG_RUNTIME_DIR"
clean_up() {
    for tool in "$ours" "$theirs"; do "$tool" rm --all --force --time 0 >/dev/null 2>&1 || true; done
    # podman's own pause process stays otherwise.
    [ ! -f "$XDG_RUNTIME_DIR/libpod/tmp/pause.pid" ] || kill "$(cat "$XDG_RUNTIME_DIR/libpod/tmp/pause.pid")" 2>/dev/null || true
    rm -rf "$place" 2>/dev/null || unshare --user --map-root-user --map-auto rm -rf "$place" || true
}
trap clean_up EXIT

image=localhost/perf:latest
archive=$place/busybox.tar
"$here/contrib/make-busybox-image.sh" "$archive"
# Names by side, so that two builds of the same tool can be compared.
for side in theirs ours; do
    tool=${!side}
    "$tool" import "$archive" $image >/dev/null 2>&1 || fail "$tool cannot import the image"
    "$tool" run -d --name running-$side --network none $image sleep 100000 >/dev/null || fail "$tool cannot run the image"
    "$tool" create --name made-$side --network none $image sleep 100000 >/dev/null
done

results=$place/results.json
echo '[]' >"$results"
chosen() {
    [ ${#wanted[@]} -gt 0 ] || return 0
    local word
    for word in "${wanted[@]}"; do case $1 in *"$word"*) return 0 ;; esac; done
    return 1
}

median() { jq -s 'sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end' "$1"; }

printf '%-22s %10s %10s %8s %8s  %s\n' case "podman ms" "ours ms" ratio must verdict
# measure NAME MUST COMMAND [PREPARE]: %T stands for the tool, %S for its side. PREPARE is not measured.
measure() {
    local name=$1 must=$2 command=$3 prepare=${4:-true} podman coracle _ sides=() side text
    for side in theirs ours; do
        for text in "$prepare" "$command"; do
            text=${text//%T/${!side}}
            sides+=("${text//%S/$side}")
        done
    done
    chosen "$name" || return 0
    : >"$place/theirs"; : >"$place/ours"
    for _ in $(seq "$rounds"); do
        if ! hyperfine -N -w 1 -r "$runs" --style none --export-json "$place/round.json" \
            --prepare "${sides[0]}" "${sides[1]}" --prepare "${sides[2]}" "${sides[3]}" >"$place/log" 2>&1; then
            printf '%-22s %s\n' "$name" "cannot be measured: $(grep -v '^$' "$place/log" | tail -n 1)"
            return 0
        fi
        jq '.results[0].times[]' "$place/round.json" >>"$place/theirs"
        jq '.results[1].times[]' "$place/round.json" >>"$place/ours"
    done
    podman=$(median "$place/theirs") coracle=$(median "$place/ours")
    row "$name" "$must" "$(jq -n "$podman * 1000")" "$(jq -n "$coracle * 1000")"
    jq --arg name "$name" --slurpfile theirs "$place/theirs" --slurpfile ours "$place/ours" \
        '. + [{name: $name, podman_s: $theirs, coracle_s: $ours}]' "$results" >"$results.new" && mv "$results.new" "$results"
}

# row NAME MUST THEIRS OURS
row() {
    jq -nr --arg name "$1" --argjson must "$2" --argjson theirs "$3" --argjson ours "$4" '
        def pad(n): tostring | if length < n then " " * (n - length) + . else . end;
        def round(n): . * pow(10; n) | floor / pow(10; n);
        ($ours / $theirs) as $ratio
        | ($name + " " * (22 - ($name | length))) + " " + ($theirs | round(2) | pad(10)) + " " + ($ours | round(2) | pad(10)) + " "
        + ($ratio | round(3) | pad(8)) + " " + ($must | pad(8)) + "  " + (if $ratio <= $must then "PASS" else "FAIL" end)'
}

measure "run none" 0.08 "%T run --rm --network none $image true"
measure "run host" 0.08 "%T run --rm --network host $image true"
measure "run default network" 0.15 "%T run --rm $image true"
measure "run slirp4netns" 0.15 "%T run --rm --network slirp4netns $image true"
measure "run pasta" 0.15 "%T run --rm --network pasta $image true"
measure "exec" 0.05 "%T exec running-%S true"
measure "ps" 0.06 "%T ps"
measure "images" 0.06 "%T images"
measure "inspect" 0.06 "%T inspect running-%S"
measure "--version" 0.06 "%T --version"
measure "run -d" 0.10 "%T run -d --name d-%S --network none $image sleep 100000" "%T rm -f -t 0 d-%S"
measure "start" 0.10 "%T start made-%S" "%T stop -t 0 made-%S"
measure "stop -t 0" 0.10 "%T stop -t 0 made-%S" "%T start made-%S"
measure "rm -f" 0.10 "%T rm -f -t 0 d-%S" "%T run -d --replace --name d-%S --network none $image sleep 100000"

# Builds are compared by tests/perf/build.
# Long lists, in a store of their own: a thousand containers that have not run, five hundred images; and the end of a
# long log.
containers=1000 images=500 log_bytes=1073741824
many() { printf '%s --root %s --runroot %s' "$1" "$place/many-$2" "$XDG_RUNTIME_DIR/many-$2"; }
if chosen "ps -a, $containers containers" || chosen "images, $images images" || chosen "logs --tail 10 of 1 GB"; then
    mkdir "$place/root" && echo >"$place/root/file" && tar -C "$place/root" -cf "$place/root.tar" file
    for side in theirs ours; do
        tool=$(many "${!side}" $side)
        $tool import "$archive" $image >/dev/null 2>&1 || fail "${!side} cannot import the image"
        if chosen "ps -a, $containers containers"; then
            seq $containers | xargs -P 2 -I {} $tool create --pull never --name c{} --network none $image true >/dev/null
        fi
        if chosen "images, $images images"; then
            seq $((images - 1)) | xargs -P 2 -I {} $tool import -q --change 'LABEL number={}' "$place/root.tar" localhost/i{} >/dev/null 2>&1
        fi
        if chosen "logs --tail 10 of 1 GB"; then
            $tool run --pull never --name talks --network none --log-driver k8s-file $image \
                sh -c "yes 'a line of a log that is as long as lines of logs are' | head -c $log_bytes" >/dev/null
        fi
    done
fi
ours_many=$(many "$ours" ours) theirs_many=$(many "$theirs" theirs)
# measure_many NAME MUST COMMAND
measure_many() {
    local ours=$ours_many theirs=$theirs_many
    measure "$1" "$2" "%T $3"
}
measure_many "ps -a, $containers containers" 0.06 "ps -a"
measure_many "images, $images images" 0.06 "images"
measure_many "logs --tail 10 of 1 GB" 0.06 "logs --tail 10 talks"

# Twenty-four starts, four at a time.
for side in theirs ours; do
    printf '#!/bin/sh\nseq 24 | xargs -P 4 -I {} "%s" run --rm --network none %s true\n' "${!side}" $image >"$place/rate-$side"
    chmod +x "$place/rate-$side"
done
rate() {
    chosen "24 starts at 4 jobs" || return 0
    : >"$place/theirs"; : >"$place/ours"
    local _
    for _ in $(seq "$rounds"); do
        hyperfine -N -w 0 -r 1 --style none --export-json "$place/round.json" "$place/rate-theirs" "$place/rate-ours" >/dev/null 2>&1 ||
            { printf '%-22s cannot be measured\n' "24 starts at 4 jobs"; return 0; }
        jq '.results[0].times[]' "$place/round.json" >>"$place/theirs"
        jq '.results[1].times[]' "$place/round.json" >>"$place/ours"
    done
    row "24 starts at 4 jobs" 0.125 "$(jq -n "$(median "$place/theirs") * 1000")" "$(jq -n "$(median "$place/ours") * 1000")"
    jq -nr --argjson theirs "$(median "$place/theirs")" --argjson ours "$(median "$place/ours")" \
        '"    starts per second: podman \(24 / $theirs | floor), coracle \(24 / $ours | floor)"'
}
rate

# Memory of an idle detached container with its helpers: the processes of this user that are new after its start.
own_processes() {
    local status
    for status in /proc/[0-9]*/status; do
        awk -v uid="$(id -u)" '/^Pid:/ { pid = $2 } /^Uid:/ && $2 == uid { print pid }' "$status" 2>/dev/null || true
    done | sort
}
kib_of() { # Pss where it may be read, else the memory that is not shared with a file
    local pid=$1 kib
    kib=$(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup" 2>/dev/null) || true
    [ -n "$kib" ] || kib=$(awk '/^Rss(Anon|Shmem):/ { sum += $2 } END { print sum + 0 }' "/proc/$pid/status" 2>/dev/null) || true
    echo "${kib:-0}"
}
memory() {
    local network=$1 must=$2 side tool pid kib
    chosen "memory, $network" || return 0
    local -A total
    for side in theirs ours; do
        tool=${!side}
        own_processes >"$place/before"
        "$tool" run -d --name idle-$side --network "$network" $image sleep 100000 >/dev/null 2>&1 ||
            { printf '%-22s cannot be measured\n' "memory, $network"; return 0; }
        sleep 2
        total[$side]=0
        while read -r pid; do
            # Some of them were the pipeline that looked.
            [ -d "/proc/$pid" ] || continue
            kib=$(kib_of "$pid")
            total[$side]=$((total[$side] + kib))
            printf '    %-8s %6d KiB  %s\n' "$(basename "$tool")" "$kib" "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c 1-60)"
        done < <(own_processes | comm -13 "$place/before" -)
        "$tool" rm -f -t 0 idle-$side >/dev/null
    done
    printf '%-22s %6d KiB %6d KiB %17s  %s\n' "memory, $network" "${total[theirs]}" "${total[ours]}" "<= $must KiB" \
        "$([ "${total[ours]}" -le "$must" ] && echo PASS || echo FAIL)"
}
memory none 1024
memory slirp4netns 1024
memory pasta 1024

[ -z "$json" ] || cp "$results" "$json"
