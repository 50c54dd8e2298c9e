//! Unpacks a tar into a directory that holds files already: `cp`, in a container and on the host.
//!
//! Nothing in the archive is believed: names are cut into components, each opened beneath the directory before it without
//! following links, and files are made with `O_EXCL`. Inside of a container ([`Links::InRoot`]) a link on the way is
//! followed as the container sees it, as docker does.
//!
//! | archive says | result |
//! | --- | --- |
//! | a file over a file, a link, a FIFO | the new one |
//! | a file over a mount point | written into what is there |
//! | a directory over a directory | that one, with its owner and mode |
//! | a file over a directory, or the reverse | refused, unless [`Options::overwrite`] |
//! | devices | left out: a user namespace cannot make them |
//! | extended attributes | `user.*` and file capabilities, where the target may have them |

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use super::Shown;
use super::ids::{IdPolicy, OVERRIDE_XATTR};
use super::remove::remove_tree;
use super::tar::{Entry, EntryKind, Reader, TarError};
use crate::sys::xattr;

/// Deepest name.
const MAX_DEPTH: usize = 4096;

/// Whom unpacked files belong to.
#[derive(Clone, Debug)]
pub enum Owner {
    /// To us, whatever the archive says; no set-id bits, or a stranger would choose what others run as us.
    Us,
    /// To these ids of the container.
    Fixed(u32, u32),
    /// To the ids in the archive, which are the container's.
    Archive,
}

/// What a link on the way to a file means.
#[derive(Debug)]
pub enum Links<'a> {
    /// An attack.
    Refused,
    /// What a process with this root sees; the path is that of the directory being unpacked into.
    InRoot(BorrowedFd<'a>, PathBuf),
}

/// How to unpack.
#[derive(Debug)]
pub struct Options<'a> {
    /// Whom files belong to.
    pub owner: Owner,
    /// How the container's ids become those on disk.
    pub ids: &'a IdPolicy,
    /// Links on the way.
    pub links: Links<'a>,
    /// Replaces directories by files and files by directories.
    pub overwrite: bool,
}

/// Why something could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The archive itself.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name that climbs out.
    #[error("'{0}' leads out of the directory it is copied to")]
    Escapes(String),
    /// A file is where a directory is to be.
    #[error("'{0}' exists and is not a directory")]
    NotADirectory(String),
    /// A directory is where a file is to be.
    #[error("'{0}' exists and is a directory")]
    IsADirectory(String),
    /// A kernel call.
    #[error("{call} '{path}': {}", source.desc().to_lowercase())]
    Call {
        /// Which call.
        call: &'static str,
        /// On what.
        path: String,
        /// Its errno.
        source: Errno,
    },
}

impl UnpackError {
    /// The file system cannot be written.
    pub fn is_read_only(&self) -> bool {
        matches!(self, UnpackError::Call { source: Errno::EROFS, .. })
    }
}

/// Unpacks an archive. With `name`, the archive is one file or one tree (`./` and what is below it), which gets that name
/// in `dir`; without, it goes into `dir` itself. Returns how many entries there were, devices not counted.
///
/// # Errors
/// [`UnpackError`]; what was unpacked until then stays.
pub fn unpack(
    tar: impl Read,
    dir: BorrowedFd<'_>,
    name: Option<&[u8]>,
    options: &Options<'_>,
) -> Result<u64, UnpackError> {
    let mut reader = Reader::new(tar);
    let mut unpacker = Unpacker { base: dir, root: None, options, new_dirs: Vec::new() };
    let mut entries = 0;
    while let Some(mut entry) = reader.next_entry()? {
        entries += u64::from(!matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice));
        if let Some(name) = name
            && unpacker.root.is_none()
        {
            if entry.kind == EntryKind::Directory {
                unpacker.make_root(name, &entry)?;
                continue;
            }
            // A name of ours, so no part of it is believed to be a path.
            entry.path = name.to_vec();
        }
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.finish()?;
    reader.drain()?;
    Ok(entries)
}

struct Unpacker<'a> {
    base: BorrowedFd<'a>,
    /// The directory made for the tree's top.
    root: Option<OwnedFd>,
    options: &'a Options<'a>,
    /// Directories whose mode and time are set at the end, when nothing more is made in them. Named, not open.
    new_dirs: Vec<(Vec<Vec<u8>>, Entry)>,
}

