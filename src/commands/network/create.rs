//! `network create`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use net::egress::{Rule, Rules};
use net::subnet::{self, Pool, Range};
use storage::state::network::{self, Locked, Network, NetworkError, Route, Subnet};

use crate::cli::output;
use crate::commands::{Context, Outcome};
use crate::error::CommandError;
use crate::role::Persona;
use crate::{config, networks};

const EXAMPLES: &str = r#"Examples:
  coracle network create web
  coracle network create --subnet 192.168.55.0/24 --gateway 192.168.55.1 lab
  coracle network create --subnet 192.168.56.0/24 --aux-address printer=192.168.56.9 office
  coracle network create --ipv6 --internal db
  coracle network create --egress allow=*.debian.org:80 --egress deny=* builds
  coracle run -d --name api --network web --network db:alias=backend team/api:1"#;

/// Words that name no network of a user's.
const RESERVED: [&str; 7] = ["bridge", "container", "default", "host", "none", "ns", "private"];

/// What a device's name may be long, in bytes.
///
/// # Source
/// linux/if.h, `IFNAMSIZ`.
const MAX_DEVICE_BYTES: usize = 15;

/// Create networks for containers and pods
///
/// A network is a bridge in the user's network namespace, which exists while a container is on it. Without --subnet it
/// gets the first /24 from 10.89.0.0 upward, or of default_subnet_pools in containers.conf, that neither another network
/// nor the host has. Containers of other networks do
/// not reach it, unless both have --opt isolate=false. With --opt com.docker.network.bridge.enable_icc=false its own
/// containers do not reach each other either, but by published ports.
#[derive(clap::Args, Debug, Default)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name of the network
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Has no effect: every container can be connected
    #[arg(long, hide = true)]
    attachable: bool,
    /// Address that no container is given: NAME=ADDRESS (can be repeated)
    #[arg(long = "aux-address", value_name = "NAME=ADDRESS")]
    aux_addresses: Vec<String>,
    /// Answer no names on it
    #[arg(long)]
    disable_dns: bool,
    /// DNS servers this network will use
    #[arg(long = "dns", value_name = "ADDRESS", value_delimiter = ',')]
    dns: Vec<String>,
    /// Driver to manage the network: bridge
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Restrict what its containers reach: allow=HOST[:PORT], allow=CIDR[:PORT], deny=CIDR, deny=* (can be repeated)
    ///
    /// As run --egress, for every container on the network that has no rules of its own, whatever other networks it is on:
    /// of several networks with rules, those of the container's first one hold. A container that runs without rules
    /// cannot be connected.
    #[arg(long = "egress", value_name = "RULE", value_delimiter = ',')]
    egress: Vec<String>,
    /// IPv4 or IPv6 gateway for the subnet
    #[arg(long = "gateway", value_name = "ADDRESS", value_delimiter = ',')]
    gateways: Vec<String>,
    /// Don't fail if network already exists
    #[arg(long)]
    ignore: bool,
    /// Name of the bridge
    #[arg(long, value_name = "NAME")]
    interface_name: Option<String>,
    /// Restrict external access from this network
    #[arg(long)]
    internal: bool,
    /// Allocate container IP from range: SUBNET or FIRST-LAST
    #[arg(long = "ip-range", value_name = "RANGE")]
    ranges: Vec<String>,
    /// IP address management: host-local
    #[arg(long, value_name = "DRIVER")]
    ipam_driver: Option<String>,
    /// Assign IPv4 addresses (false is not supported)
    #[arg(long, default_value_t = true, hide = true)]
    ipv4: bool,
    /// Enable IPv6 networking
    #[arg(long)]
    ipv6: bool,
    /// Set metadata on a network
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Set driver specific options: mtu, isolate, metric, no_default_route,
    /// com.docker.network.bridge.enable_icc
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Static routes: DESTINATION,GATEWAY[,METRIC]
    #[arg(long = "route", value_name = "ROUTE")]
    routes: Vec<String>,
    /// Subnets in CIDR format
    #[arg(long = "subnet", value_name = "SUBNET", value_delimiter = ',')]
    subnets: Vec<String>,
    /// Scope of the network: local
    #[arg(long, value_name = "SCOPE", hide = true)]
    scope: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    check_driver(&args)?;
    let locked = Locked::take(&context.layout)?;
    let others = locked.list()?;
    let name = args.name.clone().unwrap_or_default();
    if !name.is_empty() {
        network::check_name(&name).map_err(CommandError::user)?;
        if RESERVED.contains(&name.as_str()) && !(args.ignore && networks::is_default(&name)) {
            return Err(user(format!(
                "cannot create network with name {name:?} because it conflicts with a valid network mode"
            )));
        }
    }
    let taken = others.iter().find(|other| other.name == name).cloned();
    let taken = taken.or_else(|| networks::is_default(&name).then(networks::default_network));
    if let Some(taken) = taken {
        if !args.ignore {
            return Err(CommandError::user(NetworkError::Exists(name)));
        }
        return print(context, &taken);
    }
    let pools = if args.subnets.is_empty() { config::subnet_pools()? } else { None };
    let mut network = plan(&args, &others, &subnet::routed_by_host(), pools.as_deref())?;
    network.name = if name.is_empty() { network.interface.clone() } else { name };
    store(context, &locked, &network)?;
    print(context, &network)
}

