//! What single changes leave on disk.

use super::*;
use crate::sys::xattr;
use crate::union::attributes::{Changes, NewTime, XattrMode};
use std::ffi::CString;
use std::os::unix::fs::{FileExt, symlink};
use std::time::{Duration, SystemTime};

fn single(fixture: &Fixture) -> UpperLayer {
    fixture.open_as(Owners::Single).unwrap()
}

/// A file of the upper by its path.
struct Opened {
    fd: OwnedFd,
    stat: FileStat,
    marks: Marks,
}

impl Opened {
    fn new(path: &Path) -> Self {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(nix::fcntl::AT_FDCWD, path, flags, Mode::empty()).unwrap();
        let stat = fstat(&fd).unwrap();
        let marks = Marks::read(fd.as_fd(), &stat).unwrap();
        Self { fd, stat, marks }
    }

    fn target<'a>(&'a self, name: Option<(BorrowedFd<'a>, Name<'a>)>) -> Target<'a> {
        let kind = kind_of(self.stat.st_mode);
        Target { file: self.fd.as_fd(), kind, stat: Some(&self.stat), marks: &self.marks, name }
    }
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    xattr::find(Opened::new(path).fd.as_fd(), &CString::new(name).unwrap()).unwrap()
}

fn set(path: &Path, name: &str, value: &[u8]) {
    xattr::set(Opened::new(path).fd.as_fd(), &CString::new(name).unwrap(), value).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

fn recorded(upper: &UpperLayer, path: &Path) -> String {
    let opened = Opened::new(path);
    upper.owners().recorded(&opened.stat, &opened.marks).to_value()
}

/// A list of the form that the kernel takes: (tag, permissions, id).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

#[test]
fn names_are_single_components() {
    let long = "x".repeat(256);
    let cases = [("", true), (".", true), ("..", true), ("a/b", true), ("a\0", true), (&long, true), ("...", false)];
    for (text, is_refused) in cases {
        assert_eq!(Name::new(OsStr::new(text)).is_err(), is_refused, "{text}");
    }
    assert!(Name::new(OsStr::new(&long[..255])).is_ok());
}

#[test]
fn one_server_per_upper_and_only_directories_that_fit() {
    let fixture = Fixture::new();
    let first = fixture.open();
    assert_eq!(fixture.open_as(Owners::Single).unwrap_err().errno(), Errno::EBUSY);
    drop(first);
    fixture.open();
    let open = |upper: &Path, work: &Path| {
        UpperLayer::open(dir(upper), dir(work), Owners::Single, true).map(drop).map_err(|error| error.to_string())
    };
    fs::create_dir_all(fixture.path("upper/a/b")).unwrap();
    let nested = Err("upper and work directory lie in each other".to_owned());
    assert_eq!(open(&fixture.path("upper"), &fixture.path("upper")), nested);
    assert_eq!(open(&fixture.path("upper"), &fixture.path("upper/a/b")), nested);
    assert_eq!(open(&fixture.path("upper/a"), &fixture.path("upper")), nested);
    if let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") {
        let refusal = Err("upper and work directory are on different file systems or mounts".to_owned());
        assert_eq!(open(&fixture.path("upper"), elsewhere.path()), refusal);
    }
}

#[test]
fn leftovers_are_swept_even_closed_directories() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("work/coracle/old/deep")).unwrap();
    fs::write(fixture.path("work/coracle/old/deep/file"), b"x").unwrap();
    fs::write(fixture.path("work/coracle/file"), b"x").unwrap();
    fs::create_dir_all(fixture.path("work/work/kernel")).unwrap();
    for closed in ["work/coracle/old/deep", "work/coracle/old", "work/coracle"] {
        fs::set_permissions(fixture.path(closed), fs::Permissions::from_mode(0o000)).unwrap();
    }
    drop(fixture.open());
    assert!(fixture.leftovers().is_empty());
    assert!(fixture.path("work/work/kernel").exists());
}

