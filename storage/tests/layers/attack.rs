//! Hostile layers. Every test checks canaries beside the layer's directory; the names are those of the reports.

use crate::support::{Archive, Scratch, assert_index_equals_disk, entry};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use storage::layer::apply::ApplyError;
use storage::layer::tar::{Entry, EntryKind, TarError};

/// Applies and expects success; the disk must be what the index says.
fn apply(tar: Vec<u8>) -> (Scratch, Vec<(String, String)>) {
    let scratch = Scratch::new();
    let (_, index) = scratch.apply(&tar).expect("layer is acceptable");
    assert_index_equals_disk(&scratch, &index);
    let tree = scratch.tree().into_iter().collect();
    (scratch, tree)
}

fn refuse(tar: &[u8]) -> ApplyError {
    let scratch = Scratch::new();
    let error = scratch.apply(tar).expect_err("layer must be refused");
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains('\x1b'), "{text:?}");
    error
}

fn tree(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn cve_2019_14271_write_through_an_absolute_symlink_stays_inside() {
    let scratch = Scratch::new();
    let outside = scratch.outside();
    let tar = Archive::new().symlink("link", &outside).file("link/pwned", b"x").bytes();
    // The link is read as the container would: its target lies beneath the layer's root.
    scratch.apply(&tar).unwrap();
    let inside = format!("{}/pwned", outside.trim_start_matches('/'));
    assert_eq!(scratch.tree().get(&inside).map(String::as_str), Some("f x"));
}

#[test]
fn write_through_a_climbing_symlink_stays_inside() {
    let (_scratch, found) = apply(Archive::new().symlink("a/up", "../../../outside").file("a/up/canary", b"x").bytes());
    assert_eq!(found, tree(&[("a", "d"), ("a/up", "l ../../../outside"), ("outside", "d"), ("outside/canary", "f x")]));
}

#[test]
fn file_over_a_symlink_replaces_the_link_not_its_target() {
    let scratch = Scratch::new();
    let target = format!("{}/canary", scratch.outside());
    scratch.apply(&Archive::new().symlink("link", &target).file("link", b"x").bytes()).unwrap();
    assert_eq!(scratch.tree().into_iter().collect::<Vec<_>>(), tree(&[("link", "f x")]));
}

#[test]
fn rustsec_2026_0067_directory_over_a_symlink_does_not_chmod_its_target() {
    let scratch = Scratch::new();
    let before = fs::metadata(scratch.outside()).unwrap();
    let dir = Entry { mode: 0o777, ..entry("link", EntryKind::Directory) };
    scratch.apply(&Archive::new().symlink("link", &scratch.outside()).add(&dir, b"").bytes()).unwrap();
    let after = fs::metadata(scratch.outside()).unwrap();
    assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
    assert_eq!(scratch.tree().into_iter().collect::<Vec<_>>(), tree(&[("link", "d")]));
}

#[test]
fn names_that_climb_out_are_refused_and_absolute_ones_stay_inside() {
    for name in ["../canary", "..", "a/../../canary", "./../canary"] {
        let error = refuse(&Archive::new().file(name, b"x").bytes());
        assert!(matches!(error, ApplyError::Escapes { .. }), "{name}: {error}");
    }
    let (_scratch, found) = apply(Archive::new().file("/etc/shadow", b"x").file("/../../canary", b"y").bytes());
    assert_eq!(found, tree(&[("canary", "f y"), ("etc", "d"), ("etc/shadow", "f x")]));
}

#[test]
fn hardlink_to_the_host_is_refused() {
    let scratch = Scratch::new();
    let canary = format!("{}/canary", scratch.outside());
    for target in ["../canary", "a/../../canary"] {
        let error = scratch.apply(&Archive::new().hardlink("link", target).bytes()).unwrap_err();
        assert!(matches!(error, ApplyError::Escapes { .. }), "{error}");
    }
    for (link, target) in [("x", canary.as_str()), ("x", "missing"), ("x", "x"), ("x", "/")] {
        let scratch = Scratch::new();
        let error = scratch.apply(&Archive::new().hardlink(link, target).bytes()).unwrap_err();
        assert!(matches!(error, ApplyError::BadHardlink { .. }), "{error}");
    }
}

#[test]
fn hardlink_through_a_symlink_to_the_host_is_refused() {
    let scratch = Scratch::new();
    let tar = Archive::new().symlink("dir", &scratch.outside()).hardlink("link", "dir/canary").bytes();
    assert!(matches!(scratch.apply(&tar), Err(ApplyError::BadHardlink { .. })));
}

#[test]
fn hardlink_to_a_symlink_links_the_link_and_writes_do_not_follow() {
    let scratch = Scratch::new();
    let canary = format!("{}/canary", scratch.outside());
    let tar = Archive::new().symlink("a", &canary).hardlink("b", "a").file("b", b"x").bytes();
    scratch.apply(&tar).unwrap();
    assert_eq!(scratch.tree().into_iter().collect::<Vec<_>>(), tree(&[("a", &format!("l {canary}")), ("b", "f x")]));
}

#[test]
fn hardlink_to_a_whiteout_a_directory_or_a_removed_target_is_refused() {
    for tar in [
        Archive::new().file(".wh.a", b"").hardlink("b", "a"),
        Archive::new().dir("a").hardlink("b", "a"),
        Archive::new().file("a/b", b"x").hardlink("a", "a/b"),
        Archive::new().file("a/b", b"x").file("a", b"y").hardlink("c", "a/b"),
    ] {
        assert!(matches!(refuse(&tar.bytes()), ApplyError::BadHardlink { .. }));
    }
}

#[test]
fn replaced_file_does_not_change_its_other_name() {
    let (_scratch, found) = apply(Archive::new().file("a", b"one").hardlink("b", "a").file("a", b"two").bytes());
    assert_eq!(found, tree(&[("a", "f two"), ("b", "f one")]));
}

#[test]
fn whiteouts_of_nothing_dot_and_dotdot_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh...", ".wh.a/b", "a/.wh.b/c"] {
        let error = refuse(&Archive::new().dir("a").file(name, b"").bytes());
        assert!(matches!(error, ApplyError::BadWhiteout { .. }), "{name}: {error}");
    }
}

