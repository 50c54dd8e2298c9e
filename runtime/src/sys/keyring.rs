//! Kernel keyrings.

use std::ffi::CStr;

use nix::errno::Errno;

/// `KEYCTL_JOIN_SESSION_KEYRING`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// `KEYCTL_SETPERM`.
const SETPERM: libc::c_int = 5;

/// Joins the session keyring of this name, made if there is none, and returns its serial number.
///
/// # Source
/// `keyctl_join_session_keyring(3)`.
pub(crate) fn join_session_keyring(name: &CStr) -> Result<i32, Errno> {
    // SAFETY: the only pointer is a string that ends with NUL and outlives the call.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    // Key serial numbers are 32 bits wide.
    Errno::result(serial).map(|serial| serial as i32)
}

/// Sets who may do what with a key.
///
/// # Source
/// `keyctl_setperm(3)`; the bits are those of `keyutils.h`.
pub(crate) fn set_permissions(serial: i32, permissions: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, serial, permissions) };
    Errno::result(result).map(drop)
}
