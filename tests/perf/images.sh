#!/bin/bash
# Compares what is done with a large image with podman, in one run, and the pull with what no pull can be faster than:
# inflating the layers or writing what they hold, whichever is slower (the bench `images`). Needs docker-registry, python3
# and GNU time. Trust the ratios; seconds are this machine's. The fastest of all rounds counts.
#
#   tests/perf/images.sh [--image REF] [--layers N] [--mib N] [--rounds N] [CASE…]
#
#   CASE         only these: pull repull save push 'push plain' rmi load sixteen floor
#   --image REF  an image that is in a registry, plain HTTP, instead of one that is made for this
#   --layers N   how many layers the image that is made has (default 12)
#   --mib N      how many MiB each of them has, unpacked (default 80)
#   --rounds N   how often both are measured in turn (default 3)
#
#   CORACLE=…       the coracle to measure (default: coracle)
#   PODMAN=…        the podman to compare with (default: podman; empty measures coracle alone)
#   CORACLE_IN=…    runs a line of shell where coracle is (default: bash -c), for example: runuser -u me -- bash -c
#   PODMAN_IN=…     the same for podman, which may be in another root file system
#   PLACE=…         a directory that both can read and write (default: one below TMPDIR)
#   PODMAN_PLACE=…  the same directory as podman sees it (default: $PLACE)
#   FLOOR=…         the bench `images`, already built (default: cargo bench --bench images --)
#
# Both work in their own stores: the image comes and goes there, and nothing else. `sixteen` pulls it sixteen times at once
# and counts what the registry was asked for (only of an image that was made for this).
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
image="" layers=12 mib=80 rounds=3 wanted=()
while [ $# -gt 0 ]; do
    case $1 in
    --image) image=$2; shift ;;
    --layers) layers=$2; shift ;;
    --mib) mib=$2; shift ;;
    --rounds) rounds=$2; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) wanted+=("$1") ;;
    esac
    shift
