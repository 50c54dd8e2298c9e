//! Bridges, the pairs of devices that hang on them, their addresses and routes.
//!
//! # Source
//! rtnetlink(7), veth(4), linux/if_link.h, linux/veth.h.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use serde::{Deserialize, Serialize};

use super::message::Request;
use super::query::{self, Address, Link};
use super::{Attributes as _, Netlink, NetlinkError};

// linux/veth.h
const VETH_INFO_PEER: u16 = 1;
// linux/if_link.h
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_ISOLATED: u16 = 33;
// linux/if_addr.h
const IFA_F_NODAD: u8 = 0x02;

/// A pair of devices: one end here, the other in a container.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// The name of this end.
    pub name: &'a str,
    /// The bridge that this end belongs to.
    pub bridge: u32,
    /// The name of the other end.
    pub peer_name: &'a str,
    /// The hardware address of the other end.
    pub peer_mac: [u8; 6],
    /// Where the other end is.
    pub netns: BorrowedFd<'a>,
    /// The largest packet, in bytes; 0 is the kernel's own choice.
    pub mtu: u32,
}

/// A way to other networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination; every one if its prefix is 0.
    pub to: Address,
    /// The router.
    pub gateway: IpAddr,
    /// Its priority: the lowest is taken. 0 is the kernel's own choice.
    pub metric: u32,
}

impl Netlink {
    /// Makes a bridge with this hardware address, in use at once; returns its index.
    ///
    /// # Errors
    /// [`NetlinkError`]; a device of that name that exists is taken as it is.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> Result<u32, NetlinkError> {
        self.run(&format!("link add {name} type bridge"), Request::bridge(name, mac, mtu))?;
        let index = self.link_named(name)?;
        index.ok_or_else(|| NetlinkError::new(&format!("link {name}"), nix::errno::Errno::ENODEV))
    }

    /// Makes a pair of devices, this end in use at once.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        self.run(&format!("link add {} type veth", veth.name), Request::veth(veth))
    }

    /// Writes on a device what whoever finds it is to know: up to 255 bytes.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn label_link(&mut self, name: &str, label: &str) -> Result<(), NetlinkError> {
        self.run(&format!("link set {name} alias"), Request::label_link(name, label))
    }

    /// Lets a member of a bridge reach the bridge itself, and none of the others that this was done to.
    ///
    /// # Errors
    /// [`NetlinkError`].
    ///
    /// # Source
    /// bridge(8) `isolated`, Linux 4.18.
    pub fn isolate_port(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.run(&format!("link set {name} type bridge_slave isolated on"), Request::isolate_port(name))
    }

    /// Every device.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.dump("list links", Request::dump(libc::RTM_GETLINK), query::parse_link)
    }

    /// Removes a device, and its other end; one that is not there is no error.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        match self.run(&format!("link del {name}"), Request::delete_link(name)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// The index of a device.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn link_named(&mut self, name: &str) -> Result<Option<u32>, NetlinkError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name).map(|link| link.index))
    }

    /// Sets a device's largest packet, in bytes.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
        // ifinfomsg { family u8, pad u8, type u16, index i32, flags u32, change u32 }
        request.0.extend_from_slice(&[0; 4]);
        request.0.extend_from_slice(&index.to_ne_bytes());
        request.0.extend_from_slice(&[0; 8]);
        request.mtu(mtu);
        self.run(&format!("link {index} mtu {mtu}"), request)
    }

    /// Gives a device an address, which is in use at once.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_address(&mut self, index: u32, address: Address) -> Result<(), NetlinkError> {
        let what = format!("address add {}/{} dev {index}", address.ip, address.prefix);
        self.run(&what, Request::address_of(index, address))
    }

    /// Adds a route over a device.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_route(&mut self, index: u32, route: Route) -> Result<(), NetlinkError> {
        let what = format!("route add {}/{} via {}", route.to.ip, route.to.prefix, route.gateway);
        self.run(&what, Request::route(index, route))
    }
}

