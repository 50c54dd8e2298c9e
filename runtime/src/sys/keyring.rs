//! Kernel keyrings.

use std::ffi::CStr;

use nix::errno::Errno;

/// `KEYCTL_JOIN_SESSION_KEYRING`.
const JOIN_SESSION_KEYRING: libc::c_int = 1;

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
