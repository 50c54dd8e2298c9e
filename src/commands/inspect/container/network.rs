//! The network of a container: addresses, and what is published where.

use std::collections::BTreeMap;

use storage::state::container::{self, Record};
use storage::state::request::{Endpoint, Protocol, Request};
use storage::state::status::{self, Interface, Observed, Port};

use crate::cli::format::Value;
use crate::commands::network::endpoint_id;
use crate::commands::{Context, ps};
use crate::networks;
use crate::role::Persona;

pub(super) fn port_map(ports: &[Port]) -> BTreeMap<String, Value> {
    let mut map: BTreeMap<String, Value> = BTreeMap::new();
    for port in ports {
        for offset in 0..port.range.max(1) {
            let key = format!("{}/{}", port.container_port.saturating_add(offset), port.protocol.as_str());
            let address = port.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
            let binding = Value::Struct(vec![
                ("HostIp", address.into()),
                ("HostPort", port.host_port.saturating_add(offset).to_string().into()),
            ]);
            // Only lists are put in.
            if let Value::List(list) = map.entry(key).or_insert_with(|| Value::List(Vec::new())) {
                list.push(binding);
            }
        }
    }
    map
}

pub(super) fn exposed_keys(request: &Request) -> impl Iterator<Item = String> {
    request.network.exposed.iter().flat_map(|exposed| {
        let ports = exposed.port..exposed.port.saturating_add(exposed.range.max(1));
        ports.map(|port| format!("{port}/{}", Protocol::as_str(exposed.protocol)))
    })
}

/// The members that both the whole and each network have.
fn endpoint(id: String, interface: Option<&Interface>) -> Vec<(&'static str, Value)> {
    let addresses = interface.map(|interface| interface.addresses.as_slice()).unwrap_or_default();
    let v4 = addresses.iter().find(|address| address.ip.is_ipv4());
    let v6 = addresses.iter().find(|address| address.ip.is_ipv6());
    let ip = |address: Option<&status::Address>| Value::Str(address.map(|one| one.ip.to_string()).unwrap_or_default());
    let prefix = |address: Option<&status::Address>| Value::Int(address.map_or(0, |one| i64::from(one.prefix)));
    let gateway = |address: Option<&status::Address>| {
        Value::Str(address.and_then(|one| one.gateway).map(|ip| ip.to_string()).unwrap_or_default())
    };
    vec![
        ("EndpointID", id.into()),
        ("Gateway", gateway(v4)),
        ("IPAddress", ip(v4)),
        ("IPPrefixLen", prefix(v4)),
        ("IPv6Gateway", gateway(v6)),
        ("GlobalIPv6Address", ip(v6)),
        ("GlobalIPv6PrefixLen", prefix(v6)),
        ("MacAddress", interface.map(|interface| interface.mac.clone()).unwrap_or_default().into()),
    ]
}

pub(super) fn network_settings(record: &Record, observed: &Observed, context: &Context) -> Value {
    // podman shows the network of the container whose it uses; docker nothing.
    if context.persona == Persona::Podman
        && let Some(lender) = record.request.network.of_container()
        && let Ok(lender) = container::find(&context.layout, lender)
        && lender.id != record.id
        && lender.request.network.of_container().is_none()
        && let Ok(observed) = status::observe(&context.layout, &lender)
    {
        return network_settings(&lender, &observed, context);
    }
    let interfaces = &observed.network.interfaces;
    let places = record.request.network.places();
    let mut ports = port_map(&ps::ports(record, observed));
    for key in exposed_keys(&record.request) {
        ports.entry(key).or_insert(Value::NilList);
    }
    let sandbox = observed.state.init().map(|init| format!("/proc/{}/ns/net", init.pid)).unwrap_or_default();
    let is_docker = context.persona == Persona::Docker;
    // docker fills these for the default network alone; here they are those of the first one.
    let mut fields = endpoint(String::new(), interfaces.first());
    fields.extend([
        ("Bridge", "".into()),
        ("SandboxID", "".into()),
        ("HairpinMode", false.into()),
        ("LinkLocalIPv6Address", "".into()),
        ("LinkLocalIPv6PrefixLen", Value::Int(0)),
        ("Ports", Value::Map(ports)),
        ("SandboxKey", sandbox.into()),
    ]);
    let mut networks = BTreeMap::new();
    for place in &places {
        let id = networks::find(&context.layout, &place.network).map(|network| network.id).unwrap_or_default();
        let interface = interfaces.iter().find(|interface| interface.network == place.network);
        let endpoint_id = match (is_docker, interface) {
            (true, Some(_)) => endpoint_id(&id, record.id.as_str()),
            _ => String::new(),
        };
        let mut fields = endpoint(endpoint_id, interface);
        let aliases = place.aliases.iter().map(String::as_str).chain([record.id.short()]);
        fields.extend([
            ("NetworkID", id.into()),
            ("DriverOpts", Value::NilMap),
            ("IPAMConfig", ipam_config(place, is_docker)),
            ("Links", Value::NilList),
            ("Aliases", Value::strings(aliases)),
        ]);
        if is_docker {
            let names = [record.name.as_str()].into_iter().chain(place.aliases.iter().map(String::as_str));
            fields.push(("DNSNames", Value::strings(names.chain([record.id.short()]))));
        }
        networks.insert(networks::shown(&place.network, context.persona).to_owned(), Value::Struct(fields));
    }
    for interface in interfaces.iter().filter(|_| places.is_empty()) {
        let mut fields = endpoint(String::new(), Some(interface));
        fields.extend([
            ("NetworkID", interface.network.as_str().into()),
            ("DriverOpts", Value::NilMap),
            ("IPAMConfig", Value::NilMap),
            ("Links", Value::NilList),
            ("Aliases", Value::strings(interface.aliases.iter().map(String::as_str))),
        ]);
        networks.insert(interface.network.clone(), Value::Struct(fields));
    }
    fields.push(("Networks", Value::Map(networks).omitempty()));
    Value::Struct(fields)
}

/// The addresses that were asked for, as docker has them.
fn ipam_config(place: &Endpoint, is_docker: bool) -> Value {
    let of = |v6: bool| place.ips.iter().find(|ip| ip.is_ipv6() == v6).map(ToString::to_string);
    let fields: Vec<(&'static str, Value)> = [("IPv4Address", of(false)), ("IPv6Address", of(true))]
        .into_iter()
        .filter_map(|(name, ip)| Some((name, ip?.into())))
        .collect();
    if fields.is_empty() || !is_docker { Value::NilMap } else { Value::Struct(fields) }
}

/// The network as asked for; where nothing was asked for, what it became. docker says which network is the first.
pub(super) fn network_mode(record: &Record, observed: &Observed, persona: Persona) -> String {
    let network = &record.request.network;
    if persona == Persona::Docker
        && let Some(first) = network.places().first()
    {
        return networks::shown(&first.network, persona).to_owned();
    }
    let became = observed.network.mode.as_str();
    let otherwise = if network.is_bridge() { "bridge" } else { "default" };
    [network.mode.as_str(), became, otherwise].into_iter().find(|mode| !mode.is_empty()).unwrap_or_default().to_owned()
}
