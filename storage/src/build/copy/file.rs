//! Files of the tree: how they are made, filled, and get owner, mode and time.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fchmod, fstat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, unlinkat};

use super::super::BuildError;
use super::super::tree::Node;
use super::shown;
use crate::layer::ids::{IdPolicy, OVERRIDE_XATTR};
use crate::layer::tar::{Timestamp, Xattr};
use crate::sys::xattr;

/// A file is read and written in one piece up to here; larger ones are worth asking for a clone.
const SMALL_BYTES: usize = 1 << 16;

/// Permission bits that a file gets when it is made.
const PLAIN_BITS: u32 = 0o777;

/// What a file made by us is like.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) xattrs: Vec<Xattr>,
}

impl Look {
    /// That of a file that is copied.
    pub(super) fn of(node: &Node, xattrs: Vec<Xattr>) -> Self {
        Self { mode: node.mode, uid: node.uid, gid: node.gid, mtime: node.mtime(), xattrs }
    }
}

/// A directory of the tree that is written into.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) fd: OwnedFd,
    /// What is made in it belongs to whoever makes it, and has the mode it is made with.
    is_plain: bool,
}

impl Room {
    pub(super) fn new(fd: OwnedFd) -> nix::Result<Self> {
        let hands_on = fstat(&fd)?.st_mode & libc::S_ISGID != 0
            || xattr::list(fd.as_fd())?.iter().any(|name| name.as_c_str() == c"system.posix_acl_default");
        Ok(Self { fd, is_plain: !hands_on })
    }

    /// Makes a regular file in place of whatever has the name and is no directory; [`dressed`](Self::dress) when it is
    /// full.
    pub(super) fn create(&self, name: &CStr, mode: u32) -> nix::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode & PLAIN_BITS);
        match openat(&self.fd, name, flags, mode) {
            Err(Errno::EEXIST) => {
                unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?;
                openat(&self.fd, name, flags, mode)
            }
            made => made,
        }
        .map(File::from)
    }

    /// Gives a file that was made here with its mode what it lacks of its look.
    pub(super) fn dress(&self, ids: &IdPolicy, file: &File, look: &Look, path: &[u8]) -> Result<(), BuildError> {
        let us = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let is_ours = ids.owner(look.uid, look.gid).is_some_and(|owner| (owner.uid, owner.gid) == us);
        let is_ready = self.is_plain && is_ours && *ids != IdPolicy::Single && look.mode & !PLAIN_BITS == 0;
        if !is_ready || !look.xattrs.is_empty() {
            return dress(ids, file.as_fd(), look, false, path);
        }
        futimens(file, &TimeSpec::UTIME_OMIT, &spec(look.mtime))
            .map_err(|source| BuildError::call("utimens", path, source))
    }
}

/// Copies what a file contains.
pub(super) fn copy_contents(source: &File, mut target: &File, stat: &FileStat) -> nix::Result<()> {
    let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    match usize::try_from(stat.st_size) {
        Ok(0) => Ok(()),
        Ok(len) if len <= SMALL_BYTES => {
            let mut contents = Vec::with_capacity(len);
            source.take(len as u64).read_to_end(&mut contents).map_err(errno)?;
            target.write_all(&contents).map_err(errno)
        }
        _ if crate::sys::clone::clone_file(source.as_fd(), target.as_fd()).is_ok() => Ok(()),
        _ => crate::volume::copy_data(source, target, stat.st_size),
    }
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> nix::Result<()> {
    use std::os::unix::fs::FileExt;
    file.write_all_at(bytes, offset).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// Owner first, which clears the set-id bits; the time last, which everything else changes.
pub(super) fn dress(
    ids: &IdPolicy,
    fd: BorrowedFd<'_>,
    look: &Look,
    is_directory: bool,
    path: &[u8],
) -> Result<(), BuildError> {
    let failed = |call: &'static str| move |source| BuildError::call(call, path, source);
    let Some(owner) = ids.owner(look.uid, look.gid) else { return Err(no_such_id(look, path)) };
    match fchown(fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid))) {
        Err(Errno::EINVAL | Errno::EPERM) => return Err(no_such_id(look, path)),
        done => done.map_err(failed("chown"))?,
    }
    let mode = ids.mode_on_disk(look.mode, is_directory);
    fchmod(fd, Mode::from_bits_truncate(mode)).map_err(failed("chmod"))?;
    for (name, value) in &look.xattrs {
        let Ok(name) = CString::new(name.as_slice()) else { continue };
        match xattr::set(fd, &name, value) {
            // A file system that has no such attributes keeps none.
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EPERM | Errno::EINVAL) => {}
            Err(errno) => return Err(failed("setxattr")(errno)),
        }
    }
    match ids.override_value(look.uid, look.gid, look.mode, is_directory) {
        Some(value) => xattr::set(fd, OVERRIDE_XATTR, value.as_bytes()).map_err(failed("setxattr"))?,
        None if *ids == IdPolicy::Single => xattr::remove(fd, OVERRIDE_XATTR).map_err(failed("removexattr"))?,
        None => {}
    }
    futimens(fd, &TimeSpec::UTIME_OMIT, &spec(look.mtime)).map_err(failed("utimens"))
}

/// As [`dress`] for what cannot be opened.
pub(super) fn dress_at(
    ids: &IdPolicy,
    dir: BorrowedFd<'_>,
    name: &CString,
    look: &Look,
    path: &[u8],
) -> Result<(), BuildError> {
    let failed = |call: &'static str| move |source| BuildError::call(call, path, source);
    let Some(owner) = ids.owner(look.uid, look.gid) else { return Err(no_such_id(look, path)) };
    let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
    match fchownat(dir, name.as_c_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::EINVAL | Errno::EPERM) => return Err(no_such_id(look, path)),
        done => done.map_err(failed("chown"))?,
    }
    utimensat(dir, name.as_c_str(), &TimeSpec::UTIME_OMIT, &spec(look.mtime), UtimensatFlags::NoFollowSymlink)
        .map_err(failed("utimens"))
}

fn no_such_id(look: &Look, path: &[u8]) -> BuildError {
    BuildError::NoSuchId { path: shown(path), uid: look.uid, gid: look.gid }
}

pub(super) fn spec(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.secs, i64::from(time.nanos))
}
