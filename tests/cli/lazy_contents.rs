//! Lazy pulls of layers with a table of contents: zstd:chunked as `push` writes it.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::home::{entries, wait_until};
use crate::support::http::{Fault, Gate, Request, Server};
use crate::support::image::{Image, Layer, sha256};
use crate::support::layout::Blobs;
use crate::support::prelude::*;
use crate::support::sink::Sink;

pub(crate) const TESTS: &[Test] = &[
    test!(names_are_known_and_files_read_before_the_layers_come).without_image().limit_secs(120),
    test!(pushed_layers_have_a_table_and_are_what_they_were).without_image().limit_secs(120),
    test!(server_without_ranges_is_pulled_in_order).without_image().limit_secs(120),
    test!(bytes_that_are_not_what_the_table_says_kill_the_container).without_image().limit_secs(120),
    test!(table_that_is_not_what_the_manifest_says_is_refused).without_image(),
    test!(table_that_lies_about_its_archive_kills_the_container).without_image().limit_secs(120),
];

const CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
const POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";

/// Something that does not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Busybox, and below it a layer whose last file is far behind its first.
fn image() -> Image {
    let bottom = Layer::new().dir("data").file("data/early", "early\n").file("data/long", noise(900 << 10));
    let bottom = bottom.file("data/late", "late\n").file("data/late-too", "late\n");
    let bottom = bottom.hardlink("data/other", "data/late-too").symlink("data/link", "late");
    let top = Layer::new().dir("etc").file("etc/passwd", "root:x:0:0::/:/bin/sh\n").file("etc/group", "root:x:0:\n");
    let busybox = Image::busybox();
    let mut image = Image { layers: Vec::new(), ..busybox.clone() }.layer(bottom);
    image.layers.extend(busybox.layers);
    image.layer(top.dir("run").dir("tmp"))
}

/// The image as `push --compression-format zstd:chunked` makes it, and its manifest.
fn chunked(home: &Home, image: &Image) -> (Blobs, Value) {
    image.load(home, "localhost/chunked:1");
    let sink = Sink::honest();
    let to = format!("{}/test/image:1", sink.host());
    home.ok(&format!("push -q --tls-verify=false --compression-format zstd:chunked localhost/chunked:1 {to}"));
    home.ok("rmi -f -a");
    home.ok("trash empty -f");
    let manifest = sink.manifest("test/image:1");
    let mut blobs = Blobs::default();
    sink.look(|held| {
        for (name, bytes) in &held.blobs {
            let digest = name.rsplit_once('@').map_or(name.as_str(), |(_, digest)| digest);
            blobs.blobs.insert(digest.to_owned(), bytes.clone());
        }
    });
    tag(&mut blobs, &manifest);
    (blobs, manifest)
}

/// Serves a manifest under the tag.
fn tag(blobs: &mut Blobs, manifest: &Value) {
    let media_type = manifest["mediaType"].as_str().expect("it has a type").to_owned();
    let descriptor = blobs.put(&media_type, manifest.to_string().into_bytes());
    blobs.tags.insert("1".to_owned(), descriptor);
}

/// A request for a whole layer.
fn is_stream(request: &Request, layers: &[String]) -> bool {
    let digest = request.path.rsplit_once('/').map_or("", |(_, digest)| digest);
    let from_start = request.headers.get("range").is_none_or(|range| range.ends_with('-'));
    from_start && layers.iter().any(|layer| layer == digest)
}

fn layers_of(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().into_iter().flatten();
    layers.filter_map(|layer| layer["digest"].as_str().map(str::to_owned)).collect()
}

fn line(server: &Server, options: &str, command: &str) -> String {
    format!("run --pull=lazy -q --network none --tls-verify=false {options} {} {command}", server.reference("1"))
}

fn out(home: &Home) -> String {
    let dir = home.tmp().join("out");
    fs::create_dir_all(&dir).expect("the test's own directory");
    format!("-v {}:/tmp", dir.display())
}

/// What a file has, once it has anything.
fn spoken(home: &Home, name: &str) -> String {
    let path = home.tmp().join(name);
    let read = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("the container has spoken", || read().ends_with('\n'));
    read()
}

