//! Terminals: pty pairs for containers, raw mode for clients, and descriptors that travel over sockets.
//!
//! ```text
//! C: Pty::open(its devpts) ── send_fd(master) ──▶ S: recv_fd, Streams::terminal
//! C: Console::install(slave): setsid, TIOCSCTTY, 0 1 2
//! client: RawMode::enter(its stdin) … dropped
//! ```
//! The pair is made in the container's own devpts, so that `/dev/pts/0` exists there and `tty` finds it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, setsid};

use crate::sys::monitor as sys;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Winsize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

impl Winsize {
    /// The size of this terminal.
    ///
    /// # Errors
    /// `ENOTTY` if it is none.
    pub fn of(terminal: impl AsFd) -> nix::Result<Self> {
        let size = sys::window_size(terminal.as_fd())?;
        Ok(Self { rows: size.ws_row, cols: size.ws_col })
    }

    /// Gives a terminal this size; by a pty's master its slave has it too, and programs there get SIGWINCH.
    ///
    /// # Errors
    /// `ENOTTY` if it is none.
    pub fn apply(self, terminal: impl AsFd) -> nix::Result<()> {
        let size = libc::winsize { ws_row: self.rows, ws_col: self.cols, ws_xpixel: 0, ws_ypixel: 0 };
        sys::set_window_size(terminal.as_fd(), &size)
    }
}

/// Sends one descriptor with a single byte. No allocation.
///
/// # Errors
/// What `sendmsg(2)` says.
pub fn send_fd(socket: impl AsFd, fd: impl AsFd) -> nix::Result<()> {
    sys::send_with_fds(socket.as_fd(), &[0], &[fd.as_fd()]).map(drop)
}

/// Receives the descriptor of [`send_fd`], close-on-exec.
///
/// # Errors
/// What `recvmsg(2)` says; `ECONNRESET` if the peer closed without sending; `EBADMSG` for a message without exactly
/// one descriptor.
pub fn recv_fd(socket: impl AsFd) -> nix::Result<OwnedFd> {
    let received = sys::recv_with_fds(socket.as_fd(), &mut [0; 1], 0)?;
    if received.len_bytes == 0 {
        return Err(Errno::ECONNRESET);
    }
    match received.fds {
        [Some(fd), None, None] if !received.truncated => Ok(fd),
        _ => Err(Errno::EBADMSG),
    }
}

/// A pty pair. Both ends are close-on-exec.
#[derive(Debug)]
pub struct Pty {
    /// The supervisor's end.
    pub master: OwnedFd,
    /// The container's end.
    pub slave: OwnedFd,
}

impl Pty {
    /// Opens a pair in the devpts instance mounted at this directory. No allocation.
    ///
    /// The slave is opened by its master, not by name. The host's own instance, which a container sees that has the
    /// host's `/dev`, is closed to all but its device beside it, `/dev/ptmx`.
    ///
    /// # Errors
    /// What `openat(2)`, `TIOCSPTLCK` or `TIOCGPTPEER` say; `ENOSPC` when the instance has no pty left.
    ///
    /// # Source
    /// `pts(4)`, `ioctl_tty(2)`.
    pub fn open(devpts: impl AsFd) -> nix::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = match openat(&devpts, c"ptmx", flags, Mode::empty()) {
            Err(Errno::EACCES) => openat(&devpts, c"../ptmx", flags | OFlag::O_NOFOLLOW, Mode::empty())?,
            opened => opened?,
        };
        let master = sys::above_stdio(master)?;
        sys::unlock_pty(master.as_fd())?;
        let slave = sys::above_stdio(sys::open_pty_peer(master.as_fd())?)?;
        Ok(Self { master, slave })
    }

    /// Gives the slave to the container's user, as `login` would; the group stays devpts' own (tty). No allocation.
    ///
    /// # Errors
    /// What `fchown(2)` says.
    pub fn give_to(&self, uid: Uid) -> nix::Result<()> {
        fchown(&self.slave, Some(uid), None::<Gid>)
    }
}

