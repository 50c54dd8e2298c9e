//! `system check`: each kind of damage is found, what can be made again is, and what cannot is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::home::entries;
use crate::support::http::Server;
use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(whole_store_has_nothing_to_report),
    test!(damaged_layers_are_unpacked_again),
    test!(layer_that_a_container_runs_on_is_left_until_it_has_stopped),
    test!(damaged_blobs_are_archived_again_or_said_to_be_lost),
    test!(images_that_cannot_be_used_are_removed_and_containers_only_by_force),
    test!(lost_index_of_images_is_made_again),
    test!(damaged_records_are_written_again_or_set_aside),
    test!(what_nothing_refers_to_is_damage_when_it_is_old),
];

/// The exit status and what was said of damage.
fn check(home: &Home, options: &str) -> (i32, String) {
    let finished = home.run(&format!("system check {options}"));
    let stderr = finished.stderr();
    assert!(!stderr.contains("panicked"), "{}", finished.transcript());
    if finished.code() != 0 {
        assert!(stderr.contains("damage"), "{}", finished.transcript());
    }
    (finished.code(), finished.stdout())
}

#[track_caller]
fn assert_whole(home: &Home) {
    assert_eq!(check(home, ""), (0, String::new()));
}

#[track_caller]
fn assert_says(home: &Home, options: &str, code: i32, wanted: &[&str]) {
    let (got, text) = check(home, options);
    assert!(got == code && wanted.iter().all(|wanted| text.contains(wanted)), "{options}: {got}: {text}<> {wanted:?}");
}

/// An image of a registry, its layers packed, with a file `marked` in the top one.
fn pulled(home: &Home) -> (Server, String) {
    let image = Image::busybox().layer(
        Layer::new()
            .dir("etc")
            .file("etc/marked", "what is in it\n")
            .symlink("etc/link", "marked")
            .file("etc/big", vec![7; 300_000]),
    );
    let mut blobs = Blobs::default();
    blobs.add("1", &image, Packing::Gzip, Schema::Oci);
    let server = Server::honest(blobs);
    let reference = server.reference("1");
    home.ok(&format!("pull -q --tls-verify=false {reference}"));
    (server, reference)
}

fn layer_with(home: &Home, file: &str) -> PathBuf {
    let layers = entries(&home.data().join("layers"));
    layers.into_iter().find(|layer| layer.join("diff").join(file).exists()).expect("some layer has it")
}

fn blob(home: &Home, digest: &str) -> PathBuf {
    home.data().join("images/blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

/// The digests of an image's layers as they were sent, and that of its configuration.
fn blobs_of(home: &Home, image: &str) -> (Vec<String>, String) {
    let digest = home.ok(&format!("image inspect --format {{{{.Digest}}}} {image}"));
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(blob(home, &digest)).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value["digest"].as_str().unwrap().to_owned();
    (manifest["layers"].as_array().unwrap().iter().map(text).collect(), text(&manifest["config"]))
}

/// Another byte in the middle, the same length.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn whole_store_has_nothing_to_report(home: &Home) {
    let (_server, reference) = pulled(home);
    home.ok(&format!(
        "run --name c -v v:/v {reference} sh -c 'echo x > /v/x; rm /etc/link; mkdir -p /d; chown 9:9 /d'"
    ));
    home.ok("commit -q c localhost/committed");
    home.write("context/Dockerfile", "FROM busybox\nRUN rm /bin/sh && mkdir -m 1777 /t && echo 1 > /t/x\nCOPY f /f\n");
    let context = home.write("context/f", "x").parent().unwrap().display().to_string();
    home.ok(&format!("build -q --network none -t built {context}"));
    home.ok("network create n");
    home.ok("manifest create list localhost/committed");
    home.coracle("secret create s -").stdin("x").run().ok();
    home.ok("run --name gone busybox true");
    home.ok("rm gone");
    assert_whole(home);
    assert_eq!(check(home, "-q"), (0, String::new()));
    assert_eq!(check(home, "-r -f --max 0s").0, 0);
    home.ok(&format!("run --rm {reference} cat /etc/marked"));
    assert_eq!(home.ok("ps -aq").lines().count(), 1);
    home.fails(125, "system check --max never");
}

fn damaged_layers_are_unpacked_again(home: &Home) {
    let (_server, reference) = pulled(home);
    let layer = layer_with(home, "etc/marked");
    let marked = layer.join("diff/etc/marked");
    let times = fs::metadata(&marked).unwrap().modified().unwrap();
    let change: &[(&str, &dyn Fn())] = &[
        ("/etc/marked: it has another length", &|| fs::write(&marked, "more than there was in it\n").unwrap()),
        // The index knows nothing of contents: the blob does.
        ("/etc/marked: its contents are others", &|| {
            fs::write(&marked, "what is in IT\n").unwrap();
            fs::File::options().append(true).open(&marked).unwrap().set_modified(times).unwrap();
        }),
        ("/etc/link: it leads elsewhere", &|| {
            fs::remove_file(layer.join("diff/etc/link")).unwrap();
            std::os::unix::fs::symlink("big", layer.join("diff/etc/link")).unwrap();
        }),
        ("/etc/marked: it is gone", &|| fs::remove_file(&marked).unwrap()),
        ("/etc/more: it is not of this layer", &|| fs::write(layer.join("diff/etc/more"), "").unwrap()),
        ("another mode", &|| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&marked, mode).unwrap();
        }),
        ("layer index is not usable", &|| fs::write(layer.join("index"), "torn").unwrap()),
        ("its tree cannot be opened", &|| fs::rename(layer.join("diff"), home.tmp().join("away")).unwrap()),
    ];
    for (says, damage) in change {
        damage();
        assert_says(home, "", 125, &["Damaged layer ", says]);
        assert_says(home, "--repair", 0, &["Repaired layer ", "unpacked again from its blob"]);
        assert_whole(home);
        assert_eq!(home.ok(&format!("run --rm {reference} cat /etc/link")), "what is in it", "{says}");
    }
    // A quick one reads no contents.
    fs::write(&marked, "what is in IT\n").unwrap();
    fs::File::options().append(true).open(&marked).unwrap().set_modified(times).unwrap();
    assert_eq!(check(home, "--quick").0, 0);
    assert_says(home, "--repair", 0, &["Repaired"]);
    // Without the blob the index can still be made again, from the files.
    let (layers, _) = blobs_of(home, &reference);
    fs::rename(blob(home, &layers[1]), home.tmp().join("blob")).unwrap();
    fs::write(layer.join("index"), "torn").unwrap();
    assert_says(home, "--repair", 125, &["its index was made again from its files"]);
    fs::rename(home.tmp().join("blob"), blob(home, &layers[1])).unwrap();
    assert_whole(home);
}

