//! Layer semantics of honest archives.

use crate::support::{Archive, Scratch, assert_index_equals_disk, entry};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use storage::layer::diff::{TreeForm, write_tree};
use storage::layer::ids::{IdMap, IdPolicy, IdRange};
use storage::layer::tar::{Entry, EntryKind, Reader, Timestamp};
use storage::layer::view::View;

#[test]
fn whiteout_and_entry_of_one_name_in_any_order() {
    let entry_first = Archive::new().file("d/x", b"1").file("f", b"2").file(".wh.d", b"").file(".wh.f", b"").bytes();
    let whiteout_first = Archive::new().file(".wh.d", b"").file(".wh.f", b"").file("d/x", b"1").file("f", b"2").bytes();
    for tar in [entry_first, whiteout_first] {
        let scratch = Scratch::new();
        let (_, index) = scratch.apply(&tar).unwrap();
        assert_index_equals_disk(&scratch, &index);
        let tree: Vec<_> = scratch.tree().into_iter().collect();
        let expected = [("d", "d opaque"), ("d/x", "f 1"), ("f", "f 2")];
        assert_eq!(tree, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }
}

#[test]
fn times_survive_for_every_kind_and_for_directories_filled_later() {
    let mtime = Timestamp { secs: 1_234_567_890, nanos: 987_654_321 };
    let old = Timestamp { secs: -86_400, nanos: 250_000_000 };
    let tar = Archive::new()
        .add(&Entry { mtime: old, ..entry("./", EntryKind::Directory) }, b"")
        .add(&Entry { mtime, mode: 0o555, ..entry("d", EntryKind::Directory) }, b"")
        .add(&Entry { mtime: old, ..entry("d/f", EntryKind::File) }, b"x")
        .add(&Entry { mtime, link: b"nowhere".to_vec(), ..entry("d/l", EntryKind::Symlink) }, b"")
        .add(&Entry { mtime, ..entry("d/p", EntryKind::Fifo) }, b"")
        .add(&Entry { mtime: old, ..entry("d/e", EntryKind::Directory) }, b"")
        .file("d/e/late", b"")
        .bytes();
    let scratch = Scratch::new();
    scratch.apply(&tar).unwrap();
    for (name, time) in [("", old), ("d", mtime), ("d/f", old), ("d/l", mtime), ("d/p", mtime), ("d/e", old)] {
        let metadata = fs::symlink_metadata(scratch.diff().join(name)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (time.secs, i64::from(time.nanos)), "{name}");
    }
}

#[test]
fn owners_in_single_id_mode_stand_in_an_xattr_and_in_the_index() {
    let tar = Archive::new()
        .add(&Entry { uid: 33, gid: 44, mode: 0o4440, ..entry("f", EntryKind::File) }, b"x")
        .add(&Entry { uid: 33, gid: 44, mode: 0o550, ..entry("d", EntryKind::Directory) }, b"")
        .add(&Entry { uid: 5, gid: 6, link: b"f".to_vec(), ..entry("l", EntryKind::Symlink) }, b"")
        .file("plain", b"")
        .bytes();
    let scratch = Scratch::new();
    let (_, index) = scratch.apply_with(&tar, &IdPolicy::Single).unwrap();
    let read = |name: &str| {
        let output = std::process::Command::new("getfattr")
            .args(["--absolute-names", "--only-values", "-n", "user.containers.override_stat"])
            .arg(scratch.diff().join(name))
            .output();
        output.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if let Some(file) = read("f") {
        assert_eq!(file, "33:44:04440");
        assert_eq!(read("d").unwrap(), "33:44:0550");
        assert_eq!(read("plain").unwrap(), "");
    }
    let owner = |name: &[u8]| index.lookup(name).map(|record| (record.uid(), record.gid(), record.mode()));
    assert_eq!(owner(b"f"), Some((33, 44, 0o4440)));
    assert_eq!(owner(b"l"), Some((5, 6, 0o644)));
}

#[test]
fn owner_outside_the_map_is_named_with_the_file_and_the_way_out() {
    let ranges = vec![IdRange { from: 0, to: 0, length: 65_536 }];
    let policy = IdPolicy::Mapped(IdMap::new(ranges.clone(), ranges));
    let tar = Archive::new().add(&Entry { uid: 70_000, ..entry("bad\nname", EntryKind::File) }, b"").bytes();
    let error = Scratch::new().apply_with(&tar, &policy).unwrap_err().to_string();
    assert!(error.contains("70000") && error.contains("'bad\\nname'") && error.contains("/etc/subuid"), "{error}");
    assert!(!error.contains('\n'));
}

#[test]
fn later_entry_of_a_directory_replaces_its_metadata_and_keeps_its_contents() {
    let xattr = |name: &str| vec![(name.as_bytes().to_vec(), b"v".to_vec())];
    let tar = Archive::new()
        .add(&Entry { uid: 7, xattrs: xattr("user.one"), ..entry("d", EntryKind::Directory) }, b"")
        .file("d/f", b"x")
        .add(&Entry { mode: 0o700, xattrs: xattr("user.two"), ..entry("d", EntryKind::Directory) }, b"")
        .bytes();
    let scratch = Scratch::new();
    let (_, index) = scratch.apply(&tar).unwrap();
    let record = index.lookup(b"d").unwrap();
    assert_eq!((record.uid(), record.mode()), (0, 0o700));
    assert_eq!(record.xattrs().map(|(name, _)| name).collect::<Vec<_>>(), [b"user.two"]);
    let listed = std::process::Command::new("getfattr").arg(scratch.diff().join("d")).output();
    if let Ok(listed) = listed {
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(text.contains("user.two") && !text.contains("user.one") && !text.contains("override"), "{text}");
    }
    assert_eq!(scratch.tree()["d/f"], "f x");
}

/// One step of a layer, on a small name space so that collisions are common.
#[derive(Clone, Debug)]
enum Op {
    Dir(String),
    File(String, u8),
    Symlink(String),
    Hardlink(String, String),
    Whiteout(String),
    Opaque(String),
}

/// What a layer is, whatever the order in which its parts come.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Dir { opaque: bool },
    File(u8),
    Symlink,
    Whiteout,
}

type Model = BTreeMap<String, Node>;

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4).prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => name().prop_map(Op::Dir),
        4 => (name(), any::<u8>()).prop_map(|(name, byte)| Op::File(name, byte)),
        1 => name().prop_map(Op::Symlink),
        2 => (name(), name()).prop_map(|(name, target)| Op::Hardlink(name, target)),
        2 => name().prop_map(Op::Whiteout),
        1 => name().prop_map(Op::Opaque),
    ]
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

