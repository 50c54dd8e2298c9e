//! Extended attributes of an open file. Descriptors made with `O_PATH`, which the calls by descriptor refuse, go by
//! their name in `/proc`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Most files' names and values fit here: one call instead of two.
const FIRST_TRY_BYTES: usize = 512;

/// Lists the names of all attributes of `file`.
///
/// # Errors
/// Those of `flistxattr(2)`; a file system without attributes gives an empty list.
pub(crate) fn list(file: BorrowedFd<'_>) -> nix::Result<Vec<CString>> {
    let names = grow(|buffer| {
        // SAFETY: the pointer and the length describe `buffer`; a length of 0 only asks for the size.
        let result = unsafe { libc::flistxattr(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if !is_path_only(result) {
            return result;
        }
        let path = proc_path(file);
        // SAFETY: `path` ends with a zero; the pointer and the length describe `buffer`.
        unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
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
        let (fd, len) = (file.as_raw_fd(), buffer.len());
        // SAFETY: `name` ends with a zero; the pointer and the length describe `buffer`, a length of 0 asks for the size.
        let result = unsafe { libc::fgetxattr(fd, name.as_ptr(), buffer.as_mut_ptr().cast(), len) };
        if !is_path_only(result) {
            return result;
        }
        let path = proc_path(file);
        // SAFETY: `path` and `name` end with zeros; the pointer and the length describe `buffer`.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), len) }
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
    set_with(file, name, value, 0)
}

/// Sets one attribute with the flags `XATTR_CREATE` or `XATTR_REPLACE`.
///
/// # Errors
/// Those of `fsetxattr(2)`.
pub(crate) fn set_with(file: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: i32) -> nix::Result<()> {
    let (fd, value, len) = (file.as_raw_fd(), value.as_ptr().cast(), value.len());
    // SAFETY: `name` ends with a zero; the pointer and the length describe `value`.
    let mut result = unsafe { libc::fsetxattr(fd, name.as_ptr(), value, len, flags) };
    if is_path_only(result as isize) {
        let path = proc_path(file);
        // SAFETY: `path` and `name` end with zeros; the pointer and the length describe `value`.
        result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value, len, flags) };
    }
    Errno::result(result).map(drop)
}

/// Removes one attribute; one that is not there is success.
///
/// # Errors
/// Those of `fremovexattr(2)`.
pub(crate) fn remove(file: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    match remove_existing(file, name) {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// Removes one attribute that must be there.
///
/// # Errors
/// Those of `fremovexattr(2)`.
pub(crate) fn remove_existing(file: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    // SAFETY: `name` ends with a zero.
    let mut result = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
    if is_path_only(result as isize) {
        let path = proc_path(file);
        // SAFETY: `path` and `name` end with zeros.
        result = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    }
    Errno::result(result).map(drop)
}

fn is_path_only(result: isize) -> bool {
    result < 0 && Errno::last() == Errno::EBADF
}

/// The link in `/proc` leads to exactly what the descriptor refers to, also if that is a symbolic link.
fn proc_path(file: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default()
}

/// Tries a small buffer, then asks for the size, then for the bytes, until both agree.
fn grow(mut call: impl FnMut(&mut [u8]) -> isize) -> nix::Result<Vec<u8>> {
    let mut first = [0; FIRST_TRY_BYTES];
    match Errno::result(call(&mut first)) {
        Ok(length) => return Ok(first.get(..length.unsigned_abs()).unwrap_or_default().to_vec()),
        Err(Errno::ERANGE) => {}
        Err(errno) => return Err(errno),
    }
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
