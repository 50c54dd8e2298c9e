//! Where init waits whose starter does not stay: between an OCI runtime's `create` and its `start`.
//!
//! ```text
//! init                          create            start
//!  │ ── ready ────────────────►  writes the state
//!  │ ◄── go ───────────────────  ends
//!  │ accepts ◄─────────────────────────────────── connects
//!  │ ◄──────────────────────────────────── go ──
//!  │ startContainer hooks, execve
//!  │ ════ end of file ═════════════════════════►  the program runs
//!  or
//!  │ ──── failed: code, text ──────────────────►  init exits
//! ```
//! A socket rather than a FIFO: `start` learns whether the program runs. The socket lies in a directory of the user's
//! alone and is unlinked by the first who connects. End of file towards init means that `start` was killed: init exits.
//!
//! **Runs in:** container init, with the container's credentials and filter.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use super::handshake::{Channel, Report};
use super::steps::InitError;
use crate::process::prctl;
use crate::sys::{SysError, monitor as sys};

/// The socket's name in the container's directory.
pub const NAME: &str = "start.sock";

/// What init is to do in the place of waiting for its supervisor.
#[derive(Clone, Copy)]
pub struct Gate<'a> {
    /// The socket, from [`listen_in`].
    pub listener: BorrowedFd<'a>,
    /// Runs the `createContainer` hooks.
    pub before_pivot: &'a dyn Fn() -> Result<(), InitError>,
    /// Runs the `startContainer` hooks.
    pub before_program: &'a dyn Fn() -> Result<(), InitError>,
}

fn open() -> Result<OwnedFd, SysError> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(SysError::of("socket", "AF_UNIX, SOCK_SEQPACKET"))
}

/// By descriptor: the path of a directory may be longer than a socket's address.
fn address(directory: BorrowedFd<'_>) -> Result<UnixAddr, SysError> {
    UnixAddr::new(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()).as_str())
        .map_err(SysError::of("bind", NAME))
}

/// Makes the socket in the container's directory.
///
/// # Errors
/// The call that failed.
pub fn listen_in(directory: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    let fd = open()?;
    // The file gets the mode of the socket: there is no moment in which it is wider.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(SysError::of("fchmod", NAME))?;
    bind(fd.as_raw_fd(), &address(directory)?).map_err(SysError::of("bind", NAME))?;
    listen(&fd, Backlog::new(1).unwrap_or(Backlog::MAXCONN)).map_err(SysError::of("listen", NAME))?;
    Ok(fd)
}

/// `start`: connects to the init that waits. The caller then unlinks the socket and says go.
///
/// # Errors
/// The call that failed; `ECONNREFUSED` if init is gone.
pub fn knock(directory: BorrowedFd<'_>) -> Result<Channel, SysError> {
    let fd = open()?;
    connect(fd.as_raw_fd(), &address(directory)?).map_err(SysError::of("connect", NAME))?;
    Ok(Channel::adopt(fd))
}

impl Gate<'_> {
    /// Lets go of the parent, and closes the process to whoever is beside it in a shared pid namespace: until the program
    /// runs, `/proc/<pid>/exe` is our own binary. Before credentials and filter may forbid it.
    pub(super) fn prepare(&self) -> Result<(), SysError> {
        prctl(libc::PR_SET_DUMPABLE, 0).map_err(SysError::of("prctl", "PR_SET_DUMPABLE, 0"))?;
        prctl(libc::PR_SET_PDEATHSIG, 0).map_err(SysError::of("prctl", "PR_SET_PDEATHSIG, 0"))
    }

    /// Tells `create` that everything is ready, and waits for a `start`; `None` if whoever was to let us go on is gone.
    pub(super) fn wait(&self, creator: &Channel) -> Result<Option<Channel>, InitError> {
        creator.report(&Report::Ready)?;
        if !creator.wait_go() {
            return Ok(None);
        }
        let starter = loop {
            match sys::accept(self.listener) {
                Ok(starter) => break Channel::adopt(starter),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(errno) => return Err(SysError { call: "accept4", args: NAME.into(), errno }.into()),
            }
        };
        Ok(starter.wait_go().then_some(starter))
    }
}
