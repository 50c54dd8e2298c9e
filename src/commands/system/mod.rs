//! `system`: what concerns everything coracle keeps.

mod df;
mod prune;

use clap::Subcommand;

use super::{Context, Outcome, events, info};

/// What to do with everything.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show disk usage
    Df(df::Args),
    /// Show system events
    Events(events::Args),
    /// Display system information
    Info(info::Args),
    /// Remove unused data
    Prune(prune::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Df(args) => df::run(args, context),
        Command::Events(args) => events::run(args, context),
        Command::Info(args) => info::run(args, context),
        Command::Prune(args) => prune::run(args, context),
    }
}
