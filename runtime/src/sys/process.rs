//! Processes: clone3, pidfds, execveat, prctl.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::monitor::reaper::Exit;

/// `libc` has this constant in a type that is too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What `clone3` returned, and where.
#[derive(Debug)]
pub enum Forked {
    /// In the process that called: the child's pid in the caller's pid namespace, and its pidfd.
    Parent {
        /// Pid of the child as the caller's pid namespace counts.
        pid: i32,
        /// The child's pidfd, close-on-exec.
        pidfd: OwnedFd,
    },
    /// In the new process.
    Child,
}

/// Forks with namespaces. `flags` are `CLONE_NEW*`; `CLONE_PIDFD` is added, and `CLONE_INTO_CGROUP` when `cgroup` is given.
///
/// The caller must be single-threaded: the child is a copy of the whole process and goes on using its allocator.
///
/// # Errors
/// The errno of `clone3(2)`.
///
/// # Source
/// `clone3(2)`, Linux 5.3; `CLONE_INTO_CGROUP`, Linux 5.7.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain data for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // A sibling's exit signal is that of the process that clones it, and must not be given.
    args.exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM and no stack: the child is a copy like fork(2)'s; args and pidfd outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), std::mem::size_of::<libc::clone_args>()) };
    match Errno::result(result)? {
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel stored a fresh descriptor, owned by nobody else.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// Opens a pidfd of a process by number.
///
/// # Source
/// `pidfd_open(2)`, Linux 5.3.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the kernel returned a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal through a pidfd.
///
/// # Source
/// `pidfd_send_signal(2)`, Linux 5.1.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill in that of kill(2).
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    Errno::result(result).map(drop)
}

/// Reaps the child behind a pidfd; `None` if `block` is false and it still runs.
///
/// # Source
/// `waitid(2)` with `P_PIDFD`, Linux 5.4.
pub fn wait(pidfd: BorrowedFd<'_>, block: bool) -> Result<Option<Exit>, Errno> {
    // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: info outlives the call.
        let result = unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &raw mut info, options) };
        match Errno::result(result) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid filled the SIGCHLD fields, or left the zeroes.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok(Exit::from_siginfo(info.si_code, status))
}

/// Replaces the process by the program behind `fd`, or by `path` when `fd` is `None`. Returns only on failure.
///
/// # Source
/// `execveat(2)`, Linux 3.19; `execve(2)`.
pub fn exec(fd: Option<BorrowedFd<'_>>, path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, envp) = (pointers(args), pointers(env));
    let (dir, flags) = match fd {
        Some(fd) => (fd.as_raw_fd(), libc::AT_EMPTY_PATH),
        None => (libc::AT_FDCWD, 0),
    };
    // SAFETY: path and both arrays are null-terminated and outlive the call.
    unsafe { libc::syscall(libc::SYS_execveat, dir, path.as_ptr(), argv.as_ptr(), envp.as_ptr(), flags) };
    Errno::last()
}

/// Joins the namespaces `flags` of the process behind a pidfd, or of a namespace descriptor.
///
/// # Source
/// `setns(2)`; pidfds since Linux 5.8.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: i32) -> Result<(), Errno> {
    // SAFETY: takes two integers.
    let result = unsafe { libc::setns(fd.as_raw_fd(), flags) };
    Errno::result(result).map(drop)
}

/// Closes, or with `close_on_exec` only marks, every descriptor from `first` upward.
///
/// # Source
/// `close_range(2)`, Linux 5.9; `CLOSE_RANGE_CLOEXEC`, Linux 5.11.
pub(crate) fn close_from(first: RawFd, close_on_exec: bool) -> Result<(), Errno> {
    let flags = if close_on_exec { libc::CLOSE_RANGE_CLOEXEC as i32 } else { 0 };
    // SAFETY: closing is the caller's request; owners of those descriptors must not use them afterwards, which holds
    // because callers are about to execve or to exit.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, i32::MAX, flags) };
    Errno::result(result).map(drop)
}