impl Unpacker<'_> {
    fn make_root(&mut self, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let is_new = self.directory(self.base, name, entry)?;
        let fd = match (open_dir(self.base, name), &self.options.links) {
            (Err(Errno::ELOOP | Errno::ENOTDIR), Links::InRoot(root, path)) => {
                in_root(*root, &path.join(bytes_path(name))).map_err(|source| call("open", name, source))?
            }
            (opened, _) => opened.map_err(|source| call("open", name, source))?,
        };
        self.root = Some(fd);
        if is_new {
            self.new_dirs.push((Vec::new(), entry.clone()));
        }
        Ok(())
    }

    fn top(&self) -> BorrowedFd<'_> {
        self.root.as_ref().map_or(self.base, AsFd::as_fd)
    }

    fn entry<R: Read>(&mut self, entry: &Entry, contents: &mut Reader<R>) -> Result<(), UnpackError> {
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else { return Ok(()) };
        let parent = self.parent(parents, &entry.path)?;
        let dir = parent.as_fd();
        match entry.kind {
            EntryKind::Directory => {
                if self.directory(dir, name, entry)? {
                    self.new_dirs.push((parts.iter().map(|part| part.to_vec()).collect(), entry.clone()));
                }
            }
            EntryKind::File => self.file(dir, name, entry, contents)?,
            EntryKind::Symlink => {
                self.clear(dir, name, entry)?;
                symlinkat(entry.link.as_slice(), dir, *name).map_err(|source| call("symlink", &entry.path, source))?;
                self.finish_at(dir, name, entry)?;
            }
            EntryKind::Fifo => {
                self.clear(dir, name, entry)?;
                mkfifoat(dir, *name, Mode::from_bits_truncate(entry.mode & 0o777))
                    .map_err(|source| call("mkfifo", &entry.path, source))?;
                self.finish_at(dir, name, entry)?;
            }
            EntryKind::Hardlink => {
                let target = components(&entry.link)?;
                let Some((target, above)) = target.split_last() else {
                    return Err(UnpackError::Escapes(Shown(&entry.link).to_string()));
                };
                let from = self.parent(above, &entry.link)?;
                self.clear(dir, name, entry)?;
                // Not followed: a link to a link is one.
                linkat(&from, *target, dir, *name, AtFlags::empty())
                    .map_err(|source| call("link", &entry.path, source))?;
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {}
        }
        Ok(())
    }

    /// The directory that a name lies in; what is missing on the way is made.
    fn parent(&self, parents: &[&[u8]], path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let failed = |source| call("open", path, source);
        let mut at = self.top().try_clone_to_owned().map_err(|_| failed(Errno::EMFILE))?;
        let mut way = PathBuf::new();
        for name in parents {
            way.push(bytes_path(name));
            let next = match open_dir(at.as_fd(), name) {
                Err(Errno::ENOENT) => {
                    mkdirat(&at, *name, Mode::from_bits_truncate(0o755)).map_err(failed)?;
                    let made = open_dir(at.as_fd(), name);
                    if let (Ok(fd), Owner::Fixed(..) | Owner::Archive) = (&made, &self.options.owner) {
                        self.chown_path(fd, 0, 0).map_err(failed)?;
                    }
                    made
                }
                Err(Errno::ELOOP | Errno::ENOTDIR) => match &self.options.links {
                    // Only at the top itself is the way known; below a tree of ours are no links of others.
                    Links::InRoot(root, base) if self.root.is_none() => in_root(*root, &base.join(&way)),
                    _ => Err(Errno::ENOTDIR),
                },
                other => other,
            };
            at = match next {
                Err(Errno::ENOTDIR) => {
                    return Err(UnpackError::NotADirectory(
                        Shown(&way.into_os_string().into_encoded_bytes()).to_string(),
                    ));
                }
                other => other.map_err(failed)?,
            };
        }
        Ok(at)
    }

    /// Makes a directory unless there is one; returns whether it is new.
    fn directory(&self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<bool, UnpackError> {
        match mkdirat(dir, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => return Ok(true),
            Err(Errno::EEXIST) => {}
            Err(source) => return Err(call("mkdir", name, source)),
        }
        let stat = stat(dir, name).map_err(|source| call("stat", name, source))?;
        match kind(&stat) {
            SFlag::S_IFDIR => return Ok(false),
            SFlag::S_IFLNK if self.leads_to_directory(dir, name) => return Ok(false),
            _ if !self.options.overwrite => return Err(UnpackError::NotADirectory(shown(name, entry))),
            _ => {}
        }
        unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map_err(|source| call("unlink", name, source))?;
        mkdirat(dir, name, Mode::from_bits_truncate(0o700)).map_err(|source| call("mkdir", name, source))?;
        Ok(true)
    }

    /// Whether a link directly in the directory that is unpacked into leads to a directory of the container.
    fn leads_to_directory(&self, dir: BorrowedFd<'_>, name: &[u8]) -> bool {
        let is_at_top = self.root.is_none() && same(dir, self.base);
        match &self.options.links {
            Links::InRoot(root, base) if is_at_top => in_root(*root, &base.join(bytes_path(name))).is_ok(),
            _ => false,
        }
    }

    /// Takes away what has the name of something new.
    fn clear(&self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR) if self.options.overwrite => {
                remove_tree(dir, name).map_err(|source| call("remove", &entry.path, source))
            }
            Err(Errno::EISDIR) => Err(UnpackError::IsADirectory(shown(name, entry))),
            Err(source) => Err(call("unlink", &entry.path, source)),
        }
    }

    fn file<R: Read>(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        contents: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        let open = |flags| {
            let flags = flags | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
            openat(dir, name, flags, Mode::from_bits_truncate(0o600))
        };
        let in_place = |flags| open(flags).map_err(|source| call("open", &entry.path, source));
        let (fd, is_new) = match stat(dir, name).map(|stat| kind(&stat)) {
            // `/dev/null`, `/dev/stdout` of the user's own.
            Ok(SFlag::S_IFCHR | SFlag::S_IFIFO) if matches!(self.options.owner, Owner::Us) => {
                (in_place(OFlag::empty())?, false)
            }
            _ => match self.clear(dir, name, entry) {
                // A mount point, such as /etc/hosts.
                Err(UnpackError::Call { source: Errno::EBUSY, .. }) => (in_place(OFlag::O_TRUNC)?, false),
                other => {
                    other?;
                    (in_place(OFlag::O_CREAT | OFlag::O_EXCL)?, true)
                }
            },
        };
        let mut end = 0;
        while let Some(chunk) = contents.next_chunk()? {
            write(&fd, chunk.bytes, chunk.offset, is_new).map_err(|source| call("write", &entry.path, source))?;
            end = chunk.offset + chunk.bytes.len() as u64;
        }
        if !is_new {
            return Ok(());
        }
        if end < entry.size {
            let size = i64::try_from(entry.size).map_err(|_| call("truncate", &entry.path, Errno::EFBIG))?;
            nix::unistd::ftruncate(&fd, size).map_err(|source| call("truncate", &entry.path, source))?;
        }
        self.finish_fd(fd.as_fd(), entry)
    }

    /// Owner, attributes, mode and time of an open file or directory, in the order in which none undoes another.
    fn finish_fd(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let (uid, gid) = self.owner(entry);
        if !matches!(self.options.owner, Owner::Us) {
            self.chown(fd, uid, gid).map_err(|source| call("chown", &entry.path, source))?;
        }
        let mask = if matches!(self.options.owner, Owner::Us) { 0o1777 } else { 0o7777 };
        fchmod(fd, Mode::from_bits_truncate(entry.mode & mask)).map_err(|source| call("chmod", &entry.path, source))?;
        let is_single = matches!(self.options.ids, IdPolicy::Single) && !matches!(self.options.owner, Owner::Us);
        if is_single && (uid, gid) != (0, 0) {
            let value = format!("{uid}:{gid}:0{:o}", entry.mode & 0o7777);
            xattr::set(fd, OVERRIDE_XATTR, value.as_bytes()).map_err(|source| call("setxattr", &entry.path, source))?;
        }
        for (name, value) in &entry.xattrs {
            let store: [&[u8]; 4] = [b"user.overlay.", b"user.containers.", b"user.fuseoverlayfs.", b"user.coracle."];
            let is_user = name.starts_with(b"user.") && !store.iter().any(|prefix| name.starts_with(prefix));
            let is_capability = name == b"security.capability" && !matches!(self.options.owner, Owner::Us);
            if let Ok(name) = CString::new(name.as_slice())
                && (is_user || is_capability)
            {
                // A file system without them has none.
                let _ = xattr::set(fd, &name, value);
            }
        }
        futimens(fd, &TimeSpec::UTIME_OMIT, &time(entry)).map_err(|source| call("utimens", &entry.path, source))
    }

    /// The same of what cannot be opened.
    fn finish_at(&self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        if let (Owner::Fixed(..) | Owner::Archive, IdPolicy::Mapped(_)) = (&self.options.owner, self.options.ids) {
            let (uid, gid) = self.owner(entry);
            let (uid, gid) = self.on_disk(uid, gid).map_err(|source| call("chown", &entry.path, source))?;
            fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|source| call("chown", &entry.path, source))?;
        }
        utimensat(dir, name, &TimeSpec::UTIME_OMIT, &time(entry), UtimensatFlags::NoFollowSymlink)
            .map_err(|source| call("utimens", &entry.path, source))
    }

    fn owner(&self, entry: &Entry) -> (u32, u32) {
        match self.options.owner {
            Owner::Us => (0, 0),
            Owner::Fixed(uid, gid) => (uid, gid),
            Owner::Archive => (entry.uid, entry.gid),
        }
    }

    fn on_disk(&self, uid: u32, gid: u32) -> nix::Result<(Uid, Gid)> {
        let owner = self.options.ids.owner(uid, gid).ok_or(Errno::EINVAL)?;
        Ok((Uid::from_raw(owner.uid), Gid::from_raw(owner.gid)))
    }

    fn chown(&self, fd: BorrowedFd<'_>, uid: u32, gid: u32) -> nix::Result<()> {
        let IdPolicy::Mapped(_) = self.options.ids else { return Ok(()) };
        let (uid, gid) = self.on_disk(uid, gid)?;
        fchown(fd, Some(uid), Some(gid))
    }

    fn chown_path(&self, fd: &OwnedFd, uid: u32, gid: u32) -> nix::Result<()> {
        let IdPolicy::Mapped(_) = self.options.ids else { return Ok(()) };
        let (uid, gid) = self.on_disk(uid, gid)?;
        fchownat(fd, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
    }

    /// Directories from the deepest up.
    fn finish(&mut self) -> Result<(), UnpackError> {
        while let Some((parts, entry)) = self.new_dirs.pop() {
            let mut at = self.top().try_clone_to_owned().map_err(|_| call("open", &entry.path, Errno::EMFILE))?;
            // Later entries may have replaced it: then there is nothing to describe.
            let found = match parts.split_last() {
                None => open_readable(at.as_fd(), b"."),
                Some((name, parents)) => {
                    let parts: Vec<&[u8]> = parents.iter().map(Vec::as_slice).collect();
                    at = self.parent(&parts, &entry.path)?;
                    open_readable(at.as_fd(), name)
                }
            };
            if let Ok(fd) = found {
                self.finish_fd(fd.as_fd(), &entry)?;
            }
        }
        Ok(())
    }
}

