//! Processes named so that a reused pid is never mistaken for the one that was meant.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::pidfd_open;

/// The pid behind a pidfd, as the `/proc` that this process sees counts.
///
/// A supervisor lives in a pid namespace of its own but looks at the host's `/proc`: this number is what
/// `/proc/<pid>/ns/net` needs.
///
/// # Source
/// `proc_pid_fdinfo(5)`, field `Pid`.
pub fn host_pid(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).filter(|pid| *pid > 0)
}

/// Whether the process that started at `start` still runs. One that has ended and waits for its parent to notice does not.
///
/// # Source
/// `proc_pid_stat(5)`, fields 3 and 22.
pub fn is_running(pid: i32, start: u64) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    !matches!(state, None | Some(b'Z' | b'X' | b'x')) && start_time(pid) == Some(start)
}

/// When a process started, in clock ticks since boot.
///
/// # Source
/// `proc_pid_stat(5)`, field 22.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may hold anything: count fields from the last one.
    let rest = stat.get(stat.iter().rposition(|byte| *byte == b')')? + 2..)?;
    std::str::from_utf8(rest).ok()?.split(' ').nth(19)?.parse().ok()
}

/// Opens a pidfd of `pid` if it is still the process that started at `start`.
///
/// # Errors
/// `ESRCH` if that process is gone.
pub fn open_checked(pid: i32, start: u64) -> Result<OwnedFd, Errno> {
    let pidfd = pidfd_open(pid)?;
    if start_time(pid) == Some(start) { Ok(pidfd) } else { Err(Errno::ESRCH) }
}
