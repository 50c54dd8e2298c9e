//! `kill`: a signal to the first process of a container.

use std::path::PathBuf;

use runtime::process::signal::Signal;
use storage::state::status;

use super::select::{self, Selection};
use super::{Context, Outcome, lifecycle};
use crate::cli::output;
use crate::error::CommandError;

/// Kill one or more running containers with a specific signal
///
/// The main process inside each container specified will be sent SIGKILL, or any signal specified with option --signal.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Signal all running containers
    #[arg(short, long)]
    all: bool,
    /// Read the container ID from the file
    #[arg(long = "cidfile", value_name = "FILE")]
    cidfiles: Vec<PathBuf>,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Signal to send to the container
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let signal: Signal = args.signal.parse().map_err(CommandError::user)?;
    if args.containers.is_empty() && args.cidfiles.is_empty() && !args.all && !args.latest {
        return Err(CommandError::user("you must provide at least one name or id"));
    }
    let selection = Selection {
        names: &args.containers,
        all: args.all,
        latest: args.latest,
        cidfiles: &args.cidfiles,
        ..Selection::default()
    };
    let (selected, errors) = selection.resolve(context)?;
    select::each(&selected, errors, |one| {
        let record = &one.record;
        let observed = status::observe(&context.layout, record)?;
        let sent = match observed.state.init() {
            Some(init) => lifecycle::signal(init, signal)?,
            None => false,
        };
        match sent {
            true => output::print_line(&one.typed),
            false if args.all => Ok(()),
            false => Err(CommandError::user(format_args!(
                "can only kill running containers. {} is in state {}: container state improper",
                record.id,
                observed.state.as_str()
            ))),
        }
    })
}