/// Applies one step; false if it is an error.
fn step(model: &mut Model, op: &Op) -> bool {
    fn remove(model: &mut Model, path: &str) {
        let below = format!("{path}/");
        model.retain(|key, _| key != path && !key.starts_with(&below));
    }
    fn dir(model: &mut Model, path: &str) {
        let opaque = model.get(path) == Some(&Node::Whiteout);
        if !matches!(model.get(path), Some(Node::Dir { .. })) {
            remove(model, path);
            model.insert(path.to_owned(), Node::Dir { opaque });
        }
    }
    // Symlinks of the model are circles, so a parent that is one is never a directory.
    fn parents(model: &mut Model, path: &str) -> bool {
        let Some(parent_path) = parent(path) else { return true };
        if !parents(model, parent_path) {
            return false;
        }
        match model.get(parent_path) {
            Some(Node::File(_) | Node::Symlink) => false,
            _ => {
                dir(model, parent_path);
                true
            }
        }
    }
    match op {
        Op::Dir(path) => {
            parents(model, path) && {
                dir(model, path);
                true
            }
        }
        Op::File(path, byte) => {
            parents(model, path) && {
                remove(model, path);
                model.insert(path.clone(), Node::File(*byte));
                true
            }
        }
        Op::Symlink(path) => {
            parents(model, path) && {
                remove(model, path);
                model.insert(path.clone(), Node::Symlink);
                true
            }
        }
        Op::Hardlink(path, target) => {
            parents(model, path) && {
                let node = model.get(target).cloned();
                if !matches!(node, Some(Node::File(_) | Node::Symlink)) {
                    return false;
                }
                if path == target {
                    return true;
                }
                remove(model, path);
                match (model.get(target).cloned(), node) {
                    (Some(_), Some(node)) => {
                        model.insert(path.clone(), node);
                        true
                    }
                    _ => false,
                }
            }
        }
        Op::Whiteout(path) => {
            parents(model, path) && {
                match model.get_mut(path) {
                    Some(Node::Dir { opaque }) => *opaque = true,
                    Some(_) => {}
                    None => {
                        model.insert(path.clone(), Node::Whiteout);
                    }
                }
                true
            }
        }
        Op::Opaque(path) => {
            let marker = format!("{path}/x");
            parents(model, &marker) && {
                model.insert(path.clone(), Node::Dir { opaque: true });
                true
            }
        }
    }
}

