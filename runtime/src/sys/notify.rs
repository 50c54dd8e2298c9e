//! System calls of other processes: notifications, their memory, their limits; and what answering them takes.

use std::ffi::CStr;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// `struct seccomp_data` within `struct seccomp_notif`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Notification {
    /// Names the call until it is answered or the caller is gone.
    pub(crate) id: u64,
    /// Thread id of the caller as our pid namespace counts.
    pub(crate) pid: u32,
    flags: u32,
    /// Number of the call.
    pub(crate) number: u32,
    /// `AUDIT_ARCH_*`.
    pub(crate) arch: u32,
    instruction_pointer: u64,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

// `_IOWR('!', 0, struct seccomp_notif)` and those after it, linux/seccomp.h.
const RECEIVE: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
const ADD_FD: u32 = 0x4018_2103;
const SET_FLAGS: u32 = 0x4008_2104;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: u64 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`.
const AND_SEND: u32 = 1 << 1;

fn control<T>(fd: BorrowedFd<'_>, request: u32, argument: *mut T) -> Result<i32, Errno> {
    // SAFETY: callers pass the request's own structure, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) };
    Errno::result(result)
}

/// Waits for the next call.
///
/// # Errors
/// `ENOENT` when the caller died meanwhile, or nobody is left under the filter; `EINTR`.
///
/// # Source
/// `seccomp_unotify(2)`, Linux 5.0.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    let mut notification = Notification::default();
    control(listener, RECEIVE, &raw mut notification)?;
    Ok(notification)
}

/// Lets the kernel execute the call.
///
/// # Source
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`, Linux 5.5.
pub(crate) fn answer_continue(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    let mut response = Response { id, value: 0, error: 0, flags: CONTINUE };
    control(listener, SEND, &raw mut response).map(drop)
}

/// Makes the call return `result`.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
    let mut response = match result {
        Ok(value) => Response { id, value, error: 0, flags: 0 },
        Err(errno) => Response { id, value: 0, error: -(errno as i32), flags: 0 },
    };
    control(listener, SEND, &raw mut response).map(drop)
}

/// Makes the call return a new descriptor for `source`.
///
/// # Errors
/// `EMFILE` and others of the caller's descriptor table; `EINVAL` before Linux 5.14.
///
/// # Source
/// `SECCOMP_IOCTL_NOTIF_ADDFD` with `SECCOMP_ADDFD_FLAG_SEND`.
pub(crate) fn answer_with_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    source: BorrowedFd<'_>,
    close_on_exec: bool,
) -> Result<(), Errno> {
    let target_flags = if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
    let mut request = AddFd { id, flags: AND_SEND, source: source.as_raw_fd() as u32, target: 0, target_flags };
    control(listener, ADD_FD, &raw mut request).map(drop)
}

/// Whether the caller still waits for the answer: what was read of it belongs to it.
pub(crate) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    let mut id = id;
    control(listener, ID_VALID, &raw mut id).is_ok()
}

/// Asks the kernel to run caller and notifier on one processor in turn. Older kernels refuse, and nothing is lost.
///
/// # Source
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, Linux 6.6.
pub(crate) fn wake_synchronously(listener: BorrowedFd<'_>) {
    // The flags are the argument itself.
    let flags = std::ptr::without_provenance_mut::<u8>(SYNC_WAKE_UP as usize);
    let _ = control(listener, SET_FLAGS, flags);
}

/// Bytes up to the next page: memory is mapped or not by pages, and a transfer ends before the first element that is not.
const PAGE_BYTES: u64 = 4096;

/// Reads memory of another process; less than asked for where it is not mapped.
///
/// # Source
/// `process_vm_readv(2)`, Linux 3.2.
pub(crate) fn read_memory(pid: u32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = pieces(address, buffer.len());
    // SAFETY: the local buffer is writable for its length; remote addresses are the kernel's to check.
    let result = unsafe {
        libc::process_vm_readv(pid as libc::pid_t, &raw const local, 1, remote.as_ptr(), remote.len() as _, 0)
    };
    Errno::result(result).map(|bytes| bytes as usize)
}

