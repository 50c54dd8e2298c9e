//! Kernel and libc calls of the supervisor's loop, of terminals and of signals.
//!
//! Everything here may be called between `clone` and `execve` unless its comment says otherwise: no allocation, no
//! lock.

use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use nix::errno::Errno;

/// At most this many descriptors travel with one message.
pub(crate) const MAX_PASSED_FDS: usize = 3;

/// Room for the control message that carries [`MAX_PASSED_FDS`] descriptors, aligned as the kernel wants it.
#[repr(align(8))]
struct ControlBuffer([u8; 64]);

/// Sends `bytes` and `fds` as one message.
///
/// # Source
/// `unix(7)` `SCM_RIGHTS`, `cmsg(3)`.
pub(crate) fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<usize> {
    if fds.len() > MAX_PASSED_FDS {
        return Err(Errno::E2BIG);
    }
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = ControlBuffer([0; 64]);
    // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = (fds.len() * size_of::<RawFd>()) as libc::c_uint;
        header.msg_control = (&raw mut control.0).cast();
        // SAFETY: CMSG_SPACE is arithmetic on its argument.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as _;
        // SAFETY: the header points to a control buffer of at least CMSG_SPACE(3 descriptors) bytes.
        let first = unsafe { libc::CMSG_FIRSTHDR(&header) };
        // SAFETY: `first` is not null, because msg_controllen holds one header, and is aligned as `ControlBuffer` is.
        let message = unsafe { &mut *first };
        message.cmsg_level = libc::SOL_SOCKET;
        message.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: CMSG_LEN is arithmetic on its argument.
        message.cmsg_len = unsafe { libc::CMSG_LEN(payload) } as _;
        // SAFETY: `first` is a valid header, see above.
        let mut slot: *mut RawFd = unsafe { libc::CMSG_DATA(first) }.cast();
        for fd in fds {
            // SAFETY: the buffer has room for `fds.len()` descriptors behind the header; alignment is that of int.
            unsafe { slot.write_unaligned(fd.as_raw_fd()) };
            slot = slot.wrapping_add(1);
        }
    }
    // SAFETY: header, iovec and control buffer outlive the call; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(|sent| sent as usize)
}

/// What [`recv_with_fds`] took from the socket.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Bytes written to the buffer; 0 is end of file.
    pub(crate) len_bytes: usize,
    /// The descriptors that came along, close-on-exec.
    pub(crate) fds: [Option<OwnedFd>; MAX_PASSED_FDS],
    /// The message or its descriptors did not fit and were cut.
    pub(crate) truncated: bool,
}

/// Receives one message and the descriptors with it. `flags` are those of `recvmsg`, e.g. `MSG_DONTWAIT`.
///
/// # Source
/// `unix(7)` `SCM_RIGHTS`, `recvmsg(2)` `MSG_CMSG_CLOEXEC`.
pub(crate) fn recv_with_fds(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: libc::c_int) -> nix::Result<Received> {
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = ControlBuffer([0; 64]);
    // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control.0).cast();
    // SAFETY: CMSG_SPACE is arithmetic on its argument.
    header.msg_controllen = unsafe { libc::CMSG_SPACE((MAX_PASSED_FDS * size_of::<RawFd>()) as libc::c_uint) } as _;
    // SAFETY: the header points to buffers that live until after the call, with their true lengths.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags | libc::MSG_CMSG_CLOEXEC) };
    let mut received = Received { len_bytes: Errno::result(got)? as usize, ..Received::default() };
    received.truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    // SAFETY: the kernel has set msg_control and msg_controllen to what it wrote.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&header) };
    // SAFETY: `at` is null or a header that the kernel wrote within the control buffer.
    while let Some(message) = unsafe { at.as_ref() } {
        if message.cmsg_level == libc::SOL_SOCKET && message.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN is arithmetic on its argument.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            #[allow(clippy::unnecessary_cast, reason = "u32 in musl, usize in glibc")]
            let count = (message.cmsg_len as usize).saturating_sub(head) / size_of::<RawFd>();
            // SAFETY: `at` is a valid header, see above.
            let data: *const RawFd = unsafe { libc::CMSG_DATA(at) }.cast();
            for index in 0..count {
                // SAFETY: the kernel wrote `count` descriptors behind this header.
                let raw = unsafe { data.wrapping_add(index).read_unaligned() };
                // SAFETY: the kernel has just installed this descriptor for us; nothing else owns it.
                let owned = unsafe { OwnedFd::from_raw_fd(raw) };
                match received.fds.iter_mut().find(|slot| slot.is_none()) {
                    Some(slot) => *slot = Some(owned),
                    None => received.truncated = true,
                }
            }
        }
        // SAFETY: `at` is a header within the control buffer that `header` describes.
        at = unsafe { libc::CMSG_NXTHDR(&header, at) };
    }
    Ok(received)
}

