//! Copy-up: a file of a lower becomes one of the upper.
//!
//! ```text
//! stage_copy   work/N: data, owner, attributes, times, to disk      slow, needs no lock on names
//! publish      rename work/N → upper/…/name                         one call
//! ```

use super::copy_data::copy_data;
use super::describe::{Description, spec, times_of};
use super::marks::Marks;
use super::work::{DIRECTORY, Temp};
use super::{Made, Name, UpperLayer, failpoint};
use crate::sys::times::set_times;
use crate::union::attributes::{Attributes, FileKind, InodeNo};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat, mkdirat, mknodat};
use nix::unistd::symlinkat;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

const TO_FILE: OFlag =
    OFlag::O_RDWR.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A file to be copied up, as its layer has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// Kind, mode, times, device number, and the true owner in the container's numbers (in single-id mode as well).
    pub(crate) attributes: &'a Attributes,
    /// A regular file's contents.
    pub(crate) data: Option<BorrowedFd<'a>>,
    /// A link's target.
    pub(crate) target: &'a [u8],
    /// Extended attributes, by the names and with the values that the container sees.
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// The number that the file had in its layer; it keeps it.
    pub(crate) origin: Option<InodeNo>,
}

impl<'a> Source<'a> {
    fn description(&self) -> Description<'a> {
        let Attributes { kind, mode, uid, gid, rdev, atime, mtime, .. } = *self.attributes;
        Description {
            kind,
            mode,
            uid,
            gid,
            inherited_gid: None,
            device: rdev,
            xattrs: self.xattrs,
            access: None,
            default: None,
            origin: self.origin,
            times: Some((atime, mtime)),
        }
    }
}

/// A copy that lies complete in the work directory. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    temp: Temp<'a>,
    filled: Filled,
}

/// What [`UpperLayer::fill`] made.
#[derive(Debug)]
pub(super) struct Filled {
    /// For reading, of a file also for writing; of anything else only a path.
    pub(super) fd: OwnedFd,
    pub(super) marks: Marks,
    /// Count of bytes that have to reach the disk.
    pub(super) bytes: u64,
    pub(super) kind_on_disk: FileKind,
}

impl UpperLayer {
    /// Copies a file of any kind to the work directory; a directory without its entries, and of a regular file the first
    /// `length` bytes (or zeros behind its end), if that is given.
    ///
    /// # Errors
    /// The kernel's errno; nothing is left then.
    pub(crate) fn stage_copy(&self, source: &Source<'_>, length: Option<u64>) -> nix::Result<Staged<'_>> {
        let (temp, filled) = self.work.make(|work, name| self.fill(work, name.to_bytes(), source, length))?;
        failpoint::pass("copy.staged")?;
        // An empty file and what has no contents are in the journal with their name.
        self.durability.secure(filled.fd.as_fd(), filled.bytes)?;
        failpoint::pass("copy.synced")?;
        Ok(Staged { temp, filled })
    }

    /// Makes `name` in a directory of the work directory what `source` says. What a failure leaves there goes with the
    /// temporary name that it lies under.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn fill(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        source: &Source<'_>,
        length: Option<u64>,
    ) -> nix::Result<Filled> {
        let wanted = source.description();
        let kind_on_disk = self.owners.kind_on_disk(wanted.kind, wanted.uid, wanted.gid);
        let mode = self.mode_to_make(kind_on_disk, wanted.mode);
        let made_mode = mode.bits() & !self.umask;
        let fd = match kind_on_disk {
            FileKind::File => openat(dir, name, TO_FILE, mode)?,
            FileKind::Directory => {
                mkdirat(dir, name, mode)?;
                openat(dir, name, DIRECTORY, Mode::empty())?
            }
            kind => {
                match kind {
                    FileKind::Symlink => symlinkat(OsStr::from_bytes(source.target), dir, name)?,
                    kind => mknodat(dir, name, kind.to_flag(), mode, wanted.device)?,
                }
                openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?
            }
        };
        failpoint::pass("copy.made")?;
        let mut bytes = 0;
        if kind_on_disk == FileKind::File {
            match source.data {
                Some(data) if length != Some(0) => bytes = copy_data(data, fd.as_fd(), length, &self.can_clone)?,
                Some(_) => {}
                // In single-id mode a link's target is its contents, and other special files are empty.
                None => write_all(fd.as_fd(), source.target)?,
            }
        }
        let marks = match kind_on_disk {
            FileKind::File | FileKind::Directory => self.describe(fd.as_fd(), made_mode, &wanted)?,
            _ => {
                self.describe_special(fd.as_fd(), made_mode, &wanted)?;
                Marks::default()
            }
        };
        Ok(Filled { fd, marks, bytes, kind_on_disk })
    }

