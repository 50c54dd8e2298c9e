//! The sysctls of a new network namespace, written through a descriptor of `/proc/sys` that the caller opened.
//!
//! **Runs in:** a process that is in the container's network namespace; `/proc/sys/net` shows the namespace of the
//! task that opens a file below it, whatever mount it is reached by.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// A sysctl that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {value:?} to /proc/sys/{name}: {}", crate::sys::reason(source))]
pub(crate) struct SysctlError {
    name: String,
    value: String,
    #[source]
    source: io::Error,
}

/// Writes `value` to the file `name` (`net/ipv4/ip_forward`) below `proc_sys`.
///
/// # Errors
/// [`SysctlError`]; `ENOENT` where this kernel does not have it.
pub(crate) fn write(proc_sys: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), SysctlError> {
    let run = || -> io::Result<()> {
        let fd = openat(proc_sys.as_fd(), name, OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())?;
        File::from(fd).write_all(value.as_bytes())
    };
    run().map_err(|source| SysctlError { name: name.to_owned(), value: value.to_owned(), source })
}
