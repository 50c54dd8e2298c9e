//! A bridge network as data, and which of its addresses are given away.
//!
//! ```text
//! network file (storage) ─▶ Network ─▶ leader: bridge, gateway addresses, leases
//! ```
//! Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::netlink::{Address, Route};

/// Name of the network that a container has if nothing is said.
pub const DEFAULT_NAME: &str = "podman";

/// A network of containers on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits, new with each network of that name.
    pub id: String,
    /// The name of its bridge in the user's network namespace.
    pub device: String,
    /// Its addresses, at most one subnet of each family.
    pub subnets: Vec<Subnet>,
    /// It has no way out.
    pub internal: bool,
    /// Other networks do not reach it.
    pub isolated: bool,
    /// Its containers do not reach each other.
    #[serde(default)]
    pub apart: bool,
    /// Addresses that no container is given.
    #[serde(default)]
    pub reserved: Vec<IpAddr>,
    /// Names are answered on it.
    pub dns: bool,
    /// The largest packet, in bytes; 0 is the kernel's own choice.
    pub mtu: u32,
    /// DNS servers that are asked instead of the host's.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// Routes of its containers besides the default one.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// A range of addresses with one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The first address, all host bits zero.
    pub first: IpAddr,
    /// The length of the prefix, in bits.
    pub prefix: u8,
    /// The bridge's own address; a network that leads nowhere and has no names needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The first and last address that is given to containers; else all but the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(IpAddr, IpAddr)>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseError {
    /// Somebody has it.
    #[error("network {network}: IP address {ip} is in use")]
    Taken {
        /// The network.
        network: String,
        /// The address.
        ip: IpAddr,
    },
    /// It is none of a container's.
    #[error("network {network}: requested static ip {ip} not in any subnet on network {network}")]
    Outside {
        /// The network.
        network: String,
        /// The address.
        ip: IpAddr,
    },
    /// Every address is given away.
    #[error("network {network}: no free address in {first}/{prefix}")]
    Exhausted {
        /// The network.
        network: String,
        /// The subnet.
        first: IpAddr,
        /// Its prefix.
        prefix: u8,
    },
}

impl Network {
    /// The network that exists without a file.
    ///
    /// # Source
    /// containers.conf(5) `default_subnet`.
    #[must_use]
    pub fn default_bridge() -> Self {
        let subnet = Subnet {
            first: Ipv4Addr::new(10, 88, 0, 0).into(),
            prefix: 16,
            gateway: Some(Ipv4Addr::new(10, 88, 0, 1).into()),
            range: None,
        };
        Self {
            name: DEFAULT_NAME.to_owned(),
            // As podman: SHA-256 of the name.
            id: "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9".to_owned(),
            device: "podman0".to_owned(),
            subnets: vec![subnet],
            internal: false,
            isolated: true,
            apart: false,
            reserved: Vec::new(),
            dns: true,
            mtu: 0,
            servers: Vec::new(),
            routes: Vec::new(),
        }
    }
}

impl Network {
    /// Whether a network of this description can do with the devices of the other one.
    #[must_use]
    pub fn has_devices_of(&self, other: &Self) -> bool {
        let devices = |network: &Self| Self { dns: true, servers: Vec::new(), routes: Vec::new(), ..network.clone() };
        devices(self) == devices(other)
    }
}

impl Subnet {
    /// Whether the address has the prefix.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.first.is_ipv4() == ip.is_ipv4() && number(ip) & !self.host_mask() == number(self.first)
    }

    /// An address with this subnet's prefix.
    #[must_use]
    pub fn address(&self, ip: IpAddr) -> Address {
        Address { ip, prefix: self.prefix }
    }

    fn host_mask(&self) -> u128 {
        let bits: u32 = if self.first.is_ipv4() { 32 } else { 128 };
        let host_bits = bits.saturating_sub(self.prefix.into());
        1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1)
    }

    /// The first and last address for containers. The network's own and, of IPv4, the last one are nobody's.
    fn ends(&self) -> (u128, u128) {
        if let Some((first, last)) = self.range {
            return (number(first), number(last));
        }
        let (first, last) = (number(self.first), number(self.first) | self.host_mask());
        match self.first {
            IpAddr::V4(_) if self.prefix >= 31 => (first, last),
            IpAddr::V4(_) => (first + 1, last - 1),
            IpAddr::V6(_) => (first + 1, last),
        }
    }

    fn is_for_containers(&self, ip: IpAddr) -> bool {
        let (first, last) = self.ends();
        self.contains(ip) && Some(ip) != self.gateway && (first..=last).contains(&number(ip))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

/// The addresses of one network that containers have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    taken: BTreeSet<IpAddr>,
    /// The last one of each family that was chosen here: the next one is another, so that what has just become free is
    /// not at once somebody else.
    last: [Option<IpAddr>; 2],
}

impl Leases {
    /// Gives away one address of each subnet: a wanted one if there is one, or else any.
    ///
    /// With `must`, a wanted one that cannot be had is an error.
    ///
    /// # Errors
    /// [`LeaseError`]; nothing is given away then.
    pub fn take(&mut self, network: &Network, wanted: &[IpAddr], must: bool) -> Result<Vec<Address>, LeaseError> {
        let name = || network.name.clone();
        if let Some(ip) =
            wanted.iter().find(|ip| must && !network.subnets.iter().any(|net| net.is_for_containers(**ip)))
        {
            return Err(LeaseError::Outside { network: name(), ip: *ip });
        }
        let mut chosen = Vec::new();
        for subnet in &network.subnets {
            let asked = wanted.iter().copied().find(|ip| subnet.is_for_containers(*ip));
            let ip = match asked {
                Some(ip) if self.is_free(network, ip) => ip,
                Some(ip) if must => return Err(LeaseError::Taken { network: name(), ip }),
                _ => self.next(network, subnet).ok_or_else(|| LeaseError::Exhausted {
                    network: name(),
                    first: subnet.first,
                    prefix: subnet.prefix,
                })?,
            };
            chosen.push(subnet.address(ip));
        }
        for (subnet, address) in network.subnets.iter().zip(&chosen) {
            self.last[usize::from(subnet.first.is_ipv6())] = Some(address.ip);
        }
        self.taken.extend(chosen.iter().map(|address| address.ip));
        Ok(chosen)
    }

