//! Removal: nothing stays where no lower has the name, a whiteout where one has.

use super::work::{DIRECTORY, Temp};
use super::{Name, UpperLayer, failpoint, is_whiteout_at};
use crate::sys::xattr;
use crate::whiteout;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Who has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    /// The upper has a file or directory of that name.
    pub(crate) upper: bool,
    /// It would be seen again, in a lower, if the upper had nothing.
    pub(crate) lower: bool,
}

impl UpperLayer {
    /// Removes anything but a directory.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn remove_file(&self, dir: BorrowedFd<'_>, name: Name<'_>, presence: Presence) -> nix::Result<()> {
        match presence {
            Presence { lower: false, .. } => unlinkat(dir, name.bytes(), UnlinkatFlags::NoRemoveDir),
            Presence { upper: false, .. } => self.make_whiteout(dir, name.bytes()),
            Presence { .. } => {
                let temp = self.stage_whiteout(dir)?;
                failpoint::pass("remove.whiteout-made")?;
                temp.replace(dir, name.bytes())
            }
        }
    }

    /// Removes a directory whose merged view is empty; whiteouts in it go with it.
    ///
    /// # Errors
    /// `ENOTEMPTY` if the upper's directory has anything but whiteouts; else the kernel's errno.
    pub(crate) fn remove_directory(&self, dir: BorrowedFd<'_>, name: Name<'_>, presence: Presence) -> nix::Result<()> {
        match presence {
            Presence { upper: false, .. } => return self.make_whiteout(dir, name.bytes()),
            Presence { lower: false, .. } => match unlinkat(dir, name.bytes(), UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
                result => return result,
            },
            Presence { .. } => {}
        }
        check_only_whiteouts(dir, name.bytes())?;
        if presence.lower {
            let mut temp = self.stage_whiteout(dir)?;
            failpoint::pass("remove.whiteout-made")?;
            temp.exchange(dir, name.bytes())?;
            failpoint::pass("remove.exchanged")?;
        } else {
            let _gone = self.work.take(dir, name.bytes())?;
            failpoint::pass("remove.taken")?;
        }
        Ok(())
    }

    /// Makes a whiteout where the upper has nothing.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn make_whiteout(&self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        match mknodat(dir, name, SFlag::S_IFCHR, Mode::empty(), 0) {
            Err(errno) if is_refusal(errno) => {
                let mut temp = self.stage_whiteout(dir)?;
                failpoint::pass("remove.whiteout-made")?;
                temp.place(dir, name)
            }
            result => result,
        }
    }

    /// Makes a whiteout in the work directory, to be put into `dir`. In its xattr form that directory is marked first:
    /// the mark alone says nothing.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn stage_whiteout(&self, dir: BorrowedFd<'_>) -> nix::Result<Temp<'_>> {
        let device = self.work.make(|work, temp| mknodat(work, temp, SFlag::S_IFCHR, Mode::empty(), 0));
        match device {
            Ok((temp, ())) => return Ok(temp),
            Err(errno) if is_refusal(errno) => {}
            Err(errno) => return Err(errno),
        }
        self.stage_whiteout_file(dir)
    }

    pub(super) fn stage_whiteout_file(&self, dir: BorrowedFd<'_>) -> nix::Result<Temp<'_>> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let (temp, file) = self.work.make(|work, temp| openat(work, temp, flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        xattr::set(file.as_fd(), whiteout::WHITEOUT_XATTR, b"y")?;
        if xattr::find(dir, whiteout::OPAQUE_XATTR)?.is_none() {
            xattr::set(dir, whiteout::OPAQUE_XATTR, b"x")?;
        }
        Ok(temp)
    }

    /// Puts an empty directory in the place of one that has only whiteouts, so that a rename can replace it.
    ///
    /// # Errors
    /// As of [`remove_directory`](Self::remove_directory).
    pub(super) fn clear_directory(&self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        let old = check_only_whiteouts(dir, name)?;
        let (mut temp, new) = self.work.make(|work, temp| {
            mkdirat(work, temp, Mode::S_IRWXU)?;
            openat(work, temp, DIRECTORY, Mode::empty())
        })?;
        failpoint::pass("clear.made")?;
        let stat = fstat(&old)?;
        if (stat.st_uid, stat.st_gid) != self.us {
            super::describe::chown(new.as_fd(), (stat.st_uid, stat.st_gid))?;
        }
        super::describe::chmod(new.as_fd(), stat.st_mode & 0o7777)?;
        for attribute in xattr::list(old.as_fd())? {
            if let Some(value) = xattr::find(old.as_fd(), &attribute)? {
                xattr::set(new.as_fd(), &attribute, &value)?;
            }
        }
        whiteout::make_opaque(&new)?;
        failpoint::pass("clear.described")?;
        temp.exchange(dir, name)?;
        failpoint::pass("clear.exchanged")
    }
}

/// True if this file system or sandbox lets us make no devices at all.
pub(super) fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS | Errno::EOPNOTSUPP)
}

/// Opens a directory and checks that nothing in it is visible.
fn check_only_whiteouts(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    let opened = open_for_listing(dir, name)?;
    let stream = Dir::from_fd(openat(&opened, c".", DIRECTORY, Mode::empty())?)?;
    for entry in stream {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !is_whiteout_at(opened.as_fd(), name)? {
            return Err(Errno::ENOTEMPTY);
        }
    }
    Ok(opened)
}

/// Without privilege over it, a directory of ours may forbid us to read it.
fn open_for_listing(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    match openat(dir, name, DIRECTORY, Mode::empty()) {
        Err(Errno::EACCES) => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let closed = openat(dir, name, flags, Mode::empty())?;
            super::describe::chmod(closed.as_fd(), fstat(&closed)?.st_mode & 0o7777 | 0o500)?;
            openat(dir, name, DIRECTORY, Mode::empty())
        }
        opened => opened,
    }
}
