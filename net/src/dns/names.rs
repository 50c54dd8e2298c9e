//! What the names of containers lead to, for whom.
//!
//! ```text
//! attach, connect, rename ─▶ Names ◀─ look_up(who asks, name, type)
//! ```
//! Who asks is known by the address the question came from, and sees the names of the networks that it is in. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::message::{A, AAAA, ANY, PTR, Record};
use crate::egress::Rules;
use crate::netlink::Address;

/// The domain that names of containers may be given with: the first in the search list of each of them, so that none of
/// the host's domains is tried before.
///
/// # Source
/// podman's `dns.podman`, in each `resolv.conf` it makes for a bridge.
pub const DOMAIN: &str = "dns.podman";

/// Names that lead to the host.
pub const HOST_NAMES: [&str; 2] = ["host.containers.internal", "host.docker.internal"];

/// What a container wants of names, whatever network it is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// Servers that answer it what is no name of a container; without one, the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
    /// Names that it alone has for other containers, and what those are called by everybody.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, String>,
    /// What it may reach beyond its networks; everything, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Rules>,
}

/// A container in one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The network.
    pub network: String,
    /// Its names there, in lower case; the first is what its addresses are called.
    pub names: Vec<String>,
    /// Its addresses there.
    pub addresses: Vec<Address>,
    /// Names are answered there.
    pub has_names: bool,
    /// There is a way out.
    pub leads_out: bool,
    /// Servers of the network, for whoever has none of its own.
    pub servers: Vec<IpAddr>,
}

/// What the caller calls a container: one that begins again may be here twice for a moment.
pub type Number = i32;

#[derive(Debug)]
struct Member {
    places: Vec<Place>,
    wishes: Wishes,
}

/// What a question leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// These records; none if there is no record of the type.
    Records(Vec<Record>),
    /// There is no such name.
    Nothing,
    /// Others know; the host's servers if there are none here.
    Others(Vec<IpAddr>),
    /// Others may know, but the asker is not to reach what the name leads to.
    Refused,
}

/// All names.
#[derive(Debug, Default)]
pub struct Names {
    members: HashMap<Number, Member>,
    /// Who has an address.
    by_address: HashMap<IpAddr, Number>,
    /// Network, name, and who has it: in the order they came.
    by_name: HashMap<String, HashMap<String, Vec<Number>>>,
    host: Option<IpAddr>,
    /// Where the next answer of several addresses begins.
    turn: usize,
}

impl Names {
    /// Where the host answers.
    pub fn set_host(&mut self, host: Option<IpAddr>) {
        self.host = host;
    }

    /// A container is in these networks, and in no others.
    pub fn set(&mut self, container: Number, places: Vec<Place>, wishes: Wishes) {
        self.remove(container);
        for place in &places {
            self.by_address.extend(place.addresses.iter().map(|address| (address.ip, container)));
            if !place.has_names {
                continue;
            }
            let network = self.by_name.entry(place.network.clone()).or_default();
            for name in &place.names {
                let all = network.entry(name.clone()).or_default();
                if !all.contains(&container) {
                    all.push(container);
                }
            }
        }
        self.members.insert(container.to_owned(), Member { places, wishes });
    }

    /// A container is gone.
    pub fn remove(&mut self, container: Number) {
        let Some(member) = self.members.remove(&container) else { return };
        for place in &member.places {
            for address in &place.addresses {
                if self.by_address.get(&address.ip).is_some_and(|owner| *owner == container) {
                    self.by_address.remove(&address.ip);
                }
            }
            let Some(network) = self.by_name.get_mut(&place.network) else { continue };
            for name in &place.names {
                if let Some(all) = network.get_mut(name) {
                    all.retain(|other| *other != container);
                    if all.is_empty() {
                        network.remove(name);
                    }
                }
            }
            if network.is_empty() {
                self.by_name.remove(&place.network);
            }
        }
    }

