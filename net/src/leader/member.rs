//! Containers of the user's namespace: put into networks, taken out of them, taken over from a leader that was killed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;

use super::configure::configure;
use super::message::{Endpoint, Joined};
use super::serve::{Leader, ServeError};
use crate::driver::MacAddress;
use crate::netlink::{Address, Veth};

/// What the names of our ends of pairs begin with; those of bridges do not.
pub(super) const DEVICE_PREFIX: &str = "v";

/// A container that is here.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) container: String,
    pub(super) places: Vec<Place>,
}

/// What a container asked for of a network, and what it got.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    pub(super) joined: Joined,
}

impl Leader {
    /// A container of a leader that was killed is in its networks still.
    pub(super) fn rejoin(
        &mut self,
        at: usize,
        container: String,
        places: Vec<(Endpoint, Joined)>,
    ) -> Result<(), ServeError> {
        self.leave(at);
        for (endpoint, joined) in &places {
            self.ensure(&endpoint.network)?;
            if let Some(living) = self.networks.get_mut(&joined.network) {
                joined.addresses.iter().for_each(|address| living.leases.hold(address.ip));
            }
            self.orphans.remove(&joined.device);
            self.bar(&container, &endpoint.wishes, &joined.addresses)?;
        }
        if let Some(client) = self.clients.get_mut(at) {
            let places = places.into_iter().map(|(endpoint, joined)| Place { endpoint, joined }).collect();
            client.member = Some(Member { container, places });
        }
        self.filter_anew()
    }

    /// Forgets those that nobody will come for: their devices are gone, or about to go since `container` is put into its
    /// networks anew.
    fn bury_orphans(&mut self, container: &str) -> Result<(), ServeError> {
        if self.orphans.is_empty() {
            return Ok(());
        }
        let links = self.route.links()?;
        let anew = device_prefix(container);
        let anew = anew.as_str();
        let (kept, buried) = std::mem::take(&mut self.orphans)
            .into_iter()
            .partition(|(device, _)| !device.starts_with(anew) && links.iter().any(|link| link.name == *device));
        self.orphans = kept;
        for device in BTreeMap::keys(&buried).filter(|device| !device.starts_with(anew)) {
            // One that had no rules has none to lose.
            let _ = self.filter.unbar(device.trim_end_matches(|digit: char| digit.is_ascii_digit()));
        }
        for ip in BTreeMap::into_values(buried).flatten() {
            self.networks.values_mut().for_each(|living| living.leases.give_back(ip));
        }
        Ok(())
    }

    /// The container is in no network any more, or about to be in others.
    pub(super) fn leave(&mut self, at: usize) {
        let Some(client) = self.clients.get_mut(at) else { return };
        let Some(member) = client.member.take() else { return };
        self.dns.names().remove(client.socket.as_raw_fd());
        // Who has asked a leader that ended before it answered has another connection to this one.
        if !self.clients.iter().flat_map(|client| &client.member).any(|other| other.container == member.container) {
            self.unbar(&member);
            member.places.iter().for_each(|place| self.give_back(&place.joined));
        }
    }

    /// The rules of a container that has ended go, after its devices: somebody who shares its namespace may still run.
    fn unbar(&mut self, member: &Member) {
        if member.places.iter().any(|place| place.endpoint.wishes.egress.is_some()) {
            member.places.iter().for_each(|place| drop(self.route.delete_link(&place.joined.device)));
            let _ = self.filter.unbar(&device_prefix(&member.container));
        }
    }

    fn give_back(&mut self, joined: &Joined) {
        if let Some(living) = self.networks.get_mut(&joined.network) {
            joined.addresses.iter().for_each(|address| living.leases.give_back(address.ip));
        }
    }

    /// Puts a container into its networks, or into none of them.
    pub(super) fn attach(
        &mut self,
        container: &str,
        endpoints: Vec<Endpoint>,
        netns: BorrowedFd<'_>,
    ) -> Result<Vec<Place>, ServeError> {
        self.bury_orphans(container)?;
        // Of a run whose end nobody has seen.
        if endpoints.iter().any(|endpoint| endpoint.wishes.egress.is_some()) {
            self.filter.unbar(&device_prefix(container))?;
        }
        let mut places: Vec<Place> = Vec::new();
        for (at, endpoint) in endpoints.into_iter().enumerate() {
            match self.attach_one(container, device_name(container, at), &endpoint, netns) {
                Ok(joined) => places.push(Place { endpoint, joined }),
                Err(error) => {
                    self.detach(container, &places);
                    return Err(error);
                }
            }
        }
        Ok(places)
    }

