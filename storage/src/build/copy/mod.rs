//! Puts files into the tree of a step, as COPY and ADD do, without mounting what is below it.
//!
//! The tree is an upper directory: a directory that is written into is made in it as the one below it is, and files hide
//! those below. Names from a Dockerfile are first led to where a process in the container would find them
//! ([`Place::resolve`]); from there on every directory is opened beneath the one before it, without following links.
//!
//! **Runs in:** a process in the user namespace of the ids, with umask 0.

mod chmod;

/// One file.
mod file;

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, mkfifoat, symlinkat, unlinkat};

use super::BuildError;
use super::tree::{Directory, Filter, Node, Tree, attributes};
use crate::layer::Shown;
use crate::layer::ids::IdPolicy;
use crate::layer::tar::{Entry, EntryKind, Reader, Timestamp};
use crate::layer::view::{Metadata, View};

pub use chmod::{Chmod, Clause};
use file::{Look, Room, copy_contents, dress, dress_at, spec, write_at};

/// Most links followed for one name, as in the kernel.
const MAX_LINKS: usize = 40;

/// What is changed on the way.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Whom copied files belong to; `None` leaves them to whom they belong.
    pub owner: Option<(u32, u32)>,
    /// Their permission bits.
    pub mode: Option<Chmod>,
    /// Hard links stay links.
    pub keep_links: bool,
}

/// The tree of a step while files are put into it.
#[derive(Debug)]
pub struct Place<'a> {
    /// The tree, then those below it, topmost first.
    roots: Vec<PathBuf>,
    below: Tree,
    top: OwnedFd,
    ids: &'a IdPolicy,
    /// The directory that was written into last.
    last: Option<(PathBuf, Rc<Room>)>,
    /// Directories that nothing is below of.
    new: HashSet<PathBuf>,
    /// Times of directories, set when they are full.
    times: Vec<(PathBuf, Timestamp)>,
    /// Owner of the directories that are made on the way.
    parents: (u32, u32),
    /// Files and bytes that were put there.
    pub files: u64,
}

