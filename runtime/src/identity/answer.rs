//! What each call is answered with.
//!
//! Calls that ask for owners, make files or execute are the kernel's whenever something does not add up: it gives the
//! error that belongs to it, or an answer that is right but for the owner. Calls that set ids and owners are ours alone.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::attributes::{Layout, narrow};
use super::call::{Call, Place, Width};
use super::credentials::{Change, Credentials, KEEP, Kind};
use super::files;
use super::serve::Outcome;
use super::target::{Target, status_of};
use crate::process::pidfd_open;
use crate::sys::notify;

/// `NGROUPS_MAX`.
const MAX_GROUPS: u32 = 65_536;
const INFINITY: [u8; 16] = [0xff; 16];
/// `CLONE_NEWNS | CLONE_NEWUSER`.
const MOVING: u64 = 0x1002_0000;

/// Decides how a call ends.
pub(super) fn outcome(target: &mut Target<'_>) -> Result<Outcome, Errno> {
    let Some(call) = target.surroundings.calls.find(target.call.arch, target.call.number) else {
        return Ok(Outcome::Continue);
    };
    let credentials = target.surroundings.table.of(target.call.pid)?;
    let continued = |result: Result<Outcome, Errno>| result.or(Ok(Outcome::Continue));
    match call {
        Call::SetOne(kind, width) => set(target, &credentials, kind, width, Change::One(id(target, 0, width))),
        Call::SetTwo(kind, width) => {
            let change = Change::Two(id(target, 0, width), id(target, 1, width));
            set(target, &credentials, kind, width, change)
        }
        Call::SetThree(kind, width) => {
            let change = Change::Three(id(target, 0, width), id(target, 1, width), id(target, 2, width));
            set(target, &credentials, kind, width, change)
        }
        Call::SetFilesystem(kind, width) => {
            set(target, &credentials, kind, width, Change::Filesystem(id(target, 0, width)))
        }
        Call::SetGroups(width) => set_groups(target, &credentials, width),
        Call::GetReal(kind, width) => Ok(value(credentials.ids(kind).real, width)),
        Call::GetEffective(kind, width) => Ok(value(credentials.ids(kind).effective, width)),
        Call::GetThree(kind, width) => {
            let ids = credentials.ids(kind);
            for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
                write_ids(target, target.word(index), &[id], width)?;
            }
            Ok(Outcome::Value(0))
        }
        Call::GetGroups(width) => get_groups(target, &credentials, width),
        Call::SetOwner { place, first, width } => {
            target.enter(credentials.moved)?;
            let (user, group) = (id(target, first, width), id(target, first + 1, width));
            files::set_owner(target, &credentials, place, user, group)
        }
        Call::GetOwner { place, layout, out } => continued(get_owner(target, &credentials, place, layout, out)),
        Call::Statx => continued(statx(target, &credentials)),
        Call::Open { .. } | Call::Openat2 | Call::Creat if credentials.makes_files_of_root() => Ok(Outcome::Continue),
        Call::MakeDirectory { .. } | Call::MakeNode { .. } | Call::MakeLink { .. }
            if credentials.makes_files_of_root() =>
        {
            Ok(Outcome::Continue)
        }
        Call::Open { .. } | Call::Openat2 | Call::Creat => {
            target.enter(credentials.moved)?;
            continued(files::open(target, &credentials, call))
        }
        Call::MakeDirectory { .. } | Call::MakeNode { .. } | Call::MakeLink { .. } => {
            target.enter(credentials.moved)?;
            continued(files::make(target, &credentials, call))
        }
        Call::Execute { at } => continued(execute(target, &credentials, at)),
        Call::Move => mark_moved(target, &credentials),
        Call::GetLimit => {
            target.write(target.word(1), &INFINITY)?;
            Ok(Outcome::Value(0))
        }
        Call::SetLimit => Ok(Outcome::Value(0)),
        Call::GetAndSetLimit => {
            if target.word(3) != 0 {
                target.write(target.word(3), &INFINITY)?;
            }
            Ok(Outcome::Value(0))
        }
        Call::PeerCredentials => continued(peer_credentials(target)),
    }
}

/// An id among the arguments.
fn id(target: &Target<'_>, index: usize, width: Width) -> u32 {
    widened(target.int(index), width)
}

fn widened(id: u32, width: Width) -> u32 {
    match width {
        Width::Wide => id,
        Width::Narrow if id & 0xffff == 0xffff => KEEP,
        Width::Narrow => id & 0xffff,
    }
}