    /// The mode to make something with in the work directory, where nobody else sees it: the last one if that lets us go
    /// on and can be given at once.
    pub(super) fn mode_to_make(&self, kind_on_disk: FileKind, mode: u32) -> Mode {
        let mode = self.owners.mode_on_disk(mode, kind_on_disk);
        Mode::from_bits_truncate(match kind_on_disk {
            FileKind::Directory if mode & 0o700 != 0o700 => 0o700,
            FileKind::Directory => mode & 0o1777,
            _ => mode & 0o777,
        })
    }
}

impl Staged<'_> {
    /// Gives the copy its name in the upper, where nothing may be. The directory's times stay: nothing has changed in
    /// it.
    ///
    /// # Errors
    /// The kernel's errno; `EEXIST` if the upper has the name.
    pub(crate) fn publish(mut self, dir: BorrowedFd<'_>, name: Name<'_>) -> nix::Result<Made> {
        failpoint::pass("copy.publish")?;
        keeping_times(dir, || self.temp.place(dir, name.bytes()))?;
        failpoint::pass("copy.published")?;
        let Filled { fd, marks, kind_on_disk, .. } = self.filled;
        let stat = fstat(&fd)?;
        let has_data = matches!(kind_on_disk, FileKind::File | FileKind::Directory);
        Ok(Made { stat, marks, file: has_data.then_some(fd) })
    }
}

impl Staged<'_> {
    /// The copy of a regular file without a name: whoever has it open keeps it.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn without_name(self) -> nix::Result<Made> {
        let Self { temp, filled } = self;
        drop(temp);
        let Filled { fd, marks, .. } = filled;
        Ok(Made { stat: fstat(&fd)?, marks, file: Some(fd) })
    }
}

/// Does something to a directory that the container must not see in its times.
pub(in crate::union) fn keeping_times<T>(
    dir: BorrowedFd<'_>,
    change: impl FnOnce() -> nix::Result<T>,
) -> nix::Result<T> {
    let before = times_of(&fstat(dir)?);
    let done = change()?;
    failpoint::pass("times.before")?;
    // It has happened: a time that cannot be put back is no reason to say it has not.
    let _ = set_times(dir, &before.0, &before.1);
    Ok(done)
}

pub(super) fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(file, bytes) {
            Ok(0) => return Err(Errno::EIO),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

impl UpperLayer {
    /// Replaces `name`, whatever non-directory it is, by a copy of `source`: what happens in single-id mode to a link,
    /// pipe or socket that cannot carry its owner.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn replace_by(&self, dir: BorrowedFd<'_>, name: Name<'_>, source: &Source<'_>) -> nix::Result<Made> {
        let Staged { temp, filled } = self.stage_copy(source, None)?;
        temp.replace(dir, name.bytes())?;
        let times = source.attributes;
        let _ = set_times(filled.fd.as_fd(), &spec(times.atime), &spec(times.mtime));
        Ok(Made { stat: fstat(&filled.fd)?, marks: filled.marks, file: None })
    }
}
