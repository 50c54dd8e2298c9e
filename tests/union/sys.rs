//! Kernel calls that `nix` lacks, by descriptor.

use std::ffi::CString;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

fn c(text: &str) -> CString {
    CString::new(text).expect("the tests' names have no zero")
}

pub(crate) fn rename(from: &Path, to: &Path, flags: u32) -> nix::Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("a path");
    let (from, to, here) = (path(from), path(to), libc::AT_FDCWD);
    // SAFETY: both paths are terminated and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), flags) };
    Errno::result(result).map(drop)
}

pub(crate) fn get_xattr(path: &Path, name: &str) -> nix::Result<Vec<u8>> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes()).expect("a path"), c(name));
    let mut value = vec![0_u8; 65_536];
    // SAFETY: the names are terminated; the pointer and the length describe `value`.
    let size = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(Errno::result(size)?).unwrap_or(0));
    Ok(value)
}

pub(crate) fn list_xattrs(path: &Path) -> nix::Result<Vec<String>> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    let mut names = vec![0_u8; 65_536];
    // SAFETY: the path is terminated; the pointer and the length describe `names`.
    let size = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(Errno::result(size)?).unwrap_or(0));
    let words = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(words.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> nix::Result<()> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes()).expect("a path"), c(name));
    // SAFETY: the names are terminated; the pointer and the length describe `value`.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    Errno::result(result).map(drop)
}

pub(crate) fn remove_xattr(path: &Path, name: &str) -> nix::Result<()> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes()).expect("a path"), c(name));
    // SAFETY: the names are terminated.
    let result = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Writes through a shared mapping.
pub(crate) fn write_mapped(file: BorrowedFd<'_>, offset: usize, data: &[u8]) -> nix::Result<()> {
    let length = NonZeroUsize::new(offset + data.len()).expect("something is written");
    let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
    // SAFETY: the kernel chooses the address, so no memory of ours is replaced.
    let address = unsafe { mmap(None, length, protection, flags, file, 0) }?;
    // SAFETY: `offset` lies in the mapping.
    let target = unsafe { address.cast::<u8>().add(offset) };
    // SAFETY: the mapping is writable for `data.len()` bytes from there, and nobody else has it.
    unsafe { target.copy_from_nonoverlapping(NonNull::from(data).cast(), data.len()) };
    // SAFETY: the mapping is ours.
    unsafe { munmap(address, length.get()) }
}

/// `FS_IOC_GETFLAGS`
pub(crate) fn get_flags(file: BorrowedFd<'_>) -> nix::Result<i64> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes at most a long there.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut flags) };
    Errno::result(result).map(|_| flags & 0xffff_ffff)
}

/// `FS_IOC_SETFLAGS`
pub(crate) fn set_flags(file: BorrowedFd<'_>, flags: i64) -> nix::Result<()> {
    let flags: libc::c_long = flags;
    // SAFETY: the kernel reads at most a long there.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS as _, &raw const flags) };
    Errno::result(result).map(drop)
}

/// A lock of the open file on all of it, without waiting.
pub(crate) fn lock(file: BorrowedFd<'_>) -> nix::Result<()> {
    let lock =
        libc::flock { l_type: libc::F_WRLCK as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the kernel reads the structure, which outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    Errno::result(result).map(drop)
}

/// `copy_file_range` from the current positions.
pub(crate) fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: usize) -> nix::Result<usize> {
    let (from, to, here) = (from.as_raw_fd(), to.as_raw_fd(), std::ptr::null_mut::<libc::loff_t>());
    // SAFETY: null means the descriptor's own position.
    let copied = unsafe { libc::syscall(libc::SYS_copy_file_range, from, here, to, here, size, 0) };
    Errno::result(copied).map(|copied| usize::try_from(copied).unwrap_or(0))
}
