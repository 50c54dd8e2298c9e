//! From a tree back to a tar: for commit, export, save and layers whose blobs are gone.
//!
//! The same tree gives the same bytes: names in byte order, no access times, no names of users.
//!
//! | on disk | in the tar |
//! | --- | --- |
//! | character device 0/0, or an empty file with overlay's whiteout xattr | `.wh.<name>` |
//! | `user.overlay.opaque` = `y` | `.wh..wh..opq`, first in its directory |
//! | `user.containers.override_stat` | owner and mode; not written itself |
//! | several names of one file | the first in order, then hard links |
//! | other devices | as they are, with their numbers |
//! | sockets | left out |
//! | xattrs of overlay and of stores, `trusted.*`, labels | left out |
//!
//! In a plain tree (a merged root file system) 0/0 devices and opaque marks are nothing special and left out.

use super::Shown;
use super::ids::{IdPolicy, OVERRIDE_XATTR, Override};
use super::tar::{Entry, EntryKind, Timestamp, Writer, Xattr};
use crate::sys::xattr;
use crate::whiteout;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// Directories kept open at once; deeper ones are opened again from the root.
const MAX_OPEN: usize = 8;

/// How a tree spells what is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeForm {
    /// As overlay does: a container's upper directory, an unpacked layer.
    Overlay,
    /// A whole root file system.
    Plain,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diffed {
    /// Entries, whiteouts among them.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Sockets and forged devices left out.
    pub skipped: u64,
}

/// Why a tree could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// A kernel call.
    #[error("archive layer: {call} '{path}': {}", source.desc().to_lowercase())]
    Call {
        /// Which call.
        call: &'static str,
        /// On what.
        path: String,
        /// Its errno.
        source: Errno,
    },
    /// A file could not be read, or the stream not written.
    #[error("archive layer: '{path}': {}", crate::sys::reason(source))]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A name that a tar of a layer would give another meaning.
    #[error("archive layer: '{path}' has a name that means a whiteout in a layer")]
    ReservedName {
        /// The name.
        path: String,
    },
}

/// Writes the tree beneath `root` as a tar.
///
/// Nothing on the way is followed: each directory is opened by its name in the one above. A file that changes while it
/// is read is written with the length it had; one that becomes shorter is an error.
///
/// # Errors
/// [`DiffError`].
pub fn write_tree(root: BorrowedFd<'_>, form: TreeForm, ids: &IdPolicy, out: impl Write) -> Result<Diffed, DiffError> {
    write_tree_below(root, b"", form, ids, out)
}

/// As [`write_tree`], all names put below the directory `prefix`; empty, or without a slash at the end.
///
/// # Errors
/// [`DiffError`].
pub fn write_tree_below(
    root: BorrowedFd<'_>,
    prefix: &[u8],
    form: TreeForm,
    ids: &IdPolicy,
    out: impl Write,
) -> Result<Diffed, DiffError> {
    let mut walker = Walker::new(prefix, form, ids, out);
    let fd = open(root, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(|source| call("open", b".", source))?;
    let stat = fstat(&fd).map_err(|source| call("fstat", b".", source))?;
    let path = if prefix.is_empty() { b"./".to_vec() } else { Vec::new() };
    let entry = walker.describe(path, EntryKind::Directory, &stat, Some(fd.as_fd()))?;
    walker.append(&entry)?;
    walker.tree(fd)?;
    walker.finish()
}

/// Writes a tar of one file: the one that is called `name` in `dir`, by the name `path`. A link is written as a link, and
/// what cannot be archived is left out.
///
/// # Errors
/// [`DiffError`].
pub fn write_file(
    dir: BorrowedFd<'_>,
    name: &CStr,
    path: &[u8],
    ids: &IdPolicy,
    out: impl Write,
) -> Result<Diffed, DiffError> {
    let mut walker = Walker::new(b"", TreeForm::Plain, ids, out);
    walker.is_one_file = true;
    walker.entry(dir, name, path)?;
    walker.finish()
}

struct Walker<'a, W: Write> {
    /// Put before every name: empty, or with a slash at the end.
    prefix: Vec<u8>,
    form: TreeForm,
    /// There is but one file to be written.
    is_one_file: bool,
    ids: &'a IdPolicy,
    writer: Writer<W>,
    /// First name of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    diffed: Diffed,
}

/// A directory on the way: its name, and what is left of its entries in reverse.
struct Level {
    fd: Option<OwnedFd>,
    name: CString,
    rest: Vec<CString>,
}

impl<'a, W: Write> Walker<'a, W> {
    fn new(prefix: &[u8], form: TreeForm, ids: &'a IdPolicy, out: W) -> Self {
        let prefix = if prefix.is_empty() { Vec::new() } else { [prefix, b"/"].concat() };
        let (links, diffed) = (HashMap::new(), Diffed::default());
        Walker { prefix, form, is_one_file: false, ids, writer: Writer::new(out), links, diffed }
    }

