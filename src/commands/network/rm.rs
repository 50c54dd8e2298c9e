//! `network rm` and `network prune`.

use net::leader::Ask;
use storage::state::container::Record;
use storage::state::network::{DEFAULT_NAME, Locked, Network, NetworkError};

use super::NetworkFilters;
use crate::cli::output;
use crate::commands::{Context, Outcome, lifecycle, pod, rm, select, space, stop};
use crate::error::CommandError;
use crate::role::Persona;
use crate::{networks, supervisor};

const EXAMPLES: &str = r#"Examples:
  coracle network rm web
  coracle network rm -f web             # and the containers that are on it"#;

/// Remove one or more networks
///
/// A network that a container is on, running or not, is not removed without --force.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID (can be repeated)
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
    /// Remove any containers using network
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait for running containers to stop before killing the container [default: 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
}

/// Remove all unused networks
///
/// Networks that no container is on will be removed; the default one stays.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct PruneArgs {
    /// Provide filter values (e.g. 'label=<key>=<value>')
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Runs `network rm`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.time.is_some() && !args.force {
        return Err(CommandError::user("--force option must be specified to use the --time option"));
    }
    let mut errors = Vec::new();
    for text in &args.networks {
        match one(&args, context, text) {
            Ok(true) => output::print_line(text)?,
            Ok(false) => {}
            Err(error) => errors.push(error),
        }
    }
    space::sweep(context);
    select::finish(errors)
}

/// Whether there was something to remove.
fn one(args: &Args, context: &Context, text: &str) -> Result<bool, CommandError> {
    let network = match networks::find(&context.layout, text) {
        Ok(network) => network,
        Err(NetworkError::NotFound(_)) if args.force => return Ok(false),
        Err(error @ NetworkError::NotFound(_)) => return Err(CommandError::user(error).with_code(1)),
        Err(error) => return Err(error.into()),
    };
    if network.name == DEFAULT_NAME {
        return Err(CommandError::user(format_args!("default network {DEFAULT_NAME} cannot be removed")));
    }
    if args.force {
        let records = select::all(context)?;
        for record in networks::users(&records, &network.name) {
            remove_user(args, context, record)?;
        }
    }
    let locked = Locked::take(&context.layout)?;
    let records = select::all(context)?;
    let users: Vec<&str> = networks::users(&records, &network.name).map(|record| record.name.as_str()).collect();
    if !users.is_empty() {
        return Err(CommandError::user(format_args!(
            "{text:?} has associated containers with it. Use -f to forcibly delete containers and pods: network is \
             being used"
        ))
        .with_code(2)
        .hinted(format!("on it: {}", users.join(", "))));
    }
    remove(context, &locked, &network)?;
    Ok(true)
}

/// Removes a network that nobody is on, and its devices where there are some.
fn remove(context: &Context, locked: &Locked, network: &Network) -> Result<(), CommandError> {
    locked.remove(&network.name)?;
    super::note(context, "remove", network);
    supervisor::leader::tell_all(&context.layout, &Ask::Forget { network: network.name.clone() })
}

/// A container that is in the way; of a pod, the whole pod.
fn remove_user(args: &Args, context: &Context, record: &Record) -> Result<(), CommandError> {
    if record.request.infra
        && let Some(pod) = pod::of(context, record)?
    {
        return pod::remove(context, &pod, args.time);
    }
    lifecycle::begin_stop(context, record, stop::timeout(args.time, record))?.finish(context)?;
    match rm::remove(context, record, true) {
        // With --rm it has gone by itself.
        Err(_) if storage::state::container::load(&context.layout, &record.id)?.is_none() => Ok(()),
        other => other.map(drop),
    }
}

/// Runs `network prune`.
pub(crate) fn prune(args: PruneArgs, context: &Context) -> Outcome {
    let filters = NetworkFilters::parse_for_prune(&args.filters)?;
    let warning = "WARNING! This will remove all networks not used by at least one container.\n";
    if !args.force && !output::confirm(warning)? {
        return Ok(0);
    }
    let records = select::all(context)?;
    let names = remove_unused(context, &unused(context, &records, &filters)?)?;
    let list: String = names.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
    match context.persona {
        Persona::Podman => output::print(&list)?,
        Persona::Docker if names.is_empty() => {}
        Persona::Docker => output::print(&format!("Deleted Networks:\n{list}\n"))?,
    }
    Ok(0)
}

/// Networks that none of these containers is on.
pub(crate) fn unused(
    context: &Context,
    staying: &[Record],
    filters: &NetworkFilters,
) -> Result<Vec<Network>, CommandError> {
    let mut found = networks::created(&context.layout)?;
    found
        .retain(|network| networks::users(staying, &network.name).next().is_none() && filters.accept(network, staying));
    Ok(found)
}

/// Removes them, unless somebody has joined one meanwhile; returns the names of those that are gone.
pub(crate) fn remove_unused(context: &Context, found: &[Network]) -> Result<Vec<String>, CommandError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let locked = Locked::take(&context.layout)?;
    let records = select::all(context)?;
    let mut names = Vec::new();
    for network in found.iter().filter(|network| networks::users(&records, &network.name).next().is_none()) {
        remove(context, &locked, network)?;
        names.push(network.name.clone());
    }
    Ok(names)
}

/// What will go, a line each.
pub(crate) fn list_of_pruned(found: &[Network]) -> String {
    found.iter().map(|network| format!("\t- network {}\n", network.name)).collect()
}
