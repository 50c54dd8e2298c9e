//! rtnetlink, as much as a container needs: loopback up, policy routes for published ports, bridges and what hangs on
//! them, what is configured.
//!
//! **Runs in:** a process that is in the network namespace concerned, or has a socket that was opened there: it belongs to
//! the namespace it was opened in. A dozen requests are all there is, so they are written as bytes here: a typed message
//! crate is thirty times the code and would run between `clone` and `execve`.

mod attributes;
mod link;
mod message;
mod query;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

pub(crate) use attributes::Attributes;
pub use link::{Route, Veth};
use message::Request;
pub(crate) use message::{Message, split};
pub(crate) use query::eui64;
pub use query::{Address, Interface, Link};

/// Index of `lo`: the first device of every namespace.
pub const LOOPBACK_INDEX: u32 = 1;

/// A request the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("netlink: {what}: {}", crate::sys::reason(source))]
pub struct NetlinkError {
    what: String,
    #[source]
    source: io::Error,
}

impl NetlinkError {
    fn new(what: &str, source: impl Into<io::Error>) -> Self {
        Self { what: what.to_owned(), source: source.into() }
    }

    /// The system's error number, if it has one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// An rtnetlink socket of the namespace it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// What a policy rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// Packets with this mark.
    Mark(u32),
    /// UDP packets sent from this port.
    UdpSource(u16),
}

impl Netlink {
    /// Opens a socket in the calling process' namespace.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> Result<OwnedFd, Errno> {
            let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            Ok(fd)
        };
        let socket = open().map_err(|errno| NetlinkError::new("open socket", errno))?;
        Ok(Self::over(socket))
    }

    /// Speaks over a socket of [`Netlink::into_socket`], which may have been opened in another namespace.
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0 }
    }

    /// The socket, to be handed to another process.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Takes a device into use; `lo` gets its addresses by that.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn link_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.run(&format!("link {index} up"), Request::link_up(index))
    }

    /// Sends what `selector` picks to `table`, in both address families unless the kernel has no IPv6.
    ///
    /// # Errors
    /// [`NetlinkError`] for IPv4.
    pub fn add_rule(&mut self, selector: Selector, table: u32, priority: u32) -> Result<(), NetlinkError> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let what = format!("rule {selector:?} lookup {table}");
            let added = self.run(&what, Request::rule(family as u8, selector, table, priority));
            ignore_v6(family, added)?;
        }
        Ok(())
    }

    /// Makes every address local in `table`, in both address families unless the kernel has no IPv6. Connections that
    /// are routed by it use congestion control that fits a path without distance.
    ///
    /// # Errors
    /// [`NetlinkError`] for IPv4.
    pub fn add_local_default(&mut self, table: u32) -> Result<(), NetlinkError> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let what = format!("route add local default dev lo table {table}");
            let added = self.run(&what, Request::local_route(family as u8, None, table, true));
            ignore_v6(family, added)?;
        }
        Ok(())
    }

    /// Makes one address local in `table`, or undoes it. What is sent to it without a source of its own gets `source`.
    ///
    /// The kernel's own choice of source for a local route is the destination.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_local(&mut self, address: IpAddr, source: IpAddr, table: u32, local: bool) -> Result<(), NetlinkError> {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let what = format!("route {} local {address} dev lo table {table}", if local { "add" } else { "del" });
        self.run(&what, Request::local_route(family as u8, Some((address, source)), table, local))
    }

    /// The device of the default route, else the first besides `lo`, with its addresses and default gateways.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn interface(&mut self) -> Result<Option<Interface>, NetlinkError> {
        let routes = self.dump("list routes", Request::dump(libc::RTM_GETROUTE), query::parse_default_route)?;
        let has_route = |index| routes.iter().any(|(over, _)| *over == index);
        let links = self.dump("list links", Request::dump(libc::RTM_GETLINK), query::parse_link)?;
        let others = links.into_iter().filter(|link| link.index != LOOPBACK_INDEX);
        let Some(link) = others.min_by_key(|link| (!has_route(link.index), !link.up, link.index)) else {
            return Ok(None);
        };
        let mut addresses = self.dump("list addresses", Request::dump(libc::RTM_GETADDR), query::parse_address)?;
        addresses.retain(|(index, _)| *index == link.index);
        Ok(Some(Interface {
            addresses: addresses.into_iter().map(|(_, address)| address).collect(),
            gateways: routes.into_iter().filter(|(index, _)| *index == link.index).map(|(_, gw)| gw).collect(),
            link,
        }))
    }

    /// Sends a request and waits for the kernel's verdict. A thing that exists already is what was wanted.
    fn run(&mut self, what: &str, request: Request) -> Result<(), NetlinkError> {
        let wrap = |errno: Errno| NetlinkError::new(what, errno);
        self.send(request).map_err(wrap)?;
        let mut buffer = [0u8; 8192];
        loop {
            let len = self.receive(&mut buffer).map_err(wrap)?;
            for message in message::split(&buffer[..len]) {
                if message.sequence == self.sequence && message.kind == libc::NLMSG_ERROR as u16 {
                    return match message.error() {
                        0 | libc::EEXIST => Ok(()),
                        errno => Err(wrap(Errno::from_raw(errno))),
                    };
                }
            }
        }
    }

    fn dump<T>(
        &mut self,
        what: &str,
        request: Request,
        parse: fn(&message::Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let wrap = |errno: Errno| NetlinkError::new(what, errno);
        self.send(request).map_err(wrap)?;
        let mut found = Vec::new();
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            let len = self.receive(&mut buffer).map_err(wrap)?;
            for message in message::split(&buffer[..len]).filter(|m| m.sequence == self.sequence) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(found),
                    libc::NLMSG_ERROR => return Err(wrap(Errno::from_raw(message.error()))),
                    _ => found.extend(parse(&message)),
                }
            }
        }
    }

    fn send(&mut self, request: Request) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).map(drop)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }
}

/// Moves the calling process into a network namespace, for good.
///
/// # Errors
/// [`NetlinkError`].
///
/// # Source
/// setns(2).
pub fn join(netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| NetlinkError::new("join the network namespace", errno))
}

/// A kernel without IPv6, or with IPv6 switched off, has no IPv6 clients either.
fn ignore_v6(family: libc::c_int, result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    if family == libc::AF_INET6 { Ok(()) } else { result }
}