/// Components of a name as text; one that climbs out is refused, an absolute one stays beneath.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) || parts.len() > MAX_DEPTH {
        return Err(UnpackError::Escapes(Shown(path).to_string()));
    }
    Ok(parts)
}

fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn open_readable(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// A directory as the container sees it.
fn in_root(root: BorrowedFd<'_>, path: &std::path::Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn bytes_path(name: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(name))
}

fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<FileStat> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    let of = |fd| nix::sys::stat::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((of(a), of(b)), (Ok(a), Ok(b)) if a == b)
}

/// At an offset, or, where there is none (a terminal, a pipe), in order.
fn write(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64, by_offset: bool) -> nix::Result<()> {
    while !bytes.is_empty() {
        let written = match by_offset {
            true => nix::sys::uio::pwrite(fd, bytes, i64::try_from(offset).map_err(|_| Errno::EFBIG)?),
            false => nix::unistd::write(fd, bytes),
        };
        let written = match written {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        bytes = bytes.get(written..).unwrap_or_default();
        offset += written as u64;
    }
    Ok(())
}

fn time(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime.secs, i64::from(entry.mtime.nanos))
}

/// The name of an entry, or the one that its top was given.
fn shown(name: &[u8], entry: &Entry) -> String {
    if matches!(entry.path.as_slice(), b"./" | b".") { Shown(name).to_string() } else { Shown(&entry.path).to_string() }
}

