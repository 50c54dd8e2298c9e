//! `renameat2`, which `nix` has for glibc only.

use nix::NixPath;
use nix::errno::Errno;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Renames `old` in `old_dir` to `new` in `new_dir`.
///
/// # Errors
/// Those of `renameat2(2)`; `EINVAL` also where the file system does not know the flags.
///
/// # Source
/// `renameat2(2)`; `RENAME_WHITEOUT` needs no privilege since Linux 5.8.
pub(crate) fn rename_at<P: NixPath + ?Sized, Q: NixPath + ?Sized>(
    old_dir: BorrowedFd<'_>,
    old: &P,
    new_dir: BorrowedFd<'_>,
    new: &Q,
    flags: u32,
) -> nix::Result<()> {
    let (old_dir, new_dir) = (old_dir.as_raw_fd(), new_dir.as_raw_fd());
    let result = old.with_nix_path(|old| {
        new.with_nix_path(|new| {
            let (old, new) = (old.as_ptr(), new.as_ptr());
            // SAFETY: both names are terminated and outlive the call.
            unsafe { libc::syscall(libc::SYS_renameat2, old_dir, old, new_dir, new, flags) }
        })
    })??;
    Errno::result(result).map(drop)
}

/// Renames `from` to `to`, which must not exist.
///
/// # Source
/// `renameat2(2)`, `RENAME_NOREPLACE`, Linux 3.15.
pub(crate) fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    // SAFETY: both paths are terminated and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
