//! An init that executes nothing: it holds the namespaces of a pod and reaps what comes to it.
//!
//! **Runs in:** pid 1 of a container without a program, single-threaded, with the container's credentials and filter.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::sys::process::close_from;

/// Waits for a signal that ends it; returns the exit status.
pub(super) fn run() -> i32 {
    let all = SigSet::all();
    let _ = all.thread_block();
    // The handshake's end is among these: the supervisor must see end of file.
    let _ = close_from(3, false);
    loop {
        match all.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) => return 0,
            Ok(Signal::SIGCHLD) => {
                while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
            }
            _ => {}
        }
    }
}
