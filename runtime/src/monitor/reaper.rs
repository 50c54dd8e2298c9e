//! Children that have ended, and their exit codes.
//!
//! S is the parent of C and of helpers, and as pid 1 of its namespace also of whatever they leave behind: after
//! SIGCHLD it collects them all.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::process::signal::Signal;
use crate::sys::monitor as sys;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(u8),
    /// By a signal.
    Killed {
        /// Which.
        signal: Signal,
        /// Whether it left a core.
        dumped_core: bool,
    },
}

impl Exit {
    /// The exit code that docker and podman report: 128 + n for signal n.
    ///
    /// ```
    /// use runtime::monitor::reaper::Exit;
    /// use runtime::process::signal::Signal;
    /// assert_eq!(Exit::Killed { signal: Signal::KILL, dumped_core: false }.code(), 137);
    /// ```
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Killed { signal, .. } => 128 + u8::try_from(signal.number()).unwrap_or(0),
        }
    }

    /// From a status of `waitpid(2)`; `None` if it tells of a stop, not of an end.
    #[must_use]
    pub fn from_wait_status(status: i32) -> Option<Self> {
        let status = ExitStatus::from_raw(status);
        if let Some(code) = status.code() {
            // `exit(2)` keeps the low eight bits.
            return u8::try_from(code & 0xff).ok().map(Self::Code);
        }
        let signal = Signal::from_number(status.signal()?)?;
        Some(Self::Killed { signal, dumped_core: status.core_dumped() })
    }

    /// From the `si_code` and `si_status` of `waitid(2)`, as with `P_PIDFD`; `None` if it tells of a stop.
    #[must_use]
    pub fn from_siginfo(si_code: i32, si_status: i32) -> Option<Self> {
        match si_code {
            libc::CLD_EXITED => u8::try_from(si_status & 0xff).ok().map(Self::Code),
            libc::CLD_KILLED | libc::CLD_DUMPED => Signal::from_number(si_status)
                .map(|signal| Self::Killed { signal, dumped_core: si_code == libc::CLD_DUMPED }),
            _ => None,
        }
    }
}

/// Collects every child that has ended, without waiting.
///
/// Takes them all, whoever started them: do not mix with `std::process::Child::wait`.
///
/// # Errors
/// What `waitpid(2)` says, except that there are no children.
pub fn reap() -> nix::Result<Vec<(Pid, Exit)>> {
    let mut ended = Vec::new();
    loop {
        match sys::reap_any() {
            Ok(Some((pid, status))) => {
                ended.extend(Exit::from_wait_status(status).map(|exit| (Pid::from_raw(pid), exit)))
            }
            Ok(None) | Err(Errno::ECHILD) => return Ok(ended),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_codes_as_a_shell_would_say() {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("exit 255", 255),
            ("kill -9 $$", 137),
            ("kill -15 $$", 143),
            ("kill -40 $$", 168),
        ] {
            let status = std::process::Command::new("sh").args(["-c", script]).status().unwrap();
            let exit = Exit::from_wait_status(status.into_raw()).unwrap();
            assert_eq!(exit.code(), code, "{script}");
        }
    }

    #[test]
    fn stops_are_no_exits() {
        assert_eq!(Exit::from_wait_status(0x137f), None);
        assert_eq!(Exit::from_wait_status(0xffff), None);
        assert_eq!(Exit::from_siginfo(libc::CLD_STOPPED, libc::SIGSTOP), None);
        assert_eq!(Exit::from_siginfo(libc::CLD_EXITED, 3), Some(Exit::Code(3)));
        let dumped = Exit::from_siginfo(libc::CLD_DUMPED, libc::SIGQUIT);
        assert_eq!(dumped, Some(Exit::Killed { signal: Signal::QUIT, dumped_core: true }));
    }
}
