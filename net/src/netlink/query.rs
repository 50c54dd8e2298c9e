//! What the kernel says about links, addresses and routes, as far as `inspect` shows it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::message::{Message, read_u32};

const IFINFOMSG_LEN: usize = 16;
const IFADDRMSG_LEN: usize = 8;
const RTMSG_LEN: usize = 12;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What somebody wrote on it.
    pub label: String,
    /// Its hardware address, if it has a six-byte one.
    pub mac: Option<[u8; 6]>,
    /// Its largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is in use.
    pub up: bool,
}

/// An address of a device and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of its network's prefix, in bits.
    pub prefix: u8,
}

impl Address {
    /// Whether the other one has its network's prefix.
    #[must_use]
    pub fn is_near(self, other: IpAddr) -> bool {
        let shifted =
            |number: u128, bits: u32| number.checked_shr(bits.saturating_sub(self.prefix.into())).unwrap_or(0);
        match (self.ip, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => shifted(u32::from(a).into(), 32) == shifted(u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => shifted(a.into(), 128) == shifted(b.into(), 128),
            _ => false,
        }
    }
}

/// A device with what is configured on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The device.
    pub link: Link,
    /// Its global addresses.
    pub addresses: Vec<Address>,
    /// The default gateways that lead over it.
    pub gateways: Vec<IpAddr>,
}

/// The address that a device takes in the announced /64 of `network`.
///
/// # Source
/// RFC 4291 appendix A.
pub(crate) fn eui64(network: Ipv6Addr, [a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let host = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(network.to_bits() >> 64 << 64 | u128::from(host))
}

pub(super) fn parse_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let flags = read_u32(message.payload, 8)?;
    let mut link = Link {
        index: read_u32(message.payload, 4)?,
        name: String::new(),
        label: String::new(),
        mac: None,
        mtu: 0,
        up: flags & libc::IFF_UP as u32 != 0,
    };
    for (kind, value) in message.attributes(IFINFOMSG_LEN) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_IFALIAS => link.label = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_MTU => link.mtu = read_u32(value, 0)?,
            _ => {}
        }
    }
    Some(link)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// An address of global scope and the device it is on.
pub(super) fn parse_address(message: &Message<'_>) -> Option<(u32, Address)> {
    // ifaddrmsg { family u8, prefixlen u8, flags u8, scope u8, index u32 }
    let (&prefix, &scope) = (message.payload.get(1)?, message.payload.get(3)?);
    if message.kind != libc::RTM_NEWADDR || scope != libc::RT_SCOPE_UNIVERSE {
        return None;
    }
    let index = read_u32(message.payload, 4)?;
    // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL is ours; IPv6 has IFA_ADDRESS only.
    let mut found = None;
    for (kind, value) in message.attributes(IFADDRMSG_LEN) {
        if kind == libc::IFA_LOCAL || (kind == libc::IFA_ADDRESS && found.is_none()) {
            found = to_ip(value).or(found);
        }
    }
    Some((index, Address { ip: found?, prefix }))
}

/// The gateway of a default route of the main table and the device it leads over.
pub(super) fn parse_default_route(message: &Message<'_>) -> Option<(u32, IpAddr)> {
    let (&prefix, &table) = (message.payload.get(1)?, message.payload.get(4)?);
    if message.kind != libc::RTM_NEWROUTE || prefix != 0 || table != libc::RT_TABLE_MAIN {
        return None;
    }
    let (mut index, mut gateway) = (None, None);
    for (kind, value) in message.attributes(RTMSG_LEN) {
        match kind {
            libc::RTA_OIF => index = read_u32(value, 0),
            libc::RTA_GATEWAY => gateway = to_ip(value),
            _ => {}
        }
    }
    Some((index?, gateway?))
}

fn to_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}
