//! Extended attributes by descriptor. The descriptor must be a real one: `O_PATH` is refused with `EBADF`.

use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

/// Largest value the kernel takes (`XATTR_SIZE_MAX`).
const MAX_VALUE_BYTES: usize = 65_536;

/// Sets an extended attribute, new or not.
///
/// # Errors
/// The kernel's errno; `ENOTSUP` if the file system or the kind of file has none of this namespace.
///
/// # Source
/// `fsetxattr(2)`.
pub(crate) fn set(fd: impl AsFd, name: &CStr, value: &[u8]) -> nix::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, `name` ends with a NUL, `value` is valid for its length.
    let result = unsafe { libc::fsetxattr(raw, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// Removes an extended attribute; one that is not there is success.
///
/// # Errors
/// The kernel's errno.
///
/// # Source
/// `fremovexattr(2)`.
pub(crate) fn remove(fd: impl AsFd, name: &CStr) -> nix::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, `name` ends with a NUL.
    let result = unsafe { libc::fremovexattr(raw, name.as_ptr()) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENODATA | Errno::ENOTSUP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Reads an extended attribute; `None` if it is not there or the file system has none at all.
///
/// # Errors
/// The kernel's errno.
///
/// # Source
/// `fgetxattr(2)`.
pub(crate) fn get(fd: impl AsFd, name: &CStr) -> nix::Result<Option<Vec<u8>>> {
    let raw = fd.as_fd().as_raw_fd();
    let mut value = vec![0_u8; 256];
    loop {
        // SAFETY: the descriptor is borrowed for the call, `name` ends with a NUL, `value` is valid for its length.
        let result = unsafe { libc::fgetxattr(raw, name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        match Errno::result(result) {
            Ok(len) => {
                value.truncate(len.cast_unsigned());
                return Ok(Some(value));
            }
            Err(Errno::ENODATA | Errno::ENOTSUP) => return Ok(None),
            Err(Errno::ERANGE) if value.len() < MAX_VALUE_BYTES => value.resize(MAX_VALUE_BYTES, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// Lists the names of all extended attributes; empty if the file system has none.
///
/// # Errors
/// The kernel's errno.
///
/// # Source
/// `flistxattr(2)`.
pub(crate) fn list(fd: impl AsFd) -> nix::Result<Vec<Vec<u8>>> {
    let raw = fd.as_fd().as_raw_fd();
    let mut names = vec![0_u8; 1024];
    loop {
        // SAFETY: the descriptor is borrowed for the call, `names` is valid for its length.
        let result = unsafe { libc::flistxattr(raw, names.as_mut_ptr().cast(), names.len()) };
        match Errno::result(result) {
            Ok(len) => {
                names.truncate(len.cast_unsigned());
                return Ok(names
                    .split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty())
                    .map(<[u8]>::to_vec)
                    .collect());
            }
            Err(Errno::ENOTSUP) => return Ok(Vec::new()),
            Err(Errno::ERANGE) if names.len() < MAX_VALUE_BYTES => names.resize(MAX_VALUE_BYTES, 0),
            Err(errno) => return Err(errno),
        }
    }
}
