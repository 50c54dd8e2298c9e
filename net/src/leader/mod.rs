//! The leader of a user's network namespace: makes bridges and what hangs on them, gives addresses, knows names.
//!
//! ```text
//!                     host's namespace                       user's namespace             containers' namespaces
//!  supervisor ── leader.sock ─▶ leader ── netlink sockets ──▶ podman0 ── veth… ──────────▶ eth0
//!                                  └───── way out (helper) ──▶ tap0
//! ```
//! A socket belongs to the namespace it was opened in. So the leader stays in the host's, where the way out and the host's
//! DNS servers are, and works in the user's by sockets that [`Inside::open`] opened there.
//!
//! It keeps nothing on disk, and nothing that its supervisors could not tell its successor: each of them has a connection
//! for the life of its container, and the user's namespace open. When the last connection ends, so does the leader.
//!
//! **Runs in:** role `NetworkLeader`: one thread, the user's base user namespace, the host's network namespace.

mod message;

mod serve;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

pub use message::{Answer, Ask, Endpoint, Joined};
pub use serve::{Leader, ServeError};

use crate::netfilter::{Netfilter, NetfilterError};
use crate::netlink::{LOOPBACK_INDEX, Netlink, NetlinkError};

/// Why a namespace could not be made ready for bridges.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsideError {
    /// netlink refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// nf_tables refused.
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
    /// A setting could not be written.
    #[error("write {path}: {}", crate::sys::reason(source))]
    Sysctl {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the leader has of the user's namespace.
#[derive(Debug)]
pub struct Inside {
    route: OwnedFd,
    filter: OwnedFd,
}

/// Packets go from one bridge to another and to the way out.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARDING_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

impl Inside {
    /// Makes the calling process' namespace ready and opens what is needed to work in it from outside.
    ///
    /// # Errors
    /// [`InsideError`].
    pub fn open() -> Result<Self, InsideError> {
        let mut route = Netlink::open()?;
        route.link_up(LOOPBACK_INDEX)?;
        let on = |path| std::fs::write(path, "1").map_err(|source| InsideError::Sysctl { path, source });
        on(FORWARDING)?;
        // A kernel without IPv6 does not have it.
        let _ = on(FORWARDING_V6);
        Ok(Self { route: route.into_socket(), filter: Netfilter::open()?.into_socket() })
    }

    /// The descriptors, to be handed to the leader; [`Inside::from_fds`] takes them in this order.
    #[must_use]
    pub fn as_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.route.as_fd(), self.filter.as_fd()]
    }

    /// What [`Inside::as_fds`] gave, in another process.
    #[must_use]
    pub fn from_fds([route, filter]: [OwnedFd; 2]) -> Self {
        Self { route, filter }
    }
}

/// One end of a connection to the leader.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl Connection {
    /// A connected socket.
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Asks whether somebody is there; `false` if the leader has just ended.
    ///
    /// # Errors
    /// Those of sendmsg(2) and recvmsg(2).
    pub fn greet(&self) -> Result<bool, Errno> {
        match message::send(self.as_fd(), &Ask::Hello, None) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(false),
            other => other?,
        }
        Ok(matches!(self.answer()?, Some((Answer::Welcome, _))))
    }

    /// Asks for a container to be put into networks; the answer comes later.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn attach(&self, container: &str, endpoints: Vec<Endpoint>, netns: BorrowedFd<'_>) -> Result<(), Errno> {
        message::send(self.as_fd(), &Ask::Attach { container: container.to_owned(), endpoints }, Some(netns))
    }

    /// Waits for the next answer; `None` if the leader has ended.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn answer(&self) -> Result<Option<(Answer, Option<OwnedFd>)>, Errno> {
        message::receive(self.as_fd())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