    /// What a question of `asker` leads to; `name` is `None` for one that no container can have.
    pub(super) fn look_up(&mut self, asker: IpAddr, name: Option<&str>, kind: u16) -> Found {
        let member = self.by_address.get(&asker).and_then(|container| self.members.get(container));
        let Some(name) = name else { return elsewhere(member, name) };
        if HOST_NAMES.contains(&name)
            && let Some(host) = self.host
        {
            return of_kind(std::iter::once(host), kind);
        }
        let bare = name.strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix('.'));
        let places = member.map(|member| &member.places[..]).unwrap_or_default();
        if let Some(mut addresses) = self.addresses(member, bare.unwrap_or(name)) {
            if addresses.len() > 1 {
                // Each of several is the first in its turn.
                self.turn = self.turn.wrapping_add(1);
                let middle = self.turn % addresses.len();
                addresses.rotate_left(middle);
            }
            return of_kind(addresses.into_iter(), kind);
        }
        if let Some(ip) = address_of_reverse_name(name)
            && let Some(place) = places.iter().find(|place| place.addresses.iter().any(|address| address.is_near(ip)))
        {
            let names = self.name_of(&place.network, ip);
            return match names {
                Some(name) if matches!(kind, PTR | ANY) => Found::Records(vec![Record::Name(name)]),
                Some(_) => Found::Records(Vec::new()),
                None => Found::Nothing,
            };
        }
        // Whoever is asked upstream need not hear what containers are called here.
        let is_ours = bare.is_some()
            || name == DOMAIN
            || !name.contains('.') && self.by_name.values().any(|network| network.contains_key(name));
        if is_ours { Found::Nothing } else { elsewhere(member, Some(name)) }
    }

    /// What a name leads to in the networks of a container.
    fn addresses(&self, asker: Option<&Member>, name: &str) -> Option<Vec<IpAddr>> {
        let asker = asker?;
        let name = asker.wishes.links.get(name).map_or(name, String::as_str);
        let mut addresses = Vec::new();
        for Place { network, .. } in asker.places.iter().filter(|place| place.has_names) {
            let owners = self.by_name.get(network).and_then(|names| names.get(name));
            for owner in owners.into_iter().flatten().filter_map(|owner| self.members.get(owner)) {
                let there = owner.places.iter().filter(|place| place.network == *network);
                addresses.extend(there.flat_map(|place| &place.addresses).map(|address| address.ip));
            }
        }
        (!addresses.is_empty()).then_some(addresses)
    }

    /// Who has an address, and what it may reach.
    pub(super) fn egress(&self, asker: IpAddr) -> Option<(Number, &Rules)> {
        let container = self.by_address.get(&asker)?;
        Some((*container, self.members.get(container)?.wishes.egress.as_ref()?))
    }

    fn name_of(&self, network: &str, ip: IpAddr) -> Option<String> {
        let member = self.members.get(self.by_address.get(&ip)?)?;
        let place = member.places.iter().find(|place| place.has_names && place.network == network)?;
        place.names.first().cloned()
    }
}

/// Who is to be asked for the others of a container's names.
fn elsewhere(asker: Option<&Member>, name: Option<&str>) -> Found {
    let Some(Member { places, wishes }) = asker else { return Found::Others(Vec::new()) };
    if !places.iter().any(|place| place.leads_out) {
        return Found::Nothing;
    }
    if wishes.egress.as_ref().is_some_and(|rules| !rules.may_ask(name)) {
        return Found::Refused;
    }
    if !wishes.servers.is_empty() {
        return Found::Others(wishes.servers.clone());
    }
    Found::Others(places.iter().flat_map(|place| &place.servers).copied().collect())
}

fn of_kind(addresses: impl Iterator<Item = IpAddr>, kind: u16) -> Found {
    let is_wanted = |ip: &IpAddr| match kind {
        A => ip.is_ipv4(),
        AAAA => ip.is_ipv6(),
        _ => kind == ANY,
    };
    Found::Records(addresses.filter(is_wanted).map(Record::Address).collect())
}

