//! Lets the processes of a container stand still where it has no cgroup that can be frozen.
//!
//! ```text
//! S ── clone3 ──▶ J: setns(pid namespace) ── clone3 ──▶ K: kill(-1, SIGSTOP), exits
//!   ── SIGSTOP to init, which K cannot reach
//! ```
//! `kill(-1)` is one walk over all processes under the lock that a fork takes too: one that is about to fork sees the
//! signal first, so none escapes, and no second look is needed. `SIGSTOP` cannot be caught or blocked.
//!
//! What the freezer of a cgroup does better: a parent in the container may see its children stop and go on, and a process
//! that was stopped by somebody else goes on with the others.
//!
//! **Runs in:** S, single-threaded, with privileges over the container's pid namespace.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Forked, clone3, pidfd_send_signal, wait};
use crate::monitor::reaper::Exit;
use crate::sys::process::setns;

/// Stops every process of the pid namespace that `init` is the first process of.
///
/// # Errors
/// What `clone3`, `setns` or `kill` say.
pub fn stop(init: BorrowedFd<'_>) -> Result<(), Errno> {
    stop_in(init, libc::CLONE_NEWPID)
}

/// The same for a container that is reached by joining these namespaces, `CLONE_NEW*`.
///
/// # Errors
/// As [`stop`].
pub fn stop_in(init: BorrowedFd<'_>, namespaces: i32) -> Result<(), Errno> {
    // Init first: it sees none of its children stop.
    pidfd_send_signal(init, libc::SIGSTOP)?;
    signal_all(init, namespaces, Signal::SIGSTOP)
}

/// Lets them go on.
///
/// # Errors
/// As [`stop`].
pub fn go_on(init: BorrowedFd<'_>) -> Result<(), Errno> {
    go_on_in(init, libc::CLONE_NEWPID)
}

/// As [`stop_in`].
///
/// # Errors
/// As [`stop`].
pub fn go_on_in(init: BorrowedFd<'_>, namespaces: i32) -> Result<(), Errno> {
    let rest = signal_all(init, namespaces, Signal::SIGCONT);
    pidfd_send_signal(init, libc::SIGCONT)?;
    rest
}

/// Sends a signal to all but init.
///
/// # Errors
/// As [`stop`].
pub fn signal_all(init: BorrowedFd<'_>, namespaces: i32, signal: Signal) -> Result<(), Errno> {
    in_child(|| {
        setns(init, namespaces)?;
        // Only a child is in the namespace.
        in_child(|| match kill(Pid::from_raw(-1), signal) {
            // There is nobody but init.
            Err(Errno::ESRCH) => Ok(()),
            sent => sent,
        })
    })
}

/// Has something done by a child, whose exit status is an errno.
fn in_child(work: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    match clone3(0, None)? {
        Forked::Child => std::process::exit(work().map_or_else(|errno| errno as i32, |()| 0)),
        Forked::Parent { pidfd, .. } => match wait(pidfd.as_fd(), true)? {
            Some(Exit::Code(0)) => Ok(()),
            Some(Exit::Code(errno)) => Err(Errno::from_raw(i32::from(errno))),
            _ => Err(Errno::EINTR),
        },
    }
}