    /// Takes a container out of networks again.
    pub(super) fn detach(&mut self, container: &str, places: &[Place]) {
        for place in places {
            let _ = self.route.delete_link(&place.joined.device);
            self.give_back(&place.joined);
        }
        let _ = self.filter.unbar(&device_prefix(container));
    }

    /// One more network for a container that is here.
    pub(super) fn connect(
        &mut self,
        at: usize,
        endpoint: Endpoint,
        netns: BorrowedFd<'_>,
    ) -> Result<Joined, ServeError> {
        let member = self.clients.get(at).and_then(|client| client.member.as_ref()).ok_or(ServeError::NotAttached)?;
        let is_taken = |name: &String| member.places.iter().any(|place| place.joined.device == *name);
        let mut names = (0..=member.places.len()).map(|number| device_name(&member.container, number));
        let device = names.find(|name| !is_taken(name)).unwrap_or_default();
        let container = member.container.clone();
        let joined = self.attach_one(&container, device, &endpoint, netns)?;
        if let Some(member) = self.clients.get_mut(at).and_then(|client| client.member.as_mut()) {
            member.places.push(Place { endpoint, joined: joined.clone() });
        }
        Ok(joined)
    }

    /// The container is in this network no more. One that it is not in needs no leaving.
    pub(super) fn disconnect(&mut self, at: usize, network: &str) -> Result<(), ServeError> {
        let member = self.clients.get_mut(at).and_then(|client| client.member.as_mut());
        let member = member.ok_or(ServeError::NotAttached)?;
        let Some(number) = member.places.iter().position(|place| place.joined.network == network) else {
            return Ok(());
        };
        let place = member.places.remove(number);
        self.give_back(&place.joined);
        Ok(self.route.delete_link(&place.joined.device)?)
    }

    fn attach_one(
        &mut self,
        container: &str,
        device: String,
        endpoint: &Endpoint,
        netns: BorrowedFd<'_>,
    ) -> Result<Joined, ServeError> {
        self.ensure(&endpoint.network)?;
        let Some(living) = self.networks.get_mut(&endpoint.network.name) else {
            return Err(ServeError::System { what: "find the network", errno: Errno::ENOENT });
        };
        let addresses = living.leases.take(&living.network, &endpoint.wanted, endpoint.must)?;
        let mac = endpoint.mac.unwrap_or_else(|| mac_of(&addresses));
        let joined = Joined {
            network: endpoint.network.name.clone(),
            device,
            interface: endpoint.interface.clone(),
            mac,
            addresses,
            gateways: living.network.subnets.iter().filter_map(|subnet| subnet.gateway).collect(),
        };
        let (bridge, mtu, is_apart) = (living.index, living.network.mtu, living.network.apart);
        let veth = Veth { name: &joined.device, bridge, peer_name: &joined.interface, peer_mac: mac.0, netns, mtu };
        let label: Vec<String> = joined.addresses.iter().map(|address| address.ip.to_string()).collect();
        let mut set_up = || -> Result<(), ServeError> {
            // Before anything can come from it.
            self.bar(container, &endpoint.wishes, &joined.addresses)?;
            // The one of an earlier run may not have gone yet: a namespace ends in the background.
            self.route.delete_link(&joined.device)?;
            self.route.add_veth(&veth)?;
            self.route.label_link(&joined.device, &label.join(" "))?;
            if is_apart {
                self.route.isolate_port(&joined.device)?;
            }
            configure(netns, endpoint, &joined)
        };
        match (set_up)() {
            Ok(()) => Ok(joined),
            Err(error) => {
                let _ = self.route.delete_link(&joined.device);
                self.give_back(&joined);
                Err(error)
            }
        }
    }
}

/// A hardware address that follows from the first address: two devices of a bridge never have the same.
pub(super) fn mac_of(addresses: &[Address]) -> MacAddress {
    let [a, b, c, d] = match addresses.first().map(|address| address.ip) {
        Some(IpAddr::V4(v4)) => v4.octets(),
        Some(IpAddr::V6(v6)) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
        None => [0; 4],
    };
    MacAddress([0x02, 0x42, a, b, c, d])
}

/// The name of this end of a pair: 15 bytes at most.
fn device_name(container: &str, at: usize) -> String {
    format!("{}{at}", device_prefix(container))
}

/// What the names of all devices of a container begin with, and of no other's.
pub(super) fn device_prefix(container: &str) -> String {
    format!("{DEVICE_PREFIX}{}n", container.get(..10).unwrap_or(container))
}
