//! Processes, their descriptors and terminals.

pub mod spawn;

pub mod pidfd;

pub use crate::sys::process::{Exit, Forked, clone3, exec, pidfd_open, pidfd_send_signal, wait};
pub use crate::sys::{SysError, process::prctl};
