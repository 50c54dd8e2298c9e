//! Networks as every command sees them: the described ones of storage and the one that exists without a file, by all of
//! its names, and what the leader is told of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use net::netlink::{Address, Route};
use net::network as living;
use net::subnet::Range;
use storage::state::container::Record;
use storage::state::layout::Layout;
use storage::state::network::{self, DEFAULT_NAME, Network, NetworkError, Subnet};
use storage::state::request;

use crate::config;
use crate::error::CommandError;
use crate::role::Persona;

/// docker's name of the default network.
const DOCKERS_NAME: &str = "bridge";

/// docker's option that keeps the containers of a network apart, if it is false.
pub(crate) const ICC: &str = "com.docker.network.bridge.enable_icc";

/// The metric of a default route, as podman's.
const METRIC: u32 = 100;

/// The network that exists without a file, as nobody has changed it.
pub(crate) fn default_network() -> Network {
    let known = living::Network::default_bridge();
    // Commands for which it matters have refused a file that cannot be read.
    let subnets = match config::default_subnet().ok().flatten() {
        Some(Range { first, prefix }) => vec![(first, prefix)],
        None => known.subnets.iter().map(|subnet| (subnet.first, subnet.prefix)).collect(),
    };
    let of_range = |(first, prefix)| Subnet { first, prefix, gateway: Range { first, prefix }.nth(1), range: None };
    Network {
        id: known.id,
        interface: known.device,
        created: Timestamp::now(),
        subnets: subnets.into_iter().map(of_range).collect(),
        ..Network::new(DEFAULT_NAME)
    }
}

/// The default network as `network update` has left it: its file has its name servers.
fn default_of(layout: &Layout) -> Result<Network, NetworkError> {
    let changed = network::load(layout, DEFAULT_NAME)?;
    Ok(Network { servers: changed.map(|network| network.servers).unwrap_or_default(), ..default_network() })
}

/// Every network that somebody has created, by name.
pub(crate) fn created(layout: &Layout) -> Result<Vec<Network>, CommandError> {
    let mut networks = network::list(layout)?;
    networks.retain(|network| network.name != DEFAULT_NAME);
    Ok(networks)
}

/// Every network, by name.
pub(crate) fn all(layout: &Layout) -> Result<Vec<Network>, CommandError> {
    let mut networks = created(layout)?;
    networks.push(default_of(layout).map_err(CommandError::user)?);
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(networks)
}

/// Finds a network by name, id, or the beginning of an id.
pub(crate) fn find(layout: &Layout, text: &str) -> Result<Network, NetworkError> {
    if is_default(text) {
        return default_of(layout);
    }
    match network::find(layout, text) {
        Err(NetworkError::NotFound(_)) if !text.is_empty() && default_network().id.starts_with(text) => {
            default_of(layout)
        }
        Ok(network) if network.name == DEFAULT_NAME => default_of(layout),
        found => found,
    }
}

/// Whether it is a name of the default network.
pub(crate) fn is_default(name: &str) -> bool {
    matches!(name, DEFAULT_NAME | DOCKERS_NAME | "default")
}

/// The name as a persona shows it.
pub(crate) fn shown(name: &str, persona: Persona) -> &str {
    if persona == Persona::Docker && name == DEFAULT_NAME { DOCKERS_NAME } else { name }
}

/// The containers that are on a network, or will be when they start.
pub(crate) fn users<'a>(records: &'a [Record], name: &str) -> impl Iterator<Item = &'a Record> {
    let is_there = move |record: &&Record| record.request.network.places().iter().any(|place| place.network == name);
    records.iter().filter(is_there)
}

/// What the leader is told of a network.
pub(crate) fn described(network: &Network) -> living::Network {
    let subnets = network.subnets.iter().map(|subnet| living::Subnet {
        first: subnet.first,
        prefix: subnet.prefix,
        gateway: subnet.gateway,
        range: subnet.range,
    });
    let routes = network.routes.iter().map(|route| Route {
        to: Address { ip: route.first, prefix: route.prefix },
        gateway: route.gateway,
        metric: route.metric.unwrap_or(METRIC),
    });
    living::Network {
        name: network.name.clone(),
        id: network.id.clone(),
        device: network.interface.clone(),
        subnets: subnets.collect(),
        internal: network.internal,
        isolated: option(&network.options, "isolate") != Some("false"),
        apart: option(&network.options, ICC) == Some("false"),
        reserved: network.reserved.values().copied().collect(),
        dns: network.dns,
        mtu: option(&network.options, "mtu").and_then(|mtu| mtu.parse().ok()).unwrap_or_default(),
        servers: network.servers.clone(),
        routes: routes.collect(),
    }
}

/// The metric of the default route over a network that is the `number`th of a container; `None` if it has none there.
pub(crate) fn default_route(network: &Network, number: usize) -> Option<u32> {
    if network.internal || option(&network.options, "no_default_route") == Some("true") {
        return None;
    }
    let metric = option(&network.options, "metric").and_then(|metric| metric.parse().ok()).unwrap_or(METRIC);
    Some(metric.saturating_add(number as u32))
}

fn option<'a>(options: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    options.get(name).map(String::as_str)
}

/// Gives the networks that a container asks for the names that they have, and refuses what cannot be.
pub(crate) fn resolve(layout: &Layout, asked: &mut request::Network) -> Result<(), CommandError> {
    let Some(endpoints) = asked.endpoints.take() else { return Ok(()) };
    let mut resolved: Vec<request::Endpoint> = Vec::new();
    for mut endpoint in endpoints {
        let network = find(layout, &endpoint.network).map_err(CommandError::user)?;
        check_addresses(&network, &endpoint.ips)?;
        endpoint.network = network.name;
        match resolved.iter_mut().find(|other| other.network == endpoint.network) {
            Some(other) => *other = endpoint,
            None => resolved.push(endpoint),
        }
    }
    let mut interfaces = resolved.iter().filter_map(|endpoint| endpoint.interface.as_deref());
    while let Some(name) = interfaces.next() {
        if interfaces.clone().any(|other| other == name) {
            return Err(CommandError::user(format_args!("--network: two of them have interface_name={name}")));
        }
    }
    asked.endpoints = Some(resolved);
    Ok(())
}

/// Whether these could be a container's on that network.
pub(crate) fn check_addresses(network: &Network, ips: &[IpAddr]) -> Result<(), CommandError> {
    let described = described(network);
    match ips.iter().find(|ip| !described.subnets.iter().any(|subnet| subnet.contains(**ip))) {
        Some(ip) => Err(CommandError::user(format_args!(
            "requested static ip {ip} not in any subnet on network {}",
            network.name
        ))),
        None => Ok(()),
    }
}