fn value(id: u32, width: Width) -> Outcome {
    Outcome::Value(match width {
        Width::Wide => id.into(),
        Width::Narrow => narrow(id).into(),
    })
}

fn write_ids(target: &Target<'_>, address: u64, ids: &[u32], width: Width) -> Result<(), Errno> {
    let bytes: Vec<u8> = match width {
        Width::Wide => ids.iter().flat_map(|id| id.to_ne_bytes()).collect(),
        Width::Narrow => ids.iter().flat_map(|id| narrow(*id).to_ne_bytes()).collect(),
    };
    if bytes.is_empty() { Ok(()) } else { target.write(address, &bytes) }
}

fn set(
    target: &Target<'_>,
    credentials: &Credentials,
    kind: Kind,
    width: Width,
    change: Change,
) -> Result<Outcome, Errno> {
    let (new, old) = credentials.changed(kind, change)?;
    store(target, credentials, new)?;
    // What `setfsuid` returns is an id.
    Ok(value(old as u32, width))
}

/// Gives the caller its new credentials, if they are new.
fn store(target: &Target<'_>, old: &Credentials, new: Credentials) -> Result<(), Errno> {
    if new == *old {
        return Ok(());
    }
    target.still_waits()?;
    target.surroundings.table.set(target.call.pid, new)
}

fn set_groups(target: &Target<'_>, credentials: &Credentials, width: Width) -> Result<Outcome, Errno> {
    let count = target.int(0);
    if !credentials.is_privileged() {
        return Err(Errno::EPERM);
    }
    if count > MAX_GROUPS {
        return Err(Errno::EINVAL);
    }
    let size = if width == Width::Wide { 4 } else { 2 };
    let mut bytes = vec![0; count as usize * size];
    if count > 0 {
        match target.read(target.word(1), &mut bytes) {
            Err(Errno::EPERM) => {
                let groups = target.announced_groups();
                if groups.len() != count as usize {
                    return Err(Errno::EPERM);
                }
                bytes = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
            }
            other => other?,
        }
    }
    let groups = bytes.chunks_exact(size).map(|bytes| match *bytes {
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
        [a, b] => widened(u16::from_ne_bytes([a, b]).into(), Width::Narrow),
        _ => KEEP,
    });
    let groups: Vec<u32> = groups.collect();
    if groups.contains(&KEEP) {
        return Err(Errno::EINVAL);
    }
    store(target, credentials, credentials.with_additional(groups)?)?;
    Ok(Outcome::Value(0))
}

fn get_groups(target: &Target<'_>, credentials: &Credentials, width: Width) -> Result<Outcome, Errno> {
    let count = credentials.additional.len();
    match usize::try_from(target.int(0) as i32) {
        Err(_) => Err(Errno::EINVAL),
        Ok(0) => Ok(Outcome::Value(count as i64)),
        Ok(room) if room < count => Err(Errno::EINVAL),
        Ok(_) => {
            write_ids(target, target.word(1), &credentials.additional, width)?;
            Ok(Outcome::Value(count as i64))
        }
    }
}

