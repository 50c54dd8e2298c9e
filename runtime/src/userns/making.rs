//! A user namespace that is made ahead of its use.
//!
//! ```text
//! command ── fork ──▶ maker ── clone3(CLONE_NEWUSER) ──▶ holder: waits until nobody holds the hold
//!    ▲                  │ newuidmap, newgidmap
//!    └─ holder, ready ──┘
//! ```
//! The setuid helpers take longer than most of what a start does besides, and need nothing of it: they run beside the
//! command's own work, on another CPU.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read};

use super::{Mapping, UsernsError};
use crate::init::handshake::{self, Channel, Report};
use crate::sys::SysError;
use crate::sys::process::{Forked, clone3, wait};

/// A user namespace that may not have its maps yet. Dropped, it goes unless somebody has joined it.
#[derive(Debug)]
pub struct Making {
    maker: Option<OwnedFd>,
    reports: Channel,
    holder: Option<OwnedFd>,
    /// Closed, it ends the holder.
    hold: Option<OwnedFd>,
}

impl Making {
    /// Begins. The caller must be single-threaded.
    ///
    /// # Errors
    /// There can be no process.
    pub fn begin(mapping: &Mapping) -> Result<Self, UsernsError> {
        let (theirs, reports) = handshake::pair()?;
        let (held, hold) = pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2", "O_CLOEXEC"))?;
        match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
            Forked::Child => {
                drop((reports, hold));
                std::process::exit(make(mapping, &theirs, &held))
            }
            Forked::Parent { pidfd, .. } => Ok(Self { maker: Some(pidfd), reports, holder: None, hold: Some(hold) }),
        }
    }

    /// A process that is in the namespace as long as this is there.
    ///
    /// # Errors
    /// There can be no user namespace.
    pub fn holder(&mut self) -> Result<BorrowedFd<'_>, UsernsError> {
        let holder = match self.holder.take() {
            Some(holder) => holder,
            None => match self.reports.receive()? {
                Report::Process(holder) => holder,
                other => return Err(failure(other)),
            },
        };
        let holder: &OwnedFd = self.holder.insert(holder);
        Ok(holder.as_fd())
    }

    /// Waits until the maps are written.
    ///
    /// # Errors
    /// What a helper said.
    pub fn finish(&mut self) -> Result<(), UsernsError> {
        self.holder()?;
        let Some(maker) = self.maker.take() else { return Ok(()) };
        let report = self.reports.receive();
        let _ = wait(maker.as_fd(), true);
        match report? {
            Report::Ready => Ok(()),
            other => Err(failure(other)),
        }
    }

    /// A fork of whoever has begun has nothing to do with it.
    pub fn leave_to_parent(mut self) {
        (self.maker, self.holder) = (None, None);
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.maker.is_some() {
            let _ = self.finish();
        }
        drop(self.hold.take());
        if let Some(holder) = self.holder.take() {
            let _ = wait(holder.as_fd(), true);
        }
        if let Some(maker) = self.maker.take() {
            let _ = wait(maker.as_fd(), true);
        }
    }
}

fn failure(report: Report) -> UsernsError {
    UsernsError::Making(match report {
        Report::Failed { message, .. } => message,
        _ => "its maker was killed".to_owned(),
    })
}

/// The maker's life.
fn make(mapping: &Mapping, reports: &Channel, held: &OwnedFd) -> i32 {
    // A child of the command, which sees its end.
    let flags = libc::CLONE_NEWUSER as u64 | libc::CLONE_PARENT as u64;
    let made = match clone3(flags, None) {
        Ok(Forked::Child) => return hold(held),
        Ok(Forked::Parent { pid, pidfd }) => {
            let told = reports.report(&Report::Process(pidfd));
            told.map_err(UsernsError::from).and_then(|()| mapping.write(pid))
        }
        Err(errno) => {
            Err(UsernsError::Create(SysError { call: "clone3", args: "CLONE_NEWUSER|CLONE_PARENT".into(), errno }))
        }
    };
    let told = match made {
        Ok(()) => reports.report(&Report::Ready),
        Err(error) => reports.report(&Report::Failed { code: 125, message: error.to_string() }),
    };
    i32::from(told.is_err())
}

/// The holder's life: until nobody holds it any more.
fn hold(held: &OwnedFd) -> i32 {
    let _ = crate::sys::process::close_others(3, &[held.as_fd()]);
    while read(held, &mut [0]) == Err(Errno::EINTR) {}
    0
}
