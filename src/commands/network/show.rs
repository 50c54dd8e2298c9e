//! `network inspect`.

use std::collections::BTreeMap;

use net::subnet::Range;
use storage::digest::Digest;
use storage::state::network::{DEFAULT_NAME, Network, NetworkError, Subnet};
use storage::state::status::{self, Interface};

use crate::cli::format::{Json, Template, Value, is_json, normalize};
use crate::cli::output;
use crate::commands::{Context, Outcome, select};
use crate::error::CommandError;
use crate::networks;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle network inspect web
  coracle network inspect -f '{{range .Containers}}{{.Name}} {{end}}' web"#;

/// Inspect network
///
/// Displays the network configuration for one or more networks, and the containers that are on them.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID (can be repeated)
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
    /// Pretty-print network to JSON or using a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Has no effect
    #[arg(short, long, hide = true)]
    verbose: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    inspect(&args.networks, args.format.as_deref(), context)
}

/// Shows networks.
pub(crate) fn inspect(names: &[String], format: Option<&str>, context: &Context) -> Outcome {
    let is_docker = context.persona == Persona::Docker;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let members = members(context)?;
    for name in names {
        let pseudo = docker_pseudo().into_iter().find(|(network, _)| is_docker && network.name == *name);
        match (pseudo, networks::find(&context.layout, name)) {
            (Some((network, driver)), _) => found.push(docker(&network, driver, &[])),
            (None, Ok(network)) => {
                let here = members.get(&network.name).map(Vec::as_slice).unwrap_or_default();
                found.push(match context.persona {
                    Persona::Podman => podman(&network, here),
                    Persona::Docker => docker(&network, "bridge", here),
                });
            }
            (None, Err(NetworkError::NotFound(_))) if is_docker => {
                errors.push(CommandError::user(format_args!("network {name} not found")));
            }
            (None, Err(error)) => errors.push(CommandError::user(format!("network {name}: {error}"))),
        }
    }
    let list = Value::List(found);
    match format {
        None => output::print_line(list.to_json(style(is_docker)))?,
        Some(format) if is_json(format) && format.trim() == "json" => {
            output::print_line(list.to_json(if is_docker { Json::LINE } else { Json::INSPECT }))?;
        }
        Some(format) => {
            let template = Template::parse("inspect", &crate::cli::format::enforce_range(&normalize(format)))?;
            let (text, error) = template.execute(&list, "interface {}");
            output::print(&text)?;
            if let Some(error) = error {
                return Err(error);
            }
        }
    }
    select::finish(errors)
}

