//! Images of additional stores, and blobs that are dropped

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::home::entries;
use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::sink::Sink;

pub(crate) const TESTS: &[Test] = &[
    test!(images_of_an_additional_store_are_used_and_never_changed),
    test!(additional_stores_are_named_in_storage_conf),
    test!(store_that_is_gone_takes_only_its_images),
    test!(what_is_no_store_is_refused),
    test!(blobs_that_can_be_made_again_are_dropped),
    test!(dropped_blob_of_a_damaged_layer_is_noticed),
    test!(identical_files_share_their_bytes_or_it_is_said_why_not),
];

/// A store with `localhost/shared:1`, which has a file `/x`.
fn other_store(home: &Home) -> PathBuf {
    let image = Image::busybox().layer(Layer::new().file("x", "shared\n"));
    let archive = home.write("shared.tar", image.docker_archive("localhost/shared:1"));
    let place = home.tmp().join("other");
    let runroot = home.tmp().join("other-run");
    home.ok(&format!("--root {} --runroot {} load -q -i {}", place.display(), runroot.display(), archive.display()));
    place
}

/// Every file, when it was changed, and how long it is.
fn state(dir: &Path) -> BTreeMap<PathBuf, (i64, i64, u64)> {
    let mut found = BTreeMap::new();
    for path in entries(dir) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(state(&path));
        }
        found.insert(path, (metadata.ctime(), metadata.ctime_nsec(), metadata.len()));
    }
    found
}

fn images_of_an_additional_store_are_used_and_never_changed(home: &Home) {
    let place = other_store(home);
    let before = state(&place);
    let with = |line: &str| format!("--storage-opt additionalimagestore={} {line}", place.display());
    let listed = home.ok(&with("images --format '{{.Repository}} {{.ReadOnly}}'"));
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["localhost/busybox false", "localhost/shared true"]);
    assert_eq!(home.ok(&with("images -q --filter readonly=true")).lines().count(), 1);
    assert!(home.ok(&with("images")).lines().next().unwrap().ends_with("R/O"));
    assert!(!home.ok("images").contains("shared"));

    assert_eq!(home.ok(&with("run --rm --network none shared:1 cat /x")), "shared");
    assert_eq!(home.ok(&with("run --name kept --network none shared:1 sh -c 'cat /x; rm /x'")), "shared");
    let links = entries(&home.data().join("layers")).into_iter().filter(|path| path.is_symlink()).count();
    assert!(links > 0, "its layers are not unpacked again");
    // It needs no option to start again: its layers are known.
    assert!(home.run("start -a kept").stderr().contains("No such file"), "what it changed stays its own");

    for line in ["rmi shared:1", "rmi -f shared:1", "tag shared:1 mine", "untag shared:1"] {
        assert!(home.fails(125, &with(line)).contains("read-only"), "{line}");
    }
    let archive = home.tmp().join("saved.tar");
    home.ok(&with(&format!("save -q -o {} shared:1", archive.display())));
    let sink = Sink::honest();
    home.ok(&with(&format!("push -q shared:1 {}/a/b:1", sink.host())));
    home.ok(&with("system check"));
    home.ok(&with("rm kept"));
    home.ok(&with("rmi -a -f"));
    home.ok(&with("system prune -a -f --now"));
    assert_eq!(home.ok(&with("images --format {{.Repository}}")), "localhost/shared");
    assert_eq!(state(&place), before);
    home.ok(&format!("load -q -i {}", archive.display()));
    assert_eq!(home.ok("run --rm --network none shared:1 cat /x"), "shared");
}

fn additional_stores_are_named_in_storage_conf(home: &Home) {
    let place = other_store(home);
    let podmans = home.tmp().join("podmans");
    fs::create_dir_all(podmans.join("overlay-images")).unwrap();
    let conf = format!("[storage.options]\nadditionalimagestores = [{podmans:?}, {place:?}]\n");
    let conf = home.write("storage.conf", conf);
    let listed = home.coracle("images --format {{.Repository}} shared").env("CONTAINERS_STORAGE_CONF", &conf).run();
    assert_eq!(listed.ok(), "localhost/shared");
    fs::write(&conf, "[storage.options]\nadditionalimagestores = 7\n").unwrap();
    let error = home.coracle("images").env("CONTAINERS_STORAGE_CONF", &conf).run().fails(125);
    assert!(error.contains("storage.conf"), "{error}");
}

fn store_that_is_gone_takes_only_its_images(home: &Home) {
    let place = other_store(home);
    let with = |line: &str| format!("--storage-opt additionalimagestore={} {line}", place.display());
    home.ok(&with("create --name c --network none shared:1 true"));
    fs::rename(&place, home.tmp().join("elsewhere")).unwrap();
    assert_eq!(home.run("system check").code(), 125);
    home.ok("rm c");
    home.ok("system prune -a -f --now");
    home.ok("system check");
    fs::rename(home.tmp().join("elsewhere"), &place).unwrap();
    assert_eq!(home.ok(&with("run --rm --network none shared:1 cat /x")), "shared");
}

