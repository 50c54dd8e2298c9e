//! Times of a file by a descriptor of any kind.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets last access and last modification of what `file` refers to; descriptors made with `O_PATH` will do.
///
/// # Errors
/// Those of `utimensat(2)`.
///
/// # Source
/// `utimensat(2)` with `AT_EMPTY_PATH`, Linux 5.8.
pub(crate) fn set_times(file: BorrowedFd<'_>, atime: &TimeSpec, mtime: &TimeSpec) -> nix::Result<()> {
    let times = [*atime.as_ref(), *mtime.as_ref()];
    // SAFETY: the empty path is terminated, and `times` holds the two values that the call reads.
    let result = unsafe { libc::utimensat(file.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) };
    Errno::result(result).map(drop)
}
