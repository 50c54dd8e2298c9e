//! Single changes, looked at closely.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::fixture::{FORMS, Form, Mounted, Scratch, errno, new_file};
use crate::union::{Changes, FileKind, InodeNo, RenameMode, XattrMode};

const LOWER: &[&str] =
    &["f etc/a lower", "f etc/b b", "d dir", "f dir/sub/x x", "f dir/y y", "l link target", "p pipe"];

fn mounts() -> impl Iterator<Item = (Form, Scratch)> {
    FORMS.into_iter().map(|form| (form, Scratch::new(form, &[LOWER]).with_upper(&[])))
}

fn write(mounted: &Mounted, path: &str, text: &str) -> Result<(), Errno> {
    let ino = mounted.entry(path)?.attributes.ino;
    mounted.union.write(ino, 0, text.as_bytes(), false).map(drop).map_err(errno)
}

fn size(size: u64) -> Changes {
    Changes { size: Some(size), ..Changes::default() }
}

#[test]
fn copy_up_keeps_number_mode_and_times_over_mounts() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let before: Vec<_> =
            ["etc", "etc/a", "dir/sub"].map(|path| mounted.entry(path).unwrap().attributes).into_iter().collect();
        write(&mounted, "etc/a", "UPPER").unwrap();
        let mode = Changes { mode: Some(0o700), ..Changes::default() };
        mounted.union.set_attributes(mounted.ino("dir/sub"), &mode).unwrap();
        assert_eq!(mounted.text("etc/a").as_deref(), Ok("UPPER"));
        drop(mounted);
        let mounted = scratch.mount();
        assert_eq!(mounted.text("etc/a").as_deref(), Ok("UPPER"), "{form:?}");
        for (path, before) in ["etc", "etc/a", "dir/sub"].into_iter().zip(before) {
            let after = mounted.entry(path).unwrap().attributes;
            assert_eq!((after.ino, after.kind), (before.ino, before.kind), "{form:?} {path}");
            if path == "etc" {
                assert_eq!((after.mtime, after.mode, after.nlink), (before.mtime, before.mode, before.nlink));
            }
        }
        assert_eq!(mounted.list_numbers(mounted.ino("etc"))["a"], mounted.ino("etc/a"));
    }
}

/// Found with a mount that an ordinary user's server answers for; root of a namespace may read everything.
#[test]
fn what_is_closed_to_everybody_still_has_attributes() {
    let closed = Changes { mode: Some(0), ..Changes::default() };
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let union = &mounted.union;
        let root = InodeNo::ROOT;
        union.rename(root, OsStr::new("dir"), root, OsStr::new("moved"), RenameMode::default()).unwrap();
        write(&mounted, "etc/a", "UPPER").unwrap();
        for path in ["moved", "etc/a"] {
            let ino = mounted.ino(path);
            assert_eq!(
                union.set_attributes(ino, &closed).map_err(errno).map(|seen| seen.mode),
                Ok(0),
                "{form:?} {path}"
            );
            assert_eq!(union.attributes(ino).map_err(errno).map(|seen| seen.mode), Ok(0), "{form:?} {path}");
            assert_eq!(mounted.entry(path).map(|entry| entry.attributes.mode), Ok(0), "{form:?} {path}");
        }
        drop(mounted);
        let mounted = scratch.mount();
        for path in ["moved", "etc/a"] {
            assert_eq!(mounted.entry(path).map(|entry| entry.attributes.mode), Ok(0), "{form:?} {path}");
        }
        assert_eq!(mounted.list(""), ["etc", "link", "moved", "pipe"], "{form:?}");
        // Opened again, all is as it was.
        let open = Changes { mode: Some(0o755), ..Changes::default() };
        for path in ["moved", "etc/a"] {
            mounted.union.set_attributes(mounted.ino(path), &open).unwrap();
        }
        assert_eq!(mounted.text("etc/a").as_deref(), Ok("UPPER"));
        assert_eq!(mounted.text("moved/sub/x").as_deref(), Ok("x"), "{form:?}");
    }
}

#[test]
fn opening_for_truncation_copies_no_contents() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        mounted.union.set_attributes(mounted.ino("etc/a"), &size(2)).unwrap();
        assert_eq!(mounted.text("etc/a").as_deref(), Ok("lo"), "{form:?}");
        mounted.union.set_attributes(mounted.ino("etc/b"), &size(4)).unwrap();
        assert_eq!(mounted.text("etc/b").as_deref(), Ok("b\0\0\0"), "{form:?}");
    }
}

