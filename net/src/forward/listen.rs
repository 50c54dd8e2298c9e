//! Binds published ports in the host's namespace, before anything of the container exists.
//!
//! **Runs in:** the CLI, or the supervisor: whoever is in the host's network namespace. The CLI has the advantage that
//! it may look into `/proc/PID/fd` of the user's processes, so that a conflict can be named, and that a capability
//! to bind low ports, given to the binary, still counts.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen, setsockopt, socket, sockopt,
};

use super::held::Held;
use super::holder::{self, Holder};
use crate::ports::{PortMapping, PortRange, PortRequest, Protocol};
use crate::sys;

/// How often a random port is drawn again because IPv6 has it in use.
const RANDOM_TRIES: usize = 64;

/// Idle seconds after which a silent client is asked whether it is still there. The service cannot find out: its peer
/// is our socket, which always answers.
const KEEPALIVE_IDLE_SECONDS: u32 = 300;

/// Half the bytes a client may have sent that the container does not read. Left alone, recent kernels let it grow to
/// 32 MiB; a megabyte is 100 Mbit/s over 80 ms.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// How many bytes of ours may wait for a client to take them.
const MOST_UNSENT: libc::c_int = 256 * 1024;

/// Why ports could not be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Somebody has it.
    #[error("bind for {address}/{protocol} failed: port is already allocated{}", shown(.holder))]
    InUse {
        /// The host address.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// Who, if it can be seen.
        holder: Option<Holder>,
    },
    /// No port of a range is free.
    #[error("bind for {ip}/{protocol} failed: all ports of {}-{} are already allocated", .range.first, .range.last)]
    RangeInUse {
        /// The host address.
        ip: IpAddr,
        /// The range.
        range: PortRange,
        /// The protocol.
        protocol: Protocol,
    },
    /// The host keeps low ports for root.
    #[error(
        "bind for {address}/{protocol} failed: permission denied: this host keeps ports below {lowest} for root \
         (sysctl net.ipv4.ip_unprivileged_port_start)"
    )]
    Privileged {
        /// The host address.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// The lowest port that is free for all.
        lowest: u16,
    },
    /// The host does not have the address.
    #[error("bind for {address}/{protocol} failed: the host has no such address")]
    NoSuchAddress {
        /// The host address.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
    },
    /// SCTP.
    #[error("publishing {0} ports is not supported")]
    Unsupported(Protocol),
    /// Anything else the kernel may say.
    #[error("bind for {address}/{protocol} failed")]
    System {
        /// The host address.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn shown(holder: &Option<Holder>) -> impl fmt::Display {
    holder.as_ref().map_or_else(String::new, |holder| format!(" (held by {holder})"))
}

/// A bound socket and where it leads.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) mapping: PortMapping,
    pub(super) socket: OwnedFd,
    /// Open before the container was: clients may have been waiting since.
    pub(super) is_held: bool,
}

/// The host's ends of a container's published ports. Dropping them closes the ports.
#[derive(Debug, Default)]
pub struct Listeners {
    sockets: Vec<Listener>,
}

impl Listeners {
    /// Binds every port, or none.
    ///
    /// A request without an address binds `0.0.0.0` and `[::]` with the same port; a host without IPv6 goes without.
    ///
    /// # Errors
    /// [`PublishError`]; what was bound before it is closed again.
    pub fn bind(requests: &[PortRequest]) -> Result<Self, PublishError> {
        Self::bind_beside(requests, &mut Held::default())
    }

    /// The same, with sockets that somebody has opened for us: a request for one port takes those that are bound to it.
    ///
    /// # Errors
    /// [`PublishError`]; what was bound before it is closed again.
    pub fn bind_beside(requests: &[PortRequest], held: &mut Held) -> Result<Self, PublishError> {
        let mut listeners = Self::default();
        let mut seen = HashSet::new();
        let receive_buffer = receive_buffer();
        for request in requests {
            let fixed = request.host_ports.filter(|range| range.first == range.last).map(|range| range.first);
            // Said twice is said once, as with docker.
            if let Some(port) = fixed
                && !seen.insert((request.host_ip, port, request.container_port, request.protocol))
            {
                continue;
            }
            let taken = held.take(request);
            if taken.is_empty() {
                listeners.sockets.extend(bind_request(request, receive_buffer)?);
            }
            listeners.sockets.extend(taken);
        }
        Ok(listeners)
    }