/// Makes a network without anything special, unless there is one of this name.
pub(crate) fn ensure(context: &Context, name: &str) -> Result<(), CommandError> {
    let locked = Locked::take(&context.layout)?;
    let others = locked.list()?;
    if others.iter().any(|other| other.name == name) {
        return Ok(());
    }
    let plain = Args { ipv4: true, ..Args::default() };
    let mut network = plan(&plain, &others, &subnet::routed_by_host(), config::subnet_pools()?.as_deref())?;
    name.clone_into(&mut network.name);
    store(context, &locked, &network)
}

fn store(context: &Context, locked: &Locked, network: &Network) -> Result<(), CommandError> {
    locked.create(network).map_err(|error| match error {
        NetworkError::Records(error) => error.into(),
        error => CommandError::user(error),
    })?;
    super::note(context, "create", network);
    Ok(())
}

fn print(context: &Context, network: &Network) -> Outcome {
    output::print_line(if context.persona == Persona::Docker { &network.id } else { &network.name })?;
    Ok(0)
}

fn user(message: impl Into<String>) -> CommandError {
    CommandError::user(message.into())
}

fn check_driver(args: &Args) -> Result<(), CommandError> {
    match args.driver.as_str() {
        "bridge" => {}
        driver @ ("macvlan" | "ipvlan" | "overlay") => {
            let reason = match driver {
                "overlay" => "it joins the networks of several hosts, which needs root on each of them",
                _ => "it hangs containers on a device of the host, which belongs to root",
            };
            return Err(user(format!("network driver {driver} is not available without root: {reason}")).hinted(
                "the bridge driver gives every container an address of its own; run --publish makes a port reachable \
                 from outside, where the client's address is kept",
            ));
        }
        driver @ ("host" | "null") => {
            return Err(user(format!("network driver {driver}: only one instance of {driver:?} network is allowed"))
                .hinted("run --network host or --network none needs no network to be created"));
        }
        other => {
            return Err(user(format!("failed to find driver or plugin {other:?}"))
                .hinted("bridge is the only driver that works without root"));
        }
    }
    match args.ipam_driver.as_deref() {
        None | Some("" | "default" | "host-local") => {}
        Some(driver @ ("dhcp" | "none")) => {
            return Err(user(format!(
                "ipam driver {driver} is not available: addresses are given by coracle itself, as host-local does"
            )));
        }
        Some(other) => return Err(user(format!("unsupported ipam driver {other:?}"))),
    }
    if !args.ipv4 {
        return Err(user("--ipv4=false: networks always have IPv4 addresses, unless all of their subnets are IPv6"));
    }
    match args.scope.as_deref() {
        None | Some("" | "local") => Ok(()),
        Some(other) => Err(user(format!("--scope {other}: networks are of this machine: must be local"))),
    }
}