#[test]
fn whiteout_and_opaque_through_a_symlink_stay_inside() {
    let scratch = Scratch::new();
    let outside = scratch.outside();
    let tar =
        Archive::new().symlink("link", &outside).file("link/.wh.canary", b"").file("link/.wh..wh..opq", b"").bytes();
    scratch.apply(&tar).unwrap();
    assert!(!storage::whiteout::is_opaque(fs::File::open(&outside).unwrap()).unwrap());
}

#[test]
fn directory_named_like_a_whiteout_cannot_be_made_through_a_link() {
    let tar = Archive::new().symlink("link", ".wh..wh..opq").file("link/a", b"").bytes();
    assert!(matches!(refuse(&tar), ApplyError::BadWhiteout { .. }));
}

#[test]
fn image_cannot_bring_metadata_of_overlay_or_of_a_store() {
    let names = [
        "user.overlay.opaque",
        "user.overlay.redirect",
        "user.overlay.metacopy",
        "user.overlay.whiteout",
        "user.overlay.overlay.opaque",
        "trusted.overlay.opaque",
        "trusted.anything",
        "user.fuseoverlayfs.opaque",
        "user.containers.override_stat",
        "security.selinux",
        "security.ima",
    ];
    let xattrs: Vec<_> = names.iter().map(|name| (name.as_bytes().to_vec(), b"y".to_vec())).collect();
    let file = Entry { xattrs: xattrs.clone(), ..entry("file", EntryKind::File) };
    let dir = Entry { xattrs: xattrs.clone(), ..entry("dir", EntryKind::Directory) };
    let root = Entry { xattrs, ..entry("./", EntryKind::Directory) };
    let scratch = Scratch::new();
    let (applied, index) =
        scratch.apply(&Archive::new().add(&root, b"").add(&file, b"").add(&dir, b"").bytes()).unwrap();
    assert_eq!(applied.dropped_xattrs, 3 * names.len() as u64);
    assert_eq!(scratch.tree().into_iter().collect::<Vec<_>>(), tree(&[("dir", "d"), ("file", "f ")]));
    assert_eq!(index.root().xattrs().count() + index.lookup(b"file").unwrap().xattrs().count(), 0);
    let list = std::process::Command::new("getfattr").args(["-R", "-m", "-", "."]).current_dir(scratch.diff()).output();
    if let Ok(list) = list {
        let text = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(!text.contains("overlay") && !text.contains("trusted") && !text.contains("containers"), "{text}");
    }
}

