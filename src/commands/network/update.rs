//! `network update` and `network reload`.

use net::leader::Ask;
use storage::state::network::{DEFAULT_NAME, Locked};
use storage::state::status;

use super::create::parse_ip;
use crate::cli::output;
use crate::commands::{Context, Outcome, select};
use crate::error::CommandError;
use crate::{networks, supervisor};

const EXAMPLES: &str = r#"Examples:
  coracle network update --dns-add 192.0.2.53 web
  coracle network update --dns-drop 192.0.2.53 podman"#;

/// Update an existing network
///
/// Containers that run have the change at once. The default network can be updated, too.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Add network level nameservers
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    dns_add: Vec<String>,
    /// Remove network level nameservers
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    dns_drop: Vec<String>,
}

/// Reload firewall rules for one or more containers
///
/// The rules of all networks are one table, which is replaced as a whole.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct ReloadArgs {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Reload network configuration of all containers
    #[arg(short, long)]
    all: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
}

/// Runs `network update`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let add = args.dns_add.iter().map(|text| parse_ip(text, "specified in AddDNSServer"));
    let add = add.collect::<Result<Vec<_>, _>>()?;
    let drop = args.dns_drop.iter().map(|text| parse_ip(text, "specified in RemoveDNSServer"));
    let drop = drop.collect::<Result<Vec<_>, _>>()?;
    let locked = Locked::take(&context.layout)?;
    let mut network = super::find(context, &args.network)?;
    if !network.dns && !add.is_empty() {
        return Err(CommandError::user(
            "cannot set NetworkDNSServers if DNS is not enabled for the network: invalid argument",
        ));
    }
    if let Some(ip) = drop.iter().find(|ip| !network.servers.contains(ip)) {
        return Err(CommandError::user(format_args!("network {}: {ip} is none of its name servers", network.name)));
    }
    network.servers.retain(|ip| !drop.contains(ip));
    for ip in add {
        if !network.servers.contains(&ip) {
            network.servers.push(ip);
        }
    }
    match network.name == DEFAULT_NAME && network.servers.is_empty() {
        // As nobody has changed it.
        true => locked.remove(&network.name)?,
        false => locked.write(&network)?,
    }
    super::note(context, "update", &network);
    let described = Box::new(networks::described(&network));
    supervisor::leader::tell_all(&context.layout, &Ask::Describe { network: described })?;
    output::print_line(&args.network)?;
    Ok(0)
}

/// Runs `network reload`.
pub(crate) fn reload(args: ReloadArgs, context: &Context) -> Outcome {
    let mut records = match (args.all, args.latest, args.containers.is_empty()) {
        (true, false, true) => select::all(context)?,
        (false, true, true) => vec![select::latest(context)?],
        (false, false, false) => {
            let found = args.containers.iter().map(|name| storage::state::container::find(&context.layout, name));
            found.collect::<Result<_, _>>().map_err(CommandError::user)?
        }
        (_, _, false) => return Err(CommandError::user("--all, --latest and arguments cannot be used together")),
        _ => return Err(CommandError::user("you must provide at least one name or id")),
    };
    let is_on_bridge = |record: &storage::state::container::Record| -> Result<bool, CommandError> {
        let observed = status::observe(&context.layout, record)?;
        Ok(record.request.network.is_bridge() && observed.state.init().is_some())
    };
    let mut kept = Vec::new();
    for record in records.drain(..) {
        if is_on_bridge(&record)? {
            kept.push(record);
        } else if !args.all {
            return Err(CommandError::user(
                "cannot reload network unless container network has been configured: container state improper",
            ));
        }
    }
    if !kept.is_empty() {
        supervisor::leader::tell_all(&context.layout, &Ask::Reload)?;
    }
    for record in &kept {
        output::print_line(&record.id)?;
    }
    Ok(0)
}