/// Receives bytes without waiting, whatever the flags of the socket's open file description are.
pub(crate) fn recv_now(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> nix::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    // SAFETY: `spare` is writable memory of the given length.
    let got = unsafe { libc::recv(socket.as_raw_fd(), spare.as_mut_ptr().cast(), spare.len(), libc::MSG_DONTWAIT) };
    let got = Errno::result(got)? as usize;
    // SAFETY: the kernel has initialised `got` bytes behind the old length, within the capacity.
    unsafe { buffer.set_len(buffer.len() + got) };
    Ok(got)
}

/// Reads once into the spare capacity of `buffer`, so that memory no byte ever reached is never touched.
pub(crate) fn read_to_spare(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> nix::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    // SAFETY: `spare` is writable memory of the given length.
    let got = unsafe { libc::read(fd.as_raw_fd(), spare.as_mut_ptr().cast(), spare.len()) };
    let got = Errno::result(got)? as usize;
    // SAFETY: the kernel has initialised `got` bytes behind the old length, within the capacity.
    unsafe { buffer.set_len(buffer.len() + got) };
    Ok(got)
}

/// Position of the first `byte` in `haystack`.
///
/// libc's search is vectorised (glibc) or word-wise (musl); the standard library's is private.
pub(crate) fn find_byte(haystack: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: memchr reads at most `len` bytes of a slice that is valid for `len` bytes.
    let found = unsafe { libc::memchr(haystack.as_ptr().cast(), libc::c_int::from(byte), haystack.len()) };
    (!found.is_null()).then(|| found as usize - haystack.as_ptr() as usize)
}

/// Window size of a terminal.
///
/// # Source
/// `ioctl_tty(2)` `TIOCGWINSZ`.
pub(crate) fn window_size(terminal: BorrowedFd<'_>) -> nix::Result<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize to memory we own.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ as _, &raw mut size) })?;
    Ok(size)
}

/// Sets the window size of a terminal; its foreground process group gets SIGWINCH if it changed.
///
/// # Source
/// `ioctl_tty(2)` `TIOCSWINSZ`.
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, size: &libc::winsize) -> nix::Result<()> {
    // SAFETY: the kernel reads one winsize.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const *size) }).map(drop)
}

/// Makes a terminal the controlling one of the caller, who leads a session without one.
///
/// # Source
/// `ioctl_tty(2)` `TIOCSCTTY`.
pub(crate) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the argument is an integer.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) }).map(drop)
}

/// Allows the slave of a fresh pty to be opened.
///
/// # Source
/// `ioctl_tty(2)` `TIOCSPTLCK`.
pub(crate) fn unlock_pty(master: BorrowedFd<'_>) -> nix::Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the kernel reads one int.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const unlocked) }).map(drop)
}

/// Opens the slave of a pty by its master: no path, no mount namespace involved.
///
/// # Source
/// `ioctl_tty(2)` `TIOCGPTPEER`, Linux 4.13.
pub(crate) fn open_pty_peer(master: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an integer.
    let raw = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) })?;
    // SAFETY: the kernel has just made this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The kernel's `sigaction`: the default action without flags is all zero on every architecture.
#[repr(C)]
struct KernelSigaction([u64; 4]);

/// Gives every signal its default action and empties the mask.
///
/// By raw system calls: the libraries hide their internal signals 32 and 33, which may be ignored as any other.
///
/// # Source
/// `rt_sigaction(2)`, `rt_sigprocmask(2)`.
pub(crate) fn reset_signals() {
    let default = KernelSigaction([0; 4]);
    let old = std::ptr::null_mut::<KernelSigaction>();
    for number in 1..=64 {
        // SAFETY: the kernel reads one sigaction of 32 bytes with a mask of 8; KILL and STOP fail with EINVAL.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, &raw const default, old, 8usize) };
    }
    let empty = 0u64;
    let old = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads one mask of 8 bytes.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const empty, old, 8usize) };
}

/// A child that has ended: its pid and the raw status of `waitpid`; `None` when no child has.
///
/// # Source
/// `waitpid(2)`; `nix` refuses statuses with real-time signals.
pub(crate) fn reap_any() -> nix::Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    Ok((pid != 0).then_some((pid, status)))
}

/// Seconds east of UTC of the local time zone at `epoch_s`. May allocate: libc reads the zone file.
///
/// # Source
/// `localtime_r(3)`.
pub(crate) fn local_offset_s(epoch_s: i64) -> i32 {
    let time = epoch_s as _;
    let mut broken = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid; the process is single-threaded or does not change TZ.
    let result = unsafe { libc::localtime_r(&raw const time, broken.as_mut_ptr()) };
    if result.is_null() {
        return 0;
    }
    // SAFETY: all-zero is a valid tm and localtime_r has filled it.
    unsafe { broken.assume_init() }.tm_gmtoff as i32
}

/// The terminal whose mode must be restored when the process ends in whatever way, and that mode.
///
/// One per process: a process has one terminal in its hands. The mode is leaked, since a handler may read it late.
static RAW_TERMINAL: AtomicI32 = AtomicI32::new(-1);
static RAW_SAVED: AtomicPtr<libc::termios> = AtomicPtr::new(std::ptr::null_mut());
static HOOKED: AtomicBool = AtomicBool::new(false);

