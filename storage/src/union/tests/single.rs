//! Owners without subordinate ids, seen through the tree: what is recorded, and what stands for what.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::fixture::{FORMS, Form, Mounted, Scratch, errno, new_file};
use crate::layer::ids::OVERRIDE_XATTR;
use crate::sys::xattr;
use crate::union::{Attributes, Caller, Changes, FileKind, InodeNo, NewFile, RenameMode, XattrMode};

/// What regular files and directories answer to.
const NAME: &str = "user.containers.override_stat";

/// What the kernel lets through for everything else.
const SPECIAL_NAME: &str = "security.coracle.override_stat";

const LOWER: &[&str] = &["f etc/a lower", "d dir", "f dir/x x", "l link target", "p pipe"];

fn mounts() -> impl Iterator<Item = (Form, Scratch)> {
    FORMS.into_iter().map(|form| {
        let mut scratch = Scratch::new(form, &[LOWER]).with_upper(&[]);
        scratch.single = true;
        (form, scratch)
    })
}

fn attributes(mounted: &Mounted, path: &str) -> Attributes {
    mounted.entry(path).unwrap().attributes
}

fn owner(mounted: &Mounted, path: &str) -> String {
    let name = if matches!(attributes(mounted, path).kind, FileKind::File | FileKind::Directory) {
        NAME
    } else {
        SPECIAL_NAME
    };
    String::from_utf8(mounted.union.xattr(mounted.ino(path), OsStr::new(name)).unwrap()).unwrap()
}

fn give(mounted: &Mounted, path: &str, value: &str) -> Result<(), Errno> {
    let name = if matches!(attributes(mounted, path).kind, FileKind::File | FileKind::Directory) {
        NAME
    } else {
        SPECIAL_NAME
    };
    let (ino, name) = (mounted.ino(path), OsStr::new(name));
    mounted.union.set_xattr(ino, name, value.as_bytes(), XattrMode::Any, false).map_err(errno)
}

/// The kinds that a listing shows.
fn listed_kind(mounted: &Mounted, dir: &str, name: &str) -> Option<FileKind> {
    let mut kind = None;
    mounted
        .union
        .read_directory(mounted.ino(dir), 0, &mut |entry| {
            if entry.name == name.as_bytes() {
                kind = Some(entry.kind);
            }
            true
        })
        .unwrap();
    kind
}

#[test]
fn new_files_are_recorded_and_shown_as_root_s() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let (dir, union) = (mounted.ino("dir"), &mounted.union);
        let new = |uid, mode| NewFile { owner: Caller { uid, gid: uid }, mode, umask: 0 };
        union.make_node(dir, OsStr::new("mine"), new(0, 0o644), FileKind::File, 0).unwrap();
        union.make_node(dir, OsStr::new("secret"), new(0, 0o400), FileKind::File, 0).unwrap();
        union.make_node(dir, OsStr::new("theirs"), new(7, 0o4750), FileKind::File, 0).unwrap();
        union.make_node(dir, OsStr::new("pipe"), new(7, 0o600), FileKind::Fifo, 0).unwrap();
        union.make_node(dir, OsStr::new("null"), new(0, 0o666), FileKind::CharDevice, 0x103).unwrap();
        union.make_directory(dir, OsStr::new("inner"), new(7, 0o111)).unwrap();
        union.make_symlink(dir, OsStr::new("link"), OsStr::new("to"), Caller { uid: 7, gid: 7 }).unwrap();
        let forged = union.make_node(dir, OsStr::new("w"), new(0, 0o666), FileKind::CharDevice, 0);
        assert_eq!(forged.unwrap_err().errno, Errno::EPERM);
        let cases = [
            ("mine", FileKind::File, "0:0:0644"),
            ("secret", FileKind::File, "0:0:0400"),
            ("theirs", FileKind::File, "7:7:04750"),
            ("pipe", FileKind::Fifo, "7:7:0600:pipe"),
            ("null", FileKind::CharDevice, "0:0:0666:char-1-3"),
            ("inner", FileKind::Directory, "7:7:0111"),
            ("link", FileKind::Symlink, "7:7:0777:symlink"),
        ];
        // In the memory of the mount that made them, and from disk.
        let mut made = Some(mounted);
        for _ in 0..2 {
            let mounted = made.take().unwrap_or_else(|| scratch.mount());
            for (name, kind, recorded) in cases {
                let path = format!("dir/{name}");
                let shown = attributes(&mounted, &path);
                assert_eq!((shown.kind, shown.uid, shown.gid), (kind, 0, 0), "{form:?} {name}");
                assert_eq!(owner(&mounted, &path), recorded, "{form:?} {name}");
                assert_eq!(listed_kind(&mounted, "dir", name), Some(kind), "{form:?} {name}");
            }
            assert_eq!(attributes(&mounted, "dir/null").rdev, 0x103);
            assert_eq!(mounted.text("dir/link").as_deref(), Ok("to"));
        }
    }
}