fn what_is_no_store_is_refused(home: &Home) {
    for (dir, why) in [("relative".to_owned(), "absolute"), (home.tmp().display().to_string(), "no images of coracle")]
    {
        let error = home.fails(125, &format!("--storage-opt additionalimagestore={dir} images"));
        assert!(error.contains(why), "{error}");
    }
}

/// Two images: one of plain layers, and one that another program has compressed.
fn two_images(home: &Home) {
    let noise: Vec<u8> = (0..400_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let image = Image::busybox().layer(Layer::new().file("noise", &noise).file("small", "s"));
    let archive = home.write("plain.tar", image.docker_archive("localhost/plain:1"));
    home.ok(&format!("load -q -i {}", archive.display()));
    let mut blobs = Blobs::default();
    let image = Image::busybox().layer(Layer::new().file("other", &noise));
    blobs.add("it", &image, Packing::Gzip, Schema::Oci);
    let dir = home.tmp().join("layout");
    blobs.write(&dir);
    let id = home.ok(&format!("pull -q oci:{}:it", dir.display()));
    home.ok(&format!("tag {id} localhost/foreign:1"));
}

fn blobs_that_can_be_made_again_are_dropped(home: &Home) {
    two_images(home);
    let sink = Sink::honest();
    let pushed = |name: &str| {
        home.ok(&format!("push -q {name} {}/{name}", sink.host()));
        sink.look(|held| held.manifests.get(name).unwrap().1.clone())
    };
    // Compressed on the way; as an archive it is what it is.
    let saved = |name: &str| {
        let file = home.tmp().join("saved.tar");
        home.ok(&format!("save -q --format oci-archive -o {} {name}", file.display()));
        fs::read(file).unwrap()
    };
    let before = (pushed("plain:1"), saved("plain:1"), saved("foreign:1"));
    let blobs = || entries(&home.data().join("images/blobs/sha256")).len();
    let whole = blobs();
    let dropped = home.run("image prune --drop-blobs");
    assert!(dropped.ok().contains("Dropped: sha256:"), "{}", dropped.transcript());
    assert!(dropped.stderr().contains("another program"), "{}", dropped.transcript());
    assert!(blobs() < whole);
    home.ok("system check");
    assert_eq!(home.ok("run --rm --network none plain:1 cat /small"), "s");
    // A pull of the same brings nothing, for nothing is missing.
    let few = blobs();
    home.ok(&format!("load -q -i {}", home.tmp().join("plain.tar").display()));
    assert_eq!(blobs(), few);
    assert_eq!((pushed("plain:1"), saved("plain:1"), saved("foreign:1")), before);
    assert_eq!(blobs(), whole);
    home.ok("image prune --drop-blobs");
    assert_eq!(blobs(), few);
    home.ok("rmi -f plain:1 foreign:1 busybox");
    home.ok("system prune -a -f --now");
    assert!(entries(&home.data().join("images/recipes")).is_empty());
}

fn dropped_blob_of_a_damaged_layer_is_noticed(home: &Home) {
    two_images(home);
    home.ok("image prune --drop-blobs");
    let files = entries(&home.data().join("layers")).into_iter().map(|layer| layer.join("diff/noise"));
    let noise = files.into_iter().find(|path| path.exists()).unwrap();
    let modified = fs::metadata(&noise).unwrap().modified().unwrap();
    let mut bytes = fs::read(&noise).unwrap();
    bytes[1000] ^= 1;
    fs::write(&noise, bytes).unwrap();
    // Nothing but the contents tells.
    fs::File::options().write(true).open(&noise).unwrap().set_modified(modified).unwrap();
    let checked = home.run("system check");
    assert_eq!(checked.code(), 125, "{}", checked.transcript());
    assert!(checked.stdout().contains("cannot be made again"), "{}", checked.transcript());
    let file = home.tmp().join("saved.tar");
    let error = home.fails(125, &format!("save -q -o {} plain:1", file.display()));
    assert!(error.contains("dropped and cannot be made again"), "{error}");
    // What brings the image again mends it.
    home.ok("rmi -f plain:1");
    home.ok("system prune -a -f --now");
    home.ok(&format!("load -q -i {}", home.tmp().join("plain.tar").display()));
    home.ok("system check");
}

fn identical_files_share_their_bytes_or_it_is_said_why_not(home: &Home) {
    two_images(home);
    let deduplicated = home.run("image prune --dedup");
    match deduplicated.code() {
        // busybox and the noise are in both, under other names.
        0 => assert!(deduplicated.stdout().contains("files share their bytes"), "{}", deduplicated.transcript()),
        _ => assert!(deduplicated.fails(125).contains("cannot share bytes between files")),
    }
    home.ok("system check");
    assert_eq!(home.ok("run --rm --network none plain:1 cat /small"), "s");
}
