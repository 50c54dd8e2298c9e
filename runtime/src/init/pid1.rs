//! `--init`: pid 1 of the container is ours; it forwards signals and reaps orphans.
//!
//! **Runs in:** pid 1 of the container, single-threaded, as the container's root. It is executed anew, so that nothing of
//! the command that was typed on the host is in it, and through a descriptor that nobody can write (see
//! [`super::sealed_exe`]).

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::steps::InitError;
use crate::process::{Forked, clone3};
use crate::sys::SysError;
use crate::sys::process::close_from;

/// `argv[0]` of pid 1: `coracle-init PID-OF-THE-PROGRAM`.
pub const ROLE_NAME: &CStr = c"coracle-init";

/// Forks: the child returns and becomes the program, the caller becomes pid 1's program, `binary`, which is ours.
pub fn split(binary: BorrowedFd<'_>) -> Result<(), InitError> {
    // Before the fork, so that no signal is lost between; a blocked signal stays blocked over execve.
    let _ = SigSet::all().thread_block();
    match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Child => Ok(()),
        Forked::Parent { pid, .. } => {
            let args = [ROLE_NAME.to_owned(), CString::new(pid.to_string()).unwrap_or_default()];
            let _ = crate::sys::process::exec(Some(binary), c"", &args, &[]);
            // A build for development that is linked dynamically finds no linker in the image: it goes on as it is.
            std::process::exit(reap(Pid::from_raw(pid), &SigSet::all()))
        }
    }
}

/// Pid 1: returns the container's exit status.
pub fn run(args: &[CString]) -> i32 {
    let program = args.get(1).and_then(|text| text.to_str().ok()?.parse().ok());
    let Some(program) = program.filter(|pid| *pid > 1) else { return 125 };
    reap(Pid::from_raw(program), &SigSet::all())
}

/// Forwards signals to the program and reaps whatever ends, until the program does.
fn reap(program: Pid, all: &SigSet) -> i32 {
    let _ = all.thread_block();
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