done
fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
for tool in docker-registry python3 /usr/bin/time curl; do command -v $tool >/dev/null || fail "no $tool"; done
is_wanted() {
    local word
    [ ${#wanted[@]} -gt 0 ] || return 0
    for word in "${wanted[@]}"; do [ "$word" != "$1" ] || return 0; done
    return 1
}

place=$(mktemp -d -p "${PLACE:-${TMPDIR:-/tmp}}" perf-images.XXXXXX)
chmod 777 "$place"
theirs_place=${PODMAN_PLACE:-${PLACE:-$(dirname "$place")}}/$(basename "$place")
read -r -a ours_in <<<"${CORACLE_IN:-bash -c}"
read -r -a theirs_in <<<"${PODMAN_IN:-bash -c}"
ours=${CORACLE:-coracle} theirs=${PODMAN-podman}

# run SIDE LINE: %T is the tool there, %P the place.
run() {
    local line=$2
    if [ "$1" = coracle ]; then
        line=${line//%T/$ours} line=${line//%P/$place}
        "${ours_in[@]}" "$line" </dev/null
    else
        line=${line//%T/$theirs} line=${line//%P/$theirs_place}
        "${theirs_in[@]}" "$line" </dev/null
    fi
}
sides=(coracle)
[ -z "$theirs" ] || sides+=(podman)
clean_up() {
    local side
    for side in "${sides[@]}"; do
        forget "$side" || true
        run "$side" "rm -f %P/*.tar" || true
    done
    [ -z "${registry:-}" ] || kill "$registry" 2>/dev/null || true
    rm -rf "$place"
}
trap clean_up EXIT

# Removed images can be brought back for a day, and what is in the trash would not have to be pulled again.
forget() {
    local empty=true
    [ "$1" = podman ] || empty='%T trash empty -f'
    run "$1" "%T rmi -f ${image:-none} localhost/perf-plain:1 >/dev/null 2>&1; $empty >/dev/null"
}
# A registry of our own, for what is pushed, and for the image if it is made here.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$place/registry.yml" <<END
version: 0.1
storage: {filesystem: {rootdirectory: $place/registry}}
http: {addr: "127.0.0.1:$port"}
END
docker-registry serve "$place/registry.yml" >"$place/registry.log" 2>&1 </dev/null &
registry=$!
for _ in $(seq 100); do
    ! curl -s -o /dev/null "http://localhost:$port/v2/" || break
    kill -0 $registry 2>/dev/null || fail "docker-registry: $(tail -n 1 "$place/registry.log")"
    sleep 0.1
done

# Files of 1 KiB to 1 MiB that become a third when they are compressed, as those of images do.
make_image() {
    python3 - "$1" "$layers" "$mib" <<'END'
import hashlib, io, json, random, sys, tarfile
path, layers, mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(1)
words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz", k=chance.randrange(3, 10))) for _ in range(4000)]
out = tarfile.open(path, "w")
def add(to, name, data):
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1700000000
    to.addfile(info, io.BytesIO(data))
diff_ids, names = [], []
for number in range(layers):
    raw = io.BytesIO()
    tar = tarfile.open(fileobj=raw, mode="w")
    left, file = mib << 20, 0
    text = b" ".join(chance.choices(words, k=300_000))
    while left > 0:
        size = min(left, 1024 << chance.randrange(11))
        begin = chance.randrange(len(text) - size)
        add(tar, f"usr/l{number}/d{file // 100}/f{file}", text[begin:begin + size])
        left, file = left - size, file + 1
    tar.close()
    data = raw.getvalue()
    diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
    names.append(f"{number}.tar")
    add(out, names[-1], data)
config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
add(out, "config.json", json.dumps(config).encode())
add(out, "manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["localhost/perf-plain:1"], "Layers": names}]).encode())
out.close()
END
    chmod 644 "$1"
}
if [ -z "$image" ]; then
    make_image "$place/made.tar"
    run coracle "%T load -q -i %P/made.tar" >/dev/null || fail "coracle cannot load the image"
    image=localhost:$port/perf/image:1
    run coracle "%T push -q --tls-verify=false localhost/perf-plain:1 $image" >/dev/null || fail "coracle cannot push the image"
    forget coracle
    made=yes
fi

declare -A best cpu rss
# note SIDE CASE LINE: milliseconds of the fastest round, its seconds of processor time, and most memory in MiB.
note() {
    local side=$1 key=$1:$2 line=$3 out wall user sys peak=0
    # Time is taken beside the tool, so that what PODMAN_IN costs is not counted.
    if [ "$side" = coracle ]; then line="/usr/bin/time -f %M -o %P/peak $line"; fi
    out=$(run "$side" "TIMEFORMAT='took %3R %3U %3S'; time $line >%P/$side.out 2>&1" 2>&1) || fail "$side: $3: $(tail -n 3 "$place/$side.out")"
    read -r _ wall user sys < <(grep '^took ' <<<"$out")
    if [ "$side" = coracle ]; then peak=$(($(tail -n 1 "$place/peak") / 1024)); fi
    wall=$(awk "BEGIN { printf \"%d\", $wall * 1000 }")
    if [ -z "${best[$key]:-}" ] || [ "$wall" -lt "${best[$key]}" ]; then
        best[$key]=$wall cpu[$key]=$(awk "BEGIN { printf \"%.2f\", $user + $sys }")
    fi
    if [ "$peak" -gt "${rss[$key]:-0}" ]; then rss[$key]=$peak; fi
}
cases=(pull repull save push rmi load 'push plain')
side() {
    local side=$1 case line
    forget "$side"
    run "$side" "rm -f %P/$side.tar"
    for case in "${cases[@]}"; do
        case $case in
        pull | repull) line="%T pull -q --tls-verify=false $image" ;;
        save) line="%T save -q -o %P/$side.tar $image" ;;
        # Of a pulled image, to a repository that has none of it.
        push) line="%T push -q --tls-verify=false $image localhost:$port/pulled-$side$RANDOM$RANDOM:1" ;;
        rmi) line="%T rmi -f $image" ;;
        load) line="%T load -q -i %P/$side.tar" ;;
        # Of plain layers, which are compressed on the way: by another name of the registry, or podman remembers what was pulled.
        'push plain') line="%T push -q --tls-verify=false $image 127.0.0.1:$port/plain-$side$RANDOM$RANDOM:1" ;;
        esac
        # Every case stands on those before it; only what is wanted is measured.
        if is_wanted "$case"; then
            note "$side" "$case" "$line"
        elif [ "$case" != repull ] && is_needed "$case"; then
            run "$side" "$line >/dev/null 2>&1" || fail "$side: $line"
        fi
        [ "$case" != rmi ] || forget "$side"
    done
    forget "$side"
    run "$side" "rm -f %P/$side.tar"
}
# Whether a case has to be done for one that is wanted.
is_needed() {
    case $1 in
    pull) return 0 ;;
    save | rmi) is_wanted load || is_wanted 'push plain' ;;
    load) is_wanted 'push plain' ;;
    *) return 1 ;;
    esac
}
measured=no
for case in "${cases[@]}"; do ! is_wanted "$case" || measured=yes; done
if [ $measured = yes ]; then
    for _ in $(seq "$rounds"); do
        for which in "${sides[@]}"; do side "$which"; done
    done
    printf '%-12s %10s %10s %6s %20s %6s %8s\n' case coracle podman ratio 'processor seconds' ratio 'RSS MiB'
    for case in "${cases[@]}"; do
        mine=${best[coracle:$case]:-} other=${best[podman:$case]:-}
        [ -n "$mine" ] || continue
        ratio() { [ -n "$2" ] && awk "BEGIN { printf \"%.2f\", $1 / ($2 + 0.0001) }" || echo -; }
        printf '%-12s %7s ms %7s ms %6s %9s %10s %6s %8s\n' "$case" "$mine" "${other:--}" "$(ratio "$mine" "$other")" \
            "${cpu[coracle:$case]}" "${cpu[podman:$case]:--}" "$(ratio "${cpu[coracle:$case]}" "${cpu[podman:$case]:-}")" "${rss[coracle:$case]}"
    done
