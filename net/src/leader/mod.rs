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

use crate::dns;
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
    #[error("set {name}: {}", crate::sys::reason(source))]
    Sysctl {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody could ask for names.
    #[error("listen on port 53: {}", .0.desc().to_lowercase())]
    Names(#[source] Errno),
    /// The namespace itself could not be opened.
    #[error("open /proc/self/ns/net: {}", crate::sys::reason(.0))]
    Namespace(#[source] std::io::Error),
}

/// What the leader has of the user's namespace.
#[derive(Debug)]
pub struct Inside {
    netns: OwnedFd,
    route: OwnedFd,
    filter: OwnedFd,
    dns: dns::Sockets,
}

/// Packets go from one bridge to another and to the way out.
const FORWARDING: [&str; 2] = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];

impl Inside {
    /// Makes the calling process' namespace ready, with what the way out wants to be set, and opens what is needed to work
    /// in it from outside.
    ///
    /// # Errors
    /// [`InsideError`].
    pub fn open(sysctls: &[(&'static str, &'static str)]) -> Result<Self, InsideError> {
        let mut route = Netlink::open()?;
        route.link_up(LOOPBACK_INDEX)?;
        let forwarding = FORWARDING.map(|name| (name, "1"));
        for (name, value) in forwarding.iter().chain(sysctls) {
            let written = std::fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value);
            match written {
                // A kernel without IPv6 does not have it.
                Err(_) if name.starts_with("net.ipv6.") => {}
                other => other.map_err(|source| InsideError::Sysctl { name, source })?,
            }
        }
        let netns = std::fs::File::open("/proc/self/ns/net").map_err(InsideError::Namespace)?;
        let dns = dns::Sockets::open().map_err(InsideError::Names)?;
        Ok(Self { netns: netns.into(), route: route.into_socket(), filter: Netfilter::open()?.into_socket(), dns })
    }

    /// The namespace.
    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// Hands it to the leader, over a socket between the two.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn send(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let each = [&self.netns, &self.route, &self.filter];
        each.into_iter().try_for_each(|fd| message::send(socket, &(), Some(fd.as_fd())))?;
        let mut left = self.dns.iter().count();
        self.dns.iter().try_for_each(|fd| {
            left -= 1;
            message::send(socket, &left, Some(fd))
        })
    }

    /// What [`Inside::send`] sent; `None` if it sent nothing.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn receive(socket: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        let next = || message::receive::<()>(socket).map(|received| received.and_then(|((), fd)| fd));
        let (Some(netns), Some(route), Some(filter)) = (next()?, next()?, next()?) else { return Ok(None) };
        let mut sockets = Vec::new();
        loop {
            let Some((left, Some(fd))) = message::receive::<usize>(socket)? else { return Ok(None) };
            sockets.push(fd);
            if left == 0 {
                return Ok(Some(Self { netns, route, filter, dns: sockets.into_iter().collect() }));
            }
        }
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

    /// Another descriptor of the same connection.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Asks who is there: gives the leader's pidfd; `None` if it has just ended.
    ///
    /// # Errors
    /// Those of sendmsg(2) and recvmsg(2).
    pub fn greet(&self) -> Result<Option<OwnedFd>, Errno> {
        match message::send(self.as_fd(), &Ask::Hello, None) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(None),
            other => other?,
        }
        Ok(match self.answer()? {
            Some((Answer::Welcome, pidfd)) => pidfd,
            _ => None,
        })
    }

    /// Asks for a container to be put into networks; the answer comes later.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn attach(&self, container: &str, endpoints: Vec<Endpoint>, netns: BorrowedFd<'_>) -> Result<(), Errno> {
        message::send(self.as_fd(), &Ask::Attach { container: container.to_owned(), endpoints }, Some(netns))
    }

    /// Asks for something that needs no descriptor, or a container's namespace; the answer comes later.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn ask(&self, ask: &Ask, netns: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        message::send(self.as_fd(), ask, netns)
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