#[test]
fn devices_and_forged_whiteouts_are_left_out() {
    let tar = Archive::new()
        .file("a", b"x")
        .device("a", (0, 0))
        .device("null", (1, 3))
        .hardlink("null2", "null")
        .file("b", b"y")
        .bytes();
    let (_scratch, found) = apply(tar);
    assert_eq!(found, tree(&[("b", "f y")]));
}

#[test]
fn parent_that_is_a_file_or_a_circle_is_refused() {
    for tar in [
        Archive::new().file("a", b"x").file("a/b", b"y"),
        Archive::new().symlink("a", "b").symlink("b", "a").file("a/c", b""),
        Archive::new().symlink("a", "a/a").file("a/c", b""),
    ] {
        assert!(matches!(refuse(&tar.bytes()), ApplyError::ParentNotDirectory { .. }));
    }
}

#[test]
fn names_longer_than_the_file_system_takes_are_refused_and_255_bytes_work() {
    let long = "x".repeat(256);
    assert!(matches!(refuse(&Archive::new().file(&long, b"").bytes()), ApplyError::NameTooLong { .. }));
    assert!(matches!(refuse(&Archive::new().file(&format!("{long}/a"), b"").bytes()), ApplyError::NameTooLong { .. }));
    let longest = "y".repeat(255);
    let (_scratch, found) = apply(Archive::new().file(&longest, b"z").bytes());
    assert_eq!(found, tree(&[(&longest, "f z")]));
}

#[test]
fn tarmageddon_cve_2025_62518_pax_size_wins_over_the_header() {
    // A header that says 0 and a pax record that says the truth: a reader that trusts the header would take the
    // contents for entries.
    let inner = Archive::new().file("smuggled", b"evil").bytes();
    let outer = Archive::new().file("carrier", &inner).bytes();
    let mut tar = pax_header(&[("size", &inner.len().to_string())]);
    let mut header = outer[..512].to_vec();
    header[124..136].copy_from_slice(b"00000000000\0");
    fix_checksum(&mut header);
    tar.extend_from_slice(&header);
    tar.extend_from_slice(&outer[512..]);
    let (scratch, found) = apply(tar);
    assert_eq!(found.len(), 1);
    assert_eq!(fs::read(scratch.diff().join("carrier")).unwrap(), inner);
}

#[test]
fn entries_without_contents_may_not_give_a_size() {
    for kind in [EntryKind::Directory, EntryKind::Symlink, EntryKind::Hardlink, EntryKind::Fifo, EntryKind::CharDevice]
    {
        let link = if kind == EntryKind::Symlink || kind == EntryKind::Hardlink { b"t".to_vec() } else { Vec::new() };
        let mut tar = Archive::new().add(&Entry { link, ..entry("a", kind) }, b"").bytes();
        tar[124..136].copy_from_slice(b"00000001000\0");
        fix_checksum(&mut tar[..512]);
        assert!(matches!(refuse(&tar), ApplyError::Tar(TarError::Malformed { .. })));
    }
}

#[test]
fn two_kinds_of_long_name_for_one_entry_are_refused() {
    let mut tar = pax_header(&[("path", "one")]);
    tar.extend_from_slice(&gnu_long_name(b"two\0"));
    tar.extend_from_slice(&Archive::new().file("three", b"").bytes());
    assert!(matches!(refuse(&tar), ApplyError::Tar(TarError::Malformed { .. })));
}

#[test]
fn bomb_long_name_pax_header_and_xattrs_are_capped() {
    let mut long_name = gnu_long_name(&vec![b'x'; 70_000]);
    long_name.extend_from_slice(&Archive::new().file("a", b"").bytes());
    assert!(matches!(refuse(&long_name), ApplyError::Tar(TarError::Limit { .. })));
    // One gibibyte is announced; nothing of that size is ever allocated or read.
    let mut huge = gnu_long_name(b"x");
    huge[124..136].copy_from_slice(b"10000000000\0");
    fix_checksum(&mut huge[..512]);
    assert!(matches!(refuse(&huge), ApplyError::Tar(TarError::Limit { .. })));
    let mut pax = pax_header(&[("comment", &"x".repeat(1_100_000))]);
    pax.extend_from_slice(&Archive::new().file("a", b"").bytes());
    assert!(matches!(refuse(&pax), ApplyError::Tar(TarError::Limit { .. })));
    let xattrs = (0..5000).map(|n| (format!("user.x{n}").into_bytes(), b"v".to_vec())).collect();
    let many = Archive::new().add(&Entry { xattrs, ..entry("a", EntryKind::File) }, b"").bytes();
    assert!(matches!(refuse(&many), ApplyError::Tar(TarError::Limit { .. })));
}