fn archive(ops: &[Op]) -> Vec<u8> {
    let whiteout = |path: &str| match path.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/.wh.{name}"),
        None => format!(".wh.{path}"),
    };
    // A circle, to which all links lead: nothing can be made through them, whatever becomes of other names.
    let circle = Archive::new().symlink("circle", "circle");
    let archive = ops.iter().fold(circle, |archive, op| match op {
        Op::Dir(path) => archive.dir(path),
        Op::File(path, byte) => archive.file(path, &[*byte]),
        Op::Symlink(path) => archive.symlink(path, "/circle"),
        Op::Hardlink(path, target) => archive.hardlink(path, target),
        Op::Whiteout(path) => archive.file(&whiteout(path), b""),
        Op::Opaque(path) => archive.file(&format!("{path}/.wh..wh..opq"), b""),
    });
    archive.bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn unpacked_layer_equals_the_pure_model(ops in proptest::collection::vec(op(), 0..25)) {
        let mut model = Model::new();
        let accepted = ops.iter().all(|op| step(&mut model, op));
        let scratch = Scratch::new();
        match scratch.apply(&archive(&ops)) {
            Err(error) => prop_assert!(!accepted, "{error}"),
            Ok((_, index)) => {
                prop_assert!(accepted);
                assert_index_equals_disk(&scratch, &index);
                let expected: BTreeMap<String, String> = model
                    .into_iter()
                    .map(|(path, node)| {
                        let text = match node {
                            Node::Dir { opaque: true } => "d opaque".to_owned(),
                            Node::Dir { opaque: false } => "d".to_owned(),
                            Node::File(byte) => format!("f {}", [byte].escape_ascii()),
                            Node::Symlink => "l".to_owned(),
                            Node::Whiteout => "w".to_owned(),
                        };
                        (path, text)
                    })
                    .collect();
                let mut found = scratch.tree();
                found.remove("circle");
                found.values_mut().filter(|text| text.starts_with("l ")).for_each(|text| text.truncate(1));
                prop_assert_eq!(found, expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn tree_written_as_tar_unpacks_to_the_same_tree(ops in proptest::collection::vec(op(), 0..25)) {
        let scratch = Scratch::new();
        if scratch.apply(&archive(&ops)).is_ok() {
            let write = |scratch: &Scratch| {
                let mut tar = Vec::new();
                let root = fs::File::open(scratch.diff()).unwrap();
                write_tree(root.as_fd(), TreeForm::Overlay, &IdPolicy::Single, &mut tar).unwrap();
                tar
            };
            let tar = write(&scratch);
            let again = Scratch::new();
            let (_, index) = again.apply(&tar).unwrap();
            assert_index_equals_disk(&again, &index);
            prop_assert_eq!(again.tree(), scratch.tree());
            prop_assert_eq!(write(&again), tar);
        }
    }
}

#[test]
fn diff_keeps_owners_links_holes_as_zeros_and_deep_trees() {
    let deep: String = (0..60).map(|depth| format!("d{depth}/")).collect();
    let tar = Archive::new()
        .add(&Entry { uid: 7, gid: 8, mode: 0o4750, ..entry("f", EntryKind::File) }, b"x")
        .hardlink("g", "f")
        .file(&format!("{deep}end"), b"deep")
        .file("d0/d1/z", b"z")
        .add(&Entry { xattrs: vec![(b"user.k".to_vec(), b"v".to_vec())], ..entry("k", EntryKind::File) }, b"")
        .file(".wh.gone", b"")
        .bytes();
    let scratch = Scratch::new();
    scratch.apply(&tar).unwrap();
    let root = fs::File::open(scratch.diff()).unwrap();
    let mut out = Vec::new();
    write_tree(root.as_fd(), TreeForm::Overlay, &IdPolicy::Single, &mut out).unwrap();
    let mut reader = Reader::new(out.as_slice());
    let mut found = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        found.insert(String::from_utf8(entry.path.clone()).unwrap(), entry);
    }
    let file = &found["f"];
    assert_eq!((file.uid, file.gid, file.mode), (7, 8, 0o4750));
    assert_eq!((found["g"].kind, found["g"].link.as_slice()), (EntryKind::Hardlink, &b"f"[..]));
    assert_eq!(found["k"].xattrs, [(b"user.k".to_vec(), b"v".to_vec())]);
    assert!(
        found.contains_key(&format!("{deep}end")) && found.contains_key("d0/d1/z") && found.contains_key(".wh.gone")
    );
    let mut plain = Vec::new();
    let diffed = write_tree(root.as_fd(), TreeForm::Plain, &IdPolicy::Single, &mut plain).unwrap();
    assert_eq!(diffed.skipped, 1);
}

#[test]
fn files_that_stand_for_links_pipes_and_devices_are_written_as_what_they_stand_for() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    scratch.apply(&Archive::new().file("plain", b"x").bytes()).unwrap();
    let stand_ins: [(&str, &[u8], &str); 5] = [
        ("link", b"to", "7:8:0777:symlink"),
        ("pipe", b"", "7:8:0600:pipe"),
        ("null", b"", "0:0:0666:char-1-3"),
        ("socket", b"", "7:8:0600:socket"),
        ("file", b"y", "7:8:0640:file"),
    ];
    for (name, contents, recorded) in stand_ins {
        let path = scratch.diff().join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let set = std::process::Command::new("setfattr")
            .args(["-n", "user.containers.override_stat", "-v", recorded])
            .arg(&path)
            .status();
        if !set.is_ok_and(|status| status.success()) {
            eprintln!("skipped: needs setfattr");
            return;
        }
    }
    let root = fs::File::open(scratch.diff()).unwrap();
    let mut out = Vec::new();
    let diffed = write_tree(root.as_fd(), TreeForm::Overlay, &IdPolicy::Single, &mut out).unwrap();
    assert_eq!(diffed.skipped, 1);
    let mut reader = Reader::new(out.as_slice());
    let mut found = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        found.insert(String::from_utf8(entry.path.clone()).unwrap(), entry);
    }
    let is = |name: &str| (found[name].kind, found[name].uid, found[name].mode);
    assert_eq!(is("link"), (EntryKind::Symlink, 7, 0o777));
    assert_eq!(found["link"].link, b"to");
    assert_eq!(is("pipe"), (EntryKind::Fifo, 7, 0o600));
    assert_eq!((is("null"), found["null"].device), ((EntryKind::CharDevice, 0, 0o666), (1, 3)));
    assert_eq!(is("file"), (EntryKind::File, 7, 0o640));
    assert!(!found.contains_key("socket"));
}