/// The file that a call is about, opened without being opened.
pub(super) fn file(target: &Target<'_>, place: Place) -> Result<OwnedFd, Errno> {
    match place {
        Place::Descriptor => target.descriptor(target.int(0)),
        Place::Path { path, follow } => target.resolve(libc::AT_FDCWD as u32, &target.path(path)?, follow),
        Place::At { dir, flags } => {
            let flags = flags.map_or(0, |index| target.int(index) as i32);
            named(target, dir, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
        }
    }
}

fn named(target: &Target<'_>, dir: usize, flags: i32, follow: bool) -> Result<OwnedFd, Errno> {
    let empty = flags & libc::AT_EMPTY_PATH != 0;
    // `statx` and its kin take a null pointer for an empty path since Linux 6.11.
    let path = if empty && target.word(dir + 1) == 0 { CString::default() } else { target.path(dir + 1)? };
    match (path.is_empty(), empty) {
        (false, _) => target.resolve(target.int(dir), &path, follow),
        (true, true) if target.int(dir) as i32 == libc::AT_FDCWD => target.resolve(target.int(dir), &c".".into(), true),
        (true, true) => target.descriptor(target.int(dir)),
        (true, false) => Err(Errno::ENOENT),
    }
}

fn with_owner(target: &Target<'_>, fd: &OwnedFd, mut attributes: libc::statx) -> libc::statx {
    let owner = target.surroundings.owners.of(fd.as_fd(), &attributes);
    (attributes.stx_uid, attributes.stx_gid) = (owner.user, owner.group);
    attributes
}

fn get_owner(
    target: &mut Target<'_>,
    credentials: &Credentials,
    place: Place,
    layout: Layout,
    out: usize,
) -> Result<Outcome, Errno> {
    target.enter(credentials.moved)?;
    let fd = file(target, place)?;
    let attributes = with_owner(target, &fd, notify::statx(fd.as_fd(), 0, libc::STATX_BASIC_STATS)?);
    target.write(target.word(out), &layout.encode(&attributes)?)?;
    Ok(Outcome::Value(0))
}

fn statx(target: &mut Target<'_>, credentials: &Credentials) -> Result<Outcome, Errno> {
    target.enter(credentials.moved)?;
    let flags = target.int(2) as i32;
    let fd = named(target, 0, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?;
    let mask = target.int(3) | libc::STATX_BASIC_STATS;
    let flags = flags & (libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC);
    let attributes = with_owner(target, &fd, notify::statx(fd.as_fd(), flags, mask)?);
    target.write(target.word(4), notify::bytes_of_statx(&attributes))?;
    Ok(Outcome::Value(0))
}

/// Set-id bits take effect as the call goes on. Should the kernel find then that it cannot execute the file, the process
/// has them all the same.
fn execute(target: &mut Target<'_>, credentials: &Credentials, at: bool) -> Result<Outcome, Errno> {
    target.enter(credentials.moved)?;
    let fd = match at {
        true => {
            let flags = target.int(4) as i32;
            named(target, 0, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?
        }
        false => file(target, Place::Path { path: 0, follow: true })?,
    };
    let attributes = notify::statx(fd.as_fd(), 0, libc::STATX_BASIC_STATS)?;
    let mode = u32::from(attributes.stx_mode);
    let is_set_user = mode & libc::S_ISUID != 0;
    let is_set_group = mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP;
    let is_program = mode & libc::S_IFMT == libc::S_IFREG;
    let new = match is_program && (is_set_user || is_set_group) && target.status("NoNewPrivs")? == "0" {
        true => {
            let owner = target.surroundings.owners.of(fd.as_fd(), &attributes);
            credentials.executed(is_set_user.then_some(owner.user), is_set_group.then_some(owner.group))
        }
        false => credentials.executed(None, None),
    };
    store(target, credentials, new)?;
    Ok(Outcome::Continue)
}

/// From now on paths of this process and its children may begin at another root.
fn mark_moved(target: &Target<'_>, credentials: &Arc<Credentials>) -> Result<Outcome, Errno> {
    let flags = match target.call.number {
        number if number == libc::SYS_clone3 as u32 => {
            let mut flags = [0; 8];
            target.read(target.word(0), &mut flags)?;
            u64::from_ne_bytes(flags)
        }
        number if number == libc::SYS_unshare as u32 => target.word(0),
        _ => MOVING,
    };
    if flags & MOVING != 0 && !credentials.moved {
        store(target, credentials, Credentials { moved: true, ..credentials.as_ref().clone() })?;
    }
    Ok(Outcome::Continue)
}

/// `SO_PEERCRED`: the process at the other end has the ids that it has here and now, not those of when it connected.
fn peer_credentials(target: &Target<'_>) -> Result<Outcome, Errno> {
    let mut length = [0; 4];
    target.read(target.word(4), &mut length)?;
    if u32::from_ne_bytes(length) < 12 {
        return Ok(Outcome::Continue);
    }
    let process: i32 = target.status("Tgid")?.parse().map_err(|_| Errno::ESRCH)?;
    let pidfd = pidfd_open(process)?;
    target.still_waits()?;
    let socket = notify::descriptor_of(pidfd.as_fd(), target.int(0) as i32)?;
    let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
    let pid = u32::try_from(peer.pid()).ok().filter(|pid| *pid > 0).ok_or(Errno::ESRCH)?;
    let ids = target.surroundings.table.of(pid)?;
    // The caller's pid namespace is as deep as its own list is long.
    let proc = target.surroundings.proc.as_fd();
    let depth = target.status("NSpid")?.split_whitespace().count();
    let numbers = status_of(proc, pid, "NSpid")?;
    let seen: u32 =
        numbers.split_whitespace().nth(depth.saturating_sub(1)).and_then(|pid| pid.parse().ok()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(12);
    for word in [seen, ids.users.effective, ids.groups.effective] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    target.write(target.word(3), &bytes)?;
    target.write(target.word(4), &12_u32.to_ne_bytes())?;
    Ok(Outcome::Value(0))
}