/// Makes `slave` the controlling terminal of a new session and descriptors 0, 1 and 2, which stay open over
/// `execve`. No allocation. `slave` must be above 2, as [`Pty::open`] makes it.
///
/// # Errors
/// What `TIOCSCTTY` or `dup2(2)` say. That the caller leads a process group already is none.
pub fn install_console(slave: impl AsFd) -> nix::Result<()> {
    match setsid() {
        // A session leader stays one; any other group leader fails at the next step.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    sys::set_controlling_terminal(slave.as_fd())?;
    dup2_stdin(&slave)?;
    dup2_stdout(&slave)?;
    dup2_stderr(&slave)
}

/// A client's terminal in raw mode, put back when this is dropped.
///
/// Every way out restores it:
/// - return, `?` and unwinding: `Drop`;
/// - `std::process::exit`: a hook of `atexit(3)`;
/// - a panic that aborts and signals that end the process (ABRT, HUP, INT, QUIT, TERM): a handler, unless the program
///   has handlers of its own; clients block most of these and receive them on a descriptor, and then `Drop` does it;
/// - SIGTSTP: the client's loop drops this, stops, and enters anew (keys do not make signals in raw mode).
///
/// SIGKILL and faults remain: nobody can help there.
#[derive(Debug)]
pub struct RawMode {
    /// Our own descriptor of the terminal: the hooks know its number.
    _terminal: OwnedFd,
}

impl RawMode {
    /// Switches the terminal to raw mode. One per process at a time.
    ///
    /// # Errors
    /// `ENOTTY` if it is no terminal.
    pub fn enter(terminal: impl AsFd) -> nix::Result<Self> {
        let terminal = sys::duplicate(terminal.as_fd())?;
        let saved = tcgetattr(&terminal)?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        sys::remember_terminal(terminal.as_fd(), saved.into());
        tcsetattr(&terminal, SetArg::TCSANOW, &raw)?;
        Ok(Self { _terminal: terminal })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        sys::restore_terminal();
    }
}

/// Whether the descriptor is a terminal; unlike `isatty` of a `File`, for borrowed descriptors.
#[must_use]
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    std::io::IsTerminal::is_terminal(&fd)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use nix::fcntl::open;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use nix::sys::termios::LocalFlags;
    use nix::unistd::{read, write};

    pub(crate) fn pty() -> Pty {
        // The host's /dev/pts/ptmx is closed to ordinary users; a container's is not.
        let directory = open("/dev", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        Pty::open(directory).unwrap()
    }

    #[test]
    fn a_pair_is_connected_and_has_a_size() {
        let pty = pty();
        let size = Winsize { rows: 33, cols: 101 };
        size.apply(&pty.master).unwrap();
        assert_eq!(Winsize::of(&pty.slave), Ok(size));
        write(&pty.slave, b"hi\n").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(read(&pty.master, &mut buffer), Ok(4));
        assert_eq!(&buffer[..4], b"hi\r\n");
    }

    #[test]
    fn a_master_that_travelled_over_a_socket_is_the_same_pty() {
        let pty = pty();
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        send_fd(&theirs, &pty.master).unwrap();
        let master = recv_fd(&ours).unwrap();
        write(&pty.slave, b"x").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(read(&master, &mut buffer), Ok(1));
        drop(theirs);
        assert_eq!(recv_fd(&ours).unwrap_err(), Errno::ECONNRESET);
    }

    #[test]
    fn a_message_without_a_descriptor_is_refused() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        write(&theirs, b"x").unwrap();
        assert_eq!(recv_fd(&ours).unwrap_err(), Errno::EBADMSG);
    }

    #[test]
    fn raw_mode_ends_with_its_guard() {
        let pty = pty();
        let is_canonical =
            || tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO);
        assert!(is_canonical());
        let raw = RawMode::enter(&pty.slave).unwrap();
        assert!(!is_canonical());
        drop(raw);
        assert!(is_canonical());
        assert_eq!(
            RawMode::enter(open("/dev/null", OFlag::O_RDONLY, Mode::empty()).unwrap()).unwrap_err(),
            Errno::ENOTTY
        );
    }
}
