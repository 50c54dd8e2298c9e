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
//! for the life of its container, and the leader's estate. When the last connection ends, so does the leader.
//!
//! # When it is killed
//! ```text
//! kernel       closes the connections; the namespace, its bridges, pairs and rules, and the socket that listens stay:
//!              supervisors have them open ([`Estate`])
//! supervisors  each takes the lock; the first finds no leader and forks one, with the estate
//! successor    reads from the devices which addresses are given away, starts the way out
//! supervisors  connect, tell which networks their containers are in ([`Ask::Rejoin`])
//! commands     wait: their connection is accepted by the successor
//! ```
//! Packets between containers, and published ports, need no leader. What goes through the way out, and names, pause.
//!
//! **Runs in:** role `NetworkLeader`: one thread, the user's base user namespace, the host's network namespace.

pub(crate) mod message;

mod way_out;

mod configure;

mod networks;

mod member;

mod serve;

mod egress;

mod refusals;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

pub use message::{Answer, Ask, Endpoint, Joined};
pub use refusals::Refused;
pub use serve::{Leader, ServeError};
pub use way_out::WayOut;

use crate::dns;
use crate::netfilter::{Netfilter, NetfilterError, Notes};
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
    notes: Notes,
    dns: dns::Sockets,
}

/// How long a leader is waited for: one that succeeds another needs milliseconds.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

/// How often is looked whether a successor that has not answered is still there, and how often at most.
const LOOK_EVERY_MS: u16 = 50;
const MOST_LOOKS: usize = 200;

/// Packets go from one bridge to another and to the way out; what stays on a bridge is no business of the packet filter's.
const SETTINGS: [(&str, &str); 4] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.bridge.bridge-nf-call-iptables", "0"),
    ("net.bridge.bridge-nf-call-ip6tables", "0"),
];

impl Inside {
    /// Makes the calling process' namespace ready, with what the way out wants to be set, and opens what is needed to work
    /// in it from outside.
    ///
    /// # Errors
    /// [`InsideError`].
    pub fn open(sysctls: &[(&'static str, &'static str)]) -> Result<Self, InsideError> {
        let mut route = Netlink::open()?;
        route.link_up(LOOPBACK_INDEX)?;
        for (name, value) in SETTINGS.iter().chain(sysctls) {
            let written = std::fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value);
            match written {
                // A kernel without IPv6, or without packet filters on bridges, does not have it.
                Err(_) if name.starts_with("net.ipv6.") || name.starts_with("net.bridge.") => {}
                other => other.map_err(|source| InsideError::Sysctl { name, source })?,
            }
        }
        let netns = std::fs::File::open("/proc/self/ns/net").map_err(InsideError::Namespace)?;
        let dns = dns::Sockets::open().map_err(InsideError::Names)?;
        let (route, filter, notes) = (route.into_socket(), Netfilter::open()?.into_socket(), Notes::open()?);
        Ok(Self { netns: netns.into(), route, filter, notes, dns })
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
        let each = [self.netns.as_fd(), self.route.as_fd(), self.filter.as_fd(), self.notes.as_fd()];
        each.into_iter().try_for_each(|fd| message::send(socket, &(), &[fd]))?;
        let mut left = self.dns.iter().count();
        self.dns.iter().try_for_each(|fd| {
            left -= 1;
            message::send(socket, &left, &[fd])
        })
    }

    /// What [`Inside::send`] sent; `None` if it sent nothing.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn receive(socket: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        let next =
            || message::receive::<()>(socket).map(|received| received.and_then(|((), fds)| fds.into_iter().next()));
        let (Some(netns), Some(route), Some(filter)) = (next()?, next()?, next()?) else { return Ok(None) };
        let Some(notes) = next()?.map(Notes::over) else { return Ok(None) };
        let mut sockets = Vec::new();
        loop {
            let Some((left, fds)) = message::receive::<usize>(socket)? else { return Ok(None) };
            sockets.extend(fds);
            if left == 0 {
                return Ok(Some(Self { netns, route, filter, notes, dns: sockets.into_iter().collect() }));
            }
        }
    }
}

/// What outlives a leader, since each supervisor has it open.
#[derive(Debug)]
pub struct Estate {
    /// The socket that it listens on.
    pub listener: OwnedFd,
    /// The user's network namespace.
    pub netns: OwnedFd,
    /// The process that leads out of it, which ends soon after its leader.
    pub way_out: Option<OwnedFd>,
}

impl Estate {
    fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        Some(Self { listener: fds.next()?, netns: fds.next()?, way_out: fds.next() })
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
        setsockopt(&self.0, sockopt::ReceiveTimeout, &PATIENCE)?;
        match message::send(self.as_fd(), &Ask::Hello, &[]) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(None),
            other => other?,
        }
        let answer = self.answer()?;
        setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::new(0, 0))?;
        Ok(match answer {
            Some((Answer::Welcome, pidfd)) => pidfd,
            _ => None,
        })
    }

    /// Tells a successor which networks a container is in, and gives its estate; `None` if that has ended, too, or does not
    /// answer.
    ///
    /// One that ends before it has accepted the connection does not end that: the socket that it was to be accepted from
    /// stays open. So `is_alive` is asked now and then whether there is anybody to wait for.
    ///
    /// # Errors
    /// Those of sendmsg(2) and recvmsg(2).
    pub fn rejoin(
        &self,
        container: &str,
        places: Vec<(Endpoint, Joined)>,
        is_alive: impl Fn() -> bool,
    ) -> Result<Option<Estate>, Errno> {
        match message::send(self.as_fd(), &Ask::Rejoin { container: container.to_owned(), places }, &[]) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(None),
            other => other?,
        }
        for _ in 0..MOST_LOOKS {
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(LOOK_EVERY_MS)) {
                Ok(0) if !is_alive() => return Ok(None),
                Ok(0) | Err(Errno::EINTR) => {}
                other => {
                    other?;
                    return Ok(match message::receive(self.as_fd())? {
                        Some((Answer::Rejoined, fds)) => Estate::from_fds(fds),
                        _ => None,
                    });
                }
            }
        }
        Ok(None)
    }

    /// Asks for a container to be put into networks; the answer comes later.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn attach(&self, container: &str, endpoints: Vec<Endpoint>, netns: BorrowedFd<'_>) -> Result<(), Errno> {
        message::send(self.as_fd(), &Ask::Attach { container: container.to_owned(), endpoints }, &[netns])
    }

    /// Asks for something that needs no descriptor, or a container's namespace; the answer comes later.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn ask(&self, ask: &Ask, netns: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        message::send(self.as_fd(), ask, netns.as_slice())
    }

    /// Waits for the next answer; `None` if the leader has ended.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn answer(&self) -> Result<Option<(Answer, Option<OwnedFd>)>, Errno> {
        let received = message::receive(self.as_fd())?;
        Ok(received.map(|(answer, fds)| (answer, fds.into_iter().next())))
    }

    /// As [`Connection::answer`], to a request to attach.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn attached(&self) -> Result<Option<(Answer, Option<Estate>)>, Errno> {
        setsockopt(&self.0, sockopt::ReceiveTimeout, &PATIENCE)?;
        let received = message::receive(self.as_fd())?;
        setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::new(0, 0))?;
        Ok(received.map(|(answer, fds)| (answer, Estate::from_fds(fds))))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
