//! Calls that give files an owner: `chown` and its kin, and those that make files.
//!
//! A file that an emulated user makes is made here, for its owner to be recorded before anybody gets hold of it: the
//! kernel would say root. Files that root makes are the kernel's to make.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, mkdirat, mknodat, umask};

use super::answer::file;
use super::call::{Call, Place};
use super::credentials::{Credentials, KEEP};
use super::owner::{self, Owner, name_of};
use super::serve::{Outcome, Surroundings};
use super::target::{Position, Target, open_in};
use crate::sys::notify;

const AT_CWD: u32 = libc::AT_FDCWD as u32;

/// What an `open` that makes a file may have besides.
const KEPT_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DIRECT
    | libc::O_LARGEFILE
    | libc::O_NOATIME
    | libc::O_TRUNC
    | libc::O_NOCTTY;

/// Whether a thread's surroundings are what paths here rely on.
pub(super) fn check(surroundings: &Surroundings) -> Result<(), Errno> {
    let path = name_of(surroundings.root.as_fd());
    nix::sys::stat::stat(path.as_c_str()).map(drop)
}

/// `chown`.
pub(super) fn set_owner(
    target: &Target<'_>,
    credentials: &Credentials,
    place: Place,
    user: u32,
    group: u32,
) -> Result<Outcome, Errno> {
    let fd = match file(target, place) {
        Err(Errno::ENOENT | Errno::ELOOP) if names_a_descriptor(target, place) => return Ok(Outcome::Value(0)),
        other => other?,
    };
    let attributes = notify::statx(fd.as_fd(), 0, libc::STATX_BASIC_STATS)?;
    let old = target.surroundings.owners.of(fd.as_fd(), &attributes);
    let new = Owner {
        user: if user == KEEP { old.user } else { user },
        group: if group == KEEP { old.group } else { group },
    };
    if credentials.users.filesystem != 0 {
        let is_owner = old.user == credentials.users.filesystem;
        if !is_owner || new.user != old.user || new.group != old.group && !credentials.is_member(new.group) {
            return Err(Errno::EPERM);
        }
    }
    let mode = u32::from(attributes.stx_mode);
    let mut killed = libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        killed |= libc::S_ISGID;
    }
    if mode & libc::S_IFMT == libc::S_IFREG && mode & killed != 0 {
        let mode = Mode::from_bits_truncate(mode & 0o7777 & !killed);
        fchmodat(nix::fcntl::AT_FDCWD, name_of(fd.as_fd()).as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
    }
    if new != old {
        let attributes = notify::statx(fd.as_fd(), 0, libc::STATX_BASIC_STATS)?;
        owner::record(fd.as_fd(), &attributes, new)?;
    }
    Ok(Outcome::Value(0))
}

/// Whether a path leads through `/proc` to a descriptor of somebody: terminals and pipes, which have no owner.
fn names_a_descriptor(target: &Target<'_>, place: Place) -> bool {
    let index = match place {
        Place::Path { path, .. } => path,
        Place::At { dir, .. } => dir + 1,
        Place::Descriptor => return false,
    };
    let path = target.path(index).unwrap_or_default();
    [&b"/proc/"[..], b"/dev/fd/", b"/dev/std"].iter().any(|start| path.as_bytes().starts_with(start))
}

/// The owner of a file that is made in `parent`.
fn owner_in(target: &Target<'_>, credentials: &Credentials, parent: BorrowedFd<'_>) -> Result<Owner, Errno> {
    let attributes = notify::statx(parent, 0, libc::STATX_BASIC_STATS)?;
    let group = if u32::from(attributes.stx_mode) & libc::S_ISGID != 0 {
        target.surroundings.owners.of(parent, &attributes).group
    } else {
        credentials.groups.filesystem
    };
    Ok(Owner { user: credentials.users.filesystem, group })
}

fn record_new(fd: BorrowedFd<'_>, owner: Owner) -> Result<(), Errno> {
    let attributes = notify::statx(fd, 0, libc::STATX_BASIC_STATS)?;
    owner::record(fd, &attributes, owner)
}

/// Takes on the target's umask; this thread alone has it.
fn take_umask(target: &Target<'_>) -> Result<(), Errno> {
    let mask = u32::from_str_radix(&target.status("Umask")?, 8).map_err(|_| Errno::EINVAL)?;
    target.still_waits()?;
    umask(Mode::from_bits_truncate(mask));
    Ok(())
}

