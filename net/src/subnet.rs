//! Ranges of addresses: how they are written, which are free, where the host's own are.
//!
//! Pure but for [`routed_by_host`].

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::network::Subnet;

/// Addresses with one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first address, all host bits zero.
    pub first: IpAddr,
    /// The length of the prefix, in bits.
    pub prefix: u8,
}

impl Range {
    /// Those with the prefix of an address.
    #[must_use]
    pub fn around(ip: IpAddr, prefix: u8) -> Option<Self> {
        if prefix > if ip.is_ipv4() { 32 } else { 128 } {
            return None;
        }
        let mut range = Self { first: ip, prefix };
        range.first = to_ip(to_number(ip) & !range.host_mask(), ip);
        Some(range)
    }

    /// Parses `10.89.0.0/24`; host bits are taken off.
    ///
    /// # Errors
    /// The text, for what is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(ip, prefix)| Self::around(ip.parse().ok()?, prefix.parse().ok()?));
        parsed.ok_or_else(|| format!("invalid CIDR address: {text}"))
    }

    /// The last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        to_ip(to_number(self.first) | self.host_mask(), self.first)
    }

    /// The address so many after the first one, if it is one of them.
    #[must_use]
    pub fn nth(&self, number: u32) -> Option<IpAddr> {
        let number = u128::from(number);
        (number <= self.host_mask()).then(|| to_ip(to_number(self.first) + number, self.first))
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.first.is_ipv4() == ip.is_ipv4() && to_number(ip) & !self.host_mask() == to_number(self.first)
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    fn host_mask(&self) -> u128 {
        let bits: u32 = if self.first.is_ipv4() { 32 } else { 128 };
        1_u128.checked_shl(bits.saturating_sub(self.prefix.into())).map_or(u128::MAX, |size| size - 1)
    }
}