/// The whole description; its name is the caller's.
fn plan(args: &Args, others: &[Network], of_host: &[Range], pools: Option<&[Pool]>) -> Result<Network, CommandError> {
    let mut network = Network::new("");
    network.internal = args.internal;
    network.dns = !args.disable_dns;
    network.labels = args.labels.iter().map(|label| pair(label)).collect();
    network.servers =
        args.dns.iter().map(|text| parse_ip(text, "specified in NetworkDNSServers")).collect::<Result<_, _>>()?;
    if !network.dns && !network.servers.is_empty() {
        return Err(user("cannot set NetworkDNSServers if DNS is not enabled for the network: invalid argument"));
    }
    if let Some(first) = args.egress.first() {
        let wrong = |rule: &str, why: &dyn std::fmt::Display| user(format!("--egress {rule}: {why}"));
        for rule in &args.egress {
            rule.parse::<Rule>().map_err(|error| wrong(rule, &error))?;
        }
        Rules::parse(args.egress.iter().map(String::as_str)).map_err(|error| wrong(first, &error))?;
    }
    network.egress.clone_from(&args.egress);
    network.routes = args.routes.iter().map(|text| route(text)).collect::<Result<_, _>>()?;
    let mut interface = args.interface_name.clone();
    network.options = options(&args.options, &mut interface)?;
    network.interface = device(interface.as_deref(), others)?;
    network.subnets = subnets(args, others, of_host, pools)?;
    network.reserved = reserved(&args.aux_addresses, &network.subnets)?;
    network.ipv6 = network.subnets.iter().any(|subnet| subnet.first.is_ipv6());
    Ok(network)
}

pub(super) fn parse_ip(text: &str, place: &str) -> Result<IpAddr, CommandError> {
    text.parse().map_err(|_| user(format!("unable to parse ip {text} {place}: invalid argument")))
}

fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

fn route(text: &str) -> Result<Route, CommandError> {
    let bad =
        || user(format!("invalid route: {text}\nFormat: --route <destination in CIDR>,<gateway>,<metric (optional)>"));
    let words: Vec<&str> = text.split(',').collect();
    let (destination, gateway, metric) = match words[..] {
        [destination, gateway] => (destination, gateway, None),
        [destination, gateway, metric] => (destination, gateway, Some(metric.parse().map_err(|_| bad())?)),
        _ => return Err(bad()),
    };
    let range = Range::parse(destination).map_err(|_| bad())?;
    let gateway: IpAddr = gateway.parse().map_err(|_| bad())?;
    if gateway.is_ipv4() != range.first.is_ipv4() {
        return Err(bad());
    }
    Ok(Route { first: range.first, prefix: range.prefix, gateway, metric })
}

/// The driver's options in podman's spelling; the one that names the bridge goes into `interface`.
fn options(given: &[String], interface: &mut Option<String>) -> Result<BTreeMap<String, String>, CommandError> {
    let mut options = BTreeMap::new();
    for text in given {
        let (key, value) = pair(text);
        let boolean =
            |text: &str| crate::cli::usage::boolean(text).map_err(|_| format!("parsing {text:?}: invalid syntax"));
        match key.as_str() {
            "mtu" | "com.docker.network.driver.mtu" => {
                // What veth(4) carries; IPv4 needs 68.
                let fits = value.parse::<u32>().is_ok_and(|mtu| mtu == 0 || (68..=65_535).contains(&mtu));
                if !fits {
                    return Err(user(format!(
                        "network option {key}={value}: must be a number of bytes from 68 to 65535"
                    )));
                }
                options.insert("mtu".to_owned(), value);
            }
            "isolate" => {
                let word = match value.as_str() {
                    "strict" => "strict".to_owned(),
                    text => boolean(text)
                        .map_err(|why| user(format!("failed to parse isolate option: strconv.ParseBool: {why}")))?
                        .to_string(),
                };
                options.insert(key, word);
            }
            "no_default_route" => {
                let word = boolean(&value).map_err(|why| user(format!("strconv.ParseBool: {why}")))?;
                options.insert(key, word.to_string());
            }
            "metric" => {
                value
                    .parse::<u32>()
                    .map_err(|_| user(format!("strconv.ParseUint: parsing {value:?}: invalid syntax")))?;
                options.insert(key, value);
            }
            networks::ICC => {
                let word = boolean(&value)
                    .map_err(|why| user(format!("failed to parse {key} option: strconv.ParseBool: {why}")))?;
                options.insert(key, word.to_string());
            }
            "com.docker.network.bridge.name" => *interface = Some(value),
            _ => return Err(user(format!("unsupported bridge network option {key}"))),
        }
    }
    Ok(options)
}