fn names_are_known_and_files_read_before_the_layers_come(home: &Home) {
    let (blobs, manifest) = chunked(home, &image());
    let (gate, layers) = (Gate::default(), layers_of(&manifest));
    let held = gate.clone();
    // Not one byte of a layer's own stream.
    let server = Server::start(blobs, move |request| is_stream(request, &layers).then(|| Fault::Hold(0, held.clone())));
    let script = "ls /data > /tmp/names; cat /data/late > /tmp/late; tail -c 100000 /data/long | wc -c > /tmp/tail; cat /data/early /data/long > /dev/null; echo done";
    let running = home.coracle(&line(&server, &format!("--rm {}", out(home)), "/bin/sh -c")).arg(script).spawn();
    assert_eq!(spoken(home, "out/tail").trim(), "100000");
    assert_eq!(spoken(home, "out/names"), "early\nlate\nlate-too\nlink\nlong\nother\n");
    assert_eq!(spoken(home, "out/late"), "late\n");
    assert_eq!(home.ok("images -q"), "", "the image is not here yet");
    let status = home.ok("ps --format {{.Status}}");
    assert!(status.starts_with("Up ") && status.ends_with("(pulling: 0%)"), "{status}");
    gate.open();
    assert_eq!(running.wait().ok(), "done");
    assert_ne!(home.ok("images -q"), "");
    let digest = home.ok(&line(&server, "--rm", "/bin/sha256sum /data/long"));
    assert!(digest.starts_with(sha256(&noise(900 << 10)).trim_start_matches("sha256:")), "{digest}");
    home.ok("rmi -f -a");
    home.assert_nothing_left();
}

fn pushed_layers_have_a_table_and_are_what_they_were(home: &Home) {
    let image = image();
    let (blobs, manifest) = chunked(home, &image);
    for layer in manifest["layers"].as_array().expect("it has layers") {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
        assert!(layer["annotations"][CHECKSUM].as_str().is_some_and(|text| text.starts_with("sha256:")), "{layer}");
        let blob = &blobs.blobs[layer["digest"].as_str().expect("it has a digest")];
        assert_eq!(layer["size"], blob.len());
        assert!(blob.ends_with(b"GNUlInUx"));
    }
    let server = Server::honest(blobs);
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    assert_eq!(home.ok("images -q --no-trunc").trim(), format!("sha256:{}", image.id().trim_start_matches("sha256:")));
}

fn server_without_ranges_is_pulled_in_order(home: &Home) {
    let (blobs, manifest) = chunked(home, &image());
    let (bodies, layers) = (blobs.blobs.clone(), layers_of(&manifest));
    let server = Server::start(blobs, move |request| {
        let digest = request.path.rsplit_once('/').map(|(_, digest)| digest.to_owned())?;
        let has_range = request.headers.contains_key("range") && layers.contains(&digest);
        // All of it, whatever was asked for.
        has_range.then(|| Fault::Status(200, Vec::new(), String::from_utf8_lossy(&bodies[&digest]).into_owned()))
    });
    assert_eq!(home.ok(&line(&server, "--rm", "/bin/cat /data/early /data/late")), "early\nlate");
    assert_ne!(home.ok("images -q"), "");
}

fn bytes_that_are_not_what_the_table_says_kill_the_container(home: &Home) {
    let (blobs, manifest) = chunked(home, &image());
    let (gate, layers) = (Gate::default(), layers_of(&manifest));
    let bottom = layers[0].clone();
    let table: u64 = manifest["layers"][0]["annotations"][POSITION]
        .as_str()
        .and_then(|text| text.split(':').next()?.parse().ok())
        .expect("it has a table");
    let flipped = AtomicUsize::new(0);
    let server = Server::start(blobs, move |request| {
        if is_stream(request, &layers) {
            return Some(Fault::Hold(0, gate.clone()));
        }
        let range = request.headers.get("range")?.strip_prefix("bytes=")?.split('-').next()?.parse::<u64>().ok()?;
        // Pieces of the lowest layer, not its table.
        let is_piece = request.path.ends_with(&bottom) && range < table;
        if is_piece && flipped.fetch_add(1, Ordering::Relaxed) > 0 {
            // Asked again, and wrong again: the pull ends as soon as its streams come to it.
            gate.open();
        }
        is_piece.then_some(Fault::Flip(20))
    });
    let running = home.coracle(&line(&server, "--name it --retry 0", "/bin/cat /data/long")).spawn();
    let told = running.wait().fails(125);
    assert!(told.contains("its table of contents is wrong about 'data/long'"), "{told}");
    assert_eq!(home.ok("images -aq"), "");
    home.ok("rm it");
    home.ok("system prune -f");
    assert!(entries(&home.data().join("layers")).is_empty());
}