impl From<&Subnet> for Range {
    fn from(subnet: &Subnet) -> Self {
        Self { first: subnet.first, prefix: subnet.prefix }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn to_ip(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

/// The first /24 from 10.89.0.0 upward that overlaps none of these.
///
/// # Source
/// containers.conf(5) `default_subnet_pools`.
#[must_use]
pub fn free_v4(used: &[Range]) -> Option<Range> {
    let numbers = (89_u16..=255).flat_map(|second| (0_u16..=255).map(move |third| (second as u8, third as u8)));
    let mut all = numbers.filter_map(|(second, third)| Range::around(Ipv4Addr::new(10, second, third, 0).into(), 24));
    all.find(|range| !used.iter().any(|other| other.overlaps(range)))
}

/// Ranges of one size, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// All of their addresses, IPv4.
    pub base: Range,
    /// The length of each one's prefix, in bits.
    pub size: u8,
}

/// The first range of these pools that overlaps none of those in use.
///
/// # Source
/// containers.conf(5) `default_subnet_pools`.
#[must_use]
pub fn free_of(pools: &[Pool], used: &[Range]) -> Option<Range> {
    let mut ranges = pools.iter().flat_map(|pool| {
        let step = u32::MAX.checked_shr(pool.size.into()).map_or(1, |last| u64::from(last) + 1);
        let numbers = (0..=pool.base.host_mask()).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        numbers.filter_map(|number| Range::around(pool.base.nth(u32::try_from(number).ok()?)?, pool.size))
    });
    ranges.find(|range| !used.iter().any(|other| other.overlaps(range)))
}

/// A unique local /64 of these random bytes.
///
/// # Source
/// RFC 4193.
#[must_use]
pub fn local_v6(random: [u8; 7]) -> Range {
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..8].copy_from_slice(&random);
    Range { first: IpAddr::V6(Ipv6Addr::from(bytes)), prefix: 64 }
}

/// What the host has routes to, besides the default one. Where that cannot be read there is nothing.
///
/// # Source
/// proc_pid_net(5) `route`.
#[must_use]
pub fn routed_by_host() -> Vec<Range> {
    let v4 = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default();
    v4.lines().filter_map(v4_route).chain(v6.lines().filter_map(v6_route)).collect()
}

/// `eth0 0000A8C0 …`: destination and, in the eighth column, mask, as the processor stores them.
fn v4_route(line: &str) -> Option<Range> {
    let mut columns = line.split_ascii_whitespace();
    let destination = u32::from_str_radix(columns.nth(1)?, 16).ok()?.to_ne_bytes();
    let mask = u32::from_str_radix(columns.nth(5)?, 16).ok()?.to_ne_bytes();
    let prefix = u32::from_be_bytes(mask).leading_ones() as u8;
    Range::around(IpAddr::from(destination), prefix).filter(|_| prefix > 0)
}

/// `fd00…  40 …`: destination and length of its prefix.
fn v6_route(line: &str) -> Option<Range> {
    let mut columns = line.split_ascii_whitespace();
    let destination = u128::from_str_radix(columns.next()?, 16).ok()?;
    let prefix = u8::from_str_radix(columns.next()?, 16).ok()?;
    Range::around(IpAddr::V6(destination.into()), prefix).filter(|_| prefix > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        Range::parse(text).unwrap()
    }

    #[test]
    fn ranges_begin_where_their_prefix_does() {
        for (text, shown, last) in [
            ("10.99.2.5/24", "10.99.2.0/24", "10.99.2.255"),
            ("10.0.0.1/32", "10.0.0.1/32", "10.0.0.1"),
            ("0.0.0.0/0", "0.0.0.0/0", "255.255.255.255"),
            ("fd11::7/64", "fd11::/64", "fd11::ffff:ffff:ffff:ffff"),
            ("::/0", "::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            assert_eq!((range(text).to_string().as_str(), range(text).last().to_string().as_str()), (shown, last));
        }
        for bad in ["foo", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "fd00::/129", "/24", "10.0.0.0/"] {
            assert_eq!(Range::parse(bad), Err(format!("invalid CIDR address: {bad}")));
        }
    }

    #[test]
    fn a_free_range_is_nobodys() {
        assert_eq!(free_v4(&[]), Some(range("10.89.0.0/24")));
        let used = ["10.89.0.0/24", "10.89.1.128/25", "10.89.2.0/23", "10.89.4.7/32"].map(range);
        assert_eq!(free_v4(&used), Some(range("10.89.5.0/24")));
        assert_eq!(free_v4(&[range("10.89.0.0/16")]), Some(range("10.90.0.0/24")));
        assert_eq!(free_v4(&[range("10.0.0.0/8")]), None);
        let pools = [("192.0.2.0/26", 28), ("10.7.0.0/16", 16)].map(|(base, size)| Pool { base: range(base), size });
        assert_eq!(free_of(&pools, &[range("192.0.2.0/28"), range("192.0.2.32/30")]), Some(range("192.0.2.16/28")));
        assert_eq!(free_of(&pools, &[range("192.0.2.0/24")]), Some(range("10.7.0.0/16")));
        assert_eq!(free_of(&pools, &[range("192.0.2.0/24"), range("10.7.255.255/32")]), None);
        assert_eq!(local_v6([1, 2, 3, 4, 5, 6, 7]), range("fd01:203:405:607::/64"));
    }

    #[test]
    fn the_kernels_routes_are_read() {
        let line = "eth0\t0059590A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        #[cfg(target_endian = "little")]
        assert_eq!(v4_route(line), Some(range("10.89.89.0/24")));
        assert_eq!(v4_route("Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"), None);
        assert_eq!(v4_route("eth0 00000000 010011AC 0003 0 0 0 00000000 0 0 0"), None, "the default route");
        let line = "fd000001000000000000000000000000 40 00000000000000000000000000000000 00 0 0 0 0 0 eth0";
        assert_eq!(v6_route(line), Some(range("fd00:1::/64")));
    }
}
