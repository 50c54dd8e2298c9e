//! Layers that try to leave their directory (SECURITY: tar links, whiteouts, union metadata, bombs), end to end: each is
//! loaded by the command, and the host is looked at afterwards.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::support::home::{entries, set_mode};
use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use tar::EntryType;

pub(crate) const TESTS: &[Test] = &[
    test!(absolute_and_parent_names_stay_inside),
    test!(files_through_symlinks_stay_inside),
    test!(files_through_symlinks_of_a_lower_layer_stay_inside),
    test!(hardlinks_out_are_refused_or_stay_inside),
    test!(whiteouts_through_symlinks_delete_nothing),
    test!(whiteouts_with_odd_names_are_refused),
    test!(links_replace_directories_between_entries),
    test!(same_name_many_times),
    test!(devices_do_not_become_devices),
    test!(truncated_and_garbage_layers),
    test!(zero_bomb_is_bounded_by_memory).limit_secs(120),
    test!(sparse_bomb_does_not_fill_the_disk),
    test!(deep_and_long_names),
];

struct Canary(PathBuf);

impl Canary {
    fn new(home: &Home) -> Self {
        let dir = home.write("canary/alive", "yes").parent().expect("it has one").to_owned();
        set_mode(&dir, 0o777);
        Self(dir)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the runner's paths are plain")
    }

    #[track_caller]
    fn is_untouched(&self) {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(entries(&self.0), [self.0.join("alive")]);
        assert_eq!(fs::read_to_string(self.0.join("alive")).unwrap(), "yes");
        assert_eq!(fs::metadata(&self.0).unwrap().mode() & 0o7777, 0o777);
        assert_eq!(fs::metadata(self.0.join("alive")).unwrap().nlink(), 1);
    }
}

/// Loads it; if that succeeds, runs it. Neither may crash or hang; what was refused leaves nothing.
#[track_caller]
fn try_layers(home: &Home, layers: Vec<Layer>) -> bool {
    let image = layers.into_iter().fold(Image::busybox(), Image::layer);
    try_image(home, &image)
}

#[track_caller]
fn try_image(home: &Home, image: &Image) -> bool {
    let file = home.write("hostile.tar", image.docker_archive("localhost/hostile:latest"));
    let loaded = home.coracle("load -q -i").arg(&file).limit_secs(60).run();
    fs::remove_file(file).unwrap();
    if loaded.code() != 0 {
        loaded.fails(125);
        assert_eq!(home.ok("images -q").lines().count(), 1, "half of a refused image is kept");
        return false;
    }
    let finished = home.coracle("run --rm --entrypoint true hostile").limit_secs(20).run();
    assert!(!finished.stderr().contains("panicked"), "{}", finished.transcript());
    home.ok("rmi -f hostile");
    true
}

fn absolute_and_parent_names_stay_inside(home: &Home) {
    let canary = Canary::new(home);
    let up = "../".repeat(12);
    for name in [
        format!("{}/new", canary.path()),
        format!("{up}{}/new", &canary.path()[1..]),
        "..".to_owned(),
        "a/../../..".to_owned(),
        "/".to_owned(),
        "//etc//x".to_owned(),
        "./././x".to_owned(),
    ] {
        for kind in [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Fifo] {
            try_layers(home, vec![Layer::new().entry(kind, name.as_bytes(), b"/etc", 0o777, b"")]);
            canary.is_untouched();
        }
    }
}

fn files_through_symlinks_stay_inside(home: &Home) {
    let canary = Canary::new(home);
    for target in [canary.path().to_owned(), format!("{}{}", "../".repeat(12), &canary.path()[1..])] {
        for kind in [EntryType::Regular, EntryType::Directory, EntryType::Fifo] {
            let layer = Layer::new().symlink("link", &target).entry(kind, b"link/new", b"", 0o644, b"");
            try_layers(home, vec![layer]);
            canary.is_untouched();
        }
        // Mode and owner through the link itself: RUSTSEC-2026-0067.
        let layer = Layer::new().symlink("link", &target).entry(EntryType::Directory, b"link", b"", 0o700, b"");
        try_layers(home, vec![layer]);
        canary.is_untouched();
        let layer = Layer::new().symlink("link", &format!("{target}/alive")).file("link", "overwritten");
        try_layers(home, vec![layer]);
        canary.is_untouched();
    }
}

fn files_through_symlinks_of_a_lower_layer_stay_inside(home: &Home) {
    let canary = Canary::new(home);
    let below = Layer::new().symlink("link", canary.path());
    try_layers(home, vec![below, Layer::new().file("link/new", "x")]);
    canary.is_untouched();
    let below = Layer::new().symlink("link", canary.path());
    try_layers(home, vec![below, Layer::new().whiteout("link/alive").opaque("link")]);
    canary.is_untouched();
}

