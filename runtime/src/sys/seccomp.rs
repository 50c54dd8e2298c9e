//! Installing a seccomp filter.

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
