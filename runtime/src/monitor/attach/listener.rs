//! The supervisor's side of `attach.sock`: who may come in.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};

use crate::sys::monitor as sys;

/// Name of the socket in a container's runtime directory.
#[must_use]
pub fn socket_name() -> &'static str {
    "attach.sock"
}

/// Why clients cannot attach to this container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// A call failed.
    #[error("{call} attach.sock: {}", source.desc().to_lowercase())]
    Call {
        /// Which.
        call: &'static str,
        /// Why.
        source: Errno,
    },
}

/// The socket that clients connect to.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    user: Uid,
}

/// The address of a socket in a directory, by the directory's descriptor: a path below `--runroot` may be longer than
/// the 107 bytes that an address takes.
pub(super) fn address(directory: BorrowedFd<'_>) -> nix::Result<UnixAddr> {
    UnixAddr::new(format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), socket_name()).as_str())
}

impl Listener {
    /// Makes `attach.sock`, mode 0600, in the container's runtime directory, in place of one that a dead supervisor
    /// left: the caller holds the container's lock. `user` may connect; it is the user of coracle as S sees it, which
    /// is 0 where the container's root is mapped to the user and another id with `--userns=keep-id`.
    ///
    /// # Errors
    /// [`ListenerError::Call`].
    pub fn bind(directory: BorrowedFd<'_>, user: Uid) -> Result<Self, ListenerError> {
        let failed = |call| move |source| ListenerError::Call { call, source };
        match unlinkat(directory, socket_name(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(source) => return Err(ListenerError::Call { call: "unlink", source }),
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed("socket"))?;
        // The file gets the mode of the socket: there is no moment in which it is wider.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("chmod"))?;
        bind(fd.as_raw_fd(), &address(directory).map_err(failed("name"))?).map_err(failed("bind"))?;
        listen(&fd, Backlog::new(16).unwrap_or(Backlog::MAXCONN)).map_err(failed("listen"))?;
        Ok(Self { fd, user })
    }

    /// Accepts one client; `None` if there is none (any more) or it belongs to another user.
    ///
    /// The directory is 0700 already; the check is for sockets that were mounted somewhere else.
    pub(crate) fn accept(&self) -> Option<OwnedFd> {
        let control = sys::accept(self.fd.as_fd()).ok()?;
        let peer = getsockopt(&control, PeerCredentials).ok()?;
        (peer.uid() == self.user.as_raw()).then_some(control)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
