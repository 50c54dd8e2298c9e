//! Inode flags (`chattr`).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Reads the flags of an open file.
///
/// # Source
/// `ioctl_iflags(2)`, `FS_IOC_GETFLAGS`: the kernel reads and writes an `int`, whatever the number's size says.
pub(crate) fn get(file: BorrowedFd<'_>) -> nix::Result<u32> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the call writes one `int` to the address of a live one.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as libc::Ioctl, &raw mut flags) };
    Errno::result(result).map(|_| flags.cast_unsigned())
}

/// Sets the flags of an open file.
///
/// # Source
/// `ioctl_iflags(2)`, `FS_IOC_SETFLAGS`.
pub(crate) fn set(file: BorrowedFd<'_>, flags: u32) -> nix::Result<()> {
    let flags: libc::c_int = flags.cast_signed();
    // SAFETY: the call reads one `int` at the address of a live one.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS as libc::Ioctl, &raw const flags) };
    Errno::result(result).map(drop)
}