/// A network, for who looks for anything of a name.
pub(crate) fn find(name: &str, context: &Context) -> Result<Option<Value>, CommandError> {
    let network = match networks::find(&context.layout, name) {
        Ok(network) => network,
        Err(NetworkError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let members = members(context)?;
    let here = members.get(&network.name).map(Vec::as_slice).unwrap_or_default();
    Ok(Some(match context.persona {
        Persona::Podman => podman(&network, here),
        Persona::Docker => docker(&network, "bridge", here),
    }))
}

fn style(is_docker: bool) -> Json {
    if is_docker { Json { indent: Some(4), ..Json::INSPECT } } else { Json::INSPECT }
}

/// A container that is on a network now.
struct Member {
    id: String,
    name: String,
    interface: Interface,
}

/// Who is on which network.
fn members(context: &Context) -> Result<BTreeMap<String, Vec<Member>>, CommandError> {
    let mut members: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    for record in select::all(context)? {
        if !record.request.network.is_bridge() {
            continue;
        }
        let observed = status::observe(&context.layout, &record)?;
        if observed.state.init().is_none() {
            continue;
        }
        for interface in observed.network.interfaces {
            let member = Member { id: record.id.to_string(), name: record.name.clone(), interface };
            members.entry(member.interface.network.clone()).or_default().push(member);
        }
    }
    Ok(members)
}

/// The names that docker has for containers without a network of their own.
pub(super) fn docker_pseudo() -> Vec<(Network, &'static str)> {
    let pseudo = |name: &str| Network {
        id: Digest::of(format!("coracle network {name}").as_bytes()).hex().to_owned(),
        dns: false,
        ..Network::new(name)
    };
    vec![(pseudo("host"), "host"), (pseudo("none"), "null")]
}

fn subnet_json(subnet: &Subnet) -> Value {
    let mut fields = vec![("subnet", Value::str(format!("{}/{}", subnet.first, subnet.prefix)))];
    if let Some(gateway) = subnet.gateway {
        fields.push(("gateway", gateway.to_string().into()));
    }
    if let Some((first, last)) = subnet.range {
        let range = vec![("start_ip", Value::str(first.to_string())), ("end_ip", last.to_string().into())];
        fields.push(("lease_range", Value::Struct(range)));
    }
    Value::Struct(fields)
}

/// As podman has it in JSON, without its containers.
pub(super) fn describe(network: &Network) -> Value {
    Value::Struct(json_fields(network))
}

fn json_fields(network: &Network) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("name", network.name.as_str().into()),
        ("id", network.id.as_str().into()),
        ("driver", "bridge".into()),
        ("network_interface", network.interface.as_str().into()),
        ("created", Value::Time(Some(network.created))),
        ("subnets", Value::List(network.subnets.iter().map(subnet_json).collect())),
    ];
    if !network.routes.is_empty() {
        let routes = network.routes.iter().map(|route| {
            let mut fields = vec![
                ("destination", Value::str(format!("{}/{}", route.first, route.prefix))),
                ("gateway", route.gateway.to_string().into()),
            ];
            fields.extend(route.metric.map(|metric| ("metric", Value::Int(metric.into()))));
            Value::Struct(fields)
        });
        fields.push(("routes", Value::List(routes.collect())));
    }
    fields.extend([
        ("ipv6_enabled", network.ipv6.into()),
        ("internal", network.internal.into()),
        ("dns_enabled", network.dns.into()),
    ]);
    if !network.servers.is_empty() {
        fields.push(("network_dns_servers", servers(network)));
    }
    if !network.reserved.is_empty() {
        fields.push(("aux_addresses", reserved(network)));
    }
    if !network.egress.is_empty() {
        fields.push(("egress", Value::strings_or_nil(network.egress.iter().cloned())));
    }
    for (name, map) in [("labels", &network.labels), ("options", &network.options)] {
        if !map.is_empty() {
            fields.push((name, Value::map(map)));
        }
    }
    fields.push(("ipam_options", ipam_options()));
    fields
}

fn servers(network: &Network) -> Value {
    Value::strings_or_nil(network.servers.iter().map(ToString::to_string))
}

fn reserved(network: &Network) -> Value {
    let addresses = network.reserved.iter().map(|(name, ip)| (name.clone(), ip.to_string().into()));
    Value::Map(addresses.collect())
}

fn ipam_options() -> Value {
    Value::Map([("driver".to_owned(), "host-local".into())].into())
}

/// What templates may ask for.
pub(super) fn template_fields(network: &Network) -> Vec<(&'static str, Value)> {
    let subnets = network.subnets.iter().map(|subnet| {
        let range = subnet.range.map_or(Value::Nil, |(first, last)| {
            Value::Struct(vec![("StartIP", first.to_string().into()), ("EndIP", last.to_string().into())])
        });
        Value::Struct(vec![
            ("Subnet", Value::str(format!("{}/{}", subnet.first, subnet.prefix))),
            ("Gateway", subnet.gateway.map(|ip| ip.to_string()).unwrap_or_default().into()),
            ("LeaseRange", range),
        ])
    });
    let routes = network.routes.iter().map(|route| {
        Value::Struct(vec![
            ("Destination", Value::str(format!("{}/{}", route.first, route.prefix))),
            ("Gateway", route.gateway.to_string().into()),
            ("Metric", route.metric.map_or(Value::Nil, |metric| Value::Int(metric.into()))),
        ])
    });
    vec![
        ("Name", network.name.as_str().into()),
        ("ID", network.id.as_str().into()),
        ("Driver", "bridge".into()),
        ("NetworkInterface", network.interface.as_str().into()),
        ("Created", Value::Time(Some(network.created))),
        ("Subnets", Value::List(subnets.collect())),
        ("Routes", Value::List(routes.collect())),
        ("IPv6Enabled", network.ipv6.into()),
        ("Internal", network.internal.into()),
        ("DNSEnabled", network.dns.into()),
        ("NetworkDNSServers", servers(network)),
        ("Egress", Value::strings_or_nil(network.egress.iter().cloned())),
        ("Labels", Value::map(&network.labels)),
        ("Options", Value::map(&network.options)),
        ("IPAMOptions", ipam_options()),
    ]
}