    /// Somebody has this address already.
    pub fn hold(&mut self, ip: IpAddr) {
        self.taken.insert(ip);
    }

    /// Takes an address back.
    pub fn give_back(&mut self, ip: IpAddr) {
        self.taken.remove(&ip);
    }

    fn is_free(&self, network: &Network, ip: IpAddr) -> bool {
        !self.taken.contains(&ip) && !network.reserved.contains(&ip)
    }

    /// The next free address after the last one, round and round.
    fn next(&self, network: &Network, subnet: &Subnet) -> Option<IpAddr> {
        let (first, last) = subnet.ends();
        let begin = self.last[usize::from(subnet.first.is_ipv6())]
            .map(number)
            .filter(|last_chosen| (first..last).contains(last_chosen))
            .map_or(first, |last_chosen| last_chosen + 1);
        let mut candidates = (begin..=last).chain(first..begin).map(|number| address(number, subnet.first));
        candidates.find(|ip| Some(*ip) != subnet.gateway && self.is_free(network, *ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(first: &str, prefix: u8, gateway: &str) -> Network {
        let subnet = Subnet { first: first.parse().unwrap(), prefix, gateway: gateway.parse().ok(), range: None };
        Network { subnets: vec![subnet], ..Network::default_bridge() }
    }

    fn take(leases: &mut Leases, network: &Network, wanted: &[&str], must: bool) -> Result<String, String> {
        let wanted: Vec<IpAddr> = wanted.iter().map(|ip| ip.parse().unwrap()).collect();
        let taken = leases.take(network, &wanted, must).map_err(|error| error.to_string())?;
        Ok(taken.iter().map(|one| format!("{}/{}", one.ip, one.prefix)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn addresses_are_given_in_turn_and_come_back() {
        let network = network("10.89.0.0", 29, "10.89.0.1");
        let mut leases = Leases::default();
        for last in 2..=6 {
            assert_eq!(take(&mut leases, &network, &[], false).unwrap(), format!("10.89.0.{last}/29"));
        }
        assert_eq!(
            take(&mut leases, &network, &[], false).unwrap_err(),
            "network podman: no free address in 10.89.0.0/29"
        );
        leases.give_back("10.89.0.3".parse().unwrap());
        leases.give_back("10.89.0.5".parse().unwrap());
        assert_eq!(take(&mut leases, &network, &[], false).unwrap(), "10.89.0.3/29");
        leases.give_back("10.89.0.3".parse().unwrap());
        assert_eq!(take(&mut leases, &network, &[], false).unwrap(), "10.89.0.5/29");
    }

    #[test]
    fn wanted_addresses_are_had_or_refused() {
        let network = network("10.88.0.0", 16, "10.88.0.1");
        let mut leases = Leases::default();
        assert_eq!(take(&mut leases, &network, &["10.88.7.7"], true).unwrap(), "10.88.7.7/16");
        assert_eq!(
            take(&mut leases, &network, &["10.88.7.7"], true).unwrap_err(),
            "network podman: IP address 10.88.7.7 is in use"
        );
        // One that a container had before it was stopped is only preferred.
        assert_eq!(take(&mut leases, &network, &["10.88.7.7"], false).unwrap(), "10.88.7.8/16");
        for outside in ["10.89.0.1", "10.88.0.1", "10.88.0.0", "10.88.255.255", "fd00::2"] {
            let error = take(&mut leases, &network, &[outside], true).unwrap_err();
            assert!(error.contains("not in any subnet"), "{error}");
        }
    }

    #[test]
    fn reserved_addresses_are_nobodys() {
        let reserved = ["10.89.0.2", "10.89.0.4"].map(|ip| ip.parse().unwrap()).to_vec();
        let network = Network { reserved, ..network("10.89.0.0", 29, "10.89.0.1") };
        let mut leases = Leases::default();
        for last in [3, 5, 6] {
            assert_eq!(take(&mut leases, &network, &[], false).unwrap(), format!("10.89.0.{last}/29"));
        }
        assert!(take(&mut leases, &network, &[], false).unwrap_err().contains("no free address"));
        assert_eq!(
            take(&mut leases, &network, &["10.89.0.4"], true).unwrap_err(),
            "network podman: IP address 10.89.0.4 is in use"
        );
    }

    #[test]
    fn a_network_of_both_families_gives_both() {
        let mut network = network("10.89.1.0", 24, "10.89.1.1");
        let six =
            Subnet { first: "fd00:1::".parse().unwrap(), prefix: 64, gateway: "fd00:1::1".parse().ok(), range: None };
        network.subnets.push(six);
        let mut leases = Leases::default();
        assert_eq!(take(&mut leases, &network, &[], false).unwrap(), "10.89.1.2/24 fd00:1::2/64");
        assert_eq!(take(&mut leases, &network, &["fd00:1::99"], true).unwrap(), "10.89.1.3/24 fd00:1::99/64");
    }
}