/// The bridge's name: the one asked for, or the first `podman1`, `podman2`, … that is free.
fn device(asked: Option<&str>, others: &[Network]) -> Result<String, CommandError> {
    let is_taken = |name: &str| {
        others.iter().any(|other| other.interface == name) || networks::default_network().interface == name
    };
    match asked.filter(|name| !name.is_empty()) {
        Some(name) if is_taken(name) => Err(user(format!("bridge name {name} already in use"))),
        Some(name) => {
            let is_good = name.len() <= MAX_DEVICE_BYTES
                && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
                && !matches!(name, "." | ".." | "lo" | "tap0");
            match is_good {
                true => Ok(name.to_owned()),
                false => Err(user(format!(
                    "bridge name {name}: must be 1 to {MAX_DEVICE_BYTES} visible characters without '/' and ':', and \
                     neither lo nor tap0"
                ))),
            }
        }
        None => {
            let free = (1_u32..).map(|number| format!("podman{number}")).find(|name| {
                // A network without a name is called like its bridge.
                !is_taken(name) && !others.iter().any(|other| other.name == *name)
            });
            free.ok_or_else(|| user("no bridge name is free"))
        }
    }
}

fn subnets(
    args: &Args,
    others: &[Network],
    of_host: &[Range],
    pools: Option<&[Pool]>,
) -> Result<Vec<Subnet>, CommandError> {
    let mut used: Vec<Range> = networks::default_network().subnets.iter().map(range_of).collect();
    used.extend(others.iter().flat_map(|other| &other.subnets).map(range_of));
    used.extend(of_host);
    let is_docker_range = args.subnets.is_empty() && !(args.gateways.is_empty() && args.ranges.is_empty());
    if is_docker_range || args.gateways.len() > args.subnets.len() || args.ranges.len() > args.subnets.len() {
        return Err(user("cannot set gateway or range without subnet"));
    }
    let mut subnets = Vec::new();
    for text in &args.subnets {
        let range = Range::parse(text).map_err(user)?;
        if used.iter().any(|other| other.overlaps(&range)) {
            return Err(user(format!("subnet {range} is already used on the host or by another config")));
        }
        if subnets.iter().any(|other: &Subnet| other.first.is_ipv4() == range.first.is_ipv4()) {
            return Err(user(format!("subnet {range}: a network has one subnet of each of IPv4 and IPv6")));
        }
        used.push(range);
        subnets.push(of_range(range));
    }
    if subnets.is_empty() {
        let free = pools.map_or_else(|| subnet::free_v4(&used), |pools| subnet::free_of(pools, &used));
        let free = free.ok_or_else(|| user("could not find free subnet from subnet pools"))?;
        subnets.push(of_range(free));
    }
    if args.ipv6 && !subnets.iter().any(|subnet| subnet.first.is_ipv6()) {
        subnets.push(of_range(free_v6(&used)?));
    }
    for text in &args.gateways {
        let gateway = parse_ip(text, "specified as gateway")?;
        match subnets.iter_mut().find(|subnet| range_of(subnet).contains(gateway)) {
            Some(subnet) => subnet.gateway = Some(gateway),
            None => {
                let like =
                    subnets.iter().find(|subnet| subnet.first.is_ipv4() == gateway.is_ipv4()).or(subnets.first());
                let shown = like.map(|subnet| range_of(subnet).to_string()).unwrap_or_default();
                return Err(user(format!("gateway {gateway} not in subnet {shown}")));
            }
        }
    }
    for text in &args.ranges {
        let (first, last) = lease_range(text)?;
        let of_family = subnets.iter_mut().find(|subnet| subnet.first.is_ipv4() == first.is_ipv4());
        let subnet = of_family.ok_or_else(|| user("cannot set gateway or range without subnet"))?;
        for (what, ip) in [("start", first), ("end", last)] {
            if !range_of(subnet).contains(ip) {
                return Err(user(format!("lease range {what} ip {ip} not in subnet {}", range_of(subnet))));
            }
        }
        if first > last {
            return Err(user(format!("lease range start ip {first} is after its end {last}")));
        }
        subnet.range = Some((first, last));
    }
    let needs_gateway = !args.internal || !args.disable_dns;
    for subnet in subnets.iter_mut().filter(|subnet| subnet.gateway.is_none() && needs_gateway) {
        let range = range_of(subnet);
        subnet.gateway = range.nth(1).or(Some(range.first));
    }
    Ok(subnets)
}

