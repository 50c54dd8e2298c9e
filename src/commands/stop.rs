//! `stop`: the stop signal to all of them, then patience, then SIGKILL.

use std::time::Duration;

use storage::state::container::Record;

use super::select::{self, Chosen, Selected, Selection};
use super::{Context, Outcome, lifecycle};
use crate::cli::output;
use crate::cli::parse::words;
use crate::cli::usage::one;
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle stop web
  coracle stop -t 2 --all"#;

/// Stop one or more containers
///
/// Sends the stop signal, waits, then kills what is left.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_arg("all", |all| all.help("Stop all running containers")), mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Filter output based on conditions given
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Ignore errors when a specified container is missing
    #[arg(short, long)]
    ignore: bool,
    /// Signal to send instead of the container's stop signal
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds to wait for stop before killing the container, -1 for ever [default: 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.chosen.required(!args.filters.is_empty())?;
    let selection = Selection { filters: &args.filters, ignore: args.ignore, ..args.chosen.selection() };
    let (mut selected, mut errors) = selection.resolve(context)?;
    with_signal(&mut selected, args.signal.as_deref())?;
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

/// What `--signal` says instead of the containers' own stop signals.
pub(crate) fn with_signal(selected: &mut [Selected], signal: Option<&str>) -> Result<(), CommandError> {
    let Some(signal) = signal else { return Ok(()) };
    let signal = one("-s, --signal", signal, words::signal).map_err(CommandError::user)?;
    for one in selected {
        one.record.request.stop_signal = Some(signal.clone());
    }
    Ok(())
}

/// The time a container gets: by the command line, by its own request, ten seconds.
pub(crate) fn timeout(seconds: Option<i64>, record: &Record) -> Option<Duration> {
    let seconds = seconds.or_else(|| record.request.stop_timeout.map(i64::from)).unwrap_or(10);
    // Negative is for ever.
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
