//! The engine in this process, asked as the kernel would ask it: what the kernel's name lookup and its checks before a
//! file system do is done here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use storage::layer::IdMap;
use storage::layer::index::Index;
use storage::union::{
    Attributes, Caller, Changes, Entry, FileKind, InodeNo, Lower, NewFile, NewTime, Options, Owners, RenameMode, Seek,
    Union, UnionError, Upper, XattrMode,
};

use crate::driver::{Answer, Driver, Kind, LONG_AGO, Status};
use crate::scenario::{How, Presence, Room, SLOTS};
use crate::tree::OnDisk;

pub(crate) struct Engine {
    union: Union,
    /// References that are owed, by number.
    owed: BTreeMap<InodeNo, u64>,
    keeps_references: bool,
    held: [Option<InodeNo>; SLOTS],
}

const US: Caller = Caller { uid: 0, gid: 0 };

fn errno(error: UnionError) -> Errno {
    error.errno
}

impl Engine {
    /// Opens the layers, bottom first, with `upper` and `work` in `place`.
    pub(crate) fn new(layers: &[OnDisk], place: &Path, keeps_references: bool) -> Self {
        let open = |path: &Path| File::open(path).expect("the test made it").into();
        let lowers = layers.iter().rev().map(|layer| Lower {
            dir: open(&layer.diff),
            index: layer.index.as_ref().map(|path| Index::open(path).expect("the index is our own")),
        });
        let options = Options {
            lowers: lowers.collect(),
            upper: Some(Upper { upper: open(&place.join("upper")), work: open(&place.join("work")) }),
            owners: Owners::Mapped(IdMap::default()),
            lower_ids: IdMap::default(),
            volatile: false,
            static_nlink: false,
            // Few, so that descriptors are dropped and opened again.
            max_open_files: 16,
            copy_up_cap_bytes: 1 << 30,
        };
        let union = Union::open(options).expect("the union opens");
        Self { union, owed: BTreeMap::new(), keeps_references, held: [None; SLOTS] }
    }

    fn owe(&mut self, entry: Entry) -> Entry {
        *self.owed.entry(entry.attributes.ino).or_default() += 1;
        entry
    }

    /// Gives back what the last operation looked up.
    fn settle(&mut self) {
        if self.keeps_references {
            return;
        }
        for (ino, count) in std::mem::take(&mut self.owed) {
            let kept = u64::from(self.held.contains(&Some(ino)));
            if count > kept {
                self.union.forget(ino, count - kept);
            }
            if kept > 0 {
                self.owed.insert(ino, kept);
            }
        }
    }

    fn lookup(&mut self, parent: InodeNo, name: &str) -> Answer<Entry> {
        let entry = self.union.lookup(parent, OsStr::new(name)).map_err(errno)?;
        Ok(self.owe(entry))
    }

    /// The directory of this path; symlinks on the way are refused.
    fn directory(&mut self, path: &str) -> Answer<InodeNo> {
        let mut at = InodeNo::ROOT;
        let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
        for name in names {
            let entry = self.lookup(at, name)?;
            match entry.attributes.kind {
                FileKind::Directory => at = entry.attributes.ino,
                FileKind::Symlink => return Err(Errno::ELOOP),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Ok(at)
    }

    fn parent<'a>(&mut self, path: &'a str) -> Answer<(InodeNo, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.directory(parent)?, name))
    }

    fn find(&mut self, path: &str) -> Answer<Attributes> {
        if path.is_empty() {
            return self.union.attributes(InodeNo::ROOT).map_err(errno);
        }
        let (parent, name) = self.parent(path)?;
        let found = self.lookup(parent, name)?.attributes;
        // The kernel asks again where it has the attributes no more: both answers must be the same.
        let again = self.union.attributes(found.ino).map_err(errno)?;
        // Whoever reads a layer changes the time of its last access.
        let found = Attributes { atime: again.atime, ..found };
        assert_eq!(found, again, "lookup and getattr of {path}");
        Ok(again)
    }

    fn new_name<'a>(&mut self, path: &'a str) -> Answer<(InodeNo, &'a str)> {
        let (parent, name) = self.parent(path)?;
        match self.lookup(parent, name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => Ok((parent, name)),
            Err(errno) => Err(errno),
        }
    }

    fn change(&mut self, path: &str, changes: &Changes) -> Answer<()> {
        let found = self.find(path)?;
        self.union.set_attributes(found.ino, changes).map(drop).map_err(errno)
    }

    /// The kernel says so with every write of one that is not root of the first namespace: setuid goes.
    fn write_all(&mut self, ino: InodeNo, offset: u64, data: &[u8]) -> Answer<()> {
        let mut at = 0;
        while at < data.len() {
            at += self.union.write(ino, offset + at as u64, &data[at..], true).map_err(errno)?;
        }
        Ok(())
    }

    fn read_all(&mut self, ino: InodeNo, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let mut buffer = vec![0; size];
        let mut at = 0;
        while at < size {
            match self.union.read(ino, offset + at as u64, &mut buffer[at..]).map_err(errno)? {
                0 => break,
                count => at += count,
            }
        }
        buffer.truncate(at);
        Ok(buffer)
    }

    fn settled<T>(&mut self, answer: Answer<T>) -> Answer<T> {
        self.settle();
        answer
    }
}