fn layer_that_a_container_runs_on_is_left_until_it_has_stopped(home: &Home) {
    let (_server, reference) = pulled(home);
    home.ok(&format!("run -d --name up {reference} sleep 1000"));
    fs::write(layer_with(home, "etc/marked").join("diff/etc/more"), "").unwrap();
    assert_says(home, "--repair", 125, &["Not repaired: layer ", "container up runs on it: stop it and try again"]);
    home.ok("rm -f -t 0 up");
    assert_says(home, "--repair", 0, &["Repaired layer "]);
    assert_whole(home);
}

fn damaged_blobs_are_archived_again_or_said_to_be_lost(home: &Home) {
    let (_server, reference) = pulled(home);
    home.ok("run --name c busybox sh -c 'mkdir /d; echo x > /d/x; ln /d/x /d/y; rm /bin/vi'");
    home.ok("commit -q c localhost/committed");
    let (layers, _) = blobs_of(home, "localhost/committed");
    let committed = blob(home, layers.last().unwrap());
    // What was committed here is archived again, byte for byte: from the layer, once that is unpacked.
    home.ok("run --rm localhost/committed true");
    let before = fs::read(&committed).unwrap();
    for damage in [&(|| flip(&committed)) as &dyn Fn(), &|| fs::remove_file(&committed).unwrap()] {
        damage();
        assert_says(home, "", 125, &["Damaged blob "]);
        assert_says(home, "--repair", 0, &["Repaired blob ", "byte for byte"]);
        assert!(fs::read(&committed).unwrap() == before);
    }
    // What another tool compressed cannot be; the image still runs, and a pull brings the blob.
    let (layers, _) = blobs_of(home, &reference);
    flip(&blob(home, &layers[1]));
    assert_says(home, "", 125, &["Damaged blob ", "its bytes have another digest"]);
    assert_says(home, "--repair", 125, &["Deleted blob ", "a pull brings it again", "Not repaired: blob "]);
    home.ok(&format!("run --rm {reference} cat /etc/marked"));
    home.ok(&format!("pull -q --tls-verify=false {reference}"));
    assert_whole(home);
    // One that is too short is seen without reading it.
    fs::write(blob(home, &layers[1]), "short").unwrap();
    assert_says(home, "--quick", 125, &["Damaged blob "]);
}