impl<'a> Place<'a> {
    /// The tree whose root is `diff`, over `below`.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn open(diff: &Path, below: Tree, ids: &'a IdPolicy) -> Result<Self, BuildError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = nix::fcntl::open(diff, flags, Mode::empty());
        let top = top.map_err(|source| BuildError::call("open", diff.as_os_str().as_bytes(), source))?;
        let mut roots = vec![diff.to_owned()];
        roots.extend(below.roots.iter().cloned());
        let place = Self {
            roots,
            below,
            top,
            ids,
            last: None,
            new: HashSet::new(),
            times: Vec::new(),
            parents: (0, 0),
            files: 0,
        };
        // The root directory looks as it does below.
        if let Some((dir, node)) = place.below_of(Path::new("/"))? {
            let look = place.look_of(&dir, &node, b"/")?;
            dress(place.ids, place.top.as_fd(), &look, true, b"/")?;
        }
        Ok(place)
    }

    /// Whom directories belong to that have to be made for a file to have its place.
    pub fn own_parents(&mut self, owner: (u32, u32)) {
        self.parents = owner;
    }

    /// From now on nothing is below: everything comes from what is copied.
    pub fn forget_below(&mut self, nothing: Tree) {
        self.roots.truncate(1);
        self.below = nothing;
    }

    fn view(&self) -> View<'_> {
        View::new(&self.roots)
    }

    /// Where `path` leads in the container: links followed beneath its root, what is not there as it is written.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, BuildError> {
        let mut pending: Vec<Vec<u8>> = components(path).rev().collect();
        let (mut done, mut links) = (PathBuf::from("/"), 0);
        while let Some(name) = pending.pop() {
            if name == b".." {
                done.pop();
                continue;
            }
            let next = done.join(OsStr::from_bytes(&name));
            match self.view().metadata(&next, false)? {
                Some(found) if found.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(BuildError::TooManyLinks(shown(path.as_os_str().as_bytes())));
                    }
                    let target = self.view().read_link(&next)?.unwrap_or_default();
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    pending.extend(components(&target).rev());
                }
                _ => done = next,
            }
        }
        Ok(done)
    }

    /// What is at a path that leads through no link.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn metadata(&self, path: &Path) -> Result<Option<Metadata>, BuildError> {
        Ok(self.view().metadata(path, false)?)
    }

    /// Makes the directory `path`, which leads through no link, and those above it, where they are missing.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn make_directory(&mut self, path: &Path) -> Result<(), BuildError> {
        self.enter(path).map(drop)
    }

    /// Copies what `source` names in `from` to `target`, neither of which leads through a link: a directory's entries go
    /// into `target`, anything else becomes it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn copy(
        &mut self,
        from: &Tree,
        source: &Path,
        target: &Path,
        filter: &Filter<'_>,
        rules: &Rules,
    ) -> Result<(), BuildError> {
        let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
        // Where a directory of the source goes, if that is not below the target by name: a link was there.
        let mut led: Vec<(Vec<u8>, PathBuf)> = Vec::new();
        from.walk(source, filter, &mut |path, dir, node| {
            led.retain(|(prefix, _)| path.starts_with(prefix) && path.get(prefix.len()) == Some(&b'/'));
            let mut to = match led.last() {
                Some((prefix, to)) => to.join(OsStr::from_bytes(&path[prefix.len() + 1..])),
                None if path.is_empty() => target.to_owned(),
                None => target.join(OsStr::from_bytes(path)),
            };
            self.files += 1;
            if node.is_directory() && path.is_empty() {
                // Its entries go there: what it is like itself is of no interest.
                return self.make_directory(target);
            }
            if node.is_directory() {
                if self.has_link_below(&to)? {
                    to = self.resolve(&to)?;
                    led.push((path.to_vec(), to.clone()));
                }
                return self.directory(dir, node, &to, rules);
            }
            let key = (node.stat.st_dev, node.stat.st_ino);
            if rules.keep_links && node.stat.st_nlink > 1 {
                if let Some(first) = links.get(&key) {
                    return self.link(&first.clone(), &to);
                }
                links.insert(key, to.clone());
            }
            self.file(dir, node, &to, rules)
        })
    }

    /// Whether a link is at this place: only then is it necessary to look where it leads.
    fn has_link_below(&self, path: &Path) -> Result<bool, BuildError> {
        if path.parent().is_some_and(|parent| self.new.contains(parent)) {
            return Ok(false);
        }
        Ok(self.view().metadata(path, false)?.is_some_and(|found| found.is_symlink()))
    }

    fn directory(&mut self, from: &Directory, node: &Node, to: &Path, rules: &Rules) -> Result<(), BuildError> {
        let path = to.as_os_str().as_bytes();
        let was_there = to == Path::new("/")
            || !to.parent().is_some_and(|parent| self.new.contains(parent)) && self.metadata(to)?.is_some();
        let look = self.ruled(self.look_of(from, node, path)?, true, rules);
        let room = self.enter(to)?;
        // A directory that was there stays what it was.
        if !was_there || rules.mode.is_some() && to != Path::new("/") {
            dress(self.ids, room.fd.as_fd(), &look, true, path)?;
            self.times.push((to.to_owned(), look.mtime));
            // What is made in it may depend on what it is like now.
            self.last = None;
        }
        Ok(())
    }

    fn file(&mut self, from: &Directory, node: &Node, to: &Path, rules: &Rules) -> Result<(), BuildError> {
        let path = to.as_os_str().as_bytes();
        let failed = |call: &'static str| move |source| BuildError::call(call, path, source);
        if node.kind == SFlag::S_IFREG {
            let source = from.open_file(node).map_err(failed("open"))?;
            let xattrs = attributes(source.as_fd()).map_err(failed("listxattr"))?;
            let look = self.ruled(Look::of(node, xattrs), false, rules);
            let (dir, name) = self.way_to(to)?;
            let mode = self.ids.mode_on_disk(look.mode, false);
            let target = dir.create(&name, mode).map_err(failed("create"))?;
            copy_contents(&source, &target, &node.stat).map_err(failed("copy"))?;
            return dir.dress(self.ids, &target, &look, path);
        }
        let look = self.ruled(Look::of(node, Vec::new()), false, rules);
        let (room, name) = self.room_for(to)?;
        let dir = &room.fd;
        match node.kind {
            SFlag::S_IFLNK => {
                let target = from.read_link(node).map_err(failed("readlink"))?;
                symlinkat(target.as_slice(), dir, name.as_c_str()).map_err(failed("symlink"))?;
                dress_at(self.ids, dir.as_fd(), &name, &look, path)
            }
            SFlag::S_IFIFO => {
                mkfifoat(dir, name.as_c_str(), Mode::from_bits_truncate(look.mode & 0o777))
                    .map_err(failed("mkfifo"))?;
                dress_at(self.ids, dir.as_fd(), &name, &look, path)
            }
            // Sockets are dead, and devices cannot be made.
            _ => Ok(()),
        }
    }

    /// Writes a regular file at a path that leads through no link.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn write(
        &mut self,
        target: &Path,
        mut contents: impl Read,
        (mode, owner, mtime): (u32, (u32, u32), Timestamp),
    ) -> Result<(), BuildError> {
        let path = target.as_os_str().as_bytes();
        let (dir, name) = self.way_to(target)?;
        let look = Look { mode, uid: owner.0, gid: owner.1, mtime, xattrs: Vec::new() };
        let file = dir.create(&name, self.ids.mode_on_disk(mode, false));
        let mut file = file.map_err(|source| BuildError::call("create", path, source))?;
        io::copy(&mut contents, &mut file)
            .and_then(|_| file.flush())
            .map_err(|source| BuildError::Io { what: format!("write '{}'", shown(path)), source })?;
        self.files += 1;
        dir.dress(self.ids, &file, &look, path)
    }

    /// Unpacks an uncompressed archive into the directory `target`, which leads through no link.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn unpack(&mut self, tar: impl Read, target: &Path, rules: &Rules) -> Result<(), BuildError> {
        let mut reader = Reader::new(tar);
        self.make_directory(target)?;
        while let Some(entry) = reader.next_entry()? {
            let Some(to) = beneath(target, &entry.path) else {
                return Err(BuildError::InTheWay {
                    path: shown(&entry.path),
                    is: "outside of the archive's directory",
                });
            };
            if to == target {
                continue;
            }
            // An archive's own links on the way are followed as those of the container are.
            let parent = self.resolve(to.parent().unwrap_or(Path::new("/")))?;
            let to = parent.join(to.file_name().unwrap_or_default());
            self.entry(&entry, &mut reader, target, &to, rules)?;
            self.files += 1;
        }
        reader.drain()?;
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        contents: &mut Reader<R>,
        target: &Path,
        to: &Path,
        rules: &Rules,
    ) -> Result<(), BuildError> {
        let path = entry.path.as_slice();
        let failed = |call: &'static str| move |source| BuildError::call(call, path, source);
        let look = Look {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.iter().filter(|(name, _)| name.starts_with(b"user.")).cloned().collect(),
        };
        let look = self.ruled(look, entry.kind == EntryKind::Directory, rules);
        match entry.kind {
            EntryKind::Directory => {
                let to = if self.has_link_below(to)? { self.resolve(to)? } else { to.to_owned() };
                let room = self.enter(&to)?;
                dress(self.ids, room.fd.as_fd(), &look, true, path)?;
                self.times.push((to, look.mtime));
                self.last = None;
            }
            EntryKind::File => {
                let (dir, name) = self.way_to(to)?;
                let file = dir.create(&name, self.ids.mode_on_disk(look.mode, false)).map_err(failed("create"))?;
                let mut end = 0;
                while let Some(chunk) = contents.next_chunk()? {
                    write_at(&file, chunk.bytes, chunk.offset).map_err(failed("write"))?;
                    end = chunk.offset + chunk.bytes.len() as u64;
                }
                if end < entry.size {
                    file.set_len(entry.size).map_err(|_| BuildError::call("truncate", path, Errno::EFBIG))?;
                }
                dir.dress(self.ids, &file, &look, path)?;
            }
            EntryKind::Symlink => {
                let (room, name) = self.room_for(to)?;
                let dir = &room.fd;
                symlinkat(entry.link.as_slice(), dir, name.as_c_str()).map_err(failed("symlink"))?;
                dress_at(self.ids, dir.as_fd(), &name, &look, path)?;
            }
            EntryKind::Hardlink => {
                let Some(first) = beneath(target, &entry.link) else {
                    return Err(BuildError::InTheWay {
                        path: shown(&entry.link),
                        is: "outside of the archive's directory",
                    });
                };
                let parent = self.resolve(first.parent().unwrap_or(Path::new("/")))?;
                self.link(&parent.join(first.file_name().unwrap_or_default()), to)?;
            }
            EntryKind::Fifo => {
                let (room, name) = self.room_for(to)?;
                let dir = &room.fd;
                mkfifoat(dir, name.as_c_str(), Mode::from_bits_truncate(look.mode & 0o777))
                    .map_err(failed("mkfifo"))?;
                dress_at(self.ids, dir.as_fd(), &name, &look, path)?;
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {}
        }
        Ok(())
    }

    /// Sets what the root itself is like.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn look_like(&self, mode: u32, uid: u32, gid: u32) -> Result<(), BuildError> {
        let look = Look { mode, uid, gid, mtime: now(), xattrs: Vec::new() };
        dress(self.ids, self.top.as_fd(), &look, true, b"/")
    }

    /// Sets the times of directories, which nothing more is put into.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn finish(mut self) -> Result<(), BuildError> {
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            let bytes = path.as_os_str().as_bytes().to_vec();
            let room = self.enter(&path)?;
            futimens(&room.fd, &TimeSpec::UTIME_OMIT, &spec(mtime))
                .map_err(|source| BuildError::call("utimens", &bytes, source))?;
        }
        Ok(())
    }

    fn ruled(&self, mut look: Look, is_directory: bool, rules: &Rules) -> Look {
        if let Some((uid, gid)) = rules.owner {
            (look.uid, look.gid) = (uid, gid);
        }
        if let Some(chmod) = &rules.mode {
            look.mode = chmod.apply(look.mode, is_directory);
        }
        look
    }

    fn look_of(&self, dir: &Directory, node: &Node, path: &[u8]) -> Result<Look, BuildError> {
        let file = dir.open_file(node).map_err(|source| BuildError::call("open", path, source))?;
        let xattrs = attributes(file.as_fd()).map_err(|source| BuildError::call("listxattr", path, source))?;
        Ok(Look::of(node, xattrs))
    }

    /// What is at a path in the trees below, if it is a directory there.
    fn below_of(&self, path: &Path) -> Result<Option<(Directory, Node)>, BuildError> {
        if self.below.roots.is_empty() || path.parent().is_some_and(|parent| self.new.contains(parent)) {
            return Ok(None);
        }
        Ok(self.below.open(path)?.filter(|(_, node)| node.is_directory()))
    }

    /// Opens a directory of the tree; what is missing on the way is made as it is below, or new.
    fn enter(&mut self, path: &Path) -> Result<Rc<Room>, BuildError> {
        if let Some((last, room)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(room));
        }
        let failed = |source| BuildError::call("stat", path.as_os_str().as_bytes(), source);
        let room = Rc::new(Room::new(self.make_way(path)?).map_err(failed)?);
        self.last = Some((path.to_owned(), Rc::clone(&room)));
        Ok(room)
    }

    fn make_way(&mut self, path: &Path) -> Result<OwnedFd, BuildError> {
        let bytes = path.as_os_str().as_bytes();
        let failed = |call: &'static str| move |source| BuildError::call(call, bytes, source);
        let mut at = open_directory(self.top.as_fd(), c".").map_err(failed("open"))?;
        let mut way = PathBuf::from("/");
        for name in components(path) {
            way.push(OsStr::from_bytes(&name));
            let name = CString::new(name).map_err(|_| BuildError::call("mkdir", bytes, Errno::EINVAL))?;
            match mkdirat(&at, name.as_c_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) => {
                    let made = open_directory(at.as_fd(), &name).map_err(failed("open"))?;
                    match self.below_of(&way)? {
                        Some((dir, node)) => {
                            let look = self.look_of(&dir, &node, bytes)?;
                            dress(self.ids, made.as_fd(), &look, true, bytes)?;
                        }
                        None => {
                            let (uid, gid) = self.parents;
                            let look = Look { mode: 0o755, uid, gid, mtime: now(), xattrs: Vec::new() };
                            dress(self.ids, made.as_fd(), &look, true, bytes)?;
                            self.new.insert(way.clone());
                        }
                    }
                    at = made;
                }
                Err(Errno::EEXIST) => {
                    at = open_directory(at.as_fd(), &name).map_err(|errno| match errno {
                        Errno::ENOTDIR | Errno::ELOOP => {
                            BuildError::InTheWay { path: shown(way.as_os_str().as_bytes()), is: "not a directory" }
                        }
                        errno => BuildError::call("open", bytes, errno),
                    })?;
                }
                Err(source) => return Err(BuildError::call("mkdir", bytes, source)),
            }
        }
        Ok(at)
    }

    /// The directory of a file that is about to be made, and its name there, which no directory has.
    fn way_to(&mut self, path: &Path) -> Result<(Rc<Room>, CString), BuildError> {
        let bytes = path.as_os_str().as_bytes();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
        let name = name.ok_or_else(|| BuildError::InTheWay { path: shown(bytes), is: "a directory" })?;
        let is_new = self.new.contains(parent);
        if !is_new && self.metadata(path)?.is_some_and(|found| found.is_directory()) {
            return Err(BuildError::InTheWay { path: shown(bytes), is: "a directory" });
        }
        Ok((self.enter(parent)?, name))
    }

    /// The same, and nothing has the name.
    fn room_for(&mut self, path: &Path) -> Result<(Rc<Room>, CString), BuildError> {
        let (room, name) = self.way_to(path)?;
        match unlinkat(&room.fd, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok((room, name)),
            Err(source) => Err(BuildError::call("unlink", path.as_os_str().as_bytes(), source)),
        }
    }

    /// Makes another name of a file of this tree.
    fn link(&mut self, first: &Path, to: &Path) -> Result<(), BuildError> {
        let bytes = to.as_os_str().as_bytes();
        let name = first.file_name().unwrap_or_default().to_owned();
        let from = self.enter(first.parent().unwrap_or(Path::new("/")))?;
        let (room, new) = self.room_for(to)?;
        linkat(&from.fd, name.as_os_str(), &room.fd, new.as_c_str(), AtFlags::empty())
            .map_err(|source| BuildError::call("link", bytes, source))
    }
}

fn shown(path: &[u8]) -> String {
    Shown(path).to_string()
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp { secs: i64::try_from(since.as_secs()).unwrap_or(0), nanos: since.subsec_nanos() }
}

/// The names of a path; `..` among them, `.` and slashes not.
fn components(path: &Path) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.as_bytes().to_vec()),
        Component::ParentDir => Some(b"..".to_vec()),
        _ => None,
    });
    names.collect::<Vec<_>>().into_iter()
}

/// A name of an archive below the directory it is unpacked into; `None` if it leads out.
fn beneath(target: &Path, name: &[u8]) -> Option<PathBuf> {
    let mut path = target.to_owned();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Some(path)
}

fn open_directory(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> nix::Result<OwnedFd> {
    openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}