/// Writes memory of another process, all or an error.
///
/// # Source
/// `process_vm_writev(2)`, Linux 3.2.
pub(crate) fn write_memory(pid: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: remote_address(address), iov_len: bytes.len() };
    // SAFETY: the local bytes are readable for their length; the remote address is the kernel's to check.
    let result = unsafe { libc::process_vm_writev(pid as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0) };
    match Errno::result(result)? as usize {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

fn remote_address(address: u64) -> *mut libc::c_void {
    std::ptr::without_provenance_mut(address as usize)
}

fn pieces(address: u64, length: usize) -> [libc::iovec; 2] {
    let first = ((PAGE_BYTES - address % PAGE_BYTES) as usize).min(length);
    [
        libc::iovec { iov_base: remote_address(address), iov_len: first },
        libc::iovec { iov_base: remote_address(address.wrapping_add(first as u64)), iov_len: length - first },
    ]
}

/// Reads and, with `soft`, sets the soft limit of another process; returns soft and hard as they were.
///
/// # Source
/// `prlimit(2)`, Linux 2.6.36.
pub(crate) fn limit_of(pid: u32, resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64), Errno> {
    let new = new.map(|(soft, hard)| libc::rlimit64 { rlim_cur: soft, rlim_max: hard });
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both are null or structures that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut old) };
    Errno::result(result)?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// The attributes of what is behind a descriptor.
///
/// # Source
/// `statx(2)`, Linux 4.11.
pub(crate) fn statx(fd: BorrowedFd<'_>, flags: i32, mask: u32) -> Result<libc::statx, Errno> {
    // SAFETY: statx is plain data for which all zeroes is a valid value.
    let mut out: libc::statx = unsafe { zeroed() };
    let flags = flags | libc::AT_EMPTY_PATH;
    let path = c"".as_ptr();
    // SAFETY: the path is terminated and the structure outlives the call. Not libc's function: it may be an emulation.
    let result = unsafe { libc::syscall(libc::SYS_statx, fd.as_raw_fd(), path, flags, mask, &raw mut out) };
    Errno::result(result)?;
    Ok(out)
}

/// The kernel's own `struct stat` of a descriptor, for comparison.
#[cfg(test)]
pub(crate) fn raw_fstat(fd: BorrowedFd<'_>) -> Result<[u8; 144], Errno> {
    let mut out = [0_u64; 18];
    // SAFETY: the buffer has room for the structure of every 64-bit architecture and outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_fstat, fd.as_raw_fd(), out.as_mut_ptr()) })?;
    let mut bytes = [0; 144];
    for (to, from) in bytes.chunks_exact_mut(8).zip(out) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    Ok(bytes)
}

/// The bytes of a `struct statx`.
pub(crate) fn bytes_of_statx(attributes: &libc::statx) -> &[u8] {
    let length = size_of::<libc::statx>();
    // SAFETY: plain data without padding that the kernel did not write: it came zeroed and was filled by the kernel.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(attributes).cast(), length) }
}

/// An extended attribute by path, following links; `buffer` holds at most what is wanted.
///
/// # Source
/// `getxattr(2)`.
pub(crate) fn xattr<'a>(path: &CStr, name: &CStr, buffer: &'a mut [MaybeUninit<u8>]) -> Result<&'a [u8], Errno> {
    // SAFETY: names are terminated, the buffer is writable for its length.
    let result = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let length = Errno::result(result)? as usize;
    // SAFETY: the kernel wrote `length` bytes, not more than the buffer has.
    Ok(unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), length.min(buffer.len())) })
}

/// Sets an extended attribute by path, following links.
///
/// # Source
/// `setxattr(2)`.
pub(crate) fn set_xattr(path: &CStr, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: names are terminated, the value is readable for its length.
    let result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// Gives the calling thread a root, working directory and umask of its own.
pub(crate) fn unshare_directories() -> Result<(), Errno> {
    // SAFETY: takes an integer.
    Errno::result(unsafe { libc::unshare(libc::CLONE_FS) }).map(drop)
}

/// A descriptor of another process, as our own.
///
/// # Source
/// `pidfd_getfd(2)`, Linux 5.6.
pub(crate) fn descriptor_of(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the kernel returned a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// Lets `SIGUSR1` interrupt calls of this process, and do nothing else.
pub(crate) fn interrupt_by_signal() -> Result<(), Errno> {
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(ignore),
        nix::sys::signal::SaFlags::empty(),
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGUSR1, &action) }.map(drop)
}

/// Interrupts one thread of this process.
pub(crate) fn interrupt(thread: i32) {
    let process = nix::unistd::getpid().as_raw();
    // SAFETY: takes integers. A thread that has ended is no target, and no other process can be one.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
}