fn hardlinks_out_are_refused_or_stay_inside(home: &Home) {
    let canary = Canary::new(home);
    let alive = format!("{}/alive", canary.path());
    for target in [
        alive.clone(),
        format!("{}{}", "../".repeat(12), &alive[1..]),
        "/etc/shadow".to_owned(),
        "no/such/file".to_owned(),
    ] {
        let layer = Layer::new().hardlink("hard", &target).file("hard", "overwritten");
        try_layers(home, vec![layer]);
        canary.is_untouched();
    }
    let layer = Layer::new().symlink("link", canary.path()).hardlink("hard", "link/alive").file("hard", "x");
    try_layers(home, vec![layer]);
    let layer = Layer::new().symlink("s", &alive).hardlink("h", "s").file("h", "x");
    try_layers(home, vec![layer]);
    canary.is_untouched();
}

fn whiteouts_through_symlinks_delete_nothing(home: &Home) {
    let canary = Canary::new(home);
    let layer = Layer::new().symlink("link", canary.path()).file("link/.wh.alive", "").file("link/.wh..wh..opq", "");
    try_layers(home, vec![layer]);
    canary.is_untouched();
    try_layers(home, vec![Layer::new().file(&format!("{}{}/.wh.alive", "../".repeat(12), &canary.path()[1..]), "")]);
    canary.is_untouched();
}

fn whiteouts_with_odd_names_are_refused(home: &Home) {
    let canary = Canary::new(home);
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."] {
        assert!(!try_layers(home, vec![Layer::new().dir("d").file(name, "")]), "{name} is accepted");
        canary.is_untouched();
    }
}

fn links_replace_directories_between_entries(home: &Home) {
    let canary = Canary::new(home);
    let layer = Layer::new().dir("d").file("d/one", "1").symlink("d", canary.path()).file("d/two", "2");
    try_layers(home, vec![layer.dir("d").file("d/three", "3")]);
    canary.is_untouched();
}

fn same_name_many_times(home: &Home) {
    let mut layer = Layer::new();
    for number in 0..50 {
        layer = match number % 4 {
            0 => layer.file("x", number.to_string()),
            1 => layer.dir("x"),
            2 => layer.symlink("x", "/etc/passwd"),
            _ => layer.fifo("x"),
        };
    }
    assert!(try_layers(home, vec![layer.file("x", "last")]));
}

fn devices_do_not_become_devices(home: &Home) {
    let canary = Canary::new(home);
    for kind in [EntryType::Block, EntryType::Char] {
        try_layers(home, vec![Layer::new().entry(kind, b"device", b"", 0o666, b"")]);
    }
    canary.is_untouched();
}

fn truncated_and_garbage_layers(home: &Home) {
    let good = Layer::new().file("a", vec![b'a'; 5000]).finish();
    for bytes in [good[..700].to_vec(), good[..512].to_vec(), b"garbage".repeat(1000), vec![0xff; 10_240]] {
        let mut image = Image::busybox();
        image.layers.push(bytes);
        assert!(!try_image(home, &image));
    }
}

fn zero_bomb_is_bounded_by_memory(home: &Home) {
    // 1 GiB of zeros in 1 MiB of gzip: it is unpacked within 64 MiB of memory, or refused.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_size(1 << 30);
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.write_all(&[0; 1024]).unwrap();
    let file = home.write("bomb.tar.gz", encoder.finish().unwrap());
    let command =
        home.coracle("import").arg(&file).arg("localhost/bomb").under("/usr/bin/env time -f %M").limit_secs(100);
    // GNU time is not everywhere: the limit is the address space then.
    let finished = command.run();
    if finished.code() == 127 {
        let limited = home.coracle("import").arg(file).arg("localhost/bomb").under("prlimit --as=2000000000");
        assert_ne!(limited.limit_secs(100).run().code(), 134);
    } else if let Some(kib) = finished.stderr().lines().last().and_then(|line| line.parse::<u64>().ok()) {
        assert!(kib <= 64 * 1024, "{kib} KiB");
    }
}

fn sparse_bomb_does_not_fill_the_disk(home: &Home) {
    // An old GNU sparse entry: 1 TiB of which nothing is data.
    let mut header = tar::Header::new_gnu();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..6].copy_from_slice(b"sparse");
    gnu.set_real_size(1 << 40);
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([0; 1024]);
    let mut image = Image::busybox();
    image.layers.push(bytes);
    try_image(home, &image);
}

fn deep_and_long_names(home: &Home) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |name: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(0);
        header.set_entry_type(EntryType::Regular);
        archive.append_data(&mut header, name, std::io::empty()).unwrap();
    };
    append(&"d/".repeat(1500));
    append(&format!("{}file", "e/".repeat(300)));
    append(&"n".repeat(255));
    let mut image = Image::busybox();
    image.layers.push(archive.into_inner().unwrap());
    try_image(home, &image);
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    archive.append_data(&mut header, "n".repeat(256), std::io::empty()).unwrap();
    let mut image = Image::busybox();
    image.layers.push(archive.into_inner().unwrap());
    assert!(!try_image(home, &image), "a name no file system can hold");
}