fi
if is_wanted sixteen && [ "${made:-no}" = yes ]; then
    : >"$place/registry.log"
    forget coracle
    run coracle "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do %T pull -q --tls-verify=false $image >/dev/null & done; wait"
    asked=$(grep -ao 'GET /v2/perf/image/blobs/[^ ]*' "$place/registry.log" | sort | uniq -c | awk '{ print $1 }' | sort -n | tail -n 1)
    echo "sixteen pulls at once: every blob was asked for $asked time(s)"
    forget coracle
fi
if is_wanted floor; then
    # The blobs of the image, as a registry gives them.
    mkdir "$place/blobs"
    host=${image%%/*} path=${image#*/}
    repository=${path%:*} tag=${path##*:}
    manifest=$(curl -sf -H 'Accept: application/vnd.oci.image.manifest.v1+json' -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' "http://$host/v2/$repository/manifests/$tag")
    for digest in $(python3 -c 'import json, sys; print(*[layer["digest"] for layer in json.load(sys.stdin)["layers"]])' <<<"$manifest"); do
        curl -sf -o "$place/blobs/${digest#*:}" "http://$host/v2/$repository/blobs/$digest"
    done
    read -r -a floor <<<"${FLOOR:-cargo bench --quiet --manifest-path $here/Cargo.toml --bench images --}"
    "${floor[@]}" --dir "$place" "$place"/blobs/* | tee "$place/floor"
    if [ -n "${best[coracle:pull]:-}" ]; then
        awk -v mine="${best[coracle:pull]}" '/^floor/ { printf "the pull runs at %.0f %% of the floor\n", 100 * $2 / mine }' "$place/floor"
    fi
fi
