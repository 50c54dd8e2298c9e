//! Networks of the user's namespace: their bridges, their leases, and who may reach whom.

use super::member::mac_of;
use super::serve::{Leader, ServeError};
use crate::netfilter::Bridge;
use crate::netlink::Address;
use crate::network::{Leases, Network};

/// A network that exists in the user's namespace.
#[derive(Debug)]
pub(super) struct Living {
    pub(super) network: Network,
    pub(super) index: u32,
    pub(super) leases: Leases,
}

impl Leader {
    /// Makes a network, if it is not there as it is described now.
    pub(super) fn ensure(&mut self, network: &Network) -> Result<(), ServeError> {
        if let Some(living) = self.networks.get_mut(&network.name) {
            if living.network.has_devices_of(network) {
                living.network = network.clone();
                return Ok(());
            }
            // Another one had the name, and nobody is in it any more: one in use is not removed. The default one is another
            // when the configuration is.
            let device = living.network.device.clone();
            if self.is_in_use(&network.name) {
                return Err(ServeError::InUse(network.name.clone()));
            }
            let _ = self.route.delete_link(&device);
        }
        let first = network.subnets.first().map(|subnet| subnet.address(subnet.gateway.unwrap_or(subnet.first)));
        let mac = mac_of(first.as_slice());
        let index = self.route.add_bridge(&network.device, mac.0, network.mtu)?;
        for address in gateways(network) {
            self.route.add_address(index, address)?;
        }
        let mut leases = Leases::default();
        for ip in self.orphans.values().flatten().filter(|ip| network.subnets.iter().any(|net| net.contains(**ip))) {
            leases.hold(*ip);
        }
        let living = Living { network: network.clone(), index, leases };
        self.networks.insert(network.name.clone(), living);
        self.filter_anew()
    }

    fn is_in_use(&self, name: &str) -> bool {
        let members = self.clients.iter().flat_map(|client| &client.member);
        members.flat_map(|member| &member.places).any(|place| place.joined.network == name)
    }

    /// Takes a network's devices away: its addresses may be another's next.
    pub(super) fn forget_network(&mut self, name: &str) -> Result<(), ServeError> {
        if self.is_in_use(name) {
            return Ok(());
        }
        let Some(living) = self.networks.remove(name) else { return Ok(()) };
        self.route.delete_link(&living.network.device)?;
        self.filter_anew()
    }

    pub(super) fn filter_anew(&mut self) -> Result<(), ServeError> {
        if !self.orphans.is_empty() {
            // The rules of before are better than those without the networks that we do not know yet.
            return Ok(());
        }
        let bridges: Vec<Bridge> = self
            .networks
            .values()
            .map(|Living { network, .. }| Bridge {
                device: network.device.clone(),
                is_internal: network.internal,
                is_isolated: network.isolated,
                is_apart: network.apart,
            })
            .collect();
        let way_out = self.way_out.attachment().interface.clone();
        Ok(self.filter.replace(&bridges, way_out.as_deref().unwrap_or("tap0"))?)
    }
}

fn gateways(network: &Network) -> Vec<Address> {
    network.subnets.iter().filter_map(|subnet| Some(subnet.address(subnet.gateway?))).collect()
}
