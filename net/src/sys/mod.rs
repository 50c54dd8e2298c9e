//! Kernel calls nix does not have; the only unsafe code of the crate.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

mod pages;
mod sandbox;
mod socket;
mod tun;

pub(crate) use pages::Pages;
pub(crate) use sandbox::{allow_calls, drop_capabilities};

pub(crate) use socket::{
    PacketSource, accept, local_addr, receive_from, send_from, set_int, set_linger_zero, splice_in, splice_out,
};
pub(crate) use tun::open_tun;

/// A descriptor for a child that was not reaped yet.
///
/// # Errors
/// `ENOSYS` before Linux 5.3.
///
/// # Source
/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)?;
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that `SCM_RIGHTS` brought.
pub(crate) fn received_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for us, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sends a signal through a pidfd.
///
/// # Source
/// pidfd_send_signal(2), Linux 5.1.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed and means "as kill(2) would".
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    Errno::result(sent).map(drop)?;
    Ok(())
}

/// Which side of [`fork`] this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's pid.
    Parent(Pid),
}

/// Forks a process that has one thread.
///
/// # Errors
/// Those of fork(2).
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: our callers are single-threaded by rule (STYLE 1.7), so no lock can be held by a thread that is not
    // copied; the child runs ordinary code until `exit_now`.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
    }
}

/// Ends the process without running destructors or exit handlers of the process it was forked from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from `first` to `last`.
///
/// # Source
/// close_range(2), Linux 5.9; on older kernels one close(2) each, up to the limit.
pub(crate) fn close_range(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: the caller is a fresh child that owns its whole table and uses none of these descriptors again.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done != 0 {
        for fd in first..=last.min(65536) {
            // SAFETY: as above; closing a number that is not open is an error and nothing else.
            let _ = unsafe { libc::close(fd) };
        }
    }
}

/// Kills this process when its parent ends.
pub(crate) fn die_with_parent() {
    // SAFETY: takes integers only.
    let _ = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

/// A number that nobody can guess.
///
/// # Source
/// getrandom(2), Linux 3.17.
pub(crate) fn random_u16() -> Result<u16, Errno> {
    let mut bytes = [0_u8; 2];
    // SAFETY: the pointer and the length describe `bytes`; so few bytes come whole.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    Errno::result(got).map(|_| u16::from_ne_bytes(bytes))
}

/// Whether `needle` occurs in `haystack`.
///
/// # Source
/// memmem(3).
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let (hay, pin) = (haystack.as_ptr().cast(), needle.as_ptr().cast());
    // SAFETY: both pointers come with the length of the slice they were taken from; the call only reads.
    let found = unsafe { libc::memmem(hay, haystack.len(), pin, needle.len()) };
    !found.is_null()
}

/// Turns a write to a connection that is gone into an error, whatever the process did before.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is no handler, so nothing can run at a bad moment.
    let _ = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Why an I/O call failed, as messages have it: lower case, without the number.
pub(crate) fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
