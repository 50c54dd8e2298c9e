//! Sockets that were opened for us, such as those of a socket unit of systemd: ports that nobody else may open, or that are
//! open before the container runs.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};

use super::listen::Listener;
use crate::ports::{PortMapping, PortRequest, Protocol};
use crate::sys;

/// Sockets, and where they are bound.
#[derive(Debug, Default)]
pub struct Held(Vec<(OwnedFd, SocketAddr, Protocol)>);

impl Held {
    /// Those of `sockets` that clients of a port can reach: TCP that listens, UDP that is bound.
    pub fn new(sockets: impl IntoIterator<Item = OwnedFd>) -> Self {
        let of = |socket: OwnedFd| {
            let name: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
            let v4 = name.as_sockaddr_in().map(|v4| SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
            let address = v4.or_else(|| {
                Some(SocketAddr::new(IpAddr::V6(name.as_sockaddr_in6()?.ip()), name.as_sockaddr_in6()?.port()))
            })?;
            let protocol = match getsockopt(&socket, sockopt::SockType).ok()? {
                SockType::Stream if getsockopt(&socket, sockopt::AcceptConn).ok()? => Protocol::Tcp,
                SockType::Datagram => Protocol::Udp,
                _ => return None,
            };
            Some((socket, address, protocol))
        };
        Self(sockets.into_iter().filter_map(of).collect())
    }

    /// How many have not been taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none, or none any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what is bound to the port of a request.
    pub(super) fn take(&mut self, request: &PortRequest) -> Vec<Listener> {
        let Some(port) = request.host_ports.filter(|range| range.first == range.last).map(|range| range.first) else {
            return Vec::new();
        };
        let is_wanted = |address: &SocketAddr, protocol: Protocol| {
            let is_there = |ip: IpAddr| address.ip() == ip || address.ip().is_unspecified();
            protocol == request.protocol && address.port() == port && request.host_ip.is_none_or(is_there)
        };
        let mut taken = Vec::new();
        for (socket, address, protocol) in std::mem::take(&mut self.0) {
            let mapping = PortMapping {
                host_ip: address.ip(),
                host_port: port,
                container_port: request.container_port,
                protocol,
            };
            if is_wanted(&address, protocol) && prepare(&socket, &address, protocol).is_some() {
                taken.push(Listener { mapping, socket, is_held: true });
            } else {
                self.0.push((socket, address, protocol));
            }
        }
        taken
    }
}

/// As the loop of a forwarder wants it.
fn prepare(socket: &OwnedFd, address: &SocketAddr, protocol: Protocol) -> Option<()> {
    let flags = OFlag::from_bits_truncate(fcntl(socket.as_fd(), FcntlArg::F_GETFL).ok()?);
    fcntl(socket.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).ok()?;
    match (protocol, address) {
        (Protocol::Udp, SocketAddr::V4(_)) => sys::set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1).ok(),
        (Protocol::Udp, SocketAddr::V6(_)) => {
            sys::set_int(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1).ok()
        }
        _ => Some(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::ports::PortRange;

    #[test]
    fn a_request_takes_the_socket_of_its_port() {
        let (tcp, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let mut held = Held::new([OwnedFd::from(tcp), other.into(), udp.into(), client.into()]);
        assert_eq!(held.len(), 3, "a connection is nothing to be published");
        let port = address.port();
        let request = |host_ip: Option<&str>, port: u16, protocol| PortRequest {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_ports: Some(PortRange { first: port, last: port }),
            container_port: 80,
            protocol,
        };
        for not_it in [
            request(Some("127.0.0.2"), port, Protocol::Tcp),
            request(None, port, Protocol::Udp),
            request(None, port.wrapping_add(1), Protocol::Udp),
        ] {
            assert!(held.take(&not_it).is_empty(), "{not_it:?}");
        }
        let taken = held.take(&request(Some("127.0.0.1"), port, Protocol::Tcp));
        let mapping = taken.first().map(|listener| listener.mapping).unwrap();
        assert_eq!((mapping.host_addr(), mapping.container_port, taken.len()), (address, 80, 1));
        assert_eq!(held.len(), 2);
    }
}