fn call(call: &'static str, path: &[u8], source: Errno) -> UnpackError {
    UnpackError::Call { call, path: Shown(path).to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::super::tar::{Timestamp, Writer};
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn entry(path: &str, kind: EntryKind, link: &str, size: u64) -> Entry {
        Entry {
            path: path.into(),
            link: link.into(),
            kind,
            mode: 0o6755,
            uid: 5,
            gid: 6,
            size,
            mtime: Timestamp { secs: 1, nanos: 0 },
            device: (0, 0),
            xattrs: Vec::new(),
            data_offset: 0,
            stored_bytes: size,
            sparse: false,
        }
    }

    /// Unpacks on the host an archive of links (with a target) and files (without).
    fn on_host(
        dir: &std::path::Path,
        name: Option<&str>,
        entries: &[(&str, EntryKind, &str)],
    ) -> Result<u64, UnpackError> {
        let mut writer = Writer::new(Vec::new());
        for (path, kind, link) in entries {
            let contents = if *kind == EntryKind::File { &b"evil"[..] } else { b"" };
            writer.append(&entry(path, *kind, link, contents.len() as u64), contents).unwrap();
        }
        let tar = writer.finish().unwrap();
        let ids = IdPolicy::identity();
        let options = Options { owner: Owner::Us, ids: &ids, links: Links::Refused, overwrite: true };
        unpack(tar.as_slice(), fs::File::open(dir).unwrap().as_fd(), name.map(str::as_bytes), &options)
    }

    #[test]
    fn hostile_archive_stays_beneath_its_directory() {
        use EntryKind::{Directory, File, Hardlink, Symlink};
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        let before = fs::metadata(outside.path()).unwrap().permissions().mode();
        let (out, file) = (outside.path().to_str().unwrap(), victim.to_str().unwrap());
        let attacks: &[&[(&str, EntryKind, &str)]] = &[
            &[("../victim", File, "")],
            &[("a/../../victim", File, "")],
            &[("l", Symlink, out), ("l/victim", File, "")],
            &[("d", Directory, ""), ("d/l", Symlink, out), ("d/l/victim", File, "")],
            &[("l", Symlink, file), ("l", File, "")],
            &[("l", Symlink, out), ("h", Hardlink, "l/victim"), ("h", File, "")],
            &[("h", Hardlink, "../victim")],
            &[("h", Hardlink, file)],
            &[("d", Directory, ""), ("d", Symlink, out), ("d/victim", File, "")],
            &[("there/victim", File, "")],
            &[("there", Directory, ""), ("there/victim", File, "")],
            &[("", Symlink, out), ("victim", File, "")],
        ];
        for attack in attacks {
            for name in [None, Some("name")] {
                for begin in [&[][..], &[("./", Directory, "")][..]] {
                    let inside = tempfile::tempdir().unwrap();
                    symlink(outside.path(), inside.path().join("there")).unwrap();
                    let attack = [begin, *attack].concat();
                    let attack: Vec<_> = attack.into_iter().filter(|(path, ..)| !path.is_empty()).collect();
                    let outcome = on_host(inside.path(), name, &attack);
                    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched", "{attack:?} {outcome:?}");
                    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{attack:?} {outcome:?}");
                    let mode = fs::metadata(outside.path()).unwrap().permissions().mode();
                    assert_eq!(mode, before, "{attack:?}");
                }
            }
        }
    }

    #[test]
    fn set_id_bits_of_a_stranger_stay_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(on_host(dir.path(), Some("x"), &[("whatever/../name", EntryKind::File, "")]).unwrap(), 1);
        let metadata = fs::metadata(dir.path().join("x")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
    }
}
