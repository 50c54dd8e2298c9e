//! Extended attributes of an open file.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Lists the names of all attributes of `file`.
///
/// # Errors
/// Those of `flistxattr(2)`; a file system without attributes gives an empty list.
pub(crate) fn list(file: BorrowedFd<'_>) -> nix::Result<Vec<CString>> {
    let names = grow(|buffer| {
        // SAFETY: the pointer and the length describe `buffer`; a length of 0 only asks for the size.
        unsafe { libc::flistxattr(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) }
    });
    match names {
        Ok(names) => Ok(names
            .split_inclusive(|byte| *byte == 0)
            .filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned))
            .collect()),
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

/// Reads one attribute.
///
/// # Errors
/// Those of `fgetxattr(2)`.
pub(crate) fn get(file: BorrowedFd<'_>, name: &CStr) -> nix::Result<Vec<u8>> {
    grow(|buffer| {
        // SAFETY: `name` ends with a zero; the pointer and the length describe `buffer`, a length of 0 asks for the size.
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// Reads one attribute; `None` if it is not there, or if the file system has none of its kind.
///
/// # Errors
/// Those of `fgetxattr(2)`.
pub(crate) fn find(file: BorrowedFd<'_>, name: &CStr) -> nix::Result<Option<Vec<u8>>> {
    match get(file, name) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sets one attribute.
///
/// # Errors
/// Those of `fsetxattr(2)`.
pub(crate) fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: `name` ends with a zero; the pointer and the length describe `value`.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// Removes one attribute; one that is not there is success.
///
/// # Errors
/// Those of `fremovexattr(2)`.
pub(crate) fn remove(file: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    // SAFETY: `name` ends with a zero.
    let result = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Asks for the size, then for the bytes, until both agree.
fn grow(mut call: impl FnMut(&mut [u8]) -> isize) -> nix::Result<Vec<u8>> {
    loop {
        let size = Errno::result(call(&mut []))?;
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(0)];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match Errno::result(call(&mut buffer)) {
            Ok(length) => {
                buffer.truncate(usize::try_from(length).unwrap_or(0));
                return Ok(buffer);
            }
            Err(Errno::ERANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}