    fn finish(self) -> Result<Diffed, DiffError> {
        self.writer.finish().map_err(|source| DiffError::Io { path: ".".to_owned(), source })?;
        Ok(self.diffed)
    }

    /// An entry's own name and that of the file it links to, below the prefix.
    fn prefixed(&self, mut entry: Entry) -> Entry {
        if !self.prefix.is_empty() {
            entry.path = [&self.prefix, entry.path.as_slice()].concat();
            if entry.kind == EntryKind::Hardlink {
                entry.link = [&self.prefix, entry.link.as_slice()].concat();
            }
        }
        entry
    }

    /// Walks in order without recursion: a tree may be deeper than our stack, and than our descriptors.
    fn tree(&mut self, root: OwnedFd) -> Result<(), DiffError> {
        let mut levels = vec![self.level(root, CString::default(), b"")?];
        let mut path: Vec<u8> = Vec::new();
        while let Some(last) = levels.last_mut() {
            let Some(name) = last.rest.pop() else {
                levels.pop();
                let parent = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                path.truncate(parent);
                continue;
            };
            let len = path.len();
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            reopen(&mut levels).map_err(|source| call("open", &path, source))?;
            let Some(dir) = levels.last().and_then(|level| level.fd.as_ref()) else { break };
            match self.entry(dir.as_fd(), &name, &path) {
                // Of a container that runs: it was there when its directory was listed.
                Err(DiffError::Call { source: Errno::ENOENT, .. }) => path.truncate(len),
                Err(error) => return Err(error),
                Ok(None) => path.truncate(len),
                Ok(Some(fd)) => {
                    levels.push(self.level(fd, name, &path)?);
                    if levels.len() > MAX_OPEN {
                        // The root stays open: all others are found again from it.
                        let oldest = levels.iter_mut().skip(1).find(|level| level.fd.is_some());
                        if let Some(level) = oldest {
                            level.fd = None;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Lists a directory; writes the mark of an opaque one.
    fn level(&mut self, fd: OwnedFd, name: CString, path: &[u8]) -> Result<Level, DiffError> {
        let failed = |source| call("list", path, source);
        let mut stream = Dir::from_fd(open(fd.as_fd(), c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed)?)
            .map_err(failed)?;
        let mut rest = Vec::new();
        for entry in stream.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                rest.push(name.to_owned());
            }
        }
        rest.sort_unstable_by(|a, b| b.cmp(a));
        if self.form == TreeForm::Overlay
            && whiteout::is_opaque(&fd).map_err(|source| call("getxattr", path, source))?
        {
            self.mark([path, if path.is_empty() { b"" } else { b"/" }, whiteout::tar_opaque()].concat())?;
        }
        Ok(Level { fd: Some(fd), name, rest })
    }

    /// Writes one entry; of a directory gives the descriptor.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Option<OwnedFd>, DiffError> {
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|source| call("stat", path, source))?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let open_failed = |source| call("open", path, source);
        if self.form == TreeForm::Overlay && whiteout::is_reserved(name.to_bytes()) {
            return Err(DiffError::ReservedName { path: Shown(path).to_string() });
        }
        match kind {
            SFlag::S_IFDIR => {
                let fd = open(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(open_failed)?;
                let entry = self.describe(path.to_vec(), EntryKind::Directory, &stat, Some(fd.as_fd()))?;
                self.append(&entry)?;
                return Ok(Some(fd));
            }
            _ if whiteout::is_whiteout_device(&stat) => match self.form {
                TreeForm::Overlay => self.whiteout(name, path)?,
                TreeForm::Plain => self.diffed.skipped += 1,
            },
            _ if self.hardlink(&stat, path)? => {}
            SFlag::S_IFREG => {
                let fd = open(dir, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map_err(open_failed)?;
                if self.form == TreeForm::Overlay
                    && stat.st_size == 0
                    && whiteout::is_whiteout_file(&fd).map_err(|source| call("getxattr", path, source))?
                {
                    self.whiteout(name, path)?;
                } else {
                    self.file(fd, &stat, path)?;
                }
            }
            SFlag::S_IFLNK => {
                let mut entry = self.describe(path.to_vec(), EntryKind::Symlink, &stat, None)?;
                entry.link = readlinkat(dir, name).map_err(|source| call("readlink", path, source))?.into_vec();
                self.append(&entry)?;
            }
            SFlag::S_IFIFO => {
                let entry = self.describe(path.to_vec(), EntryKind::Fifo, &stat, None)?;
                self.append(&entry)?;
            }
            SFlag::S_IFCHR | SFlag::S_IFBLK => {
                let kind = if kind == SFlag::S_IFCHR { EntryKind::CharDevice } else { EntryKind::BlockDevice };
                let mut entry = self.describe(path.to_vec(), kind, &stat, None)?;
                entry.device = (major(stat.st_rdev) as u32, minor(stat.st_rdev) as u32);
                self.append(&entry)?;
            }
            _ => self.diffed.skipped += 1,
        }
        Ok(None)
    }

    fn file(&mut self, fd: OwnedFd, stat: &FileStat, path: &[u8]) -> Result<(), DiffError> {
        if stat.st_size == 0 && is_stand_in_for_socket(&fd).map_err(|source| call("getxattr", path, source))? {
            self.diffed.skipped += 1;
            return Ok(());
        }
        let mut entry = self.describe(path.to_vec(), EntryKind::File, stat, Some(fd.as_fd()))?;
        match entry.kind {
            EntryKind::File => {}
            EntryKind::Symlink => {
                let read = File::from(fd).take(MAX_TARGET_BYTES).read_to_end(&mut entry.link);
                read.map_err(|source| DiffError::Io { path: Shown(path).to_string(), source })?;
                return self.append(&entry);
            }
            _ => return self.append(&entry),
        }
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        if self.is_one_file && entry.size == 0 {
            return self.unsized_file(fd, entry);
        }
        self.diffed.entries += 1;
        self.diffed.bytes += entry.size;
        let entry = self.prefixed(entry);
        let written = self.writer.append(&entry, File::from(fd));
        written.map_err(|source| DiffError::Io { path: Shown(path).to_string(), source })
    }

    /// A file that is read to its end because it does not say its size: those of `/proc`.
    fn unsized_file(&mut self, fd: OwnedFd, mut entry: Entry) -> Result<(), DiffError> {
        let failed = |source| DiffError::Io { path: Shown(&entry.path).to_string(), source };
        let mut contents = Vec::new();
        File::from(fd).take(MAX_UNSIZED_BYTES).read_to_end(&mut contents).map_err(failed)?;
        entry.size = contents.len() as u64;
        self.diffed.entries += 1;
        self.diffed.bytes += entry.size;
        let written = self.writer.append(&entry, contents.as_slice());
        written.map_err(|source| DiffError::Io { path: Shown(&entry.path).to_string(), source })
    }

    /// Writes a link to the first name of a file, if this is another one.
    fn hardlink(&mut self, stat: &FileStat, path: &[u8]) -> Result<bool, DiffError> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        let Some(first) = self.links.get(&key) else {
            self.links.insert(key, path.to_vec());
            return Ok(false);
        };
        let link = first.clone();
        let entry = Entry { link, ..self.describe(path.to_vec(), EntryKind::Hardlink, stat, None)? };
        self.append(&entry)?;
        Ok(true)
    }

    fn whiteout(&mut self, name: &CStr, path: &[u8]) -> Result<(), DiffError> {
        let parent = &path[..path.len() - name.to_bytes().len()];
        self.mark([parent, &whiteout::tar_whiteout(name.to_bytes())].concat())
    }

    /// An empty file that stands for something.
    fn mark(&mut self, path: Vec<u8>) -> Result<(), DiffError> {
        self.append(&blank(path, EntryKind::File))
    }

    fn append(&mut self, entry: &Entry) -> Result<(), DiffError> {
        self.diffed.entries += 1;
        let written = self.writer.append_empty(&self.prefixed(entry.clone()));
        written.map_err(|source| DiffError::Io { path: Shown(&entry.path).to_string(), source })
    }

    fn describe(
        &self,
        path: Vec<u8>,
        kind: EntryKind,
        stat: &FileStat,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Entry, DiffError> {
        let owner = self.ids.owner_in_layer(stat.st_uid, stat.st_gid);
        let mut entry = Entry {
            mode: stat.st_mode & 0o7777,
            uid: owner.uid,
            gid: owner.gid,
            mtime: Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            ..blank(path, kind)
        };
        let Some(fd) = fd else { return Ok(entry) };
        let failed = |source| call("getxattr", &entry.path, source);
        let (mut overridden, mut xattrs): (_, Vec<Xattr>) = (None, Vec::new());
        for name in xattr::list(fd).map_err(failed)? {
            if name.as_c_str() == OVERRIDE_XATTR {
                overridden = xattr::find(fd, &name).map_err(failed)?.and_then(|value| Override::parse(&value));
            }
            if is_of_the_image(name.to_bytes())
                && let Some(value) = xattr::find(fd, &name).map_err(failed)?
            {
                let value = if name.as_c_str() == c"security.capability" { namespaceless(value) } else { value };
                xattrs.push((name.into_bytes(), value));
            }
        }
        // A server of ours that shows emulated owners has the record, and does not list it.
        if overridden.is_none() && *self.ids == IdPolicy::Single {
            overridden = xattr::find(fd, OVERRIDE_XATTR).map_err(failed)?.and_then(|value| Override::parse(&value));
        }
        xattrs.sort();
        entry.xattrs = xattrs;
        if let Some(recorded) = overridden {
            (entry.uid, entry.gid) = (recorded.uid, recorded.gid);
            // Under the kernel's overlay a mode is changed on disk alone: where the disk does not show what belongs to
            // the recorded mode, that is an old one.
            let shown = self.ids.mode_on_disk(recorded.mode, kind == EntryKind::Directory);
            let is_old = *self.ids == IdPolicy::Single && recorded.kind.is_none() && entry.mode != shown;
            if !is_old {
                entry.mode = recorded.mode;
            }
            // In single-id mode a regular file may stand for what cannot carry its owner.
            if entry.kind == EntryKind::File {
                entry.kind = match recorded.kind {
                    Some(SFlag::S_IFLNK) => EntryKind::Symlink,
                    Some(SFlag::S_IFIFO) => EntryKind::Fifo,
                    Some(SFlag::S_IFCHR) => EntryKind::CharDevice,
                    Some(SFlag::S_IFBLK) => EntryKind::BlockDevice,
                    _ => EntryKind::File,
                };
                entry.device = (major(recorded.device) as u32, minor(recorded.device) as u32);
            }
        }
        Ok(entry)
    }
}

/// Opens the last level's directory again if it was closed.
fn reopen(levels: &mut [Level]) -> nix::Result<()> {
    let Some(open_to) = levels.iter().rposition(|level| level.fd.is_some()) else { return Err(Errno::EBADF) };
    for at in open_to + 1..levels.len() {
        let (above, below) = levels.split_at_mut(at);
        let (Some(above), Some(level)) = (above.last_mut(), below.first_mut()) else { return Err(Errno::EBADF) };
        let parent = above.fd.as_ref().ok_or(Errno::EBADF)?;
        level.fd = Some(open(parent.as_fd(), &level.name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?);
        if at > 1 {
            above.fd = None;
        }
    }
    Ok(())
}

/// True for the regular file that in single-id mode is a socket of somebody else's.
fn is_stand_in_for_socket(file: &OwnedFd) -> nix::Result<bool> {
    let recorded = xattr::find(file.as_fd(), OVERRIDE_XATTR)?.and_then(|value| Override::parse(&value));
    Ok(recorded.is_some_and(|recorded| recorded.kind == Some(SFlag::S_IFSOCK)))
}

/// Most that is read of a file which does not say its size.
const MAX_UNSIZED_BYTES: u64 = 64 << 20;

/// Longest target that the kernel makes a link to.
const MAX_TARGET_BYTES: u64 = 4095;

/// Attributes that belong to an image rather than to this machine.
fn is_of_the_image(name: &[u8]) -> bool {
    const STORE: [&[u8]; 4] = [b"user.overlay.", b"user.containers.", b"user.fuseoverlayfs.", b"user.coracle."];
    let is_user = name.starts_with(b"user.") && !STORE.iter().any(|prefix| name.starts_with(prefix));
    is_user || name == b"security.capability"
}

/// Takes the root of our user namespace out of a file capability: version 3 becomes version 2, as images have it.
fn namespaceless(value: Vec<u8>) -> Vec<u8> {
    const REVISION_MASK: u32 = 0xff00_0000;
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    let Some((magic, rest)) = value.split_first_chunk::<4>() else { return value };
    let magic = u32::from_le_bytes(*magic);
    if magic & REVISION_MASK != REVISION_3 || value.len() != 24 {
        return value;
    }
    let magic = (magic & !REVISION_MASK) | REVISION_2;
    [&magic.to_le_bytes(), &rest[..16]].concat()
}

fn blank(path: Vec<u8>, kind: EntryKind) -> Entry {
    Entry {
        path,
        link: Vec::new(),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp::default(),
        device: (0, 0),
        xattrs: Vec::new(),
        data_offset: 0,
        stored_bytes: 0,
        sparse: false,
    }
}

/// Opens a name for reading; what only its mode hides from us is opened all the same, because it is ours.
fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        // Only in the single-id mode: with more ids root reads everything. Files of a host's user stay as they are.
        Err(Errno::EACCES) if nix::unistd::geteuid().is_root() => {}
        result => return result,
    }
    let path = openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let stat = fstat(&path)?;
    let link = format!("/proc/self/fd/{}", path.as_raw_fd());
    let chmod = |mode| {
        let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
        nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, link.as_str(), Mode::from_bits_truncate(mode), follow)
    };
    let mode = stat.st_mode & 0o7777;
    chmod(mode | 0o500)?;
    let opened = openat(dir, name, flags, Mode::empty());
    chmod(mode)?;
    opened
}

fn call(call: &'static str, path: &[u8], source: Errno) -> DiffError {
    DiffError::Call { call, path: Shown(path).to_string(), source }
}
