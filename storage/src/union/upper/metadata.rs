//! Changes of what a file of the upper is, by its descriptor.

use super::acl;
use super::copy_up::Source;
use super::describe::{chmod, spec};
use super::marks::{Marks, visible_names};
use super::owners::{CAPABILITY_NAME, Recorded, kind_of};
use super::xattr_names::DiskName;
use super::{Made, Name, UpperLayer, failpoint};
use crate::layer::ids::{OVERRIDE_XATTR, Override};
use crate::sys::times::set_times;
use crate::sys::xattr;
use crate::union::attributes::{Changes, FileKind, InodeNo, NewTime, XattrMode};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::FileStat;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, ftruncate};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o010;

/// A file of the upper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// A descriptor of any kind; one for writing if the length is to change.
    pub(crate) file: BorrowedFd<'a>,
    /// What it is for the container.
    pub(crate) kind: FileKind,
    /// What the disk shows of it, if somebody has asked already; needed in single-id mode.
    pub(crate) stat: Option<&'a FileStat>,
    /// What stands on it.
    pub(crate) marks: &'a Marks,
    /// One of its names. In single-id mode a link, pipe or socket that is given away is replaced on disk by a regular
    /// file that can carry its owner.
    pub(crate) name: Option<(BorrowedFd<'a>, Name<'a>)>,
}

impl Target<'_> {
    fn stat(&self) -> nix::Result<FileStat> {
        match self.stat {
            Some(stat) => Ok(*stat),
            None => nix::sys::stat::fstat(self.file),
        }
    }
}

impl UpperLayer {
    fn recorded(&self, target: &Target<'_>) -> nix::Result<Recorded> {
        Ok(self.owners.recorded(&target.stat()?, target.marks))
    }

    /// Changes length, owner, mode and times, in this order. Returns what has replaced the file, if anything had to.
    ///
    /// A new owner takes setuid, setgid and capabilities from anything but a directory; so does a new length if the caller
    /// may not keep them.
    ///
    /// # Errors
    /// `EINVAL` for an owner that the disk has no number for; `EOPNOTSUPP` for a link's mode; else the kernel's errno.
    pub(crate) fn set_attributes(&self, target: &Target<'_>, changes: &Changes) -> nix::Result<Option<Made>> {
        if let Some(size) = changes.size {
            ftruncate(target.file, i64::try_from(size).map_err(|_| Errno::EFBIG)?)?;
        }
        if target.kind == FileKind::Symlink && changes.mode.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut replaced = None;
        if self.owners.is_single() {
            replaced = self.record_changes(target, changes)?;
        } else {
            self.set_owner_and_mode(target, changes)?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            match (&replaced, target.name) {
                (Some(_), Some((dir, name))) => {
                    let flags =
                        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_CLOEXEC;
                    let file = nix::fcntl::openat(dir, name.bytes(), flags, nix::sys::stat::Mode::empty())?;
                    set_times(std::os::fd::AsFd::as_fd(&file), &new_time(changes.atime), &new_time(changes.mtime))?;
                }
                _ => set_times(target.file, &new_time(changes.atime), &new_time(changes.mtime))?,
            }
        }
        Ok(replaced)
    }