#[test]
fn bomb_sparse_tebibyte_stays_a_hole() {
    let mut tar = pax_header(&[
        ("GNU.sparse.major", "0"),
        ("GNU.sparse.minor", "1"),
        ("GNU.sparse.size", "1099511627776"),
        ("GNU.sparse.map", "1099511627772,4"),
    ]);
    tar.extend_from_slice(&Archive::new().file("big", b"tail").bytes());
    let scratch = Scratch::new();
    match scratch.apply(&tar) {
        // Some file systems have smaller limits; an error is as good as a hole.
        Err(ApplyError::Call { source: nix::errno::Errno::EFBIG | nix::errno::Errno::EINVAL, .. }) => {}
        result => {
            let (applied, index) = result.unwrap();
            let metadata = fs::metadata(scratch.diff().join("big")).unwrap();
            assert_eq!((applied.bytes, metadata.len()), (4, 1 << 40));
            assert!(metadata.blocks() < 100, "{} blocks", metadata.blocks());
            assert_eq!(index.lookup(b"big").unwrap().size(), 1 << 40);
        }
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for (size, map) in [("10", "0,4,2,4"), ("10", "8,4"), ("10", "0,2"), ("10", "0,8"), ("99999999999999999999", "0,4")]
    {
        let mut tar = pax_header(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)]);
        tar.extend_from_slice(&Archive::new().file("big", b"tail").bytes());
        assert!(matches!(refuse(&tar), ApplyError::Tar(TarError::Malformed { .. })), "{size} {map}");
    }
}

#[test]
fn bytes_after_the_end_are_read_but_mean_nothing() {
    let mut tar = Archive::new().file("a", b"x").bytes();
    let end = tar.len();
    tar.extend_from_slice(&Archive::new().file("late", b"y").bytes());
    let scratch = Scratch::new();
    let (applied, _) = scratch.apply(&tar).unwrap();
    assert_eq!(applied.stream_bytes, tar.len() as u64);
    assert!(applied.stream_bytes > end as u64);
    assert_eq!(scratch.tree().into_iter().collect::<Vec<_>>(), tree(&[("a", "f x")]));
}

#[test]
fn cut_archives_are_refused_wherever_they_are_cut() {
    let tar = Archive::new().file("a", &[b'x'; 700]).dir("d").bytes();
    let end_of_contents = 512 + 700;
    for len in 1..end_of_contents {
        let error = refuse(&tar[..len]);
        assert!(matches!(error, ApplyError::Tar(TarError::Truncated { .. })), "{len}: {error}");
    }
    // What fills the block may be missing at the end of the stream: umoci leaves it out, and every reader takes that.
    for len in [end_of_contents, end_of_contents + 1, 1535, 1536] {
        let scratch = Scratch::new();
        scratch.apply(&tar[..len]).unwrap();
        assert_eq!(scratch.tree().len(), 1, "{len}");
    }
    let error = refuse(&tar[..1537]);
    assert!(matches!(error, ApplyError::Tar(TarError::Truncated { .. })), "{error}");
}

#[test]
fn flipped_header_bytes_are_noticed() {
    let tar = Archive::new().file("a", b"x").bytes();
    for at in 0..512 {
        let mut bad = tar.clone();
        bad[at] ^= 0x01;
        // The bytes behind the checksum's digits are padding.
        if at != 155 && at != 154 {
            assert!(matches!(refuse(&bad), ApplyError::Tar(_)), "byte {at}");
        }
    }
}

#[test]
fn set_id_bits_and_sticky_survive() {
    for mode in [0o4755, 0o2755, 0o1777, 0o6711, 0o0, 0o400] {
        for kind in [EntryKind::File, EntryKind::Directory] {
            let scratch = Scratch::new();
            let (_, index) =
                scratch.apply(&Archive::new().add(&Entry { mode, ..entry("a", kind) }, b"").bytes()).unwrap();
            let on_disk = fs::symlink_metadata(scratch.diff().join("a")).unwrap().permissions().mode() & 0o7777;
            let ours = if kind == EntryKind::Directory { 0o700 } else { 0o600 };
            assert_eq!(on_disk, mode | ours, "0o{mode:o}");
            assert_eq!(index.lookup(b"a").unwrap().mode(), mode);
        }
    }
}