    /// Binds more ports, or none of them.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn add(&mut self, requests: &[PortRequest]) -> Result<(), PublishError> {
        let added = Self::bind(requests)?;
        self.sockets.extend(added.sockets);
        Ok(())
    }

    /// Closes those that are not kept, here. Forwarders have them until they are told; see [`super::Forwarder::update`].
    pub fn retain(&mut self, keep: impl Fn(&PortMapping) -> bool) {
        self.sockets.retain(|listener| keep(&listener.mapping));
    }

    /// What is published.
    #[must_use]
    pub fn mappings(&self) -> Vec<PortMapping> {
        self.sockets.iter().map(|l| l.mapping).collect()
    }

    /// Whether nothing is published, so that no forwarder is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.sockets.iter()
    }
}

fn bind_request(request: &PortRequest, receive_buffer: Option<usize>) -> Result<Vec<Listener>, PublishError> {
    if request.protocol == Protocol::Sctp {
        return Err(PublishError::Unsupported(Protocol::Sctp));
    }
    let Some(range) = request.host_ports else {
        let mut result = bind_port(request, 0, receive_buffer);
        for _ in 0..RANDOM_TRIES {
            if !matches!(result, Err(PublishError::InUse { .. })) {
                break;
            }
            result = bind_port(request, 0, receive_buffer);
        }
        return result;
    };
    for port in range.iter() {
        match bind_port(request, port, receive_buffer) {
            Err(PublishError::InUse { .. }) if range.count() > 1 => {}
            result => return result,
        }
    }
    let ip = request.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    Err(PublishError::RangeInUse { ip, range, protocol: request.protocol })
}

/// Binds one port, 0 for any, on every address of the request.
fn bind_port(request: &PortRequest, port: u16, receive_buffer: Option<usize>) -> Result<Vec<Listener>, PublishError> {
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses = request.host_ip.as_ref().map_or(&everywhere[..], std::slice::from_ref);
    let mut bound: Vec<Listener> = Vec::with_capacity(addresses.len());
    for ip in addresses {
        let port = bound.first().map_or(port, |first| first.mapping.host_port);
        let address = SocketAddr::new(*ip, port);
        match bind_one(address, request.protocol, receive_buffer) {
            Ok((socket, host_port)) => bound.push(Listener {
                mapping: PortMapping {
                    host_ip: *ip,
                    host_port,
                    container_port: request.container_port,
                    protocol: request.protocol,
                },
                socket,
                is_held: false,
            }),
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) if !bound.is_empty() => {}
            Err(errno) => return Err(explain(address, request.protocol, errno)),
        }
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr, protocol: Protocol, receive_buffer: Option<usize>) -> Result<(OwnedFd, u16), Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if protocol == Protocol::Tcp { SockType::Stream } else { SockType::Datagram };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if protocol == Protocol::Tcp {
        // Accepted sockets inherit all but the first.
        sys::set_int(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, MOST_UNSENT)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        setsockopt(&fd, sockopt::KeepAlive, &true)?;
        setsockopt(&fd, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
        if let Some(len) = receive_buffer {
            setsockopt(&fd, sockopt::RcvBuf, &len)?;
        }
    } else if address.is_ipv4() {
        sys::set_int(fd.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    } else {
        sys::set_int(fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    if protocol == Protocol::Tcp {
        listen(&fd, Backlog::MAXALLOWABLE)?;
    }
    let port = if address.port() != 0 {
        address.port()
    } else {
        let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        let port = name.as_sockaddr_in().map(|v4| v4.port()).or_else(|| name.as_sockaddr_in6().map(|v6| v6.port()));
        port.ok_or(Errno::EAFNOSUPPORT)?
    };
    Ok((fd, port))
}

/// [`RECEIVE_BUFFER`], unless the host caps it lower (200 KiB is common): then the kernel's own choice is the better.
fn receive_buffer() -> Option<usize> {
    let most = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    most.trim().parse().is_ok_and(|most: usize| most >= RECEIVE_BUFFER).then_some(RECEIVE_BUFFER)
}

fn explain(address: SocketAddr, protocol: Protocol, errno: Errno) -> PublishError {
    match errno {
        Errno::EADDRINUSE if address.port() == 0 => PublishError::InUse { address, protocol, holder: None },
        Errno::EADDRINUSE => PublishError::InUse { address, protocol, holder: holder::find(address, protocol) },
        Errno::EACCES => PublishError::Privileged { address, protocol, lowest: lowest_free_port() },
        Errno::EADDRNOTAVAIL => PublishError::NoSuchAddress { address, protocol },
        errno => PublishError::System { address, protocol, source: errno.into() },
    }
}

fn lowest_free_port() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}