/// The addresses that no container gets, by name.
fn reserved(given: &[String], subnets: &[Subnet]) -> Result<BTreeMap<String, IpAddr>, CommandError> {
    let mut reserved = BTreeMap::new();
    for text in given {
        let (name, address) = pair(text);
        // With docker, they are where containers send what leaves.
        if matches!(name.as_str(), "DefaultGatewayIPv4" | "DefaultGatewayIPv6") {
            return Err(user(format!(
                "--aux-address {text}: a default gateway beside the bridge is not supported: what leaves goes over it"
            )));
        }
        let ip = parse_ip(&address, &format!("specified in --aux-address {text}"))?;
        let subnet = subnets.iter().find(|subnet| range_of(subnet).contains(ip));
        let subnet = subnet.ok_or_else(|| user(format!("no matching subnet for aux-address {ip}")))?;
        if subnet.gateway == Some(ip) || reserved.values().any(|other| *other == ip) {
            return Err(user(format!("--aux-address {text}: address already in use")));
        }
        reserved.insert(name, ip);
    }
    Ok(reserved)
}

fn of_range(range: Range) -> Subnet {
    Subnet { first: range.first, prefix: range.prefix, gateway: None, range: None }
}

fn range_of(subnet: &Subnet) -> Range {
    Range { first: subnet.first, prefix: subnet.prefix }
}

/// A unique local range that is nobody's.
fn free_v6(used: &[Range]) -> Result<Range, CommandError> {
    let mut random = [0; 7];
    let mut source = std::fs::File::open("/dev/urandom")
        .map_err(|error| CommandError::host(format!("open /dev/urandom: {}", crate::error::reason(&error))))?;
    for _ in 0..16 {
        std::io::Read::read_exact(&mut source, &mut random)
            .map_err(|error| CommandError::host(format!("read /dev/urandom: {}", crate::error::reason(&error))))?;
        let range = subnet::local_v6(random);
        if !used.iter().any(|other| other.overlaps(&range)) {
            return Ok(range);
        }
    }
    Err(user("could not find free subnet from subnet pools"))
}