fn podman(network: &Network, members: &[Member]) -> Value {
    let (mut json, mut fields) = (BTreeMap::new(), BTreeMap::new());
    for member in members {
        let addresses = |spelled: fn(&'static str, &'static str) -> &'static str| {
            let each = member.interface.addresses.iter().map(move |address| {
                let mut fields =
                    vec![(spelled("ipnet", "IPNet"), Value::str(format!("{}/{}", address.ip, address.prefix)))];
                fields.extend(address.gateway.map(|ip| (spelled("gateway", "Gateway"), ip.to_string().into())));
                Value::Struct(fields)
            });
            let interface = Value::Struct(vec![
                (spelled("subnets", "Subnets"), Value::List(each.collect())),
                (spelled("mac_address", "MacAddress"), member.interface.mac.as_str().into()),
            ]);
            Value::Struct(vec![
                (spelled("name", "Name"), member.name.as_str().into()),
                (spelled("interfaces", "Interfaces"), Value::Map([(member.interface.name.clone(), interface)].into())),
            ])
        };
        json.insert(member.id.clone(), addresses(|json, _| json));
        fields.insert(member.id.clone(), addresses(|_, field| field));
    }
    let mut all = json_fields(network);
    all.push(("containers", Value::Map(json)));
    let mut seen = template_fields(network);
    seen.push(("Containers", Value::Map(fields)));
    Value::Row(seen, Box::new(Value::Struct(all)))
}

/// As docker has it.
fn docker(network: &Network, driver: &str, members: &[Member]) -> Value {
    let mut config = Vec::new();
    for subnet in &network.subnets {
        let mut fields = vec![("Subnet", Value::str(format!("{}/{}", subnet.first, subnet.prefix)))];
        if let Some((first, last)) = subnet.range {
            fields.push(("IPRange", format!("{first}-{last}").into()));
        }
        fields.extend(subnet.gateway.map(|ip| ("Gateway", ip.to_string().into())));
        let range = Range { first: subnet.first, prefix: subnet.prefix };
        let reserved = network.reserved.iter().filter(|(_, ip)| range.contains(**ip));
        let reserved: BTreeMap<String, Value> =
            reserved.map(|(name, ip)| (name.clone(), ip.to_string().into())).collect();
        if !reserved.is_empty() {
            fields.push(("AuxiliaryAddresses", Value::Map(reserved)));
        }
        config.push(Value::Struct(fields));
    }
    let containers = members.iter().map(|member| {
        let address = |v6: bool| {
            let found = member.interface.addresses.iter().find(|address| address.ip.is_ipv6() == v6);
            Value::str(found.map(|address| format!("{}/{}", address.ip, address.prefix)).unwrap_or_default())
        };
        let fields = vec![
            ("Name", member.name.as_str().into()),
            ("EndpointID", endpoint_id(&network.id, &member.id).into()),
            ("MacAddress", member.interface.mac.as_str().into()),
            ("IPv4Address", address(false)),
            ("IPv6Address", address(true)),
        ];
        (member.id.clone(), Value::Struct(fields))
    });
    let mut options = network.options.clone();
    if driver == "bridge" {
        options.insert("com.docker.network.bridge.name".to_owned(), network.interface.clone());
        if let Some(mtu) = options.remove("mtu") {
            options.insert("com.docker.network.driver.mtu".to_owned(), mtu);
        }
        if network.name == DEFAULT_NAME {
            options.insert("com.docker.network.bridge.default_bridge".to_owned(), "true".to_owned());
        }
    }
    Value::Struct(vec![
        ("Name", networks::shown(&network.name, Persona::Docker).into()),
        ("Id", network.id.as_str().into()),
        ("Created", Value::Time(Some(network.created))),
        ("Scope", "local".into()),
        ("Driver", driver.into()),
        ("EnableIPv4", network.subnets.iter().any(|subnet| subnet.first.is_ipv4()).into()),
        ("EnableIPv6", network.ipv6.into()),
        (
            "IPAM",
            Value::Struct(vec![
                ("Driver", "default".into()),
                ("Options", Value::NilMap),
                ("Config", if config.is_empty() { Value::NilList } else { Value::List(config) }),
            ]),
        ),
        ("Internal", network.internal.into()),
        ("Attachable", false.into()),
        ("Ingress", false.into()),
        ("ConfigFrom", Value::Struct(vec![("Network", "".into())])),
        ("ConfigOnly", false.into()),
        ("Containers", Value::Map(containers.collect())),
        ("Options", Value::map(&options)),
        ("Labels", Value::map(&network.labels)),
    ])
}

/// An id of a container's place in a network: docker's tools only ask that there is one.
pub(crate) fn endpoint_id(network: &str, container: &str) -> String {
    Digest::of(format!("{network} {container}").as_bytes()).hex().to_owned()
}