#[test]
fn link_given_away_stays_the_same_link() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let before = attributes(&mounted, "link");
        give(&mounted, "link", "7:7:0777").unwrap();
        let after = attributes(&mounted, "link");
        assert_eq!((after.ino, after.kind, after.mode), (before.ino, FileKind::Symlink, 0o777), "{form:?}");
        assert_eq!(owner(&mounted, "link"), "7:7:0777:symlink", "{form:?}");
        assert_eq!(mounted.text("link").as_deref(), Ok("target"));

        let (root, union) = (InodeNo::ROOT, &mounted.union);
        let dir = mounted.ino("dir");
        union.rename(root, OsStr::new("link"), dir, OsStr::new("moved"), RenameMode::default()).unwrap();
        assert_eq!(mounted.entry("link").unwrap_err(), Errno::ENOENT);
        assert_eq!(mounted.text("dir/moved").as_deref(), Ok("target"), "{form:?}");
        assert_eq!(owner(&mounted, "dir/moved"), "7:7:0777:symlink", "{form:?}");
        union.link(mounted.ino("dir/moved"), root, OsStr::new("second")).unwrap();
        assert_eq!(attributes(&mounted, "second").ino, attributes(&mounted, "dir/moved").ino);
        assert_eq!(attributes(&mounted, "second").nlink, 2);
        union.unlink(dir, OsStr::new("moved")).unwrap();
        assert_eq!(mounted.text("second").as_deref(), Ok("target"));
        assert_eq!(listed_kind(&mounted, "", "second"), Some(FileKind::Symlink));
        // Back to root: still a link.
        give(&mounted, "second", "0:0:0777").unwrap();
        assert_eq!(owner(&mounted, "second"), "0:0:0777:symlink");
        drop(mounted);
        let mounted = scratch.mount();
        assert_eq!(mounted.text("second").as_deref(), Ok("target"), "{form:?}");
        mounted.union.unlink(root, OsStr::new("second")).unwrap();
        assert_eq!(mounted.entry("second").unwrap_err(), Errno::ENOENT);
    }
}

#[test]
fn pipe_of_a_lower_is_given_away_and_mode_follows_chmod() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        let before = attributes(&mounted, "pipe");
        let uid = Changes { uid: Some(7), ..Changes::default() };
        let after = mounted.union.set_attributes(before.ino, &uid).unwrap();
        assert_eq!((after.ino, after.kind, after.uid), (before.ino, FileKind::Fifo, 0), "{form:?}");
        let mode = Changes { mode: Some(0o622), ..Changes::default() };
        assert_eq!(mounted.union.set_attributes(before.ino, &mode).unwrap().mode, 0o622, "{form:?}");
        assert_eq!(owner(&mounted, "pipe"), "7:0:0622:pipe", "{form:?}");
        drop(mounted);
        assert_eq!(owner(&scratch.mount(), "pipe"), "7:0:0622:pipe", "{form:?}");
    }
}

#[test]
fn copy_up_keeps_the_recorded_owner() {
    let mut scratch = Scratch::new(Form::Plain, &[LOWER]).with_upper(&[]);
    scratch.single = true;
    let lower = scratch.dir.path().join("layer0/diff");
    let record = |path: &str, value: &str| {
        xattr::set(File::open(lower.join(path)).unwrap().as_fd(), OVERRIDE_XATTR, value.as_bytes()).unwrap();
    };
    record("etc/a", "7:8:0640");
    record("dir", "9:9:02775:dir");
    fs::write(lower.join("dir/socket"), "").unwrap();
    record("dir/socket", "7:8:0600:socket");
    let mounted = scratch.mount();
    assert_eq!(attributes(&mounted, "dir/socket").kind, FileKind::Socket);
    assert_eq!(listed_kind(&mounted, "dir", "socket"), Some(FileKind::Socket));
    mounted.union.write(mounted.ino("etc/a"), 0, b"UPPER", false).unwrap();
    let now = Changes { mtime: Some(crate::union::NewTime::Now), ..Changes::default() };
    mounted.union.set_attributes(mounted.ino("dir/socket"), &now).unwrap();
    // What is made in a directory with setgid has its recorded group.
    mounted.union.make_node(mounted.ino("dir"), OsStr::new("new"), new_file(0o644), FileKind::File, 0).unwrap();
    mounted.union.make_directory(mounted.ino("dir"), OsStr::new("sub"), new_file(0o755)).unwrap();
    drop(mounted);
    let mounted = scratch.mount();
    let cases = [
        ("etc/a", "7:8:0640"),
        ("dir", "9:9:02775"),
        ("dir/socket", "7:8:0600:socket"),
        ("dir/new", "0:9:0644"),
        ("dir/sub", "0:9:02755"),
    ];
    for (path, recorded) in cases {
        assert_eq!(owner(&mounted, path), recorded, "{path}");
        assert!(scratch.upper().join(path).symlink_metadata().is_ok(), "{path}");
    }
    assert_eq!(mounted.text("etc/a").as_deref(), Ok("UPPER"));
}

#[test]
fn record_is_hidden_from_lists_and_kept_from_nonsense() {
    for (form, scratch) in mounts() {
        let mounted = scratch.mount();
        give(&mounted, "etc/a", "7:8:0644").unwrap();
        assert_eq!(mounted.union.xattr_names(mounted.ino("etc/a")).unwrap(), b"", "{form:?}");
        for nonsense in ["", "7", "7:8", "7:8:0644:door", "7:8:0644:dir", "7:8:0644:char-1-3"] {
            assert_eq!(give(&mounted, "etc/a", nonsense), Err(Errno::EINVAL), "{form:?} {nonsense}");
        }
        assert_eq!(owner(&mounted, "etc/a"), "7:8:0644", "{form:?}");
    }
}