/// Closes every descriptor from `first` upward but `keep`.
///
/// # Source
/// `close_range(2)`, Linux 5.9.
pub(crate) fn close_others(first: RawFd, keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    let mut first = first;
    for fd in kept.into_iter().filter(|fd| *fd >= 3).chain([i32::MAX]) {
        if fd > first {
            // SAFETY: the caller was forked to keep these descriptors only; whatever owned the others is never used again and
            // never dropped, since it ends by exit or execve.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
            Errno::result(result)?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Whether a descriptor is open and not close-on-exec.
pub(crate) fn is_inherited(fd: RawFd) -> bool {
    // SAFETY: takes integers, and gives flags or -1.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Sets or clears close-on-exec on one descriptor.
pub(crate) fn set_close_on_exec(fd: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    // SAFETY: takes integers.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, if on { libc::FD_CLOEXEC } else { 0 }) };
    Errno::result(result).map(drop)
}

/// `prctl(2)` for options that take plain numbers.
pub fn prctl(option: i32, value: u64) -> Result<(), Errno> {
    // SAFETY: the options used here take integers only.
    let result = unsafe { libc::prctl(option, value, 0, 0, 0) };
    Errno::result(result).map(drop)
}

/// Has a program end with the thread that starts it.
pub fn dies_with_parent(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    let prepare = || prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).map_err(std::io::Error::from);
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}

/// Overwrites the command line and environment that this process was executed with, as `/proc/<pid>/cmdline` and
/// `environ` show them: a fork of ours in a container must not tell the container what its user typed. `name` is what is
/// shown instead, as far as there is room.
///
/// The process forgets its environment and arguments; it must have one thread and the host's `/proc`.
///
/// # Source
/// `proc_pid_stat(5)`, fields `arg_start` to `env_end`, Linux 3.5.
pub(crate) fn hide_command_line(name: &CStr) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name of any characters in brackets.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    // Field 3 of the manual's count is the first behind the name.
    let address = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<usize>().ok());
    for (first, last, text) in [(48, 49, name.to_bytes()), (50, 51, &[][..])] {
        let (Some(start), Some(end)) = (address(first), address(last)) else { continue };
        if start == 0 || end <= start {
            continue;
        }
        let area = std::ptr::with_exposed_provenance_mut::<u8>(start);
        // SAFETY: the kernel put the strings there at execve, on the stack's first pages, which stay mapped and writable;
        // libc keeps pointers to them but no lengths, and zeroes are valid (empty) strings.
        unsafe { std::ptr::write_bytes(area, 0, end - start) };
        let len = text.len().min(end - start - 1);
        // SAFETY: as above; `text` is no part of that area and not longer than it.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), area, len) };
    }
    // What `top` and `ps -c` show.
    // SAFETY: the name is terminated and outlives the call; the kernel copies at most 16 bytes.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Takes the real, effective and saved ids, without libc's broadcast to threads: the caller is single-threaded.
pub(crate) fn set_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: takes integers.
    let result = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    Errno::result(result)?;
    // SAFETY: takes integers.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    Errno::result(result).map(drop)
}

/// Replaces the supplementary groups.
pub(crate) fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the array and its length belong together.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Turns an inherited descriptor number, handed over on a command line of ours, into its owner.
///
/// # Errors
/// `EBADF` when no such descriptor is open.
pub(crate) fn adopt_fd(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_GETFD takes no pointer.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and the caller that passed its number gave it away.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the NIS domain name of the UTS namespace.
pub(crate) fn set_domain_name(name: &str) -> Result<(), Errno> {
    // SAFETY: the bytes and their number belong together; the kernel copies them.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    Errno::result(result).map(drop)
}

/// Brings the loopback interface of the current network namespace up.
///
/// # Source
/// `netdevice(7)`, `SIOCSIFFLAGS`.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    // SAFETY: takes integers.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a fresh descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: request is an ifreq with a terminated name and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    Errno::result(result).map(drop)
}

/// Owns a descriptor that arrived by `SCM_RIGHTS`.
pub(crate) fn received_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel installed it for this process; whoever parsed the message passes it here once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sets a resource limit.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit outlives the call; the old value is not asked for.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null::<u8>()) };
    Errno::result(result).map(drop)
}
