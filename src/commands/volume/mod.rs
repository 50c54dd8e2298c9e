//! `volume`: create, ls, inspect, rm, prune, exists.

mod create;
mod ls;
mod prune;
mod rm;

use clap::Subcommand;

use super::inspect::{self, Kind};
use super::{Context, Outcome, exists};

pub(crate) use ls::{VolumeFilters, all};
pub(crate) use prune::list as list_of_pruned;

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a new volume
    Create(create::Args),
    /// Check if volume exists
    Exists(exists::Args),
    /// Display detailed information on one or more volumes
    Inspect(inspect::NounArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Remove all unused volumes
    Prune(prune::Args),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Create(args) => create::run(args, context),
        Command::Exists(args) => exists::volume(args, context),
        Command::Inspect(args) => inspect::run_noun(Kind::Volume, args, context),
        Command::Ls(args) => ls::run(args, context),
        Command::Prune(args) => prune::run(args, context),
        Command::Rm(args) => rm::run(args, context),
    }
}
