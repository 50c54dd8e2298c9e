//! Installing a seccomp filter.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::security::seccomp::Instruction;

/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: libc::c_uint = 1;

/// Installs a filter on the calling thread and all it will start; there is no way back.
///
/// Allocates nothing.
///
/// # Errors
/// `EACCES` without `no_new_privs` and without `CAP_SYS_ADMIN` in the user namespace, `EINVAL` for a
/// program the kernel refuses.
///
/// # Source
/// `seccomp(2)`, Linux 3.17.
pub(crate) fn set_mode_filter(program: &[Instruction], flags: libc::c_uint) -> Result<(), Errno> {
    // What does not fit is longer than any program the kernel takes.
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    // The kernel only reads; `Instruction` has the layout of `struct sock_filter`.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the program and its instructions outlive the call, and `len` is their number.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    Errno::result(result).map(drop)
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: libc::c_uint = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
const WAIT_KILLABLE_RECV: libc::c_uint = 1 << 5;

/// Installs a filter whose notifications are read from the returned descriptor, which is close-on-exec.
///
/// Where the kernel can, a call that is being answered is interrupted by death alone: else a signal would make the
/// process repeat what has been done for it already.
///
/// # Errors
/// As [`set_mode_filter`]; `EBUSY` when a filter of the thread has a listener already.
///
/// # Source
/// `seccomp(2)`, `seccomp_unotify(2)`; Linux 5.0, `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` 5.19.
pub(crate) fn set_mode_filter_notifying(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let install = |flags: libc::c_uint| {
        // SAFETY: the program and its instructions outlive the call, and `len` is their number.
        let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
        Errno::result(result)
    };
    let fd = match install(NEW_LISTENER | WAIT_KILLABLE_RECV) {
        Err(Errno::EINVAL) => install(NEW_LISTENER),
        other => other,
    }?;
    // SAFETY: the kernel returned a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Makes a system call by number with integer arguments only, and returns its errno.
///
/// For tests of filters: every number passed here is one that the filter refuses, or one that takes no
/// pointers.
#[cfg(test)]
pub(crate) fn try_call(number: libc::c_long, arguments: [libc::c_long; 3]) -> Result<libc::c_long, Errno> {
    // SAFETY: no argument is a valid pointer; a call that expects one fails with EFAULT.
    let result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2], 0 as libc::c_long) };
    Errno::result(result)
}
