//! A user namespace that is made ahead of its use.
//!
//! ```text
//! command ── clone3(CLONE_NEWUSER) ──▶ holder: waits until nobody holds the hold
//!    └────── newuidmap, newgidmap ───────▲
//! ```
//! The setuid helpers take longer than most of what a start does besides, and need nothing of it: they run beside the
//! command's own work, on another CPU.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read};

use super::newidmap::Running;
use super::{Mapping, UsernsError, Writer};
use crate::sys::SysError;
use crate::sys::process::{Forked, clone3, wait};

/// A user namespace that may not have its maps yet. Dropped, it goes unless somebody has joined it.
#[derive(Debug)]
pub struct Making {
    helpers: Option<Running>,
    pid: i32,
    holder: OwnedFd,
    /// Closed, it ends the holder.
    hold: Option<OwnedFd>,
    is_parents: bool,
}

impl Making {
    /// Begins, if the maps are written by setuid helpers: else there is no time to be won. The caller must be
    /// single-threaded.
    ///
    /// # Errors
    /// There can be no user namespace.
    pub fn begin(mapping: &Mapping) -> Result<Option<Self>, UsernsError> {
        matches!(mapping.writer, Writer::Helpers { .. }).then(|| Self::new(mapping)).transpose()
    }

    /// As [`begin`](Self::begin), whoever writes the maps.
    pub(super) fn new(mapping: &Mapping) -> Result<Self, UsernsError> {
        let (held, hold) = pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2", "O_CLOEXEC"))?;
        let forked = clone3(libc::CLONE_NEWUSER as u64, None)
            .map_err(|errno| UsernsError::Create(SysError { call: "clone3", args: "CLONE_NEWUSER".into(), errno }))?;
        match forked {
            Forked::Child => {
                drop(hold);
                let _ = crate::sys::process::close_others(3, &[held.as_fd()]);
                while read(&held, &mut [0]) == Err(Errno::EINTR) {}
                std::process::exit(0)
            }
            Forked::Parent { pid, pidfd: holder } => {
                let mut making = Self { helpers: None, pid, holder, hold: Some(hold), is_parents: false };
                match &mapping.writer {
                    Writer::Helpers { newuidmap, newgidmap } => {
                        let helpers = Running::start(newuidmap, newgidmap, pid, &mapping.uids, &mapping.gids);
                        making.helpers = Some(helpers);
                    }
                    Writer::Direct => mapping.write(pid)?,
                }
                Ok(making)
            }
        }
    }

    /// A process that is in the namespace as long as this is there.
    #[must_use]
    pub fn holder(&self) -> BorrowedFd<'_> {
        self.holder.as_fd()
    }

    /// Waits until the maps are written.
    ///
    /// # Errors
    /// What a helper said.
    pub fn finish(&mut self) -> Result<(), UsernsError> {
        self.helpers.take().map_or(Ok(()), Running::finish)
    }

    /// The namespace, when the maps are written.
    ///
    /// # Errors
    /// What a helper said.
    pub(super) fn namespace(mut self) -> Result<OwnedFd, UsernsError> {
        self.finish()?;
        let path = format!("/proc/{}/ns/user", self.pid);
        match std::fs::File::open(&path) {
            Ok(file) => Ok(file.into()),
            Err(source) => Err(UsernsError::Open { path, source }),
        }
    }

    /// A fork of whoever has begun has nothing to do with it.
    pub fn leave_to_parent(mut self) {
        self.is_parents = true;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        drop(self.hold.take());
        if !self.is_parents {
            let _ = self.finish();
            let _ = wait(self.holder.as_fd(), true);
        }
    }
}
