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
#[error("write {value:?} to /proc/sys/{name}")]
pub struct SysctlError {
    name: String,
    value: String,
    #[source]
    source: io::Error,
}

impl SysctlError {
    /// The system's error number, if it has one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Writes `value` to the file `name` (`net/ipv4/ip_forward`) below `proc_sys`.
///
/// # Errors
/// [`SysctlError`]; `ENOENT` where this kernel does not have it.
pub fn write(proc_sys: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), SysctlError> {
    let run = || -> io::Result<()> {
        let fd = openat(proc_sys.as_fd(), name, OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())?;
        File::from(fd).write_all(value.as_bytes())
    };
    run().map_err(|source| SysctlError { name: name.to_owned(), value: value.to_owned(), source })
}

/// Opens what the container may do without a capability: ping sockets for every mapped group, ports below 1024.
///
/// `max_gid` is the highest group id mapped in the user namespace; the kernel refuses a range with an unmapped end.
///
/// # Errors
/// The first [`SysctlError`]; the second write is tried in any case.
///
/// # Source
/// ip(7) `ip_unprivileged_port_start` (Linux 4.11), icmp(7) `ping_group_range` (2.6.39).
pub fn open_to_container(proc_sys: BorrowedFd<'_>, max_gid: u32) -> Result<(), SysctlError> {
    let ports = write(proc_sys, "net/ipv4/ip_unprivileged_port_start", "0");
    // The range is kept as a signed pair: the highest group that can be named is 2^31 - 1.
    let ping = write(proc_sys, "net/ipv4/ping_group_range", &format!("0 {}", max_gid.min(i32::MAX as u32)));
    ports.and(ping)
}

/// Takes slirp4netns' IPv6 address into use at once: without this, duplicate detection holds it back for a second.
///
/// # Errors
/// [`SysctlError`]; `ENOENT` without IPv6.
pub fn skip_duplicate_detection(proc_sys: BorrowedFd<'_>) -> Result<(), SysctlError> {
    write(proc_sys, "net/ipv6/conf/default/accept_dad", "0")
}
