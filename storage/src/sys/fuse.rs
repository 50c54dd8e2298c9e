//! What the FUSE device can do beside being read and written.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;

/// Makes `fresh`, an unused open of `/dev/fuse`, one more end of the session of `session`.
///
/// # Errors
/// The kernel's errno; `EINVAL` if `session` is no mounted FUSE device or was opened in another user namespace.
///
/// # Source
/// `fuse(4)`, `FUSE_DEV_IOC_CLONE`, Linux 4.2.
pub(crate) fn clone_device(fresh: BorrowedFd<'_>, session: BorrowedFd<'_>) -> nix::Result<()> {
    let source = session.as_raw_fd() as u32;
    // The type of the request differs between C libraries.
    let request = FUSE_DEV_IOC_CLONE as _;
    // SAFETY: the kernel reads one u32, which outlives the call.
    let result = unsafe { libc::ioctl(fresh.as_raw_fd(), request, std::ptr::from_ref(&source)) };
    Errno::result(result).map(drop)
}
