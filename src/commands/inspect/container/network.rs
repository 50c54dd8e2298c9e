//! The network of a container: addresses, and what is published where.

use std::collections::BTreeMap;

use storage::state::container::Record;
use storage::state::request::{Protocol, Request};
use storage::state::status::{self, Interface, Observed, Port};

use crate::cli::format::Value;
use crate::commands::ps;

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
fn endpoint(interface: Option<&Interface>) -> Vec<(&'static str, Value)> {
    let addresses = interface.map(|interface| interface.addresses.as_slice()).unwrap_or_default();
    let v4 = addresses.iter().find(|address| address.ip.is_ipv4());
    let v6 = addresses.iter().find(|address| address.ip.is_ipv6());
    let ip = |address: Option<&status::Address>| Value::Str(address.map(|one| one.ip.to_string()).unwrap_or_default());
    let prefix = |address: Option<&status::Address>| Value::Int(address.map_or(0, |one| i64::from(one.prefix)));
    let gateway = |address: Option<&status::Address>| {
        Value::Str(address.and_then(|one| one.gateway).map(|ip| ip.to_string()).unwrap_or_default())
    };
    vec![
        ("EndpointID", "".into()),
        ("Gateway", gateway(v4)),
        ("IPAddress", ip(v4)),
        ("IPPrefixLen", prefix(v4)),
        ("IPv6Gateway", gateway(v6)),
        ("GlobalIPv6Address", ip(v6)),
        ("GlobalIPv6PrefixLen", prefix(v6)),
        ("MacAddress", interface.map(|interface| interface.mac.clone()).unwrap_or_default().into()),
    ]
}

pub(super) fn network_settings(record: &Record, observed: &Observed) -> Value {
    let interfaces = &observed.network.interfaces;
    let mut ports = port_map(&ps::ports(record, observed));
    for key in exposed_keys(&record.request) {
        ports.entry(key).or_insert(Value::NilList);
    }
    let sandbox = observed.state.init().map(|init| format!("/proc/{}/ns/net", init.pid)).unwrap_or_default();
    let mut fields = endpoint(interfaces.first());
    fields.extend([
        ("Bridge", "".into()),
        ("SandboxID", "".into()),
        ("HairpinMode", false.into()),
        ("LinkLocalIPv6Address", "".into()),
        ("LinkLocalIPv6PrefixLen", Value::Int(0)),
        ("Ports", Value::Map(ports)),
        ("SandboxKey", sandbox.into()),
    ]);
    let networks = interfaces.iter().map(|interface| {
        let mut fields = endpoint(Some(interface));
        fields.extend([
            ("NetworkID", interface.network.as_str().into()),
            ("DriverOpts", Value::NilMap),
            ("IPAMConfig", Value::NilMap),
            ("Links", Value::NilList),
            ("Aliases", Value::strings(interface.aliases.iter().map(String::as_str))),
        ]);
        (interface.network.clone(), Value::Struct(fields))
    });
    fields.push(("Networks", Value::Map(networks.collect()).omitempty()));
    Value::Struct(fields)
}

/// The network as asked for; where nothing was asked for, what it became.
pub(super) fn network_mode(record: &Record, observed: &Observed) -> String {
    let asked = record.request.network.mode.as_str();
    let became = observed.network.mode.as_str();
    [asked, became, "default"].into_iter().find(|mode| !mode.is_empty()).unwrap_or_default().to_owned()
}
