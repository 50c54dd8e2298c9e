//! How the listeners of later processes reach the notifier.
//!
//! ```text
//! P (exec) ── connect ── "L", groups (u32 each) + listener ──▶ notifier
//! ```
//! One message on a connection of its own, over `ids.sock` in the container's runtime directory, which is the user's
//! alone. There is no answer: calls of the process wait until they are answered.
//!
//! The groups are those of its first `setgroups`: the joiner of an `exec` lets nobody look into its memory before
//! `execve`, the notifier included. Every other call that it makes until then passes numbers only, or may be the kernel's.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::SysError;
use crate::sys::monitor as sys;

/// Its name in a container's runtime directory.
pub const NAME: &str = "ids.sock";

/// More groups than this are cut; no user of an image has as many.
const MAX_GROUPS: usize = 4096;

/// What a process hands in.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Its filter's listener.
    pub(super) listener: OwnedFd,
    /// What its first `setgroups` is about.
    pub(super) groups: Vec<u32>,
}

/// The notifier's end.
#[derive(Debug)]
pub struct Socket(OwnedFd);

fn open(flags: SockFlag) -> Result<OwnedFd, SysError> {
    socket(AddressFamily::Unix, SockType::SeqPacket, flags | SockFlag::SOCK_CLOEXEC, None)
        .map_err(SysError::of("socket", "AF_UNIX, SOCK_SEQPACKET"))
}

fn address(directory: BorrowedFd<'_>) -> Result<UnixAddr, SysError> {
    UnixAddr::new(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()).as_str())
        .map_err(SysError::of("bind", NAME))
}

impl Socket {
    /// Makes it, in place of one that a dead supervisor left: the caller holds the container's lock.
    ///
    /// # Errors
    /// The call that failed.
    pub fn bind(directory: BorrowedFd<'_>) -> Result<Socket, SysError> {
        match unlinkat(directory, NAME, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(SysError { call: "unlinkat", args: NAME.to_owned(), errno }),
        }
        let fd = open(SockFlag::SOCK_NONBLOCK)?;
        // The file gets the mode of the socket: there is no moment in which it is wider.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(SysError::of("fchmod", NAME))?;
        bind(fd.as_raw_fd(), &address(directory)?).map_err(SysError::of("bind", NAME))?;
        listen(&fd, Backlog::new(64).unwrap_or(Backlog::MAXCONN)).map_err(SysError::of("listen", NAME))?;
        Ok(Socket(fd))
    }

    /// Takes a listener from whoever connects next.
    pub(super) fn accept(&self) -> Option<Arrival> {
        let connection = sys::accept(self.0.as_fd()).ok()?;
        let peer = getsockopt(&connection, PeerCredentials).ok()?;
        if peer.uid() != nix::unistd::geteuid().as_raw() {
            return None;
        }
        // Who connects has the message ready; a client that was stopped in between does not stop us for long.
        let patience = nix::sys::time::TimeVal::new(1, 0);
        let _ = nix::sys::socket::setsockopt(&connection, nix::sys::socket::sockopt::ReceiveTimeout, &patience);
        let mut bytes = vec![0; 1 + MAX_GROUPS * size_of::<u32>()];
        let received = sys::recv_with_fds(connection.as_fd(), &mut bytes, 0).ok()?;
        bytes.truncate(received.len_bytes);
        let [listener, ..] = received.fds;
        let groups = bytes.strip_prefix(b"L")?.as_chunks::<4>().0.iter().map(|bytes| u32::from_ne_bytes(*bytes));
        Some(Arrival { listener: listener?, groups: groups.collect() })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Hands a listener to the notifier of the container with this runtime directory. `groups` are the supplementary groups
/// that the process under it begins with.
///
/// # Errors
/// The call that failed; there is nobody to answer the process then.
pub fn hand_in(directory: BorrowedFd<'_>, listener: BorrowedFd<'_>, groups: &[u32]) -> Result<(), SysError> {
    let fd = open(SockFlag::empty())?;
    connect(fd.as_raw_fd(), &address(directory)?).map_err(SysError::of("connect", NAME))?;
    let mut message = vec![b'L'];
    message.extend(groups.iter().take(MAX_GROUPS).flat_map(|group| group.to_ne_bytes()));
    sys::send_with_fds(fd.as_fd(), &message, &[listener]).map_err(SysError::of("sendmsg", NAME)).map(drop)
}