#[test]
fn modes_follow_umask_setgid_and_default_access_lists() {
    let fixture = Fixture::new();
    let upper = fixture.open();
    let user = geteuid().as_raw();
    let list = acl(&[(1, 7, u32::MAX), (2, 7, user), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]);
    for (place, bits) in [("plain", 0o755), ("setgid", 0o2755), ("listed", 0o755)] {
        fs::create_dir(fixture.upper(place)).unwrap();
        fs::set_permissions(fixture.upper(place), fs::Permissions::from_mode(bits)).unwrap();
        if place == "listed" {
            set(&fixture.upper(place), "system.posix_acl_default", &list);
        }
        // Twice: in its place, and by way of the work directory.
        for over_whiteout in [false, true] {
            let at = |name: &str| format!("{name}{over_whiteout}");
            let at_dir = fixture.upper_dir(place);
            for made in ["file", "dir"] {
                if over_whiteout {
                    whiteout::make(&at_dir, at(made).as_bytes()).unwrap();
                }
            }
            upper.create_file(parent(&at_dir), name(&at("file")), new_file(0o666)).unwrap();
            upper.create_directory(parent(&at_dir), name(&at("dir")), new_file(0o777)).unwrap();
            let (file, directory) = match place {
                "plain" => (0o644, 0o755),
                "setgid" => (0o644, 0o2755),
                // The umask does not count; the group bits are the mask's.
                _ => (0o664, 0o775),
            };
            let path = |made: &str| fixture.upper(place).join(at(made));
            assert_eq!(mode(&path("file")), file, "{place} {over_whiteout}");
            assert_eq!(mode(&path("dir")), directory, "{place} {over_whiteout}");
            let is_listed = place == "listed";
            for (made, attribute) in [("file", "access"), ("dir", "access"), ("dir", "default")] {
                let found = get(&path(made), &format!("system.posix_acl_{attribute}"));
                assert_eq!(found.is_some(), is_listed, "{place} {made} {attribute} {over_whiteout}");
            }
            assert_eq!(Opened::new(&path("dir")).marks.is_opaque, over_whiteout);
        }
    }
}

#[test]
fn creation_refuses_what_exists_and_devices() {
    let fixture = Fixture::new();
    let upper = fixture.open();
    let root = fixture.upper_dir("");
    fs::write(fixture.upper("there"), b"").unwrap();
    let make = |name_: &str, kind, device| {
        upper.create_node(parent(&root), name(name_), new_file(0o644), kind, device).map(drop)
    };
    assert_eq!(make("there", FileKind::File, 0), Err(Errno::EEXIST));
    assert_eq!(make("there", FileKind::Fifo, 0), Err(Errno::EEXIST));
    assert_eq!(make("zero", FileKind::CharDevice, 0), Err(Errno::EPERM));
    assert_eq!(make("disk", FileKind::BlockDevice, 0x800), Err(Errno::EPERM));
    assert_eq!(upper.create_directory(parent(&root), name("there"), new_file(0o755)).unwrap_err(), Errno::EEXIST);
    assert_eq!(
        upper.link(LinkFrom::Named(upper.root(), name("there")), upper.root(), name("there")),
        Err(Errno::EEXIST)
    );
    make("socket", FileKind::Socket, 0).unwrap();
    assert!(describe(&fixture.upper("socket")).starts_with("s 644"));
    assert!(fixture.leftovers().is_empty());
}

#[test]
fn unnamed_file_gets_a_name() {
    let fixture = Fixture::new();
    let upper = fixture.open();
    let root = fixture.upper_dir("");
    let made = upper.create_unnamed(parent(&root), new_file(0o644)).unwrap();
    let file = File::from(made.file.unwrap());
    file.write_all_at(b"contents", 0).unwrap();
    whiteout::make(&root, b"over").unwrap();
    for named in ["new", "over"] {
        upper.link(LinkFrom::Unnamed(file.as_fd()), upper.root(), name(named)).unwrap();
        assert_eq!(fs::read(fixture.upper(named)).unwrap(), b"contents");
    }
    assert_eq!(mode(&fixture.upper("new")), 0o644);
}

