//! Which address a client has inside the container, and sockets that have it.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use super::Target;
use super::route::MARK;
use crate::netlink::{Address, Netlink, eui64};
use crate::sys;

/// `IPV6_TRANSPARENT` of linux/in6.h, which the libc crate has for some targets only.
const IPV6_TRANSPARENT: libc::c_int = 75;

/// Half the bytes a connection into the container may hold of each direction.
const BUFFER: libc::c_int = 512 * 1024;

/// How long a fruitless look at the container's addresses is believed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A way into the container: from whom, to whom. Port 0 of the source is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) source: Option<SocketAddr>,
    pub(super) dest: SocketAddr,
}

/// The container's addresses, looked up when they are needed and not known.
#[derive(Debug)]
pub(super) struct Addresses {
    target: Target,
    looked: Option<Instant>,
    /// See [`Addresses::take_announced`].
    is_announced: Option<bool>,
}

impl Addresses {
    pub(super) fn new(target: Target) -> Self {
        Self { target, looked: None, is_announced: None }
    }

    /// The way for a client at `peer` that came to `local`, a host address; see the table of [`super`].
    pub(super) fn way(&mut self, netlink: &mut Netlink, peer: SocketAddr, local: IpAddr, port: u16) -> Option<Way> {
        if self.is_missing(peer.is_ipv6()) {
            self.look_up(netlink);
        }
        if peer.is_ipv6() && self.is_announced.is_none() {
            self.is_announced = self.take_announced(netlink);
        }
        match peer {
            SocketAddr::V6(_) if self.target.ipv6.is_some() => {
                let dest = self.target.ipv6?;
                let is_link_local = matches!(peer.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local());
                let source = if is_link_local || is_of_host(peer, local, dest.into()) {
                    self.target.gateway6.map(|ip| SocketAddr::new(ip.into(), 0))
                } else {
                    Some(SocketAddr::new(peer.ip(), peer.port()))
                };
                Some(Way { source, dest: SocketAddr::new(dest.into(), port) })
            }
            SocketAddr::V6(_) => self.way_as_gateway(port),
            SocketAddr::V4(_) => {
                let dest = self.target.ipv4?;
                let way = self.way_as_gateway(port)?;
                Some(if is_of_host(peer, local, dest.into()) { way } else { Way { source: Some(peer), ..way } })
            }
        }
    }

    /// The way of an IPv6 client to an IPv4 service.
    pub(super) fn way_as_gateway(&self, port: u16) -> Option<Way> {
        let dest = SocketAddr::new(self.target.ipv4?.into(), port);
        Some(Way { source: self.target.gateway4.map(|ip| SocketAddr::new(ip.into(), 0)), dest })
    }

    fn is_missing(&self, ipv6: bool) -> bool {
        let missing = self.target.ipv4.is_none() || (ipv6 && self.target.ipv6.is_none());
        missing && self.looked.is_none_or(|at| at.elapsed() > LOOK_AGAIN)
    }

    /// Whether the container's IPv6 address is one that its device makes of what a router announces. If it has not come to
    /// that yet, it is taken into use here: a client that is earlier would be turned to IPv4, and lose its own address.
    /// `None` if there is no device yet.
    fn take_announced(&self, netlink: &mut Netlink) -> Option<bool> {
        let Some(ip) = self.target.ipv6 else { return Some(false) };
        let interface = netlink.interface().ok()??;
        if interface.link.mac.is_none_or(|mac| eui64(ip, mac) != ip) {
            return Some(false);
        }
        let is_there = interface.addresses.iter().any(|address| address.ip == ip);
        Some(is_there || netlink.add_address(interface.link.index, Address { ip: ip.into(), prefix: 64 }).is_ok())
    }

    /// Whether an address is there, or will be in a moment, that a way has just failed for: what may be lost should be.
    pub(super) fn is_announced(&self) -> bool {
        self.is_announced == Some(true)
    }

    fn look_up(&mut self, netlink: &mut Netlink) {
        self.looked = Some(Instant::now());
        let Ok(Some(interface)) = netlink.interface() else { return };
        let (mut ipv4, mut ipv6): (Option<Ipv4Addr>, Option<Ipv6Addr>) = (None, None);
        let (mut gateway4, mut gateway6): (Option<Ipv4Addr>, Option<Ipv6Addr>) = (None, None);
        for address in &interface.addresses {
            match address.ip {
                IpAddr::V4(v4) => ipv4 = ipv4.or(Some(v4)),
                IpAddr::V6(v6) => ipv6 = ipv6.or(Some(v6)),
            }
        }
        for gateway in &interface.gateways {
            match gateway {
                IpAddr::V4(v4) => gateway4 = gateway4.or(Some(*v4)),
                IpAddr::V6(v6) if !v6.is_unicast_link_local() => gateway6 = gateway6.or(Some(*v6)),
                IpAddr::V6(_) => {}
            }
        }
        let known = self.target;
        self.target = Target {
            ipv4: known.ipv4.or(ipv4),
            ipv6: known.ipv6.or(ipv6),
            gateway4: known.gateway4.or(gateway4),
            gateway6: known.gateway6.or(gateway6),
        };
    }
}

/// Whether a client is of this host: it came from loopback, or from the very address it came to, or it has the
/// container's own address (pasta gives the container the host's).
fn is_of_host(peer: SocketAddr, local: IpAddr, container: IpAddr) -> bool {
    peer.ip().is_loopback() || peer.ip() == local || peer.ip() == container
}

/// Opens a socket in the container's namespace that has the way's source, and sets it to connect.
///
/// If the source's port is taken in there, the client keeps its address and gets another port.
///
/// # Errors
/// What the kernel says to the last try; `EINPROGRESS` is success.
pub(super) fn open(kind: SockType, way: Way) -> Result<OwnedFd, Errno> {
    match try_open(kind, way) {
        Err(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL | Errno::EACCES) => {
            let source = way.source.map(|source| SocketAddr::new(source.ip(), 0));
            try_open(kind, Way { source, ..way })
        }
        result => result,
    }
}

fn try_open(kind: SockType, way: Way) -> Result<OwnedFd, Errno> {
    let (family, level, transparent) = match way.dest {
        SocketAddr::V4(_) => (AddressFamily::Inet, libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (AddressFamily::Inet6, libc::IPPROTO_IPV6, IPV6_TRANSPARENT),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    let set = |level, name, value| sys::set_int(fd.as_fd(), level, name, value);
    set(level, transparent, 1)?;
    set(libc::SOL_SOCKET, libc::SO_MARK, MARK as libc::c_int)?;
    if kind == SockType::Stream {
        set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        // A path without loss or distance: hosts that default to BBR would pace it.
        let _ = setsockopt(&fd, sockopt::TcpCongestion, &OsString::from("reno"));
        // What one side does not read should wait at the other: there is no distance here that needs a large window.
        set(libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER)?;
        set(libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)?;
        // One client port may serve connections to two published ports of one container.
        set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    if let Some(source) = way.source {
        if source.port() == 0 && kind == SockType::Stream {
            // Any port that makes the pair of addresses unique, instead of one that nobody else has.
            set(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
    }
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(way.dest)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}