#[test]
fn nesting_deeper_than_path_max_and_the_descriptor_limit_works() {
    let mut tar = Archive::new();
    let mut path = String::new();
    for depth in 0..300 {
        path.push_str(&format!("{}{depth}/", "d".repeat(100)));
        tar = tar.dir(&path);
    }
    let file = format!("{path}file");
    let tar = tar
        .file(&file, b"deep")
        .hardlink("top", &file)
        .file("other/file", b"")
        .file(&format!("{path}second"), b"")
        .bytes();
    let scratch = Scratch::new();
    let (_, index) = scratch.apply(&tar).unwrap();
    assert_eq!(fs::read(scratch.diff().join("top")).unwrap(), b"deep");
    assert!(index.lookup(format!("{path}second").as_bytes()).is_some());
    use std::os::fd::AsFd;
    let parent = fs::File::open(scratch.path()).unwrap();
    storage::layer::remove_tree(parent.as_fd(), b"diff").unwrap();
    assert!(!scratch.diff().exists());
}

#[test]
fn bomb_of_nested_directories_ends_soon() {
    let path = format!("{}file", "d/".repeat(30_000));
    let start = std::time::Instant::now();
    let tar = Archive::new().file(&path, b"x").bytes();
    assert!(matches!(refuse(&tar), ApplyError::TooDeep { .. }));
    // Links do not lead deeper either.
    let half = "d/".repeat(1900);
    let tar = Archive::new()
        .dir(&half)
        .symlink("l", &half)
        .dir(&format!("l/{half}"))
        .symlink("m", &format!("l/{half}"))
        .dir(&format!("m/{half}"))
        .bytes();
    assert!(matches!(refuse(&tar), ApplyError::TooDeep { .. }));
    assert!(start.elapsed() < std::time::Duration::from_secs(60));
}

pub(crate) fn fix_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn meta_header(flag: u8, body: &[u8]) -> Vec<u8> {
    let mut header = Archive::new().file("meta", body).bytes();
    header.truncate(512 + body.len().next_multiple_of(512));
    header[156] = flag;
    fix_checksum(&mut header);
    header
}

fn gnu_long_name(name: &[u8]) -> Vec<u8> {
    meta_header(b'L', name)
}

fn pax_header(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        body.push_str(&format!("{len} {key}={value}\n"));
    }
    meta_header(b'x', body.as_bytes())
}

mod fuzz {
    use super::*;
    use proptest::prelude::*;

    /// A valid archive with everything in it.
    fn seed() -> Vec<u8> {
        let mut tar = pax_header(&[("GNU.sparse.size", "100"), ("GNU.sparse.map", "10,4,50,0")]);
        tar.extend_from_slice(&Archive::new().file("sparse", b"tail").bytes()[..1024]);
        tar.extend_from_slice(&gnu_long_name(b"some/long/name\0"));
        let rest = Archive::new()
            .file("short", b"1")
            .dir("dir")
            .symlink("dir/link", "../dir")
            .file("dir/link/x", b"2")
            .hardlink("hard", "dir/x")
            .file(".wh.gone", b"")
            .file("dir/.wh..wh..opq", b"")
            .device("null", (1, 3));
        tar.extend_from_slice(&rest.bytes());
        tar
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

        #[test]
        fn changed_archives_never_panic_and_never_leave_the_layer(
            changes in proptest::collection::vec((any::<usize>(), prop_oneof![any::<u8>(), b"0127/.xgLKS"[..].prop_map_any()]), 1..6),
            cut in any::<Option<u16>>(),
            fix in any::<bool>(),
        ) {
            let mut tar = seed();
            for (at, byte) in &changes {
                let at = at % tar.len();
                tar[at] = *byte;
                // Half of the changes get past the checksum.
                if fix {
                    let block = at / 512 * 512;
                    fix_checksum(&mut tar[block..block + 512]);
                }
            }
            if let Some(cut) = cut {
                tar.truncate(usize::from(cut));
            }
            let scratch = Scratch::new();
            if let Ok((_, index)) = scratch.apply(&tar) {
                assert_index_equals_disk(&scratch, &index);
            }
        }
    }

    trait PropMapAny {
        fn prop_map_any(&self) -> BoxedStrategy<u8>;
    }

    impl PropMapAny for [u8] {
        fn prop_map_any(&self) -> BoxedStrategy<u8> {
            proptest::sample::select(self.to_vec()).boxed()
        }
    }
}
