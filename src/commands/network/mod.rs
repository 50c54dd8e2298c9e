//! `network`: connect, create, disconnect, exists, inspect, ls, prune, reload, rm, update.

mod attach;
mod create;
mod ls;
mod rm;
mod show;
mod update;

use clap::Subcommand;
use storage::state::events::{self, Event, Kind};
use storage::state::network::{Network, NetworkError};

use super::{Context, Outcome, exists};
use crate::error::CommandError;
use crate::networks;

pub(crate) use create::ensure;
pub(crate) use ls::NetworkFilters;
pub(crate) use rm::{list_of_pruned, remove_unused, unused};
pub(crate) use show::{endpoint_id, find as find_to_show, inspect};

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add container to a network
    Connect(attach::ConnectArgs),
    /// Create networks for containers and pods
    Create(create::Args),
    /// Remove container from a network
    Disconnect(attach::DisconnectArgs),
    /// Check if network exists
    Exists(exists::Args),
    /// Inspect network
    Inspect(show::Args),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Remove all unused networks
    Prune(rm::PruneArgs),
    /// Reload firewall rules for one or more containers
    Reload(update::ReloadArgs),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    /// Update an existing network
    Update(update::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Connect(args) => attach::connect(args, context),
        Command::Create(args) => create::run(args, context),
        Command::Disconnect(args) => attach::disconnect(args, context),
        Command::Exists(args) => exists::network(args, context),
        Command::Inspect(args) => show::run(args, context),
        Command::Ls(args) => ls::run(args, context),
        Command::Prune(args) => rm::prune(args, context),
        Command::Reload(args) => update::reload(args, context),
        Command::Rm(args) => rm::run(args, context),
        Command::Update(args) => update::run(args, context),
    }
}

/// Finds a network; one that is not there is the user's error.
fn find(context: &Context, text: &str) -> Result<Network, CommandError> {
    networks::find(&context.layout, text).map_err(|error| match error {
        NetworkError::Records(error) => error.into(),
        error => CommandError::user(error),
    })
}

/// Tells the journal of events what has happened to a network.
fn note(context: &Context, action: &str, network: &Network) {
    let attributes = [("type".to_owned(), "bridge".to_owned())].into();
    let event = Event::new(Kind::Network, action, network.id.as_str(), network.name.as_str());
    events::note(&context.layout, &[Event { attributes, ..event }]);
}