#[test]
fn copy_keeps_what_the_file_was() {
    let fixture = Fixture::new();
    let upper = fixture.open();
    let path = fixture.lower("file");
    fs::write(&path, b"contents").unwrap();
    let user = geteuid().as_raw();
    let list = acl(&[(1, 6, u32::MAX), (2, 6, user), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]);
    set(&path, "user.note", b"kept");
    set(&path, "user.overlay.overlay.opaque", b"of a nested one");
    set(&path, "user.overlay.metacopy", b"not the container's");
    set(&path, "system.posix_acl_access", &list);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4761)).unwrap();
    let time = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
    File::open(&path).unwrap().set_modified(time).unwrap();
    let before = fs::metadata(fixture.path("upper")).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(20));

    let found = Found::new(&path);
    let made = upper.stage_copy(&found.source(), None).unwrap().publish(upper.root(), name("file")).unwrap();
    let copy = fixture.upper("file");
    assert_eq!(fs::read(&copy).unwrap(), b"contents");
    assert_eq!(mode(&copy), 0o4761);
    assert_eq!(fs::metadata(&copy).unwrap().modified().unwrap(), time);
    assert_eq!(fs::metadata(fixture.path("upper")).unwrap().modified().unwrap(), before);
    assert_eq!(get(&copy, "user.note").as_deref(), Some(&b"kept"[..]));
    assert_eq!(get(&copy, "user.overlay.overlay.opaque").as_deref(), Some(&b"of a nested one"[..]));
    assert_eq!(get(&copy, "user.overlay.metacopy"), None);
    assert_eq!(get(&copy, "system.posix_acl_access"), get(&path, "system.posix_acl_access"));
    let origin = InodeNo(path.metadata().unwrap().ino());
    assert_eq!(made.marks.origin, Some(origin));
    assert_eq!(Opened::new(&copy).marks.origin, Some(origin));
    // By a name that the kernel's overlay hides; one that an older version wrote is read too, but not believed more.
    let text = origin.0.to_string();
    assert_eq!(get(&copy, "user.overlay.coracle.origin").as_deref(), Some(text.as_bytes()));
    set(&copy, "user.coracle.origin", b"5");
    assert_eq!(Opened::new(&copy).marks.origin, Some(origin));
    xattr::remove(File::open(&copy).unwrap().as_fd(), c"user.overlay.coracle.origin").unwrap();
    assert_eq!(Opened::new(&copy).marks.origin, Some(InodeNo(5)));

    let staged = upper.stage_copy(&found.source(), Some(3)).unwrap();
    assert_eq!(staged.publish(upper.root(), name("file")).unwrap_err(), Errno::EEXIST);
    upper.stage_copy(&found.source(), Some(3)).unwrap().publish(upper.root(), name("short")).unwrap();
    assert_eq!(fs::read(fixture.upper("short")).unwrap(), b"con");
    assert!(fixture.leftovers().is_empty());
}

#[test]
fn directory_with_visible_entries_is_not_removed() {
    let fixture = Fixture::new();
    let upper = fixture.open();
    fs::create_dir(fixture.upper("dir")).unwrap();
    fs::write(fixture.upper("dir/file"), b"x").unwrap();
    for lower in [false, true] {
        let presence = Presence { upper: true, lower };
        assert_eq!(upper.remove_directory(upper.root(), name("dir"), presence), Err(Errno::ENOTEMPTY));
    }
    assert_eq!(fs::read(fixture.upper("dir/file")).unwrap(), b"x");
}

#[test]
fn rename_modes_that_exclude_each_other_are_refused() {
    use crate::union::attributes::RenameMode;
    let fixture = Fixture::new();
    let upper = fixture.open();
    let side = |at| RenameSide { dir: upper.root(), name: name(at), is_directory: false, lower: false };
    let cases = [(true, true, false), (false, false, true)];
    for (no_replace, exchange, whiteout) in cases {
        let mode = RenameMode { no_replace, exchange, whiteout };
        assert_eq!(upper.rename(side("a"), side("b"), mode), Err(Errno::EINVAL));
    }
}

#[test]
fn whiteouts_without_devices_are_files_in_a_marked_directory() {
    let fixture = Fixture::new();
    let upper = fixture.open();
    let root = fixture.upper_dir("");
    // As `stage_whiteout` does where no device can be made.
    let temp = upper.stage_whiteout_file(root.as_fd()).unwrap();
    temp.replace(root.as_fd(), b"gone").unwrap();
    assert!(is_whiteout_at(root.as_fd(), b"gone").unwrap());
    assert!(Opened::new(&fixture.upper("")).marks.may_have_whiteout_files);
    upper.create_directory(parent(&root), name("gone"), new_file(0o755)).unwrap();
    assert!(Opened::new(&fixture.upper("gone")).marks.is_opaque);
    assert!(fixture.leftovers().is_empty());
}

#[test]
fn privileges_go_with_a_new_owner_and_with_a_stranger_s_write() {
    let me = new_file(0).owner;
    let given_away = Changes { uid: Some(me.uid), ..Changes::default() };
    let truncated = Changes { size: Some(1), kill_privileges: true, ..Changes::default() };
    let cases =
        [(0o6755, 0o755), (0o6745, 0o2745), (0o4644, 0o644), (0o755, 0o755)].map(|(before, after)| (before, after));
    for owners in [Owners::Mapped(IdMap::default()), Owners::Single] {
        for (before, after) in cases {
            for (changes, label) in [(given_away, "chown"), (truncated, "truncate")] {
                let fixture = Fixture::new();
                let upper = fixture.open_as(owners.clone()).unwrap();
                let path = fixture.upper("file");
                fs::write(&path, b"contents").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
                let mut opened = Opened::new(&path);
                if changes.size.is_some() {
                    opened.fd = File::options().write(true).open(&path).unwrap().into();
                }
                upper.set_attributes(&opened.target(None), &changes).unwrap();
                assert_eq!(mode(&path), after, "{owners:?} {before:o} {label}");
            }
        }
    }
}