/// What a container sees of a stack of layers, bottom first.
fn merged(layers: &[Model]) -> Model {
    let mut seen = Model::new();
    for layer in layers {
        // In the order of paths a directory comes before what is in it.
        for (path, node) in layer {
            let below = format!("{path}/");
            let is_kept_directory =
                *node == Node::Dir { opaque: false } && matches!(seen.get(path), Some(Node::Dir { .. }));
            if is_kept_directory {
                continue;
            }
            seen.retain(|key, _| key != path && !key.starts_with(&below));
            if *node != Node::Whiteout {
                seen.insert(path.clone(), node.clone());
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn stack_seen_without_a_mount_equals_the_merged_model(
        stack in proptest::collection::vec(proptest::collection::vec(op(), 0..12), 1..4),
    ) {
        let mut models = Vec::new();
        let mut scratches = Vec::new();
        for ops in &stack {
            let mut model = Model::new();
            // Steps that are errors are left out, with all that a failed step may have changed.
            let mut accepted = Vec::new();
            for op in ops {
                let mut next = model.clone();
                if step(&mut next, op) {
                    model = next;
                    accepted.push(op.clone());
                }
            }
            let scratch = Scratch::new();
            scratch.apply(&archive(&accepted)).unwrap();
            models.push(model);
            scratches.push(scratch);
        }
        let model = merged(&models);
        let roots: Vec<_> = scratches.iter().rev().map(Scratch::diff).collect();
        let view = View::new(&roots);
        let letters = ["a", "b", "c"];
        let one = letters.map(str::to_owned).to_vec();
        let longer = |shorter: &[String]| -> Vec<String> {
            shorter.iter().flat_map(|head| letters.map(|tail| format!("{head}/{tail}"))).collect()
        };
        let two = longer(&one);
        let three = longer(&two);
        for path in one.iter().chain(&two).chain(&three) {
            let is_behind_a_link =
                path.match_indices('/').any(|(at, _)| model.get(&path[..at]) == Some(&Node::Symlink));
            let found = view.metadata(path, false);
            if is_behind_a_link {
                prop_assert!(found.is_err(), "{path}");
                continue;
            }
            let found = found.unwrap();
            match model.get(path) {
                None => prop_assert!(found.is_none(), "{path}"),
                Some(Node::Dir { .. }) => prop_assert!(found.unwrap().is_directory(), "{path}"),
                Some(Node::Symlink) => prop_assert!(found.unwrap().is_symlink(), "{path}"),
                Some(Node::File(byte)) => {
                    prop_assert_eq!(view.read(path, 10).unwrap(), Some(vec![*byte]), "{}", path);
                }
                Some(Node::Whiteout) => unreachable!("nothing merged is a whiteout"),
            }
        }
    }
}
