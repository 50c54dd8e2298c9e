//! Owners, modes, times and extended attributes of what was unpacked.

use super::{Applied, ApplyError, call, shown};
use crate::layer::ids::{IdPolicy, OVERRIDE_XATTR, Owner};
use crate::layer::index::Node;
use crate::layer::tar::{Entry, Timestamp, Xattr};
use crate::sys::xattr;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use std::ffi::CString;
use std::os::fd::BorrowedFd;

/// Bits that creation does not set: they need a chmod, after the chown that would clear them.
const SPECIAL: u32 = 0o7000;

/// The mode that directories have while they are filled.
const OPEN_DIRECTORY: u32 = 0o755;

/// The owner of what we make.
const US: Owner = Owner { uid: 0, gid: 0 };

pub(super) struct Metadata<'a> {
    ids: &'a IdPolicy,
    /// The process's umask. It is not ours to change (other threads create files too), so what it takes away is put
    /// back; a pulling process has 0 and pays nothing.
    umask: u32,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(ids: &'a IdPolicy) -> Self {
        Self { ids, umask: umask() }
    }

    pub(super) fn creation_mode(&self, entry: &Entry) -> Mode {
        Mode::from_bits_truncate(self.ids.mode_on_disk(entry.mode, false) & 0o777)
    }

    /// True if a file just made with [`Self::creation_mode`] lacks bits.
    pub(super) fn mode_is_unfinished(&self, entry: &Entry) -> bool {
        self.ids.mode_on_disk(entry.mode, false) & (SPECIAL | self.umask) != 0
    }

    pub(super) fn finish_mode(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), ApplyError> {
        if !self.mode_is_unfinished(entry) {
            return Ok(());
        }
        let mode = Mode::from_bits_truncate(self.ids.mode_on_disk(entry.mode, false));
        fchmod(fd, mode).map_err(|source| call("chmod", &entry.path, source))
    }

    /// Sets what a directory has but mode and time, over what an earlier entry of that name (`before`) may have set.
    pub(super) fn describe_directory(
        &self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        before: &Node,
        applied: &mut Applied,
    ) -> Result<Vec<Xattr>, ApplyError> {
        // One that no entry has described is as it was made: ours, whatever id the layer's root has on disk.
        let on_disk = if before.is_implicit { Some(US) } else { self.ids.owner(before.uid, before.gid) };
        let is_other_owner = on_disk != self.ids.owner(entry.uid, entry.gid);
        if is_other_owner && let IdPolicy::Mapped(_) = self.ids {
            self.chown(entry, true, |uid, gid| fchown(fd, uid, gid))?;
        }
        let old_names = before.xattrs().iter().filter_map(|(name, _)| CString::new(name.as_slice()).ok());
        for name in old_names.chain([OVERRIDE_XATTR.to_owned()]) {
            if !before.is_implicit {
                xattr::remove(fd, &name).map_err(|source| call("removexattr", &entry.path, source))?;
            }
        }
        let xattrs = self.set_xattrs(fd, entry, applied)?;
        self.set_override(fd, entry)?;
        Ok(xattrs)
    }

    /// Gives a directory that no entry describes to the layer's root, who may have another id than we.
    pub(super) fn own_implicit_at(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), ApplyError> {
        match self.ids.owner(0, 0) {
            Some(owner) if owner != US => {
                let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
                fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)
                    .map_err(|source| call("chown", name, source))
            }
            _ => Ok(()),
        }
    }

    /// True if a directory needs more than `mkdir` and its time.
    pub(super) fn directory_needs_fd(&self, entry: &Entry) -> bool {
        let is_ours = self.ids.owner(entry.uid, entry.gid).is_some_and(|owner| owner.uid == 0 && owner.gid == 0);
        let has_override = self.ids.override_value(entry.uid, entry.gid, entry.mode, true).is_some();
        !is_ours || has_override || !entry.xattrs.is_empty()
    }

    pub(super) fn directory_mode_differs(&self, node: &Node) -> bool {
        self.ids.mode_on_disk(u32::from(node.mode), true) != OPEN_DIRECTORY & !self.umask
    }

    /// Sets a directory's final mode; of the root also the time.
    pub(super) fn close_directory(&self, fd: BorrowedFd<'_>, node: &Node, is_root: bool) -> Result<(), ApplyError> {
        let name = b"directory";
        let mode = Mode::from_bits_truncate(self.ids.mode_on_disk(u32::from(node.mode), true));
        if is_root && node.is_implicit {
            self.own_implicit_at(fd, b"")?;
        }
        fchmod(fd, mode).map_err(|source| call("chmod", name, source))?;
        if is_root {
            futimens(fd, &TimeSpec::UTIME_OMIT, &spec(node.mtime())).map_err(|source| call("utimens", name, source))?;
        }
        Ok(())
    }

    pub(super) fn chown_fd(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), ApplyError> {
        self.chown(entry, false, |uid, gid| fchown(fd, uid, gid))
    }

    pub(super) fn chown_at(&self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), ApplyError> {
        self.chown(entry, false, |uid, gid| fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW))
    }

    fn chown(
        &self,
        entry: &Entry,
        even_to_us: bool,
        chown: impl FnOnce(Option<Uid>, Option<Gid>) -> nix::Result<()>,
    ) -> Result<(), ApplyError> {
        let outside = || ApplyError::IdOutsideMap { path: shown(entry), uid: entry.uid, gid: entry.gid };
        let owner = self.ids.owner(entry.uid, entry.gid).ok_or_else(outside)?;
        // We are 0:0, and so is all that we make: no directory has its set-group-id bit while it is filled.
        if owner.uid == 0 && owner.gid == 0 && !even_to_us {
            return Ok(());
        }
        match chown(Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid))) {
            Ok(()) => Ok(()),
            Err(Errno::EINVAL | Errno::EPERM) => Err(outside()),
            Err(source) => Err(call("chown", &entry.path, source)),
        }
    }

    /// Sets the extended attributes that an image may have and returns them.
    pub(super) fn set_xattrs(
        &self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        applied: &mut Applied,
    ) -> Result<Vec<Xattr>, ApplyError> {
        let mut kept = Vec::new();
        for (name, value) in &entry.xattrs {
            let c_name = CString::new(name.as_slice()).ok().filter(|_| is_allowed_xattr(self.ids, name));
            let Some(c_name) = c_name else {
                applied.dropped_xattrs += 1;
                continue;
            };
            match xattr::set(fd, &c_name, value) {
                // No room for it here (file system without xattrs, no privilege, nonsense in a capability).
                Ok(()) | Err(Errno::ENOTSUP | Errno::EPERM) => {}
                Err(Errno::EINVAL) if !name.starts_with(b"user.") => {}
                Err(source) => return Err(call("setxattr", &entry.path, source)),
            }
            kept.push((name.clone(), value.clone()));
        }
        Ok(kept)
    }

    pub(super) fn set_override(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), ApplyError> {
        let is_directory = entry.kind == crate::layer::tar::EntryKind::Directory;
        match self.ids.override_value(entry.uid, entry.gid, entry.mode, is_directory) {
            None => Ok(()),
            Some(value) => {
                xattr::set(fd, OVERRIDE_XATTR, value.as_bytes()).map_err(|source| call("setxattr", &entry.path, source))
            }
        }
    }

    pub(super) fn set_time_fd(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), ApplyError> {
        futimens(fd, &TimeSpec::UTIME_OMIT, &spec(entry.mtime)).map_err(|source| call("utimens", &entry.path, source))
    }

    pub(super) fn set_time_at(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        mtime: Timestamp,
        path: &[u8],
    ) -> Result<(), ApplyError> {
        utimensat(dir, name, &TimeSpec::UTIME_OMIT, &spec(mtime), UtimensatFlags::NoFollowSymlink)
            .map_err(|source| call("utimens", path, source))
    }
}

/// True for attributes that an image may bring. Those of overlay file systems and of stores decide what others see, and belong
/// to whoever makes the file system.
pub(crate) fn is_allowed_xattr(ids: &IdPolicy, name: &[u8]) -> bool {
    const RESERVED: [&[u8]; 4] = [b"user.overlay.", b"user.containers.", b"user.fuseoverlayfs.", b"user.coracle."];
    match name {
        b"security.capability" => true,
        // Entries of an ACL name ids, and only the identity leaves them true.
        b"system.posix_acl_access" | b"system.posix_acl_default" => match ids {
            IdPolicy::Mapped(map) => map.is_identity(),
            IdPolicy::Single => false,
        },
        _ => name.starts_with(b"user.") && !RESERVED.iter().any(|reserved| name.starts_with(reserved)),
    }
}

fn spec(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.secs, i64::from(time.nanos))
}

/// The umask of this thread; all bits if it cannot be known, so that every mode is set again.
pub(crate) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    value.and_then(|value| u32::from_str_radix(value.trim(), 8).ok()).unwrap_or(0o777)
}