/// The address that `2.0.88.10.in-addr.arpa`, or its like of IPv6, asks for.
///
/// # Source
/// RFC 1035 section 3.5, RFC 3596 section 2.5.
fn address_of_reverse_name(name: &str) -> Option<IpAddr> {
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        let bytes: Vec<u8> = reversed.split('.').rev().map(|byte| byte.parse().ok()).collect::<Option<_>>()?;
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
    }
    let reversed = name.strip_suffix(".ip6.arpa")?;
    let digit = |text: &str| text.chars().next().filter(|_| text.len() == 1)?.to_digit(16);
    let digits: Vec<u32> = reversed.split('.').rev().map(digit).collect::<Option<_>>()?;
    if digits.len() != 32 {
        return None;
    }
    Some(Ipv6Addr::from(digits.iter().fold(0_u128, |number, digit| number << 4 | u128::from(*digit))).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(network: &str, names: &[&str], addresses: &[&str]) -> Place {
        let address = |text: &&str| {
            let ip: IpAddr = text.parse().unwrap();
            Address { ip, prefix: if ip.is_ipv4() { 24 } else { 64 } }
        };
        Place {
            network: network.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.iter().map(address).collect(),
            has_names: true,
            leads_out: true,
            servers: Vec::new(),
        }
    }

    /// `web` and `db` on one network, `db` and `cache` on another.
    fn three() -> Names {
        let mut names = Names::default();
        names.set(1, vec![place("front", &["web", "www"], &["10.89.0.2", "fd00::2"])], Wishes::default());
        let both = [place("front", &["db"], &["10.89.0.3"]), place("back", &["db", "store"], &["10.89.1.3"])];
        names.set(2, both.to_vec(), Wishes::default());
        names.set(3, vec![place("back", &["cache"], &["10.89.1.4"])], Wishes::default());
        names
    }

    fn ask(names: &mut Names, asker: &str, name: &str, kind: u16) -> String {
        match names.look_up(asker.parse().unwrap(), Some(name), kind) {
            Found::Records(records) => {
                let mut shown: Vec<String> = records
                    .iter()
                    .map(|record| match record {
                        Record::Address(ip) => ip.to_string(),
                        Record::Name(name) => name.clone(),
                    })
                    .collect();
                shown.sort();
                shown.join(" ")
            }
            Found::Refused => "refused".to_owned(),
            Found::Nothing => "nothing".to_owned(),
            Found::Others(servers) => {
                format!("others{}", servers.iter().map(|ip| format!(" {ip}")).collect::<String>())
            }
        }
    }

    #[test]
    fn names_are_those_of_the_askers_networks() {
        let mut names = three();
        for (asker, name, kind, found) in [
            ("10.89.0.2", "db", A, "10.89.0.3"),
            ("10.89.0.2", "www", A, "10.89.0.2"),
            ("10.89.0.2", "web", ANY, "10.89.0.2 fd00::2"),
            ("10.89.0.2", "web", AAAA, "fd00::2"),
            ("10.89.0.2", "db", AAAA, ""),
            ("10.89.0.2", "db", 15, ""),
            ("10.89.0.2", "db.dns.podman", A, "10.89.0.3"),
            ("fd00::2", "db", A, "10.89.0.3"),
            ("10.89.0.3", "db", A, "10.89.0.3 10.89.1.3"),
            ("10.89.1.3", "web", A, "10.89.0.2"),
            // Names of other networks are not told to anybody, here or elsewhere.
            ("10.89.0.2", "cache", A, "nothing"),
            ("10.89.0.2", "nosuch.dns.podman", A, "nothing"),
            ("10.89.0.2", "nosuch", A, "others"),
            ("10.89.0.2", "cache.example", A, "others"),
            ("10.89.7.7", "web", A, "nothing"),
            ("10.89.7.7", "example.org", A, "others"),
        ] {
            assert_eq!(ask(&mut names, asker, name, kind), found, "{asker} asks for {name}");
        }
        assert_eq!(names.look_up("10.89.0.2".parse().unwrap(), None, A), Found::Others(Vec::new()));
    }

    #[test]
    fn addresses_have_names() {
        let mut names = three();
        let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        for (asker, name, found) in [
            ("10.89.0.3", "2.0.89.10.in-addr.arpa", "web"),
            ("10.89.0.3", six, "web"),
            ("10.89.0.2", "3.0.89.10.in-addr.arpa", "db"),
            ("10.89.0.2", "9.0.89.10.in-addr.arpa", "nothing"),
            ("10.89.0.2", "4.1.89.10.in-addr.arpa", "others"),
            ("10.89.0.2", "x.1.89.10.in-addr.arpa", "others"),
        ] {
            // Only who has an address of the family has that family's neighbours.
            let asker = if name == six { "10.89.0.2" } else { asker };
            assert_eq!(ask(&mut names, asker, name, PTR), found, "{asker} asks for {name}");
        }
        assert_eq!(ask(&mut names, "10.89.0.3", "2.0.89.10.in-addr.arpa", A), "");
    }

    #[test]
    fn changes_are_seen_at_once() {
        let mut names = three();
        names.set(1, vec![place("front", &["old-web", "www"], &["10.89.0.2"])], Wishes::default());
        assert_eq!(ask(&mut names, "10.89.0.3", "old-web", A), "10.89.0.2");
        assert_eq!(ask(&mut names, "10.89.0.3", "web", A), "others");
        names.set(3, vec![place("front", &["cache", "www"], &["10.89.0.4"])], Wishes::default());
        assert_eq!(ask(&mut names, "10.89.0.2", "www", A), "10.89.0.2 10.89.0.4");
        names.remove(1);
        assert_eq!(ask(&mut names, "10.89.0.3", "www", A), "10.89.0.4");
        assert_eq!(ask(&mut names, "10.89.0.2", "cache", A), "nothing", "its address is nobody's");
        [2, 3, 3].into_iter().for_each(|container| names.remove(container));
        assert!(names.by_name.is_empty() && names.by_address.is_empty(), "{names:?}");
    }

    #[test]
    fn several_take_turns() {
        let mut names = three();
        let mut first = || match names.look_up("10.89.0.3".parse().unwrap(), Some("db"), A) {
            Found::Records(records) => records[0].clone(),
            other => panic!("{other:?}"),
        };
        assert_ne!(first(), first());
    }

    #[test]
    fn networks_and_containers_have_their_ways() {
        let mut names = Names::default();
        names.set_host("192.0.2.7".parse().ok());
        let inner = Place { leads_out: false, ..place("inner", &["a"], &["10.89.0.2"]) };
        let own = Place { servers: vec!["192.0.2.5".parse().unwrap()], ..place("own", &["b"], &["10.89.1.2"]) };
        let mute = Place { has_names: false, ..place("mute", &["c"], &["10.89.2.2"]) };
        let wishes = Wishes {
            servers: vec!["192.0.2.9".parse().unwrap()],
            links: [("short".to_owned(), "b".to_owned())].into(),
            egress: None,
        };
        names.set(1, vec![inner.clone()], wishes.clone());
        names.set(2, vec![own.clone()], Wishes::default());
        names.set(3, vec![mute], Wishes::default());
        let own = Place { addresses: place("own", &[], &["10.89.1.3"]).addresses, names: vec!["d".into()], ..own };
        let inner =
            Place { addresses: place("inner", &[], &["10.89.0.3"]).addresses, names: vec!["d".into()], ..inner };
        names.set(4, vec![inner, own], wishes);
        for (asker, name, found) in [
            ("10.89.0.2", "example.org", "nothing"),
            ("10.89.0.2", "d", "10.89.0.3"),
            ("10.89.0.2", "short", "others"),
            ("10.89.1.2", "example.org", "others 192.0.2.5"),
            ("10.89.1.3", "example.org", "others 192.0.2.9"),
            ("10.89.1.3", "short", "10.89.1.2"),
            ("10.89.1.2", "short", "others 192.0.2.5"),
            ("10.89.2.2", "c", "others"),
            ("10.89.2.2", "host.docker.internal", "192.0.2.7"),
            ("10.89.0.2", "host.containers.internal", "192.0.2.7"),
        ] {
            // An internal network has nobody to ask.
            let found = if asker == "10.89.0.2" && found == "others" { "nothing" } else { found };
            assert_eq!(ask(&mut names, asker, name, A), found, "{asker} asks for {name}");
        }
    }
}
