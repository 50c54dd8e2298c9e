//! Kernel calls that `nix` lacks, by descriptor.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

fn c(text: &str) -> CString {
    CString::new(text).expect("the tests' names have no zero")
}

pub(crate) fn rename(
    from: BorrowedFd<'_>,
    name: &str,
    to: BorrowedFd<'_>,
    new_name: &str,
    flags: u32,
) -> nix::Result<()> {
    let (name, new_name) = (c(name), c(new_name));
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: both names are terminated and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, from, name.as_ptr(), to, new_name.as_ptr(), flags) };
    Errno::result(result).map(drop)
}

pub(crate) fn get_xattr(path: &OsStr, name: &str) -> nix::Result<Vec<u8>> {
    let (path, name) = (CString::new(path.as_bytes()).expect("a path"), c(name));
    let mut value = vec![0_u8; 65_536];
    // SAFETY: the names are terminated; the pointer and the length describe `value`.
    let size = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(Errno::result(size)?).unwrap_or(0));
    Ok(value)
}

pub(crate) fn list_xattrs(path: &OsStr) -> nix::Result<Vec<String>> {
    let path = CString::new(path.as_bytes()).expect("a path");
    let mut names = vec![0_u8; 65_536];
    // SAFETY: the path is terminated; the pointer and the length describe `names`.
    let size = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(Errno::result(size)?).unwrap_or(0));
    let words = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(words.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

pub(crate) fn set_xattr(path: &OsStr, name: &str, value: &[u8], flags: i32) -> nix::Result<()> {
    let (path, name) = (CString::new(path.as_bytes()).expect("a path"), c(name));
    // SAFETY: the names are terminated; the pointer and the length describe `value`.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    Errno::result(result).map(drop)
}

pub(crate) fn remove_xattr(path: &OsStr, name: &str) -> nix::Result<()> {
    let (path, name) = (CString::new(path.as_bytes()).expect("a path"), c(name));
    // SAFETY: the names are terminated.
    let result = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Gives a file that has none a name.
pub(crate) fn link_descriptor(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    let (from, name) = (c(&format!("/proc/self/fd/{}", file.as_raw_fd())), c(name));
    let flags = libc::AT_SYMLINK_FOLLOW;
    // SAFETY: both names are terminated and outlive the call.
    let result = unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), dir.as_raw_fd(), name.as_ptr(), flags) };
    Errno::result(result).map(drop)
}

/// Copies from the current position of one file to that of the other.
pub(crate) fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: usize) -> nix::Result<usize> {
    let (from, to, here) = (from.as_raw_fd(), to.as_raw_fd(), std::ptr::null_mut::<libc::loff_t>());
    // SAFETY: null means the descriptor's own position.
    let copied = unsafe { libc::syscall(libc::SYS_copy_file_range, from, here, to, here, size, 0) };
    Errno::result(copied).map(|copied| usize::try_from(copied).unwrap_or(0))
}
