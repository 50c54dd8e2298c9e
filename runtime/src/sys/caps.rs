//! Capabilities of the calling thread: `capset`, the bounding set, the ambient set.
//!
//! Every call is async-signal-safe and allocates nothing.

use nix::errno::Errno;

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits each.
const VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    /// 0: the calling thread.
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets the effective, permitted and inheritable sets of the calling thread.
///
/// # Errors
/// `EPERM` if a set would grow beyond what is permitted.
///
/// # Source
/// `capset(2)`.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    let header = Header { version: VERSION_3, pid: 0 };
    // Truncation is the point: the kernel takes the two halves one after the other.
    let word = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: both pointers are to live objects of the layout version 3 asks for: one header, two data words.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Whether a capability is in the bounding set; `EINVAL` if the kernel does not know it.
///
/// # Source
/// `PR_CAPBSET_READ`, `prctl(2)`.
pub(crate) fn is_bounding(capability: u8) -> Result<bool, Errno> {
    prctl(libc::PR_CAPBSET_READ, capability.into(), 0).map(|result| result == 1)
}

/// Drops one capability from the bounding set of the calling thread.
///
/// # Source
/// `PR_CAPBSET_DROP`, `prctl(2)`.
pub(crate) fn drop_bounding(capability: u8) -> Result<(), Errno> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

/// Keeps the permitted set when all user ids change from 0 to another.
///
/// # Source
/// `PR_SET_KEEPCAPS`, `prctl(2)`.
pub(crate) fn set_keep_caps(keep: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// Empties the ambient set.
///
/// # Source
/// `PR_CAP_AMBIENT`, Linux 4.3.
pub(crate) fn ambient_clear() -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0).map(drop)
}

/// Adds one capability to the ambient set.
///
/// # Source
/// `PR_CAP_AMBIENT`, Linux 4.3.
pub(crate) fn ambient_raise(capability: u8) -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, capability.into()).map(drop)
}

fn prctl(option: libc::c_int, second: libc::c_ulong, third: libc::c_ulong) -> Result<libc::c_int, Errno> {
    let zero: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    let result = unsafe { libc::prctl(option, second, third, zero, zero) };
    Errno::result(result)
}