#[test]
fn mode_times_and_length_change_by_any_descriptor() {
    let fixture = Fixture::new();
    let upper = fixture.open();
    let path = fixture.upper("file");
    fs::write(&path, b"contents").unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 7);
    let changes = Changes { mode: Some(0o604), mtime: Some(NewTime::At(time)), ..Changes::default() };
    assert!(upper.set_attributes(&Opened::new(&path).target(None), &changes).unwrap().is_none());
    assert_eq!((mode(&path), path.metadata().unwrap().modified().unwrap()), (0o604, time));
    symlink("target", fixture.upper("link")).unwrap();
    let link = Opened::new(&fixture.upper("link"));
    assert_eq!(upper.set_attributes(&link.target(None), &changes).unwrap_err(), Errno::EOPNOTSUPP);
    let changes = Changes { mode: None, ..changes };
    upper.set_attributes(&link.target(None), &changes).unwrap();
    assert_eq!(fixture.upper("link").symlink_metadata().unwrap().modified().unwrap(), time);
}

#[test]
fn extended_attributes_are_escaped_hidden_and_guarded() {
    let fixture = Fixture::new();
    let upper = fixture.open();
    let path = fixture.upper("file");
    fs::write(&path, b"").unwrap();
    set(&path, "user.coracle.origin", b"5");
    let opened = Opened::new(&path);
    let target = opened.target(None);
    let set_xattr = |name: &str, mode| upper.set_xattr(&target, name.as_bytes(), b"v", mode, false).map(drop);
    assert_eq!(set_xattr("user.overlay.opaque", XattrMode::Create), Ok(()));
    assert_eq!(set_xattr("user.overlay.opaque", XattrMode::Create), Err(Errno::EEXIST));
    assert_eq!(set_xattr("user.other", XattrMode::Replace), Err(Errno::ENODATA));
    for hidden in ["user.coracle.origin", "trusted.overlay.opaque", "user.containers.override_stat"] {
        assert_eq!(set_xattr(hidden, XattrMode::Any), Err(Errno::EPERM), "{hidden}");
        assert_eq!(upper.xattr(&target, hidden.as_bytes()), Err(Errno::ENODATA), "{hidden}");
        assert_eq!(upper.remove_xattr(&target, hidden.as_bytes()), Err(Errno::ENODATA), "{hidden}");
    }
    assert_eq!(get(&path, "user.overlay.overlay.opaque").as_deref(), Some(&b"v"[..]));
    assert_eq!(upper.xattr(&target, b"user.overlay.opaque").unwrap(), b"v");
    assert_eq!(upper.xattr_names(&target).unwrap(), b"user.overlay.opaque\0");
    upper.remove_xattr(&target, b"user.overlay.opaque").unwrap();
    assert_eq!(upper.remove_xattr(&target, b"user.overlay.opaque"), Err(Errno::ENODATA));
    assert_eq!(get(&path, "user.coracle.origin").as_deref(), Some(&b"5"[..]));
}