/// `10.89.0.128/25`, whose network address nobody gets, or `10.89.0.10-10.89.0.20`.
fn lease_range(text: &str) -> Result<(IpAddr, IpAddr), CommandError> {
    if let Some((first, last)) = text.split_once('-') {
        let parse = |text: &str| parse_ip(text.trim(), "specified in --ip-range");
        let (first, last) = (parse(first)?, parse(last)?);
        return match first.is_ipv4() == last.is_ipv4() {
            true => Ok((first, last)),
            false => Err(user(format!("--ip-range {text}: its ends are of different families"))),
        };
    }
    let range = Range::parse(text).map_err(user)?;
    Ok((range.nth(1).unwrap_or(range.first), range.last()))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn plan_of(line: &str, others: &[Network]) -> Result<Network, String> {
        let words = std::iter::once("create").chain(line.split_whitespace());
        let matches = Args::augment_args(Command::new("create")).try_get_matches_from(words).unwrap();
        let args = Args::from_arg_matches(&matches).unwrap();
        check_driver(&args).and_then(|()| plan(&args, others, &[], None)).map_err(|error| error.to_string())
    }

    fn shown(network: &Network) -> String {
        let subnets = network.subnets.iter().map(|subnet| {
            let gateway = subnet.gateway.map(|ip| format!(" via {ip}")).unwrap_or_default();
            let range = subnet.range.map(|(first, last)| format!(" {first}-{last}")).unwrap_or_default();
            format!("{}{gateway}{range}", range_of(subnet))
        });
        subnets.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn subnets_are_as_asked_for_or_free() {
        for (line, expected) in [
            ("--subnet 192.0.2.7/24", "192.0.2.0/24 via 192.0.2.1"),
            ("--subnet 192.0.2.0/24 --gateway 192.0.2.9", "192.0.2.0/24 via 192.0.2.9"),
            ("--subnet 192.0.2.0/24 --ip-range 192.0.2.128/25", "192.0.2.0/24 via 192.0.2.1 192.0.2.129-192.0.2.255"),
            ("--subnet 192.0.2.0/24 --ip-range 192.0.2.5-192.0.2.9", "192.0.2.0/24 via 192.0.2.1 192.0.2.5-192.0.2.9"),
            ("--subnet 192.0.2.0/24 --subnet fd77::/64", "192.0.2.0/24 via 192.0.2.1, fd77::/64 via fd77::1"),
            ("--subnet 192.0.2.0/24 --internal", "192.0.2.0/24 via 192.0.2.1"),
            ("--subnet 192.0.2.0/24 --internal --disable-dns", "192.0.2.0/24"),
            ("--subnet fd77::/64", "fd77::/64 via fd77::1"),
            ("--subnet 192.0.2.0/32", "192.0.2.0/32 via 192.0.2.0"),
        ] {
            assert_eq!(plan_of(line, &[]).map(|network| shown(&network)).as_deref(), Ok(expected), "{line}");
        }
        let first = plan_of("", &[]).unwrap();
        let second = plan_of("--ipv6", std::slice::from_ref(&first)).unwrap();
        assert_ne!(first.subnets, second.subnets[..1]);
        assert_eq!((first.interface.as_str(), second.interface.as_str()), ("podman1", "podman2"));
        assert!(second.ipv6 && !first.ipv6 && second.subnets[1].first.to_string().starts_with("fd"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (line, message) in [
            (
                "-d macvlan",
                "network driver macvlan is not available without root: it hangs containers on a device of the host, which belongs to root",
            ),
            (
                "-d overlay",
                "network driver overlay is not available without root: it joins the networks of several hosts, which needs root on each of them",
            ),
            ("-d foo", "failed to find driver or plugin \"foo\""),
            ("--ipam-driver foo", "unsupported ipam driver \"foo\""),
            (
                "--ipam-driver dhcp",
                "ipam driver dhcp is not available: addresses are given by coracle itself, as host-local does",
            ),
            ("--gateway 192.0.2.1", "cannot set gateway or range without subnet"),
            ("--ip-range 192.0.2.0/28", "cannot set gateway or range without subnet"),
            ("--subnet foo", "invalid CIDR address: foo"),
            ("--subnet 10.88.0.0/24", "subnet 10.88.0.0/24 is already used on the host or by another config"),
            ("--subnet 0.0.0.0/0", "subnet 0.0.0.0/0 is already used on the host or by another config"),
            (
                "--subnet 192.0.2.0/25 --subnet 192.0.2.128/25",
                "subnet 192.0.2.128/25: a network has one subnet of each of IPv4 and IPv6",
            ),
            ("--subnet 192.0.2.0/24 --gateway 192.0.3.1", "gateway 192.0.3.1 not in subnet 192.0.2.0/24"),
            (
                "--subnet 192.0.2.0/24 --ip-range 192.0.3.0/28",
                "lease range start ip 192.0.3.1 not in subnet 192.0.2.0/24",
            ),
            (
                "--subnet 192.0.2.0/24 --ip-range 192.0.2.9-192.0.2.3",
                "lease range start ip 192.0.2.9 is after its end 192.0.2.3",
            ),
            ("-o foo=bar", "unsupported bridge network option foo"),
            (
                "-o com.docker.network.bridge.enable_icc=perhaps",
                "failed to parse com.docker.network.bridge.enable_icc option: strconv.ParseBool: parsing \"perhaps\": invalid syntax",
            ),
            (
                "-o com.docker.network.bridge.enable_nat=false",
                "unsupported bridge network option com.docker.network.bridge.enable_nat",
            ),
            ("-d vlan", "failed to find driver or plugin \"vlan\""),
            ("-d host", "network driver host: only one instance of \"host\" network is allowed"),
            ("--subnet 192.0.2.0/24 --aux-address a=192.0.3.1", "no matching subnet for aux-address 192.0.3.1"),
            (
                "--subnet 192.0.2.0/24 --aux-address a",
                "unable to parse ip  specified in --aux-address a: invalid argument",
            ),
            ("--subnet 192.0.2.0/24 --aux-address a=192.0.2.1", "--aux-address a=192.0.2.1: address already in use"),
            (
                "--subnet 192.0.2.0/24 --aux-address a=192.0.2.2 --aux-address b=192.0.2.2",
                "--aux-address b=192.0.2.2: address already in use",
            ),
            (
                "--subnet 192.0.2.0/24 --aux-address DefaultGatewayIPv4=192.0.2.9",
                "--aux-address DefaultGatewayIPv4=192.0.2.9: a default gateway beside the bridge is not supported: what leaves goes over it",
            ),
            ("-o mtu=x", "network option mtu=x: must be a number of bytes from 68 to 65535"),
            (
                "-o isolate=maybe",
                "failed to parse isolate option: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (
                "--interface-name eth0123456789012345",
                "bridge name eth0123456789012345: must be 1 to 15 visible characters without '/' and ':', and neither lo nor tap0",
            ),
            ("--interface-name podman0", "bridge name podman0 already in use"),
            ("--route foo", "invalid route: foo\nFormat: --route <destination in CIDR>,<gateway>,<metric (optional)>"),
            (
                "--route 10.0.0.0/8,fd00::1",
                "invalid route: 10.0.0.0/8,fd00::1\nFormat: --route <destination in CIDR>,<gateway>,<metric (optional)>",
            ),
            (
                "--egress deny=*,allow=10.0.0.256",
                "--egress allow=10.0.0.256: \"10.0.0.256\" is neither a host, nor an address, nor a CIDR",
            ),
            ("--dns foo", "unable to parse ip foo specified in NetworkDNSServers: invalid argument"),
            (
                "--disable-dns --dns 192.0.2.1",
                "cannot set NetworkDNSServers if DNS is not enabled for the network: invalid argument",
            ),
        ] {
            assert_eq!(plan_of(line, &[]).unwrap_err(), message, "{line}");
        }
    }

    #[test]
    fn options_have_podmans_names() {
        let network =
            plan_of("-o com.docker.network.driver.mtu=1300 -o isolate=0 -o com.docker.network.bridge.name=br7", &[])
                .unwrap();
        let options: Vec<String> = network.options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!((options.join(" ").as_str(), network.interface.as_str()), ("isolate=false mtu=1300", "br7"));
    }
}