fn kind_of(kind: FileKind) -> Kind {
    match kind {
        FileKind::File => Kind::File,
        FileKind::Directory => Kind::Directory,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice | FileKind::BlockDevice => Kind::Device,
    }
}

fn status_of(found: &Attributes) -> Status {
    let kind = kind_of(found.kind);
    let mtime = found.mtime.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
    Status {
        kind,
        mode: found.mode,
        uid: found.uid,
        gid: found.gid,
        size: if kind == Kind::Directory { 0 } else { found.size },
        nlink: if kind == Kind::Directory { 0 } else { found.nlink },
        mtime: (mtime < LONG_AGO).then_some(mtime),
    }
}

fn new_file(mode: u32) -> NewFile {
    NewFile { owner: US, mode, umask: 0 }
}

impl Driver for Engine {
    fn status(&mut self, path: &str) -> Answer<Status> {
        let answer = self.find(path).map(|found| status_of(&found));
        self.settled(answer)
    }

    fn number(&mut self, path: &str) -> Answer<u64> {
        let answer = self.find(path).map(|found| found.ino.0);
        self.settled(answer)
    }

    fn read_link(&mut self, path: &str) -> Answer<Vec<u8>> {
        let answer = self.find(path).and_then(|found| match found.kind {
            FileKind::Symlink => self.union.read_link(found.ino).map_err(errno),
            _ => Err(Errno::EINVAL),
        });
        self.settled(answer)
    }

