//! What only root of a user namespace can do: a child of this test is one, with the single id that needs no helper.

use crate::support::{Archive, Scratch, entry};
use std::fs;
use std::os::fd::AsFd;
use std::process::Command;
use storage::layer::IdPolicy;
use storage::layer::apply::ApplyError;
use storage::layer::tar::{Entry, EntryKind};

/// Runs one of the ignored tests below as 0:0 of a new user namespace that has this one id.
fn run_as_namespace_root(test: &str) {
    let unshare = || Command::new("unshare");
    const NAMESPACES: [&str; 3] = ["--user", "--map-root-user", "--mount"];
    if !unshare().args(NAMESPACES).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs unshare(1) and user namespaces");
        return;
    }
    let exe = std::env::current_exe().expect("path of the test");
    let test = format!("namespace::{test}");
    let mut command = unshare();
    command.args(NAMESPACES).arg(exe).args(["--exact", &test, "--ignored", "--nocapture"]);
    let output = command.output().expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

#[test]
fn file_capabilities_are_set_for_the_namespace_and_come_back_as_the_image_had_them() {
    run_as_namespace_root("inside_file_capabilities");
}

#[test]
fn owner_without_a_place_in_the_namespace_is_an_error_with_a_hint() {
    run_as_namespace_root("inside_owner_outside_the_map");
}

#[test]
fn closed_directories_are_filled_and_removed() {
    run_as_namespace_root("inside_closed_directories");
}

#[test]
fn kernel_overlay_of_unpacked_layers_shows_what_the_layers_mean() {
    run_as_namespace_root("inside_kernel_overlay");
}

/// `cap_net_raw+ep`, as images carry it.
const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
#[ignore = "runs in a user namespace"]
fn inside_file_capabilities() {
    let xattrs = vec![(b"security.capability".to_vec(), CAP_NET_RAW.to_vec())];
    let tar = Archive::new().add(&Entry { xattrs, mode: 0o755, ..entry("ping", EntryKind::File) }, b"elf").bytes();
    let scratch = Scratch::new();
    scratch.apply_with(&tar, &IdPolicy::identity()).expect("apply");
    let root = fs::File::open(scratch.diff()).expect("open");
    let mut out = Vec::new();
    let form = storage::layer::diff::TreeForm::Overlay;
    storage::layer::diff::write_tree(root.as_fd(), form, &IdPolicy::identity(), &mut out).expect("diff");
    let mut reader = storage::layer::tar::Reader::new(out.as_slice());
    let mut found = false;
    while let Some(entry) = reader.next_entry().expect("tar") {
        found |= entry.xattrs == [(b"security.capability".to_vec(), CAP_NET_RAW.to_vec())];
    }
    assert!(found, "the capability is gone");
}

#[test]
#[ignore = "runs in a user namespace"]
fn inside_owner_outside_the_map() {
    for kind in [EntryKind::File, EntryKind::Directory, EntryKind::Symlink, EntryKind::Fifo] {
        let link = if kind == EntryKind::Symlink { b"x".to_vec() } else { Vec::new() };
        let tar = Archive::new().add(&Entry { uid: 33, gid: 33, link, ..entry("www", kind) }, b"").bytes();
        let error = Scratch::new().apply_with(&tar, &IdPolicy::identity()).expect_err("33 is not mapped");
        assert!(matches!(error, ApplyError::IdOutsideMap { uid: 33, gid: 33, .. }), "{error}");
        assert!(error.to_string().contains("/etc/subuid"));
    }
}

#[test]
#[ignore = "runs in a user namespace"]
fn inside_closed_directories() {
    let closed = |path: &str| Entry { mode: 0, ..entry(path, EntryKind::Directory) };
    let tar = Archive::new().add(&closed("a"), b"").add(&closed("a/b"), b"").file("a/b/c", b"x").bytes();
    let scratch = Scratch::new();
    scratch.apply_with(&tar, &IdPolicy::identity()).expect("apply");
    let parent = fs::File::open(scratch.path()).expect("open");
    storage::layer::remove_tree(parent.as_fd(), b"diff").expect("remove");
}

#[test]
#[ignore = "runs in a user namespace"]
fn inside_kernel_overlay() {
    let bottom =
        Archive::new().file("a", b"1").file("dir/x", b"1").file("dir/y", b"1").file("opq/x", b"1").file("gone/x", b"1");
    let middle =
        Archive::new().file(".wh.a", b"").file("dir/.wh.x", b"").file("opq/.wh..wh..opq", b"").file("opq/z", b"2");
    let top = Archive::new().file(".wh.gone", b"").file("gone/new", b"3").file("dir/z", b"3").symlink("link", "dir/z");
    let scratches: Vec<Scratch> = [top, middle, bottom]
        .into_iter()
        .map(|archive| {
            let scratch = Scratch::new();
            scratch.apply_with(&archive.bytes(), &IdPolicy::identity()).expect("apply");
            scratch
        })
        .collect();
    let roots: Vec<_> = scratches.iter().map(Scratch::diff).collect();
    let merged = Scratch::new();
    let lower = roots.iter().map(|root| root.to_str().expect("UTF-8")).collect::<Vec<_>>().join(":");
    let mount = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &format!("ro,userxattr,lowerdir={lower}")])
        .arg(merged.diff())
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs overlay in user namespaces");
        return;
    }
    let seen: Vec<_> = merged.tree().into_iter().map(|(name, text)| format!("{name}={text}")).collect();
    let expected = ["dir=d", "dir/y=f 1", "dir/z=f 3", "gone=d", "gone/new=f 3", "link=l dir/z", "opq=d", "opq/z=f 2"];
    assert_eq!(seen, expected);
    let view = storage::layer::view::View::new(&roots);
    for (path, contents) in [("link", Some("3")), ("gone/x", None), ("opq/x", None), ("a", None), ("dir/y", Some("1"))]
    {
        let read = view.read(path, 10).expect("view").map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
        assert_eq!(read.as_deref(), contents, "{path}");
        assert_eq!(fs::read_to_string(merged.diff().join(path)).ok().as_deref(), contents, "{path}");
    }
    assert!(Command::new("umount").arg(merged.diff()).status().expect("umount").success());
}
