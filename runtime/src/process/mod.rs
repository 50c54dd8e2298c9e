//! Processes, their descriptors and terminals.

pub mod spawn;

pub mod daemon;

/// What the command was given besides the standard streams.
pub mod inherited;

pub mod pidfd;

/// Signals by name, and their actions in a new process.
pub mod signal;

/// Stops a container without a cgroup of its own.
pub mod standstill;

/// Descriptors 0, 1 and 2 of a container and the supervisor's ends of them.
pub mod stdio;

/// Terminals: pty pairs for containers, raw mode for clients.
pub mod pty;

pub use crate::monitor::reaper::Exit;
pub use crate::sys::heap;
pub use crate::sys::process::{Forked, clone3, dies_with_parent, exec, pidfd_open, pidfd_send_signal, wait};
pub use crate::sys::{SysError, process::prctl};

/// Has a process, and those that it starts, run on these CPUs, `0-3,5`.
///
/// # Errors
/// `EINVAL` if the machine has none of them.
///
/// # Source
/// `sched_setaffinity(2)`.
pub fn run_on(pid: i32, cpus: &str) -> Result<(), nix::errno::Errno> {
    let mut set = nix::sched::CpuSet::new();
    for part in cpus.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| nix::errno::Errno::EINVAL);
        for cpu in number(first)?..=number(last)?.min(nix::sched::CpuSet::count() - 1) {
            set.set(cpu)?;
        }
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(pid), &set)
}
