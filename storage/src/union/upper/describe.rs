//! Owner, mode, attributes and times of a file that is being made, in the order in which none undoes another.

use super::acl::{self, Inherited};
use super::marks::{Marks, ORIGIN, origin_value};
use super::xattr_names::{DiskName, OVERRIDE_NAME};
use super::{UpperLayer, failpoint};
use crate::layer::ids::OVERRIDE_XATTR;
use crate::sys::times::set_times;
use crate::sys::xattr;
use crate::union::attributes::{FileKind, InodeNo};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::SystemTime;

/// Permission bits that a chown takes away and that `mkdir` does not set.
pub(super) const SPECIAL: u32 = 0o7000;

/// How a file is to be in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Description<'a> {
    /// What the container sees.
    pub(super) kind: FileKind,
    /// Permission bits, at most `0o7777`.
    pub(super) mode: u32,
    /// The container's number of the owner.
    pub(super) uid: u32,
    /// The container's number of the group.
    pub(super) gid: u32,
    /// The group on disk, if another than `gid` says.
    pub(super) inherited_gid: Option<u32>,
    /// Number of a device.
    pub(super) device: u64,
    /// The container's names and values.
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// The access list that a directory gives to what is made in it.
    pub(super) access: Option<&'a [u8]>,
    /// The same, to be handed on by a new directory.
    pub(super) default: Option<&'a [u8]>,
    /// The number it had in its layer.
    pub(super) origin: Option<InodeNo>,
    /// Last access and last modification.
    pub(super) times: Option<(SystemTime, SystemTime)>,
}

impl UpperLayer {
    /// The owner on disk of what a description says.
    ///
    /// # Errors
    /// `EINVAL` if the disk has no number for it.
    pub(super) fn owner_on_disk(&self, description: &Description<'_>) -> nix::Result<(u32, u32)> {
        if self.owners.is_single() {
            return Ok(self.us);
        }
        let gid = match description.inherited_gid {
            Some(gid) => gid,
            None => self.owners.gid_on_disk(description.gid)?,
        };
        Ok((self.owners.uid_on_disk(description.uid)?, gid))
    }

    /// Describes a regular file or directory that was just made with `made_mode`, and says what stands on it.
    ///
    /// # Errors
    /// The kernel's errno. Attributes that this file system or user cannot have are left out, but never access lists.
    pub(super) fn describe(
        &self,
        file: BorrowedFd<'_>,
        made_mode: u32,
        wanted: &Description<'_>,
    ) -> nix::Result<Marks> {
        let mut marks = Marks::default();
        let owner = self.owner_on_disk(wanted)?;
        let is_chowned = owner != self.us;
        if is_chowned {
            chown(file, owner)?;
        }
        for (name, value) in wanted.xattrs {
            self.copy_xattr(file, name, value)?;
            marks.has_default_acl |= name == acl::DEFAULT_NAME;
        }
        failpoint::pass("describe.xattrs")?;
        if let Some(origin) = wanted.origin {
            match xattr::set(file, ORIGIN, origin_value(origin).to_bytes()) {
                Ok(()) => marks.origin = Some(origin),
                Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        let mode = self.owners.mode_on_disk(wanted.mode, wanted.kind);
        let has_access_list = wanted.xattrs.iter().any(|(name, _)| name == acl::ACCESS_NAME);
        if mode != made_mode || has_access_list || is_chowned && mode & SPECIAL != 0 {
            fchmod(file, Mode::from_bits_truncate(mode))?;
        }
        for (name, list) in [(acl::ACCESS, wanted.access), (acl::DEFAULT, wanted.default)] {
            if let Some(list) = list {
                xattr::set(file, name, list)?;
                marks.has_default_acl |= name == acl::DEFAULT;
            }
        }
        let Description { uid, gid, kind, device, .. } = *wanted;
        marks.override_stat = self.owners.override_for(uid, gid, wanted.mode, kind, device);
        if let Some(recorded) = marks.override_stat {
            xattr::set(file, OVERRIDE_XATTR, recorded.to_value().as_bytes())?;
        }
        if let Some((atime, mtime)) = wanted.times {
            set_times(file, &spec(atime), &spec(mtime))?;
        }
        failpoint::pass("describe.done")?;
        Ok(marks)
    }

    /// Describes a link, pipe, socket or device.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn describe_special(
        &self,
        file: BorrowedFd<'_>,
        made_mode: u32,
        wanted: &Description<'_>,
    ) -> nix::Result<()> {
        let owner = self.owner_on_disk(wanted)?;
        let is_chowned = owner != self.us;
        if is_chowned {
            chown(file, owner)?;
        }
        let is_link = wanted.kind == FileKind::Symlink;
        if !is_link && (wanted.mode != made_mode || is_chowned && wanted.mode & SPECIAL != 0) {
            chmod(file, wanted.mode)?;
        }
        for (name, value) in wanted.xattrs {
            self.copy_xattr(file, name, value)?;
        }
        if let Some((atime, mtime)) = wanted.times {
            set_times(file, &spec(atime), &spec(mtime))?;
        }
        failpoint::pass("describe.done")
    }

    fn copy_xattr(&self, file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> nix::Result<()> {
        let DiskName::Plain(on_disk) = DiskName::of(name, false)? else { return Ok(()) };
        if on_disk.to_bytes() == OVERRIDE_NAME {
            return Ok(());
        }
        let is_access_list = matches!(name, acl::ACCESS_NAME | acl::DEFAULT_NAME);
        let set = self.owners.xattr_to_disk(name, value.to_vec()).and_then(|value| xattr::set(file, &on_disk, &value));
        match set {
            // In single-id mode a list can name nobody else.
            Err(Errno::EOPNOTSUPP) if is_access_list && self.owners.is_single() => Ok(()),
            Err(Errno::EOPNOTSUPP | Errno::EPERM) if !is_access_list => Ok(()),
            result => result,
        }
    }

    /// What a directory's default list makes of a new file; `None` if it has none.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn inherited(&self, dir: BorrowedFd<'_>, mode: u32) -> nix::Result<Option<(Inherited, Vec<u8>)>> {
        let Some(default) = xattr::find(dir, acl::DEFAULT)? else { return Ok(None) };
        Ok(Some((acl::inherit(&default, mode)?, default)))
    }
}

/// Changes the owner of what a descriptor of any kind refers to.
pub(super) fn chown(file: BorrowedFd<'_>, (uid, gid): (u32, u32)) -> nix::Result<()> {
    fchownat(file, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_EMPTY_PATH)
}

/// Changes the mode of what a descriptor of any kind refers to.
pub(super) fn chmod(file: BorrowedFd<'_>, mode: u32) -> nix::Result<()> {
    let mode = Mode::from_bits_truncate(mode);
    match fchmod(file, mode) {
        // The kernel has no chmod for O_PATH; the link in /proc leads to exactly what was opened.
        Err(Errno::EBADF) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            fchmodat(nix::fcntl::AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink)
        }
        result => result,
    }
}

/// A time as the kernel takes it.
pub(super) fn spec(time: SystemTime) -> TimeSpec {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => TimeSpec::new(after.as_secs().cast_signed(), i64::from(after.subsec_nanos())),
        Err(before) => {
            let before = before.duration();
            let (secs, nanos) = (before.as_secs().cast_signed(), i64::from(before.subsec_nanos()));
            if nanos == 0 { TimeSpec::new(-secs, 0) } else { TimeSpec::new(-secs - 1, 1_000_000_000 - nanos) }
        }
    }
}

/// Times of a directory, to be put back after a change in it that the container must not see.
pub(super) fn times_of(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}
