//! Where a destination of the container's leads, and what it must not reach.
//!
//! ```text
//! gateway 10.0.2.2   the host's loopback, if that is allowed
//! DNS     10.0.2.3   the host's resolver, port 53 only
//! loopback, 0.0.0.0, ::ffff:127.0.0.1, …     nothing: on the host's sockets they would mean the host itself
//! everything else    itself
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::packet::Unreachable;

/// The prefix of the container's IPv6 network: `fd` and the bytes of `coracle`.
pub(super) const IPV6_PREFIX: [u16; 4] = [0xfd63, 0x6f72, 0x6163, 0x6c65];

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// Where a destination leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To this address of the host's network.
    Host(SocketAddr),
    /// To the host's resolver.
    Resolver,
    /// To us.
    Ourselves,
    /// Nobody answers there.
    Refused,
    /// Nowhere, and the container is told why.
    Unreachable(Unreachable),
    /// Nowhere: errors about these are not sent.
    Ignored,
}

/// The addresses of the stack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    /// The container's IPv4 network.
    pub(super) network: (Ipv4Addr, u8),
    pub(super) gateway: Ipv4Addr,
    pub(super) dns: Ipv4Addr,
    pub(super) gateway6: Ipv6Addr,
    pub(super) allows_loopback: bool,
}

impl Addresses {
    /// Where a connection or a datagram to `dest` leads.
    pub(super) fn way(&self, dest: SocketAddr) -> Way {
        let ip = dest.ip();
        if ip == self.dns {
            return if dest.port() == DNS_PORT { Way::Resolver } else { Way::Refused };
        }
        if ip == self.gateway || ip == self.gateway6 {
            if !self.allows_loopback {
                return Way::Unreachable(Unreachable::Prohibited);
            }
            let loopback: IpAddr = if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            return Way::Host(SocketAddr::new(loopback, dest.port()));
        }
        self.outside(ip).unwrap_or(if dest.port() == 0 { Way::Ignored } else { Way::Host(dest) })
    }

    /// Where an echo request to `dest` leads.
    pub(super) fn echo_way(&self, dest: IpAddr) -> Way {
        if dest == self.gateway || dest == self.gateway6 || dest == self.dns {
            return Way::Ourselves;
        }
        self.outside(dest).unwrap_or(Way::Host(SocketAddr::new(dest, 0)))
    }

    /// The router that errors come from.
    pub(super) fn router(&self, is_ipv4: bool) -> IpAddr {
        if is_ipv4 { self.gateway.into() } else { self.gateway6.into() }
    }

    /// Why an address is not the host's to reach.
    fn outside(&self, ip: IpAddr) -> Option<Way> {
        match ip {
            IpAddr::V4(v4) => {
                let (network, prefix) = self.network;
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                let first = v4.octets()[0];
                if v4.is_multicast() || v4.is_broadcast() {
                    Some(Way::Ignored)
                } else if (u32::from(v4) ^ u32::from(network)) & mask == 0 {
                    Some(Way::Unreachable(Unreachable::Host))
                } else if first == 0 || first == 127 || first >= 240 {
                    Some(Way::Unreachable(Unreachable::Prohibited))
                } else {
                    None
                }
            }
            IpAddr::V6(v6) => {
                let words = v6.segments();
                // Unspecified, loopback, and the two ways to write an IPv4 address.
                let is_embedded = words[..5] == [0; 5] && (words[5] == 0 || words[5] == 0xffff);
                if v6.is_multicast() {
                    Some(Way::Ignored)
                } else if words[..4] == IPV6_PREFIX {
                    Some(Way::Unreachable(Unreachable::Host))
                } else if is_embedded || v6.is_unicast_link_local() {
                    Some(Way::Unreachable(Unreachable::Prohibited))
                } else {
                    None
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(allows_loopback: bool) -> Addresses {
        Addresses {
            network: (Ipv4Addr::new(10, 0, 2, 0), 24),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
            gateway6: "fd63:6f72:6163:6c65::2".parse().unwrap(),
            allows_loopback,
        }
    }

    #[test]
    fn the_hosts_loopback_is_closed_in_every_spelling() {
        for dest in [
            "10.0.2.2:80",
            "127.0.0.1:80",
            "127.0.0.53:53",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "255.1.1.1:80",
            "[::]:80",
            "[::1]:80",
            "[::127.0.0.1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:192.0.2.1]:80",
            "[fe80::1]:80",
            "[fd63:6f72:6163:6c65::2]:80",
        ] {
            assert_eq!(
                addresses(false).way(dest.parse().unwrap()),
                Way::Unreachable(Unreachable::Prohibited),
                "{dest}"
            );
        }
    }

    #[test]
    fn the_gateway_is_the_hosts_loopback_if_that_is_allowed() {
        let open = addresses(true);
        for (dest, way) in [
            ("10.0.2.2:80", Way::Host("127.0.0.1:80".parse().unwrap())),
            ("[fd63:6f72:6163:6c65::2]:80", Way::Host("[::1]:80".parse().unwrap())),
            ("127.0.0.1:80", Way::Unreachable(Unreachable::Prohibited)),
            ("[::ffff:127.0.0.1]:80", Way::Unreachable(Unreachable::Prohibited)),
        ] {
            assert_eq!(open.way(dest.parse().unwrap()), way, "{dest}");
        }
    }

    #[test]
    fn everything_else_is_itself() {
        for (dest, way) in [
            ("10.0.2.3:53", Way::Resolver),
            ("10.0.2.3:80", Way::Refused),
            ("10.0.2.9:80", Way::Unreachable(Unreachable::Host)),
            ("224.0.0.251:5353", Way::Ignored),
            ("255.255.255.255:67", Way::Ignored),
            ("[ff02::2]:1", Way::Ignored),
            ("169.254.169.254:80", Way::Host("169.254.169.254:80".parse().unwrap())),
            ("[2001:db8::1]:443", Way::Host("[2001:db8::1]:443".parse().unwrap())),
        ] {
            assert_eq!(addresses(false).way(dest.parse().unwrap()), way, "{dest}");
        }
        assert_eq!(addresses(false).echo_way("10.0.2.2".parse().unwrap()), Way::Ourselves);
        assert_eq!(addresses(false).echo_way("10.0.2.9".parse().unwrap()), Way::Unreachable(Unreachable::Host));
    }
}
