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
    if !unshare().args(["--user", "--map-root-user", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs unshare(1) and user namespaces");
        return;
    }
    let exe = std::env::current_exe().expect("path of the test");
    let test = format!("namespace::{test}");
    let mut command = unshare();
    command.args(["--user", "--map-root-user"]).arg(exe).args(["--exact", &test, "--ignored", "--nocapture"]);
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
