//! The sockets that are asked, in whatever namespace they were opened.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use crate::sys;

/// Where servers listen.
///
/// # Source
/// RFC 1035 section 4.2.
pub(super) const PORT: u16 = 53;

/// Bytes that may wait while the leader does something else: hundreds of queries, if the host allows so much.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Sockets for queries.
#[derive(Debug)]
pub struct Sockets {
    /// UDP.
    pub(super) datagrams: Vec<OwnedFd>,
    /// TCP, listening.
    pub(super) listeners: Vec<OwnedFd>,
}

impl Sockets {
    /// Opens them on all addresses of the calling process' namespace.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and listen(2).
    pub fn open() -> Result<Self, Errno> {
        let mut sockets = Self::on((Ipv4Addr::UNSPECIFIED, PORT).into())?;
        match Self::on((Ipv6Addr::UNSPECIFIED, PORT).into()) {
            Ok(more) => {
                sockets.datagrams.extend(more.datagrams);
                sockets.listeners.extend(more.listeners);
            }
            // A kernel without IPv6.
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {}
            Err(errno) => return Err(errno),
        }
        Ok(sockets)
    }

    /// One of each kind, on one address.
    pub(super) fn on(address: SocketAddr) -> Result<Self, Errno> {
        let datagram = open(address, SockType::Datagram)?;
        let (level, name) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        sys::set_int(datagram.as_fd(), level, name, 1)?;
        let _ = setsockopt(&datagram, sockopt::RcvBuf, &RECEIVE_BUFFER);
        let listener = open(address, SockType::Stream)?;
        listen(&listener, Backlog::new(64)?)?;
        Ok(Self { datagrams: vec![datagram], listeners: vec![listener] })
    }
}

impl Sockets {
    /// All, one of each kind in turn.
    pub(crate) fn iter(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.datagrams.iter().zip(&self.listeners).flat_map(|(datagram, listener)| [datagram.as_fd(), listener.as_fd()])
    }
}

/// From what [`Sockets::iter`] gave.
impl FromIterator<OwnedFd> for Sockets {
    fn from_iter<I: IntoIterator<Item = OwnedFd>>(fds: I) -> Self {
        let (mut datagrams, mut listeners) = (Vec::new(), Vec::new());
        for (at, fd) in fds.into_iter().enumerate() {
            if at % 2 == 0 { datagrams.push(fd) } else { listeners.push(fd) }
        }
        Self { datagrams, listeners }
    }
}

fn open(address: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd)
}
