//! `--init`: pid 1 of the container is ours; it forwards signals and reaps orphans.
//!
//! **Runs in:** pid 1 of the container, single-threaded, as the container's root, not dumpable: nothing in the container
//! can reach our binary through it.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::steps::InitError;
use crate::process::{Forked, clone3};
use crate::sys::SysError;
use crate::sys::process::{close_from, prctl};

/// Forks: the child returns and becomes the program, the caller stays as pid 1 and never returns.
pub fn split() -> Result<(), InitError> {
    // Before the fork, so that no signal is lost between.
    let all = SigSet::all();
    let _ = all.thread_block();
    match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Child => Ok(()),
        Forked::Parent { pid, pidfd } => {
            drop(pidfd);
            std::process::exit(reap(Pid::from_raw(pid), &all))
        }
    }
}

/// Forwards signals to the program and reaps whatever ends, until the program does.
fn reap(program: Pid, all: &SigSet) -> i32 {
    let _ = prctl(libc::PR_SET_DUMPABLE, 0);
    let flags = nix::fcntl::OFlag::O_RDWR;
    if let Ok(null) = nix::fcntl::open("/dev/null", flags, nix::sys::stat::Mode::empty()) {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    // The handshake's end is among these: the supervisor must see end of file when the program is executed.
    let _ = close_from(3, false);
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                let mut ended = None;
                loop {
                    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                        Ok(WaitStatus::Exited(pid, code)) if pid == program => ended = Some(code),
                        Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => ended = Some(128 + signal as i32),
                        Ok(WaitStatus::StillAlive) | Err(_) => break,
                        Ok(_) => {}
                    }
                }
                if let Some(code) = ended {
                    return code;
                }
            }
            // The kernel does not let a terminal stop pid 1; nor do we stop for it.
            Ok(signal) => {
                let _ = nix::sys::signal::kill(program, signal);
            }
            Err(_) => {}
        }
    }
}