    fn set_owner_and_mode(&self, target: &Target<'_>, changes: &Changes) -> nix::Result<()> {
        if changes.uid.is_some() || changes.gid.is_some() {
            let uid = changes.uid.map(|uid| self.owners.uid_on_disk(uid)).transpose()?;
            let gid = changes.gid.map(|gid| self.owners.gid_on_disk(gid)).transpose()?;
            // The kernel takes setuid, setgid and capabilities away by itself.
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            fchownat(target.file, c"", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        } else if changes.kill_privileges && changes.mode.is_none() {
            self.kill_privileges(target)?;
        }
        match changes.mode {
            Some(mode) => chmod(target.file, mode & 0o7777),
            None => Ok(()),
        }
    }

    /// The same where the truth stands in an xattr.
    fn record_changes(&self, target: &Target<'_>, changes: &Changes) -> nix::Result<Option<Made>> {
        let before = self.recorded(target)?;
        let is_given_away = changes.uid.is_some() || changes.gid.is_some();
        let mut after = Recorded {
            uid: changes.uid.unwrap_or(before.uid),
            gid: changes.gid.unwrap_or(before.gid),
            mode: changes.mode.map_or(before.mode, |mode| mode & 0o7777),
            ..before
        };
        if (is_given_away || changes.kill_privileges) && before.kind != FileKind::Directory {
            if changes.mode.is_none() {
                after.mode = without_privileges(before.mode);
            }
            remove_capabilities(target)?;
        }
        if after == before { Ok(None) } else { self.record(target, after) }
    }

    /// Writes down, in single-id mode, what a file is from now on.
    fn record(&self, target: &Target<'_>, after: Recorded) -> nix::Result<Option<Made>> {
        let Recorded { uid, gid, mode, kind, device } = after;
        let stat = target.stat()?;
        let on_disk = kind_of(stat.st_mode);
        let is_stand_in = on_disk == FileKind::File;
        // What is a regular file already may stay one.
        let wanted_on_disk = if is_stand_in { FileKind::File } else { self.owners.kind_on_disk(kind, uid, gid) };
        if wanted_on_disk != on_disk {
            return self.replace_by_stand_in(target, after).map(Some);
        }
        if !matches!(on_disk, FileKind::File | FileKind::Directory) {
            if on_disk != FileKind::Symlink && mode != stat.st_mode & 0o7777 {
                chmod(target.file, mode)?;
            }
            return Ok(None);
        }
        let disk_mode = self.owners.mode_on_disk(mode, kind);
        let is_told = self.owners.override_for(uid, gid, mode, kind, device).is_none() && kind == on_disk;
        let stays = stat.st_mode & 0o7777 == disk_mode;
        // The xattr is what counts while there is one: it comes first and goes last.
        if !is_told {
            let flag = (kind != on_disk).then(|| kind.to_flag());
            let value = Override { uid, gid, mode, kind: flag, device }.to_value();
            xattr::set(target.file, OVERRIDE_XATTR, value.as_bytes())?;
            failpoint::pass("record.xattr")?;
        }
        if !stays {
            chmod(target.file, disk_mode)?;
            failpoint::pass("record.mode")?;
        }
        if is_told {
            xattr::remove(target.file, OVERRIDE_XATTR)?;
        }
        Ok(None)
    }

    fn replace_by_stand_in(&self, target: &Target<'_>, after: Recorded) -> nix::Result<Made> {
        let (dir, name) = target.name.ok_or(Errno::EOPNOTSUPP)?;
        let stat = target.stat()?;
        let contents = match kind_of(stat.st_mode) {
            FileKind::Symlink => readlinkat(dir, name.bytes())?,
            _ => Default::default(),
        };
        let mut attributes = self.owners.attributes(InodeNo(0), &stat, target.marks);
        let Recorded { uid, gid, mode, kind, device } = after;
        (attributes.uid, attributes.gid, attributes.mode, attributes.kind, attributes.rdev) =
            (uid, gid, mode, kind, device);
        let source =
            Source { attributes: &attributes, data: None, target: contents.as_bytes(), xattrs: &[], origin: None };
        self.replace_by(dir, name, &source)
    }

    /// Takes setuid, and setgid of what the group may execute, from a file, as a write by an ordinary user does. (The
    /// kernel takes capabilities away at every write and truncation, whoever does it.) Says whether the mode has changed;
    /// costs nothing if not.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn kill_privileges(&self, target: &Target<'_>) -> nix::Result<bool> {
        let before = self.recorded(target)?;
        if before.kind == FileKind::Directory {
            return Ok(false);
        }
        let mode = without_privileges(before.mode);
        if mode == before.mode {
            return Ok(false);
        }
        if self.owners.is_single() {
            self.record(target, Recorded { mode, ..before })?;
        } else {
            chmod(target.file, mode)?;
        }
        Ok(true)
    }