impl Request {
    /// `RTM_NEWLINK`: a new device, in use at once.
    fn new_link(name: &str) -> Self {
        let mut request = Self::new(libc::RTM_NEWLINK, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        request.ifinfomsg(libc::IFF_UP as u32);
        request.text(libc::IFLA_IFNAME, name);
        request
    }

    /// ifinfomsg { family u8, pad u8, type u16, index i32, flags u32, change u32 } of no device yet.
    fn ifinfomsg(&mut self, flags: u32) {
        self.0.extend_from_slice(&[0; 8]);
        self.0.extend_from_slice(&flags.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
    }

    fn mtu(&mut self, mtu: u32) {
        if mtu != 0 {
            self.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
    }

    fn bridge(name: &str, mac: [u8; 6], mtu: u32) -> Self {
        let mut request = Self::new_link(name);
        // Else it changes with the lowest of its members.
        request.attribute(libc::IFLA_ADDRESS, &mac);
        request.mtu(mtu);
        request.nested(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, "bridge"));
        request
    }

    fn veth(veth: &Veth<'_>) -> Self {
        let mut request = Self::new_link(veth.name);
        request.attribute(libc::IFLA_MASTER, &veth.bridge.to_ne_bytes());
        request.mtu(veth.mtu);
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.ifinfomsg(0);
                    peer.text(libc::IFLA_IFNAME, veth.peer_name);
                    peer.attribute(libc::IFLA_ADDRESS, &veth.peer_mac);
                    peer.mtu(veth.mtu);
                    peer.attribute(libc::IFLA_NET_NS_FD, &veth.netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        request
    }

    fn label_link(name: &str, label: &str) -> Self {
        let mut request = Self::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
        // No flag is to change.
        request.0.extend_from_slice(&[0; 16]);
        request.text(libc::IFLA_IFNAME, name);
        request.text(libc::IFLA_IFALIAS, label);
        request
    }

    fn isolate_port(name: &str) -> Self {
        let mut request = Self::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
        // No flag is to change.
        request.0.extend_from_slice(&[0; 16]);
        request.text(libc::IFLA_IFNAME, name);
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge");
            info.nested(IFLA_INFO_SLAVE_DATA, |port| port.attribute(IFLA_BRPORT_ISOLATED, &[1]));
        });
        request
    }

    fn delete_link(name: &str) -> Self {
        let mut request = Self::new(libc::RTM_DELLINK, libc::NLM_F_ACK);
        request.ifinfomsg(0);
        request.text(libc::IFLA_IFNAME, name);
        request
    }

    fn address_of(index: u32, address: Address) -> Self {
        let mut request = Self::new(libc::RTM_NEWADDR, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        // ifaddrmsg { family u8, prefixlen u8, flags u8, scope u8, index u32 }
        let (family, flags) = match address.ip {
            IpAddr::V4(_) => (libc::AF_INET, 0),
            // Nobody else has the address: a lease is given once.
            IpAddr::V6(_) => (libc::AF_INET6, IFA_F_NODAD),
        };
        request.0.extend_from_slice(&[family as u8, address.prefix, flags, libc::RT_SCOPE_UNIVERSE]);
        request.0.extend_from_slice(&index.to_ne_bytes());
        request.address(libc::IFA_LOCAL, address.ip);
        request.address(libc::IFA_ADDRESS, address.ip);
        if let IpAddr::V4(v4) = address.ip {
            let host_bits = u32::MAX.checked_shr(address.prefix.into()).unwrap_or(0);
            request.attribute(libc::IFA_BROADCAST, &(u32::from(v4) | host_bits).to_be_bytes());
        }
        request
    }

    fn route(index: u32, route: Route) -> Self {
        let mut request = Self::new(libc::RTM_NEWROUTE, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let family = if route.to.ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // rtmsg { family, dst_len, src_len, tos, table, protocol, scope, type: u8; flags u32 }
        let scope = libc::RT_SCOPE_UNIVERSE;
        let table = libc::RT_TABLE_MAIN;
        let header = [family as u8, route.to.prefix, 0, 0, table, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST];
        request.0.extend_from_slice(&header);
        request.0.extend_from_slice(&[0; 4]);
        if route.to.prefix != 0 {
            request.address(libc::RTA_DST, route.to.ip);
        }
        request.address(libc::RTA_GATEWAY, route.gateway);
        request.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        if route.metric != 0 {
            request.attribute(libc::RTA_PRIORITY, &route.metric.to_ne_bytes());
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::super::message::{Message, split};
    use super::*;

    fn attributes(bytes: &[u8], header_len: usize) -> Vec<(u16, Vec<u8>)> {
        let message: Message<'_> = split(bytes).next().unwrap();
        message.attributes(header_len).map(|(kind, value)| (kind, value.to_vec())).collect()
    }

    #[test]
    fn the_other_end_of_a_pair_carries_its_namespace() {
        let netns = std::io::stdin();
        let veth = Veth {
            name: "veth0",
            bridge: 7,
            peer_name: "eth0",
            peer_mac: [2, 0x42, 10, 88, 0, 2],
            netns: netns.as_fd(),
            mtu: 0,
        };
        let bytes = Request::veth(&veth).finish(1);
        let top = attributes(&bytes, 16);
        assert_eq!(top[0], (libc::IFLA_IFNAME, b"veth0\0".to_vec()));
        assert_eq!(top[1], (libc::IFLA_MASTER, 7_u32.to_ne_bytes().to_vec()));
        let (kind, info) = &top[2];
        assert_eq!(*kind, libc::IFLA_LINKINFO);
        let peer =
            [b"eth0\0".as_slice(), &[2, 0x42, 10, 88, 0, 2]].map(|part| info.windows(part.len()).any(|at| at == part));
        assert_eq!(peer, [true, true]);
    }

    #[test]
    fn broadcast_is_the_last_address() {
        for (prefix, last) in
            [(16, [10, 88, 255, 255]), (24, [10, 88, 3, 255]), (30, [10, 88, 3, 7]), (32, [10, 88, 3, 5])]
        {
            let address = Address { ip: IpAddr::from([10, 88, 3, 5]), prefix };
            let bytes = Request::address_of(3, address).finish(1);
            let found = attributes(&bytes, 8).into_iter().find(|(kind, _)| *kind == libc::IFA_BROADCAST);
            assert_eq!(found.unwrap().1, last);
        }
    }

    #[test]
    fn default_route_has_no_destination() {
        let route = |text: &str, prefix| Route {
            to: Address { ip: text.parse().unwrap(), prefix },
            gateway: "10.88.0.1".parse().unwrap(),
            metric: 0,
        };
        let kinds = |route| {
            attributes(&Request::route(2, route).finish(1), 12).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(route("0.0.0.0", 0)), [libc::RTA_GATEWAY, libc::RTA_OIF]);
        assert_eq!(kinds(route("10.0.0.0", 8)), [libc::RTA_DST, libc::RTA_GATEWAY, libc::RTA_OIF]);
    }
}