#[test]
fn single_mode_records_owner_mode_and_kind() {
    let fixture = Fixture::new();
    let upper = single(&fixture);
    let root = fixture.upper_dir("");
    let owned = |uid, mode| NewFile { owner: Caller { uid, gid: 0 }, mode, umask: 0 };
    let make = |name_: &str, uid, mode, kind, device| {
        upper.create_node(parent(&root), name(name_), owned(uid, mode), kind, device).unwrap();
        (
            recorded(&upper, &fixture.upper(name_)),
            describe(&fixture.upper(name_)).split(' ').take(2).collect::<String>(),
        )
    };
    let is = |text: &str, disk: &str| (text.to_owned(), disk.to_owned());
    assert_eq!(make("plain", 0, 0o644, FileKind::File, 0), is("0:0:0644", "f644"));
    assert_eq!(make("closed", 0, 0o400, FileKind::File, 0), is("0:0:0400", "f600"));
    assert_eq!(make("foreign", 7, 0o4755, FileKind::File, 0), is("7:0:04755", "f4755"));
    assert_eq!(make("pipe", 0, 0o600, FileKind::Fifo, 0), is("0:0:0600:pipe", "p600"));
    assert_eq!(make("pipe7", 7, 0o600, FileKind::Fifo, 0), is("7:0:0600:pipe", "f600"));
    assert_eq!(make("null", 0, 0o666, FileKind::CharDevice, 0x103), is("0:0:0666:char-1-3", "f666"));
    let forged = upper.create_node(parent(&root), name("w"), owned(0, 0), FileKind::CharDevice, 0);
    assert_eq!(forged.unwrap_err(), Errno::EPERM);
    let grouped = Parent { set_gid: Some(42), ..parent(&root) };
    upper.create_file(grouped, name("grouped"), owned(0, 0o644)).unwrap();
    assert_eq!(recorded(&upper, &fixture.upper("grouped")), "0:42:0644");
    upper.create_directory(parent(&root), name("dir"), owned(3, 0o111)).unwrap();
    assert_eq!(recorded(&upper, &fixture.upper("dir")), "3:0:0111");
    assert_eq!(mode(&fixture.upper("dir")), 0o711);

    upper.create_symlink(parent(&root), name("link"), OsStr::new("to"), Caller { uid: 0, gid: 0 }).unwrap();
    upper.create_symlink(parent(&root), name("link9"), OsStr::new("to"), Caller { uid: 9, gid: 9 }).unwrap();
    assert_eq!(recorded(&upper, &fixture.upper("link9")), "9:9:0777:symlink");
    assert_eq!(fs::read(fixture.upper("link9")).unwrap(), b"to");
    assert!(fixture.upper("link").is_symlink());
    assert!(fixture.leftovers().is_empty());
}

#[test]
fn single_mode_gives_files_away_by_chown_and_by_the_xattr() {
    let fixture = Fixture::new();
    let upper = single(&fixture);
    let path = |name: &str| fixture.upper(name);
    fs::write(path("file"), b"x").unwrap();
    fs::set_permissions(path("file"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("to", path("link")).unwrap();
    let root = upper.root();
    let change = |at: &'static str, changes: &Changes| {
        upper.set_attributes(&Opened::new(&path(at)).target(Some((root, name(at)))), changes).unwrap()
    };
    let to_seven = Changes { uid: Some(7), ..Changes::default() };
    assert!(change("file", &to_seven).is_none());
    assert_eq!(recorded(&upper, &path("file")), "7:0:0755");
    assert!(change("link", &to_seven).is_some());
    assert_eq!(recorded(&upper, &path("link")), "7:0:0777:symlink");
    assert_eq!(fs::read(path("link")).unwrap(), b"to");
    // Back to root: the stand-in stays what it is, the record changes.
    assert!(change("link", &Changes { uid: Some(0), ..Changes::default() }).is_none());
    assert_eq!(recorded(&upper, &path("link")), "0:0:0777:symlink");
    assert!(change("file", &Changes { uid: Some(0), mode: Some(0o644), ..Changes::default() }).is_none());
    assert_eq!(get(&path("file"), "user.containers.override_stat"), None);
    assert_eq!(mode(&path("file")), 0o644);

    let opened = Opened::new(&path("file"));
    let set_override = |value: &[u8]| {
        let target = opened.target(Some((root, name("file"))));
        upper.set_xattr(&target, b"user.containers.override_stat", value, XattrMode::Any, false).map(drop)
    };
    // The mode is chmod's.
    assert_eq!(set_override(b"5:6:0600"), Ok(()));
    assert_eq!(recorded(&upper, &path("file")), "5:6:0644");
    assert_eq!(set_override(b"nonsense"), Err(Errno::EINVAL));
    assert_eq!(set_override(b"0:0:0600:dir"), Err(Errno::EINVAL));
    assert_eq!(set_override(b"0:0:0666:char-1-3"), Err(Errno::EINVAL));
    assert_eq!(set_override(b"3:0:0666:file"), Ok(()));
    let opened = Opened::new(&path("file"));
    let value = upper.xattr(&opened.target(None), b"user.containers.override_stat").unwrap();
    assert_eq!(value, b"3:0:0644");
}

#[test]
fn foreign_spellings_of_marks_are_read() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.upper("dir")).unwrap();
    fs::write(fixture.upper("file"), b"").unwrap();
    set(&fixture.upper("dir"), "user.fuseoverlayfs.opaque", b"y");
    set(&fixture.upper("file"), "user.fuseoverlayfs.override_stat", b"1:2:0640");
    assert!(Opened::new(&fixture.upper("dir")).marks.is_opaque);
    assert_eq!(recorded(&single(&fixture), &fixture.upper("file")), "1:2:0640");
    set(&fixture.upper("file"), "user.containers.override_stat", b"3:4:0600:file");
    assert_eq!(recorded(&single(&fixture), &fixture.upper("file")), "3:4:0600");
}