/// Signals that end a process by default and can be caught; stops and cores by faults are left to Rust's runtime.
const FATAL: [libc::c_int; 5] = [libc::SIGABRT, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Remembers `saved` as the mode to put back on `terminal` by [`restore_terminal`], at exit and on fatal signals.
/// Allocates.
pub(crate) fn remember_terminal(terminal: BorrowedFd<'_>, saved: libc::termios) {
    RAW_SAVED.store(Box::into_raw(Box::new(saved)), Ordering::SeqCst);
    RAW_TERMINAL.store(terminal.as_raw_fd(), Ordering::SeqCst);
    if HOOKED.swap(true, Ordering::SeqCst) {
        return;
    }
    // SAFETY: `at_exit` is an extern "C" function without arguments that lives as long as the program.
    unsafe { libc::atexit(at_exit) };
    for number in FATAL {
        // SAFETY: all-zero is a valid sigaction: default handler, empty mask.
        let mut action: libc::sigaction = unsafe { zeroed() };
        // SAFETY: as above; the kernel fills it with the present action.
        let mut present: libc::sigaction = unsafe { zeroed() };
        // SAFETY: both pointers are null or valid.
        unsafe { libc::sigaction(number, std::ptr::null(), &raw mut present) };
        if present.sa_sigaction != libc::SIG_DFL {
            continue;
        }
        action.sa_sigaction = on_fatal_signal as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER;
        // SAFETY: the handler is async-signal-safe: it calls sigprocmask, tcsetattr and raise only.
        unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) };
    }
}

/// Puts the remembered mode back; does nothing a second time. Async-signal-safe.
pub(crate) fn restore_terminal() {
    let terminal = RAW_TERMINAL.swap(-1, Ordering::SeqCst);
    let saved = RAW_SAVED.load(Ordering::SeqCst);
    if terminal < 0 || saved.is_null() {
        return;
    }
    // A background process that sets a mode is stopped by SIGTTOU unless it blocks it.
    let mut ttou = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut old = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is valid for one sigset_t.
    unsafe { libc::sigemptyset(ttou.as_mut_ptr()) };
    // SAFETY: the set is initialised.
    unsafe { libc::sigaddset(ttou.as_mut_ptr(), libc::SIGTTOU) };
    // SAFETY: both pointers are valid sets.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, ttou.as_ptr(), old.as_mut_ptr()) };
    // SAFETY: `saved` points to a leaked termios that is never written again.
    unsafe { libc::tcsetattr(terminal, libc::TCSANOW, saved) };
    // SAFETY: `old` was filled by the call above.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
}

extern "C" fn at_exit() {
    restore_terminal();
}

extern "C" fn on_fatal_signal(number: libc::c_int) {
    restore_terminal();
    // The handler has reset itself: this ends the process by the very signal.
    // SAFETY: raise takes an integer and is async-signal-safe.
    unsafe { libc::raise(number) };
}

/// Sends bytes on a socket without waiting and without SIGPIPE, whatever the flags of its description are.
pub(crate) fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads `len` bytes of a valid slice.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    Errno::result(sent).map(|sent| sent as usize)
}

/// Accepts a connection; the descriptor is close-on-exec.
///
/// # Source
/// `accept4(2)`; `nix` returns a raw descriptor.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let no_address = std::ptr::null_mut();
    // SAFETY: null pointers ask for no address.
    let raw = unsafe { libc::accept4(listener.as_raw_fd(), no_address, std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
    let raw = Errno::result(raw)?;
    // SAFETY: the kernel has just made this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A second descriptor of the same description, close-on-exec; that of `nix` is not.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    // SAFETY: the arguments are integers.
    let raw = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel has just made this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The same descriptor with a number above those of standard input, output and error.
pub(crate) fn above_stdio(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() > libc::STDERR_FILENO { Ok(fd) } else { duplicate(fd.as_fd()) }
}

/// Sends a signal to one thread.
#[cfg(test)]
pub(crate) fn signal_thread(process: i32, thread: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: the arguments are integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_was_reset_starts_with_defaults_and_an_empty_mask() {
        use nix::sys::signal::{SigSet, Signal};
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("grep");
        command.args(["-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
        let prepare = || {
            let mut set = SigSet::empty();
            set.add(Signal::SIGUSR1);
            set.thread_block()?;
            reset_signals();
            Ok(())
        };
        // SAFETY: the closure makes system calls only.
        unsafe { command.pre_exec(prepare) };
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(output, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    }

    #[test]
    fn find_byte_sees_the_first_and_stays_within_the_slice() {
        assert_eq!(find_byte(b"ab\ncd\n", b'\n'), Some(2));
        assert_eq!(find_byte(&b"ab\n"[..2], b'\n'), None);
        assert_eq!(find_byte(b"", b'\n'), None);
    }
}