    fn list(&mut self, path: &str) -> Answer<Vec<(String, Kind, u64)>> {
        let answer = self.directory(path).and_then(|ino| {
            let mut entries = Vec::new();
            let mut cookie = 0;
            // Three at a time, so that every listing is taken up again in its middle.
            loop {
                let (from, mut taken) = (cookie, 0);
                let mut sink = |entry: storage::union::DirEntry<'_>| {
                    if taken == 3 {
                        return false;
                    }
                    taken += 1;
                    cookie = entry.cookie;
                    let name = String::from_utf8(entry.name.to_vec()).expect("the tests' names");
                    if name != "." && name != ".." {
                        entries.push((name, kind_of(entry.kind), entry.ino.0));
                    }
                    true
                };
                self.union.read_directory(ino, from, &mut sink).map_err(errno)?;
                if taken == 0 {
                    return Ok(entries);
                }
            }
        });
        self.settled(answer)
    }

    fn create(&mut self, path: &str, mode: u32) -> Answer<()> {
        let answer = self.new_name(path).and_then(|(parent, name)| {
            let made = self.union.make_node(parent, OsStr::new(name), new_file(mode), FileKind::File, 0);
            made.map_err(errno).map(|entry| {
                self.owe(entry);
            })
        });
        self.settled(answer)
    }

    fn create_unnamed(&mut self, directory: &str, name: &str, mode: u32, content: &[u8]) -> Answer<()> {
        let answer = self.directory(directory).and_then(|dir| {
            let made = self.union.make_unnamed(dir, new_file(mode)).map_err(errno)?;
            let ino = self.owe(made).attributes.ino;
            self.write_all(ino, 0, content)?;
            match self.lookup(dir, name) {
                Ok(_) => Err(Errno::EEXIST),
                Err(Errno::ENOENT) => {
                    let linked = self.union.link(ino, dir, OsStr::new(name)).map_err(errno)?;
                    self.owe(linked);
                    Ok(())
                }
                Err(errno) => Err(errno),
            }
        });
        self.settled(answer)
    }

    fn make_directory(&mut self, path: &str, mode: u32) -> Answer<()> {
        let answer = self.new_name(path).and_then(|(parent, name)| {
            let made = self.union.make_directory(parent, OsStr::new(name), new_file(mode & 0o1777));
            made.map_err(errno).map(|entry| {
                self.owe(entry);
            })
        });
        self.settled(answer)
    }

    fn symlink(&mut self, path: &str, target: &str) -> Answer<()> {
        let answer = self.new_name(path).and_then(|(parent, name)| {
            let made = self.union.make_symlink(parent, OsStr::new(name), OsStr::new(target), US);
            made.map_err(errno).map(|entry| {
                self.owe(entry);
            })
        });
        self.settled(answer)
    }

    fn make_node(&mut self, path: &str, kind: Kind, mode: u32) -> Answer<()> {
        let kind = match kind {
            Kind::Fifo => FileKind::Fifo,
            Kind::Socket => FileKind::Socket,
            _ => FileKind::CharDevice,
        };
        let answer = self.new_name(path).and_then(|(parent, name)| {
            let made = self.union.make_node(parent, OsStr::new(name), new_file(mode), kind, 0);
            made.map_err(errno).map(|entry| {
                self.owe(entry);
            })
        });
        self.settled(answer)
    }

    fn link(&mut self, from: &str, to: &str) -> Answer<()> {
        let answer = self.find(from).and_then(|found| {
            let (parent, name) = self.new_name(to)?;
            if found.kind == FileKind::Directory {
                return Err(Errno::EPERM);
            }
            let linked = self.union.link(found.ino, parent, OsStr::new(name)).map_err(errno)?;
            let ino = self.owe(linked).attributes.ino;
            assert_eq!(ino, found.ino, "a link to {from} is another file");
            Ok(())
        });
        self.settled(answer)
    }

    fn unlink(&mut self, path: &str) -> Answer<()> {
        let answer = self.parent(path).and_then(|(parent, name)| match self.lookup(parent, name)?.attributes.kind {
            FileKind::Directory => Err(Errno::EISDIR),
            _ => self.union.unlink(parent, OsStr::new(name)).map_err(errno),
        });
        self.settled(answer)
    }

    fn remove_directory(&mut self, path: &str) -> Answer<()> {
        let answer = self.parent(path).and_then(|(parent, name)| match self.lookup(parent, name)?.attributes.kind {
            FileKind::Directory => self.union.remove_directory(parent, OsStr::new(name)).map_err(errno),
            _ => Err(Errno::ENOTDIR),
        });
        self.settled(answer)
    }

    fn rename(&mut self, from: &str, to: &str, how: How) -> Answer<()> {
        let answer = self.parent(from).and_then(|(parent, name)| {
            let (new_parent, new_name) = self.parent(to)?;
            let old = self.lookup(parent, name)?.attributes;
            let new = match self.lookup(new_parent, new_name) {
                Ok(entry) => Some(entry.attributes),
                Err(Errno::ENOENT) => None,
                Err(errno) => return Err(errno),
            };
            match (how, new) {
                (How::NoReplace, Some(_)) => return Err(Errno::EEXIST),
                (How::Exchange, None) => return Err(Errno::ENOENT),
                _ => {}
            }
            let is_below = |path: &str, above: &str| path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'));
            if is_below(to, from) {
                return Err(Errno::EINVAL);
            }
            if is_below(from, to) {
                return Err(if how == How::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            if let Some(new) = new {
                if new.ino == old.ino {
                    return Ok(());
                }
                match (old.kind == FileKind::Directory, new.kind == FileKind::Directory) {
                    _ if how == How::Exchange => {}
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    _ => {}
                }
            }
            let mode = RenameMode {
                no_replace: how == How::NoReplace,
                exchange: how == How::Exchange,
                ..RenameMode::default()
            };
            self.union.rename(parent, OsStr::new(name), new_parent, OsStr::new(new_name), mode).map_err(errno)
        });
        self.settled(answer)
    }

    fn change_mode(&mut self, path: &str, mode: u32) -> Answer<()> {
        let answer = self.change(path, &Changes { mode: Some(mode), ..Changes::default() });
        self.settled(answer)
    }

    fn change_owner(&mut self, path: &str, uid: Option<u32>, gid: Option<u32>) -> Answer<()> {
        // The kernel says so for everything that is no directory.
        let answer = self.find(path).and_then(|found| {
            let kill_privileges = found.kind != FileKind::Directory;
            self.change(path, &Changes { uid, gid, kill_privileges, ..Changes::default() })
        });
        self.settled(answer)
    }

    fn set_times(&mut self, path: &str, seconds: i64) -> Answer<()> {
        let time = NewTime::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()));
        let answer = self.change(path, &Changes { atime: Some(time), mtime: Some(time), ..Changes::default() });
        self.settled(answer)
    }

    fn truncate(&mut self, path: &str, size: u64) -> Answer<()> {
        let answer = self.change(path, &Changes { size: Some(size), kill_privileges: true, ..Changes::default() });
        self.settled(answer)
    }

    fn write(&mut self, path: &str, offset: u64, data: &[u8]) -> Answer<()> {
        let answer = self.find(path).and_then(|found| self.write_all(found.ino, offset, data));
        self.settled(answer)
    }

    fn read(&mut self, path: &str, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let answer = self.find(path).and_then(|found| self.read_all(found.ino, offset, size));
        self.settled(answer)
    }

    fn allocate(&mut self, path: &str, offset: u64, size: u64, how: Room) -> Answer<()> {
        let mode = match how {
            Room::Plain => 0,
            Room::KeepSize => libc::FALLOC_FL_KEEP_SIZE,
            Room::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Room::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
        };
        let answer =
            self.find(path).and_then(|found| self.union.allocate(found.ino, mode, offset, size).map_err(errno));
        self.settled(answer)
    }

    fn seek(&mut self, path: &str, offset: u64, is_data: bool) -> Answer<u64> {
        let what = if is_data { Seek::Data } else { Seek::Hole };
        let answer = self.find(path).and_then(|found| self.union.seek(found.ino, offset, what).map_err(errno));
        self.settled(answer)
    }

    fn copy_range(&mut self, from: &str, to: &str, size: usize) -> Answer<usize> {
        let answer = self.find(from).and_then(|from| {
            let to = self.find(to)?;
            if from.ino == to.ino && size > 0 {
                return Err(Errno::EINVAL);
            }
            self.union.copy_range(from.ino, 0, to.ino, 0, size as u64).map_err(errno)
        });
        self.settled(answer)
    }

    fn sync(&mut self, path: &str) -> Answer<()> {
        let answer = self.find(path).and_then(|found| self.union.sync(found.ino, false).map_err(errno));
        self.settled(answer)
    }

    fn xattr(&mut self, path: &str, name: &str) -> Answer<Vec<u8>> {
        let answer = self.find(path).and_then(|found| self.union.xattr(found.ino, OsStr::new(name)).map_err(errno));
        self.settled(answer)
    }

    fn xattr_names(&mut self, path: &str) -> Answer<Vec<String>> {
        let answer = self.find(path).and_then(|found| self.union.xattr_names(found.ino).map_err(errno));
        let names = answer.map(|names| {
            let words = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            words.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        });
        self.settled(names)
    }

    fn set_xattr(&mut self, path: &str, name: &str, value: &[u8], how: Presence) -> Answer<()> {
        let mode = match how {
            Presence::Any => XattrMode::Any,
            Presence::Create => XattrMode::Create,
            Presence::Replace => XattrMode::Replace,
        };
        let answer = self
            .find(path)
            .and_then(|found| self.union.set_xattr(found.ino, OsStr::new(name), value, mode, false).map_err(errno));
        self.settled(answer)
    }

    fn remove_xattr(&mut self, path: &str, name: &str) -> Answer<()> {
        let answer =
            self.find(path).and_then(|found| self.union.remove_xattr(found.ino, OsStr::new(name)).map_err(errno));
        self.settled(answer)
    }

    fn hold(&mut self, slot: usize, path: &str) -> Answer<()> {
        let found = self.find(path)?;
        self.held[slot] = Some(found.ino);
        // An open file is one reference more in the kernel; the engine sees one that does not come back.
        self.settled(Ok(()))
    }

    fn held_write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Answer<()> {
        let ino = self.held[slot].ok_or(Errno::EBADF)?;
        self.write_all(ino, offset, data)
    }

    fn held_read(&mut self, slot: usize) -> Answer<Vec<u8>> {
        let ino = self.held[slot].ok_or(Errno::EBADF)?;
        self.read_all(ino, 0, 100_000)
    }

    fn held_status(&mut self, slot: usize) -> Answer<Status> {
        let ino = self.held[slot].ok_or(Errno::EBADF)?;
        self.union.attributes(ino).map(|found| status_of(&found)).map_err(errno)
    }

    fn release(&mut self, slot: usize) {
        self.held[slot] = None;
        self.settle();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for (ino, count) in std::mem::take(&mut self.owed) {
            self.union.forget(ino, count);
        }
    }
}

/// What is left in the work directory that a mount would have to sweep.
pub(crate) fn left_in_work(place: &Path) -> Vec<String> {
    fn walk(dir: &Path, left: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                walk(&entry.path(), left);
            } else {
                left.push(entry.path().display().to_string());
            }
        }
    }
    let mut left = Vec::new();
    walk(&place.join("work"), &mut left);
    left
}