#[test]
fn removal_leaves_whiteouts_only_where_something_is_below() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let union = &mounted.union;
        let (etc, name) = mounted.split("etc/a");
        union.unlink(etc, name).unwrap();
        union.make_node(etc, OsStr::new("new"), new_file(0o644), FileKind::File, 0).unwrap();
        union.unlink(etc, OsStr::new("new")).unwrap();
        let meta = fs::symlink_metadata(scratch.upper().join("etc/a")).unwrap();
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
        assert!(fs::symlink_metadata(scratch.upper().join("etc/new")).is_err());
        assert_eq!(mounted.text("etc/a"), Err(Errno::ENOENT), "{form:?}");
        assert_eq!(union.remove_directory(InodeNo::ROOT, OsStr::new("dir")).map_err(errno), Err(Errno::ENOTEMPTY));
        for path in ["dir/sub/x", "dir/y"] {
            let (dir, name) = mounted.split(path);
            union.unlink(dir, name).unwrap();
        }
        union.remove_directory(mounted.ino("dir"), OsStr::new("sub")).unwrap();
        union.remove_directory(InodeNo::ROOT, OsStr::new("dir")).unwrap();
        // Made again: nothing of the old one shows.
        union.make_directory(InodeNo::ROOT, OsStr::new("dir"), new_file(0o777)).unwrap();
        for mounted in [mounted, scratch_again(&scratch)] {
            assert_eq!(mounted.list("dir"), Vec::<String>::new(), "{form:?}");
        }
    }
}

fn scratch_again(scratch: &Scratch) -> Mounted {
    // The first mount holds the upper: look at a copy.
    let copy = scratch.upper().with_file_name("copy");
    let status = std::process::Command::new("cp").arg("-a").arg(scratch.upper()).arg(&copy).status().unwrap();
    assert!(status.success());
    scratch.mount_upper(&copy)
}

#[test]
fn removed_files_live_while_they_are_open() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let union = &mounted.union;
        // One that only the layer has, one that was changed, one that is new.
        write(&mounted, "etc/b", "B").unwrap();
        let (etc, _) = mounted.split("etc/a");
        let new = union.make_node(etc, OsStr::new("new"), new_file(0o644), FileKind::File, 0).unwrap();
        write(&mounted, "etc/new", "N").unwrap();
        for (name, text) in [("a", "lower"), ("b", "B"), ("new", "N")] {
            let ino = mounted.ino(&format!("etc/{name}"));
            union.unlink(etc, OsStr::new(name)).unwrap();
            assert_eq!(mounted.contents(ino).as_deref(), Ok(text), "{form:?} {name}");
            assert_eq!(union.attributes(ino).unwrap().nlink, 0, "{form:?} {name}");
            union.write(ino, 0, b"after", false).unwrap();
            assert_eq!(mounted.contents(ino).as_deref(), Ok("after"), "{form:?} {name}");
            union.set_attributes(ino, &size(1)).unwrap();
            assert_eq!(union.attributes(ino).unwrap().size, 1);
            assert_eq!(mounted.text(&format!("etc/{name}")), Err(Errno::ENOENT));
        }
        // Its number is free for another file, and that is another node.
        let again = union.make_node(etc, OsStr::new("new"), new_file(0o644), FileKind::File, 0).unwrap();
        assert_ne!(new.attributes.ino, again.attributes.ino);
        // A directory that a process is in.
        let made = union.make_directory(etc, OsStr::new("dir"), new_file(0o755)).unwrap().attributes.ino;
        union.remove_directory(etc, OsStr::new("dir")).unwrap();
        assert_eq!(union.attributes(made).unwrap().nlink, 0);
        let error = union.make_node(made, OsStr::new("x"), new_file(0o644), FileKind::File, 0).unwrap_err();
        assert_eq!(error.errno, Errno::ENOENT);
        assert_eq!(union.lookup(made, OsStr::new("x")).unwrap_err().errno, Errno::ENOENT);
    }
}

