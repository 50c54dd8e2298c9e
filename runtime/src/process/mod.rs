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
pub use crate::sys::process::{Forked, clone3, exec, pidfd_open, pidfd_send_signal, wait};
pub use crate::sys::{SysError, process::prctl};
