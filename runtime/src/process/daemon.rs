//! Processes that outlive their parent.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::sys::SysError;
use crate::sys::process::{Forked, clone3};

/// Forks a process that does `work` in a session of its own, in `/`, with standard streams that lead nowhere, and ends
/// with the status that `work` returns. The caller is single-threaded; it drops what `work` owns.
///
/// # Errors
/// The call that failed. What fails in the new process ends it with 125.
pub fn start(work: impl FnOnce() -> i32) -> Result<(), SysError> {
    match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Parent { .. } => Ok(()),
        Forked::Child => {
            let status = match settle() {
                Ok(()) => work(),
                Err(_) => 125,
            };
            std::process::exit(status)
        }
    }
}

fn settle() -> nix::Result<()> {
    setsid()?;
    chdir("/")?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}