    /// The value of an attribute as the container sees it.
    ///
    /// # Errors
    /// `ENODATA` for what is not there or hidden; else the kernel's errno.
    pub(crate) fn xattr(&self, target: &Target<'_>, name: &[u8]) -> nix::Result<Vec<u8>> {
        match DiskName::of(name, self.owners.is_single())? {
            DiskName::Hidden => Err(Errno::ENODATA),
            DiskName::Override => Ok(self.recorded(target)?.to_value().into_bytes()),
            DiskName::Plain(on_disk) => {
                let value = xattr::get(target.file, &on_disk)?;
                Ok(self.owners.xattr_in_container(name, value))
            }
        }
    }

    /// The names of all attributes that the container sees, each with its terminating zero.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn xattr_names(&self, target: &Target<'_>) -> nix::Result<Vec<u8>> {
        visible_names(target.file)
    }

    /// Sets an attribute; `clear_setgid` takes the setgid bit as well (an access list set by someone outside the group).
    /// Returns what has replaced the file, if anything had to.
    ///
    /// # Errors
    /// `EPERM` for hidden names; else the kernel's errno.
    pub(crate) fn set_xattr(
        &self,
        target: &Target<'_>,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        clear_setgid: bool,
    ) -> nix::Result<Option<Made>> {
        let on_disk = match DiskName::of(name, self.owners.is_single())? {
            DiskName::Hidden => return Err(Errno::EPERM),
            DiskName::Override => return self.set_override(target, value),
            DiskName::Plain(on_disk) => on_disk,
        };
        let value = self.owners.xattr_to_disk(name, value.to_vec())?;
        let flags = match mode {
            XattrMode::Any => 0,
            XattrMode::Create => libc::XATTR_CREATE,
            XattrMode::Replace => libc::XATTR_REPLACE,
        };
        xattr::set_with(target.file, &on_disk, &value, flags)?;
        if clear_setgid && name == acl::ACCESS_NAME && target.stat()?.st_mode & SET_GID != 0 {
            // The list has changed the permission bits: read them again.
            let mode = nix::sys::stat::fstatat(target.file, c"", AtFlags::AT_EMPTY_PATH)?.st_mode;
            chmod(target.file, mode & 0o7777 & !SET_GID)?;
        }
        Ok(None)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `ENODATA` for what is not there or hidden; else the kernel's errno.
    pub(crate) fn remove_xattr(&self, target: &Target<'_>, name: &[u8]) -> nix::Result<()> {
        match DiskName::of(name, self.owners.is_single())? {
            DiskName::Hidden => Err(Errno::ENODATA),
            DiskName::Override => Err(Errno::EPERM),
            DiskName::Plain(on_disk) => xattr::remove_existing(target.file, &on_disk),
        }
    }

    /// Takes the value's owner, as a chown does: the mode is changed by chmod, and may have been meanwhile. A file stays
    /// the kind that it is: whoever knows it, the kernel first, never asks again.
    fn set_override(&self, target: &Target<'_>, value: &[u8]) -> nix::Result<Option<Made>> {
        let wanted = Override::parse(value).ok_or(Errno::EINVAL)?;
        let before = self.recorded(target)?;
        if wanted.kind.is_some_and(|flag| (kind_of(flag.bits()), wanted.device) != (before.kind, before.shown_device()))
        {
            return Err(Errno::EINVAL);
        }
        let changes = Changes { uid: Some(wanted.uid), gid: Some(wanted.gid), ..Changes::default() };
        self.record_changes(target, &changes)
    }
}

fn without_privileges(mode: u32) -> u32 {
    let set_gid = if mode & GROUP_EXECUTES != 0 { SET_GID } else { 0 };
    mode & !(SET_UID | set_gid)
}

fn remove_capabilities(target: &Target<'_>) -> nix::Result<()> {
    if kind_of(target.stat()?.st_mode) != FileKind::File {
        return Ok(());
    }
    let Ok(name) = std::ffi::CString::new(CAPABILITY_NAME) else { return Ok(()) };
    // To remove it takes a privilege even where there is none.
    match xattr::find(target.file, &name)? {
        Some(_) => xattr::remove(target.file, &name),
        None => Ok(()),
    }
}

fn new_time(time: Option<NewTime>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(NewTime::Now) => TimeSpec::UTIME_NOW,
        Some(NewTime::At(time)) => spec(time),
    }
}