#[test]
fn unnamed_file_gets_a_name() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let union = &mounted.union;
        let ino = union.make_unnamed(mounted.ino("dir"), new_file(0o640)).unwrap().attributes.ino;
        union.write(ino, 0, b"text", false).unwrap();
        let entry = union.link(ino, mounted.ino("etc"), OsStr::new("named")).unwrap();
        assert_eq!((entry.attributes.ino, entry.attributes.nlink, entry.attributes.mode), (ino, 1, 0o640), "{form:?}");
        assert_eq!(mounted.text("etc/named").as_deref(), Ok("text"));
        let error = union.link(ino, mounted.ino("etc"), OsStr::new("a")).unwrap_err();
        assert_eq!(error.errno, Errno::EEXIST);
    }
}

#[test]
fn hard_links_of_a_layer_stay_one_file() {
    let scratch = Scratch::new(Form::Indexed, &[&["f a/x one", "h b/y a/x", "h b/z a/x"]]).with_upper(&[]);
    let mounted = scratch.mount();
    write(&mounted, "b/y", "two").unwrap();
    drop(mounted);
    let mounted = scratch.mount();
    for path in ["a/x", "b/y", "b/z"] {
        assert_eq!(mounted.text(path).as_deref(), Ok("two"), "{path}");
        let attributes = mounted.entry(path).unwrap().attributes;
        assert_eq!((attributes.ino, attributes.nlink), (mounted.ino("a/x"), 3));
    }
}

#[test]
fn merged_directory_is_renamed_or_refused_when_it_is_too_large() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let union = &mounted.union;
        let before = mounted.ino("dir/sub/x");
        let rename = |name: &str, new: &str| {
            union.rename(InodeNo::ROOT, OsStr::new(name), InodeNo::ROOT, OsStr::new(new), RenameMode::default())
        };
        rename("dir", "moved").unwrap();
        assert_eq!(mounted.text("moved/sub/x").as_deref(), Ok("x"), "{form:?}");
        assert_eq!(mounted.ino("moved/sub/x"), before);
        assert_eq!(mounted.text("dir/y"), Err(Errno::ENOENT));
        drop(mounted);
        let mut options = scratch.options();
        options.copy_up_cap_bytes = 3 * 4096;
        let mounted = Mounted { union: crate::union::Union::open(options).unwrap() };
        assert_eq!(mounted.ino("moved/sub/x"), before, "{form:?}");
        // Two files fit; everything was copied the first time, and copies cost nothing again.
        let rename = |name: &str, new: &str| {
            let root = InodeNo::ROOT;
            mounted.union.rename(root, OsStr::new(name), root, OsStr::new(new), RenameMode::default()).map_err(errno)
        };
        assert_eq!(rename("moved", "again"), Ok(()));
        assert_eq!(rename("etc", "other"), Ok(()));
    }
    let large: Vec<String> = (0..20).map(|at| format!("f dir/{at} x")).collect();
    let large: Vec<&str> = large.iter().map(String::as_str).collect();
    for form in FORMS {
        let scratch = Scratch::new(form, &[&large]).with_upper(&[]);
        let mut options = scratch.options();
        options.copy_up_cap_bytes = 4096;
        let union = crate::union::Union::open(options).unwrap();
        let (root, mode) = (InodeNo::ROOT, RenameMode::default());
        let error = union.rename(root, OsStr::new("dir"), root, OsStr::new("new"), mode).unwrap_err();
        assert_eq!(error.errno, Errno::EXDEV);
        assert!(fs::read_dir(scratch.upper()).unwrap().next().is_none(), "nothing was copied");
    }
}

#[test]
fn extended_attributes_are_copied_set_and_hidden() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let union = &mounted.union;
        let a = mounted.ino("etc/a");
        let get = |name: &str| union.xattr(a, OsStr::new(name)).map_err(errno);
        assert_eq!(union.remove_xattr(a, OsStr::new("user.none")).map_err(errno), Err(Errno::ENODATA));
        let error = union.set_xattr(a, OsStr::new("user.none"), b"v", XattrMode::Replace, false).unwrap_err();
        assert_eq!(error.errno, Errno::ENODATA);
        assert!(fs::symlink_metadata(scratch.upper().join("etc/a")).is_err(), "{form:?}: nothing was copied");
        union.set_xattr(a, OsStr::new("user.x"), b"v", XattrMode::Create, false).unwrap();
        assert_eq!(get("user.x").as_deref(), Ok(&b"v"[..]));
        for hidden in ["user.coracle.origin", "user.overlay.coracle.origin", "user.overlay.opaque"] {
            assert_eq!(get(hidden), Err(Errno::ENODATA), "{form:?} {hidden}");
        }
        union.set_xattr(a, OsStr::new("user.overlay.opaque"), b"y", XattrMode::Any, false).unwrap();
        assert_eq!(get("user.overlay.opaque").as_deref(), Ok(&b"y"[..]));
        let names = union.xattr_names(a).unwrap();
        let names: Vec<&[u8]> = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        union.remove_xattr(a, OsStr::new("user.x")).unwrap();
        assert_eq!(get("user.x"), Err(Errno::ENODATA));
    }
}

