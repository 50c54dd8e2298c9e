//! `stop`: the stop signal to all of them, then patience, then SIGKILL.

use std::path::PathBuf;
use std::time::Duration;

use storage::state::container::Record;

use super::select::{self, Selection};
use super::{Context, Outcome, lifecycle};
use crate::cli::output;
use crate::error::CommandError;

/// Stop one or more containers
///
/// Sends the stop signal, waits, then kills what is left.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Stop all running containers
    #[arg(short, long)]
    all: bool,
    /// Read the container ID from the file
    #[arg(long = "cidfile", value_name = "FILE")]
    cidfiles: Vec<PathBuf>,
    /// Filter output based on conditions given
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Ignore errors when a specified container is missing
    #[arg(short, long)]
    ignore: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Seconds to wait for stop before killing the container, -1 for ever [default: 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.containers.is_empty() && args.cidfiles.is_empty() && args.filters.is_empty() && !args.all && !args.latest {
        return Err(CommandError::user("you must provide at least one name or id"));
    }
    let selection = Selection {
        names: &args.containers,
        all: args.all,
        latest: args.latest,
        cidfiles: &args.cidfiles,
        filters: &args.filters,
        ignore: args.ignore,
    };
    let (selected, mut errors) = selection.resolve(context)?;
    // All get their signal before one is waited for.
    let mut stopping = Vec::new();
    for one in &selected {
        match lifecycle::begin_stop(context, &one.record, timeout(args.time, &one.record)) {
            Ok(begun) => stopping.push((one, begun)),
            Err(error) => errors.push(error),
        }
    }
    for (one, begun) in stopping {
        match begun.finish(context) {
            Ok(()) => output::print_line(&one.typed)?,
            Err(error) => errors.push(error),
        }
    }
    select::finish(errors)
}

/// The time a container gets: by the command line, by its own request, ten seconds.
pub(crate) fn timeout(seconds: Option<i64>, record: &Record) -> Option<Duration> {
    let seconds = seconds.or_else(|| record.request.stop_timeout.map(i64::from)).unwrap_or(10);
    // Negative is for ever.
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