/// `open` and its kin, of a user other than root, with `O_CREAT` or `O_TMPFILE`. What exists is the kernel's to open.
pub(super) fn open(target: &Target<'_>, credentials: &Credentials, call: Call) -> Result<Outcome, Errno> {
    let (dir, path, flags, mode) = match call {
        Call::Open { at: false } => (AT_CWD, target.path(0)?, target.int(1), target.int(2)),
        Call::Creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            (AT_CWD, target.path(0)?, flags as u32, target.int(1))
        }
        Call::Openat2 => {
            let mut how = [0; 24];
            target.read(target.word(2), &mut how)?;
            let word = |index: usize| {
                let bytes = how.get(index * 8..).and_then(|rest| rest.first_chunk::<8>());
                bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
            };
            if word(2) != 0 {
                // It restricts how paths are resolved.
                return Ok(Outcome::Continue);
            }
            (target.int(0), target.path(1)?, word(0) as u32, word(1) as u32)
        }
        _ => (target.int(0), target.path(1)?, target.int(2), target.int(3)),
    };
    let flags = flags as i32;
    let close_on_exec = flags & libc::O_CLOEXEC != 0;
    let kept = OFlag::from_bits_truncate(flags & KEPT_FLAGS);
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    if flags & libc::O_PATH != 0 || path.as_bytes().last() == Some(&b'/') {
        return Ok(Outcome::Continue);
    }
    let (fd, owner) = if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        let parent = target.resolve(dir, &path, true)?;
        take_umask(target)?;
        let kept = kept | OFlag::from_bits_retain(flags & libc::O_EXCL);
        let fd = open_in(parent.as_fd(), &c".".into(), kept | OFlag::O_TMPFILE, mode)?;
        (fd, owner_in(target, credentials, parent.as_fd())?)
    } else if flags & libc::O_CREAT != 0 {
        let Some(Position { parent, name }) = target.position(dir, &path)? else { return Ok(Outcome::Continue) };
        let owner = owner_in(target, credentials, parent.as_fd())?;
        take_umask(target)?;
        (open_in(parent.as_fd(), &name, kept | OFlag::O_CREAT | OFlag::O_EXCL, mode)?, owner)
    } else {
        return Ok(Outcome::Continue);
    };
    record_new(fd.as_fd(), owner)?;
    Ok(Outcome::Descriptor { fd, close_on_exec })
}

/// `mkdir`, `mknod`, `symlink` of a user other than root.
pub(super) fn make(target: &Target<'_>, credentials: &Credentials, call: Call) -> Result<Outcome, Errno> {
    let place = |at: bool, path: usize| -> Result<_, Errno> {
        let dir = if at { target.int(path - 1) } else { AT_CWD };
        let path = target.path(path)?;
        let is_directory = path.as_bytes().last() == Some(&b'/');
        Ok(target.position(dir, &path)?.map(|position| (position, is_directory)))
    };
    let found = match call {
        Call::MakeDirectory { at } | Call::MakeNode { at } => place(at, usize::from(at))?,
        Call::MakeLink { at } => place(at, 1 + usize::from(at))?,
        _ => None,
    };
    let Some((Position { parent, name }, ends_in_slash)) = found else { return Ok(Outcome::Continue) };
    if ends_in_slash && !matches!(call, Call::MakeDirectory { .. }) {
        return Ok(Outcome::Continue);
    }
    let owner = owner_in(target, credentials, parent.as_fd())?;
    take_umask(target)?;
    match call {
        Call::MakeDirectory { at } => {
            let mode = Mode::from_bits_truncate(target.int(1 + usize::from(at)) & 0o7777);
            mkdirat(&parent, name.as_c_str(), mode)?;
        }
        Call::MakeNode { at } => {
            let mode = target.int(1 + usize::from(at));
            let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
            if !matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK) {
                return Ok(Outcome::Continue);
            }
            mknodat(&parent, name.as_c_str(), kind, Mode::from_bits_truncate(mode & 0o7777), 0)?;
        }
        _ => {
            let link = target.path(0)?;
            nix::unistd::symlinkat(link.as_c_str(), &parent, name.as_c_str())?;
        }
    }
    let made: OwnedFd = open_in(parent.as_fd(), &name, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
    // It is there, and so it succeeded, whatever becomes of its owner.
    let _ = record_new(made.as_fd(), owner);
    Ok(Outcome::Value(0))
}