#[test]
fn read_only_mount_refuses_every_change() {
    let scratch = Scratch::new(Form::Indexed, &[LOWER]);
    let mounted = scratch.mount();
    let (union, root, name) = (&mounted.union, InodeNo::ROOT, OsStr::new("etc"));
    let a = mounted.ino("etc/a");
    let answers = [
        union.make_node(root, OsStr::new("x"), new_file(0o644), FileKind::File, 0).map(drop),
        union.make_directory(root, OsStr::new("x"), new_file(0o644)).map(drop),
        union.unlink(mounted.ino("etc"), OsStr::new("a")),
        union.rename(root, name, root, OsStr::new("x"), RenameMode::default()),
        union.link(a, root, OsStr::new("x")).map(drop),
        union.write(a, 0, b"x", false).map(drop),
        union.set_attributes(a, &size(0)).map(drop),
        union.set_xattr(a, OsStr::new("user.x"), b"", XattrMode::Any, false),
        union.set_inode_flags(a, 0),
        union.allocate(a, 0, 0, 1),
    ];
    for (at, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap_err().errno, Errno::EROFS, "{at}");
    }
}

#[test]
fn deep_paths_and_long_names_work() {
    for form in FORMS {
        let scratch = Scratch::new(form, &[LOWER]).with_upper(&[]);
        let mounted = scratch.mount();
        let long = "n".repeat(255);
        let mut at = mounted.ino("dir");
        let mut above = Vec::new();
        for _ in 0..60 {
            above.push(at);
            at = mounted.union.make_directory(at, OsStr::new(&long), new_file(0o755)).unwrap().attributes.ino;
        }
        let file = mounted.union.make_node(at, OsStr::new(&long), new_file(0o644), FileKind::File, 0).unwrap();
        mounted.union.write(file.attributes.ino, 0, b"deep", false).unwrap();
        drop(mounted);
        let mounted = scratch.mount();
        let mut at = mounted.ino("dir");
        for _ in 0..61 {
            at = mounted.union.lookup(at, OsStr::new(&long)).unwrap().attributes.ino;
        }
        assert_eq!(mounted.contents(at).as_deref(), Ok("deep"), "{form:?}");
    }
}

#[test]
fn threads_that_change_everything_at_once_leave_a_sound_tree() {
    for form in FORMS {
        let scratch = Scratch::new(form, &[LOWER]).with_upper(&[]);
        let mounted = scratch.mount();
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (mounted, made) = (&mounted, &made);
                scope.spawn(move || {
                    let union = &mounted.union;
                    for round in 0..200 {
                        let name = format!("t{thread}-{}", round % 7);
                        let dirs = ["etc", "dir", "dir/sub"];
                        let Ok(entry) = mounted.entry(dirs[round % 3]) else { continue };
                        let dir = entry.attributes.ino;
                        if let Ok(entry) = union.make_node(dir, OsStr::new(&name), new_file(0o644), FileKind::File, 0) {
                            union.write(entry.attributes.ino, 0, b"x", true).unwrap();
                            made.fetch_add(1, Ordering::Relaxed);
                        }
                        for path in ["etc/a", "etc/b", "dir/y", "dir/sub/x"] {
                            if let Ok(entry) = mounted.entry(path) {
                                let _ = union.write(entry.attributes.ino, 0, b"y", false);
                            }
                        }
                        let other = mounted.ino(dirs[(round + 1) % 2]);
                        let _ = union.rename(dir, OsStr::new(&name), other, OsStr::new(&name), RenameMode::default());
                        let _ = union.unlink(other, OsStr::new("a"));
                        if round % 5 == 0 {
                            let _ = union.unlink(other, OsStr::new(&name));
                        }
                        union.read_directory(dir, 0, &mut |_| true).unwrap();
                    }
                });
            }
        });
        assert!(made.load(Ordering::Relaxed) > 100);
        let tree = mounted.dump();
        drop(mounted);
        assert_eq!(scratch.mount().dump(), tree, "{form:?}");
    }
}