fn images_that_cannot_be_used_are_removed_and_containers_only_by_force(home: &Home) {
    let (_server, reference) = pulled(home);
    let (layers, config) = blobs_of(home, &reference);
    let pull = || home.ok(&format!("pull -q --tls-verify=false {reference}"));
    fs::write(blob(home, &config), "{}").unwrap();
    assert_says(home, "", 125, &["Damaged image ", &reference, "its configuration, sha256:", "is damaged"]);
    assert_says(home, "--repair", 0, &["Deleted image "]);
    assert_eq!(home.run(&format!("image exists {reference}")).code(), 1);
    pull();
    assert_whole(home);
    // Neither its blob nor its tree.
    home.ok(&format!("create --name c {reference} true"));
    fs::remove_file(blob(home, &layers[1])).unwrap();
    fs::rename(layer_with(home, "etc/marked"), home.tmp().join("away")).unwrap();
    assert_says(home, "", 125, &["Damaged image ", "Damaged container c: its layer "]);
    assert_says(home, "--repair", 125, &["container c was made from it: --force removes both"]);
    home.ok("container exists c");
    assert_says(home, "--repair --force", 0, &["Deleted image ", "Deleted container "]);
    assert_eq!(home.ok("ps -aq"), "");
    pull();
    home.ok(&format!("run --rm {reference} true"));
    assert_whole(home);
}

fn lost_index_of_images_is_made_again(home: &Home) {
    let (_server, reference) = pulled(home);
    home.ok(&format!("create --name c {reference} true"));
    let count = home.ok("images -q").lines().count();
    fs::write(home.data().join("images/index.json"), r#"{"schemaVersion":2,"man"#).unwrap();
    home.run("images").exits(125);
    assert_says(home, "", 125, &["Damaged store file index.json: "]);
    assert_says(home, "--repair", 0, &["Repaired store file index.json: 2 images are in it again"]);
    assert_whole(home);
    assert_eq!(home.ok("images -q").lines().count(), count);
    home.ok(&format!("run --rm --pull never {reference} true"));
}

fn damaged_records_are_written_again_or_set_aside(home: &Home) {
    home.ok("run --name c -v v:/v busybox sh -c 'echo kept > /v/x; echo changed > /changed'");
    home.ok("network create n");
    home.coracle("secret create s -").stdin("x").run().ok();
    let data = home.data();
    let id = home.ok("ps -aq --no-trunc");
    // Names.
    fs::remove_file(data.join("names/c")).unwrap();
    std::os::unix::fs::symlink("0".repeat(64), data.join("names/ghost")).unwrap();
    assert_says(home, "", 125, &["Damaged name c: container ", "Damaged name ghost: its container "]);
    assert_says(home, "-r", 0, &["Repaired name c: ", "Deleted name ghost: "]);
    home.ok("start c");
    home.ok("wait c");
    // Volumes.
    fs::write(data.join("volumes/v/volume.json"), "").unwrap();
    assert_says(home, "-r", 0, &["Repaired volume v: its data is as it was"]);
    assert_eq!(home.ok("run --rm -v v:/v busybox cat /v/x"), "kept");
    fs::rename(data.join("volumes/v/_data"), home.tmp().join("data")).unwrap();
    assert_says(home, "-r", 0, &["Repaired volume v: it is empty now"]);
    // Small records, steps of builds, the trash.
    fs::write(data.join("networks/n.json"), "{").unwrap();
    for path in entries(&data.join("secrets")) {
        fs::write(path, "{").unwrap();
    }
    fs::create_dir_all(data.join("build/steps")).unwrap();
    fs::write(data.join("build/steps").join("a".repeat(64)), "{").unwrap();
    home.ok("volume create w");
    home.ok("volume rm w");
    fs::write(entries(&data.join("undo"))[0].join("volume.json"), "{").unwrap();
    fs::write(data.join("images/lists.json"), "{").unwrap();
    let wanted =
        ["record networks/n.json", "record secrets/", "cache entry aaaa", "trash entry ", "store file lists.json"];
    assert_says(home, "", 125, &wanted);
    assert_says(home, "-r", 0, &["Deleted record networks/n.json: what it was is in "]);
    assert!(entries(&data.join("networks")).iter().any(|path| fs::read(path).unwrap() == b"{"));
    home.ok("network create n");
    assert_whole(home);
    // A container without its record: what it changed is not thrown away unasked.
    fs::write(data.join("containers").join(&id).join("container.json"), "").unwrap();
    assert_says(home, "-r", 125, &["Not repaired: container ", "/upper: --force removes it"]);
    assert_eq!(fs::read(data.join("containers").join(&id).join("upper/changed")).unwrap(), b"changed\n");
    assert_says(home, "-r -f", 0, &["Deleted container "]);
    assert_whole(home);
    home.ok("create --name c busybox true");
}

fn what_nothing_refers_to_is_damage_when_it_is_old(home: &Home) {
    let bytes = "nobody's";
    let path = blob(home, &crate::support::image::sha256(bytes.as_bytes()));
    fs::write(&path, bytes).unwrap();
    assert_whole(home);
    let old = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    fs::File::options().append(true).open(&path).unwrap().set_modified(old).unwrap();
    assert_eq!(check(home, "--max 100h").0, 0);
    assert_says(home, "", 125, &["Damaged blob ", "nothing refers to it"]);
    assert_says(home, "--repair", 0, &["Deleted blob "]);
    assert!(!path.exists());
    home.ok("run --rm busybox true");
}
