//! Changes of the upper directory, each complete or not at all.
//!
//! ```text
//! work (temporary names, lock, sweep) ← copy_up, create, remove, rename ← the tree of nodes
//! owners, xattr_names, acl, marks: how a file's truth is written on disk
//! ```
//!
//! **Invariants.** A change is one system call in the upper; whatever needs more is made complete in the work directory
//! and takes its place by one rename. A process that is killed between two calls leaves at most things in the work
//! directory, which the next mount sweeps, and marks that say nothing new. A call that fails leaves nothing. No name is
//! ever joined to a path: all calls take a directory's descriptor and one component, and follow no link. Nothing here
//! knows the merged tree or takes a lock: callers keep two changes of one name apart.
//!
//! | kernel feature | first version | without it |
//! | --- | --- | --- |
//! | `RENAME_EXCHANGE`, `RENAME_NOREPLACE` on the upper's file system | 3.15 | an error: the kernel's overlay needs it too |
//! | `RENAME_WHITEOUT` without privilege | 5.8 | a link and two renames (files), an exchange with a whiteout (directories) |
//! | device 0/0 without privilege | 5.8 | whiteouts as files with an xattr |
//! | `utimensat` by an empty path | 5.8 | an error |
//! | `FICLONE`, `copy_file_range` | 4.5 | read and write |

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod failpoint;

mod acl;
mod xattr_names;

mod owners;

mod marks;

mod work;

mod copy_data;

mod describe;

mod copy_up;

mod create;

mod remove;

mod rename;

mod metadata;

#[cfg(test)]
mod tests;

pub use owners::Owners;

pub(super) use copy_up::keeping_times;
pub(crate) use copy_up::{Source, Staged};
pub(crate) use create::{LinkFrom, Parent};
pub(crate) use marks::{Marks, visible_names, visible_xattrs};
pub(crate) use metadata::Target;
pub(crate) use owners::{CAPABILITY_NAME, Recorded, kind_of};
pub(crate) use remove::Presence;
pub(crate) use rename::RenameSide;
pub(crate) use xattr_names::DiskName;

use crate::layer::umask;
use crate::sys::xattr;
use crate::whiteout;
use copy_data::Durability;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{getegid, geteuid};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;
use work::{DIRECTORY, WorkDir};

/// Longest name that any file system here takes.
const NAME_MAX: usize = 255;

/// One component of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// `ENAMETOOLONG`; `EINVAL` for what is no single component.
    pub(crate) fn new(name: &'a OsStr) -> nix::Result<Self> {
        match name.as_bytes() {
            b"" | b"." | b".." => Err(Errno::EINVAL),
            name if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
            name if name.contains(&b'/') || name.contains(&0) => Err(Errno::EINVAL),
            name => Ok(Self(name)),
        }
    }

    /// Its bytes.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// What was made or copied up.
#[derive(Debug)]
pub(crate) struct Made {
    /// What the disk shows of it.
    pub(crate) stat: FileStat,
    /// What stands on it.
    pub(crate) marks: Marks,
    /// A regular file's descriptor for reading and writing, a directory's for reading.
    pub(crate) file: Option<OwnedFd>,
}

/// An upper directory with its work directory, in the hands of this process alone.
#[derive(Debug)]
pub(crate) struct UpperLayer {
    root: OwnedFd,
    work: WorkDir,
    owners: Owners,
    durability: Durability,
    /// The owner of what we make on disk.
    us: (u32, u32),
    /// What the process takes away from modes of what it makes.
    umask: u32,
    /// False once the file system has said that it cannot share blocks between files.
    can_clone: AtomicBool,
}

/// Why an upper and a work directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody else serves them.
    #[error("{which} directory is in use by another mount")]
    Busy {
        /// Which of the two.
        which: &'static str,
    },
    /// A rename between them is impossible.
    #[error("upper and work directory are on different file systems or mounts")]
    DifferentFileSystems,
    /// One lies in the other, or they are one.
    #[error("upper and work directory lie in each other")]
    Nested,
    /// Opaque directories cannot be marked.
    #[error("file system of the upper directory has no user extended attributes")]
    NoXattrs,
    /// A system call failed.
    #[error("{call}: {}", .errno.desc().to_lowercase())]
    Call {
        /// What was to be done.
        call: &'static str,
        /// Why it was not.
        errno: Errno,
    },
}

impl OpenError {
    fn call(call: &'static str, errno: Errno) -> Self {
        Self::Call { call, errno }
    }

    /// The errno that a mount fails with.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Busy { .. } => Errno::EBUSY,
            Self::DifferentFileSystems | Self::Nested => Errno::EINVAL,
            Self::NoXattrs => Errno::EOPNOTSUPP,
            Self::Call { errno, .. } => *errno,
        }
    }
}

impl UpperLayer {
    /// Takes both directories for this process, and removes what a killed one left in the work directory.
    ///
    /// With `volatile` nothing is ever synchronised: a power cut may lose everything, a killed process nothing.
    ///
    /// # Errors
    /// [`OpenError`]: [`OpenError::Busy`] if another process has them.
    pub(crate) fn open(upper: OwnedFd, work: OwnedFd, owners: Owners, volatile: bool) -> Result<Self, OpenError> {
        let work = WorkDir::open(upper.as_fd(), work.as_fd())?;
        let root = openat(&upper, c".", DIRECTORY, Mode::empty())
            .map_err(|errno| OpenError::call("open upper directory", errno))?;
        // Tried on our own directory: the upper is not ours to mark.
        match xattr::set(work.dir(), marks::ORIGIN, b"0") {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP) => return Err(OpenError::NoXattrs),
            Err(errno) => return Err(OpenError::call("set extended attribute of work directory", errno)),
        }
        let us = (geteuid().as_raw(), getegid().as_raw());
        let durability = Durability::of(root.as_fd(), volatile);
        Ok(Self { root, work, owners, durability, us, umask: umask(), can_clone: AtomicBool::new(true) })
    }

    /// The upper's root directory, opened for reading.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// How owners are kept.
    pub(crate) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Notes that a directory of the upper has, or will have, files that were copied up.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn mark_impure(&self, dir: BorrowedFd<'_>) -> nix::Result<()> {
        marks::mark_impure(dir)
    }
}

/// True if a name is a whiteout in either form; one that is not there is none.
fn is_whiteout_at(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<bool> {
    let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(false),
        stat => stat?,
    };
    if whiteout::is_whiteout_device(&stat) {
        return Ok(true);
    }
    if kind_of(stat.st_mode) != crate::union::attributes::FileKind::File || stat.st_size != 0 {
        return Ok(false);
    }
    let file = openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    whiteout::is_whiteout_file(file)
}
