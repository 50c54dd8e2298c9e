//! `network connect` and `network disconnect`, of containers that run and of others.

use std::net::IpAddr;

use runtime::monitor::attach::{Answer, Question};
use storage::state::container::{self, Record};
use storage::state::events::{self, Event, Kind};
use storage::state::network::{DEFAULT_NAME, Network};
use storage::state::request::Endpoint;
use storage::state::status;

use crate::cli::parse::names;
use crate::cli::parse::networks::{ip, mac};
use crate::cli::usage::{each, maybe};
use crate::commands::{Context, Outcome, pause};
use crate::error::CommandError;
use crate::networks;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle network connect web api
  coracle network connect --alias db --ip 10.89.0.50 web postgres"#;

/// Add container to a network
///
/// A container that runs has the network at once, as one more device; one that does not has it when it starts.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct ConnectArgs {
    /// Name or ID of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or ID of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Network scoped alias for container
    #[arg(long = "alias", value_name = "NAME", value_delimiter = ',')]
    aliases: Vec<String>,
    /// Set a static IPv4 address for this container network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Set a static IPv6 address for this container network
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Set a static MAC address for this container network
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
}

/// Remove container from a network
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct DisconnectArgs {
    /// Name or ID of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or ID of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Do not mind if the network or the container is not there
    #[arg(short, long)]
    force: bool,
}

/// Runs `network connect`.
pub(crate) fn connect(args: ConnectArgs, context: &Context) -> Outcome {
    let aliases = each("--alias", &args.aliases, names::hostname).map_err(CommandError::user)?;
    let ip4 = maybe("--ip", args.ip.as_ref(), |text| ip(text).and_then(must_be_v4)).map_err(CommandError::user)?;
    let ip6 = maybe("--ip6", args.ip6.as_ref(), |text| ip(text).and_then(must_be_v6)).map_err(CommandError::user)?;
    let mac = maybe("--mac-address", args.mac_address.as_ref(), mac).map_err(CommandError::user)?;
    let record = container::find(&context.layout, &args.container).map_err(CommandError::user)?;
    let network = super::find(context, &args.network)?;
    check_mode(&record)?;
    let places = record.request.network.places();
    if places.iter().any(|place| place.network == network.name) {
        // As podman: only one that runs is connected.
        if status::observe(&context.layout, &record)?.state.init().is_none() && context.persona == Persona::Podman {
            return Ok(0);
        }
        return Err(CommandError::user(format_args!(
            "container {} is already connected to network {}: network is already connected",
            record.id, network.name
        )));
    }
    if !network.egress.is_empty()
        && !has_rules(context, &record)
        && status::observe(&context.layout, &record)?.state.init().is_some()
    {
        return Err(CommandError::user(format_args!(
            "container {} runs without egress rules, and those of network {} stand before its devices are there",
            record.name, network.name
        ))
        .hinted(format!("coracle stop {0}, connect it, coracle start {0}", record.name)));
    }
    let ips: Vec<IpAddr> = ip4.into_iter().chain(ip6).collect();
    networks::check_addresses(&network, &ips)?;
    let endpoint =
        Endpoint { network: network.name.clone(), aliases, ips, mac: mac.map(|mac| mac.to_string()), interface: None };
    change(context, &record, |places| places.push(endpoint))?;
    note(context, "connect", &record, &network);
    Ok(0)
}

/// Runs `network disconnect`.
pub(crate) fn disconnect(args: DisconnectArgs, context: &Context) -> Outcome {
    let found = super::find(context, &args.network).and_then(|network| {
        let record = container::find(&context.layout, &args.container).map_err(CommandError::user)?;
        Ok((network, record))
    });
    let (network, record) = match found {
        Err(_) if args.force => return Ok(0),
        found => found?,
    };
    check_mode(&record)?;
    if !record.request.network.places().iter().any(|place| place.network == network.name) {
        if args.force {
            return Ok(0);
        }
        let (container, network) = (&args.container, &args.network);
        return Err(CommandError::user(format_args!("container {container} is not connected to network {network}")));
    }
    change(context, &record, |places| places.retain(|place| place.network != network.name))?;
    note(context, "disconnect", &record, &network);
    Ok(0)
}

fn must_be_v4(ip: IpAddr) -> Result<IpAddr, String> {
    if ip.is_ipv4() { Ok(ip) } else { Err("must be an IPv4 address".to_owned()) }
}

fn must_be_v6(ip: IpAddr) -> Result<IpAddr, String> {
    if ip.is_ipv6() { Ok(ip) } else { Err("must be an IPv6 address".to_owned()) }
}

/// Whether rules limit what a container reaches, its own or those of a network.
fn has_rules(context: &Context, record: &Record) -> bool {
    let asked = &record.request.network;
    let of_network = |name: &str| networks::find(&context.layout, name).is_ok_and(|network| !network.egress.is_empty());
    !asked.egress.is_empty() || asked.places().iter().any(|place| of_network(&place.network))
}

fn check_mode(record: &Record) -> Result<(), CommandError> {
    let network = &record.request.network;
    if network.is_bridge() {
        return Ok(());
    }
    let mode = network.mode.split(':').next().unwrap_or_default();
    let error = CommandError::user(format_args!("{mode:?} is not supported: invalid network mode"));
    Err(match (mode, &record.request.pod) {
        ("container", Some(_)) => error.hinted("the pod's network is that of its infra container: see pod inspect"),
        _ => error
            .hinted(format!("a container that was made with --network {DEFAULT_NAME} or another bridge has several")),
    })
}

/// Writes down where the container is to be, and has its supervisor see to it, if there is one. What cannot be done is
/// not written down.
fn change(context: &Context, record: &Record, change: impl FnOnce(&mut Vec<Endpoint>)) -> Result<(), CommandError> {
    let before = record.request.network.endpoints.clone();
    let mut places = record.request.network.places();
    change(&mut places);
    container::update(&context.layout, &record.id, |request| request.network.endpoints = Some(places))?;
    match pause::ask(context, record, Question::Reload) {
        Ok(Some(Answer::Done(_)) | None) => Ok(()),
        asked => {
            container::update(&context.layout, &record.id, |request| request.network.endpoints = before)?;
            asked?;
            let error = status::observe(&context.layout, record)?.network.error;
            let error = if error.is_empty() { "its supervisor could not change its networks" } else { &error };
            Err(CommandError::host(format_args!("container {}: {error}", record.name)))
        }
    }
}

fn note(context: &Context, action: &str, record: &Record, network: &Network) {
    let attributes = [("container".to_owned(), record.id.to_string())].into();
    let event = Event::new(Kind::Network, action, record.id.as_str(), network.name.as_str());
    events::note(&context.layout, &[Event { attributes, ..event }]);
}