fn table_that_is_not_what_the_manifest_says_is_refused(home: &Home) {
    let (mut blobs, mut manifest) = chunked(home, &image());
    for (key, value, part) in [
        (CHECKSUM, format!("sha256:{}", "0".repeat(64)), "as the manifest says"),
        (POSITION, "18446744073709551615:5:5:1".to_owned(), "table of contents"),
        (POSITION, "0:99999999999999:5:1".to_owned(), "table of contents"),
    ] {
        let before = std::mem::replace(&mut manifest["layers"][0]["annotations"][key], json!(value));
        tag(&mut blobs, &manifest);
        manifest["layers"][0]["annotations"][key] = before;
        let server = Server::honest(blobs.clone());
        let told = home.fails(125, &line(&server, "--rm --retry 0", "/bin/true"));
        assert!(told.contains(part) && told.trim().lines().count() == 1, "{told}");
        // Without its table it is an image like any other.
        home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
        home.ok("rmi -f -a");
        home.ok("trash empty -f");
    }
}

fn table_that_lies_about_its_archive_kills_the_container(home: &Home) {
    let (mut blobs, mut manifest) = chunked(home, &image());
    // The lowest layer's own bytes, with the table of another one behind them: all digests are right.
    let mut other = image();
    other.layers[0] = Layer::new()
        .dir("data")
        .file("data/early", "other\n")
        .file("data/long", noise(900 << 10))
        .file("data/late-too", "late\n")
        .finish();
    let (others, theirs) = chunked(home, &other);
    let part = |blobs: &Blobs, manifest: &Value| {
        let layer = &manifest["layers"][0];
        let numbers: Vec<usize> = layer["annotations"][POSITION]
            .as_str()
            .expect("it has a table")
            .split(':')
            .map(|number| number.parse().expect("a number"))
            .collect();
        let blob = blobs.blobs[layer["digest"].as_str().expect("it has a digest")].clone();
        (blob, numbers)
    };
    let (ours, at) = part(&blobs, &manifest);
    let (liar, there) = part(&others, &theirs);
    // Frames of the archive, then the other's frames where a decoder skips them, then the other's table: its offsets are moved.
    let frames = &ours[..at[0] - 8];
    let hidden = &liar[..there[0] - 8];
    let table = zstd_json(&liar[there[0]..there[0] + there[1]]);
    let moved = shift(table, frames.len() + 8);
    let json = moved.to_string().into_bytes();
    let packed = zstd::bulk::compress(&json, 3).expect("it can be compressed");
    let skipped = |bytes: &[u8]| [&[0x50, 0x2a, 0x4d, 0x18], &(bytes.len() as u32).to_le_bytes()[..], bytes].concat();
    let blob = [frames.to_vec(), skipped(hidden), skipped(&packed)].concat();
    let position = frames.len() + 8 + hidden.len() + 8;
    let descriptor = blobs.put("application/vnd.oci.image.layer.v1.tar+zstd", blob);
    let layer = &mut manifest["layers"][0];
    (layer["digest"], layer["size"]) = (descriptor["digest"].clone(), descriptor["size"].clone());
    layer["annotations"][CHECKSUM] = json!(sha256(&packed));
    layer["annotations"][POSITION] = json!(format!("{position}:{}:{}:1", packed.len(), json.len()));
    tag(&mut blobs, &manifest);
    let (gate, layers) = (Gate::default(), layers_of(&manifest));
    let held = gate.clone();
    let server = Server::start(blobs, move |request| is_stream(request, &layers).then(|| Fault::Hold(0, held.clone())));
    let script = "cat /data/early > /tmp/early; exec sleep 1000";
    let running =
        home.coracle(&line(&server, &format!("--rm --retry 0 {}", out(home)), "/bin/sh -c")).arg(script).spawn();
    // It has been told the lie.
    assert_eq!(spoken(home, "out/early"), "other\n");
    gate.open();
    let told = running.wait().fails(125);
    assert!(told.contains("its table of contents and its archive disagree about"), "{told}");
    assert_eq!(home.ok("images -aq"), "");
}

fn zstd_json(packed: &[u8]) -> Value {
    let json = zstd::decode_all(packed).expect("it is zstd");
    serde_json::from_slice(&json).expect("it is JSON")
}

/// A table for frames that lie further behind.
fn shift(mut table: Value, by: usize) -> Value {
    for entry in table["entries"].as_array_mut().into_iter().flatten() {
        for key in ["offset", "endOffset"] {
            if let Some(old) = entry[key].as_u64() {
                entry[key] = json!(old + by as u64);
            }
        }
    }
    table
}
