//! `restart`: stop, then start again.

use storage::state::container::ContainerError;
use storage::state::status;

use super::select::{self, Chosen, Selection};
use super::{Context, Outcome, lifecycle, start, stop};
use crate::cli::output;
use crate::error::CommandError;

/// Restart one or more containers
///
/// Restarts one or more running containers. The container ID or name can be used. One that does not run is started.
#[derive(clap::Args, Debug)]
#[command(mut_arg("all", |all| all.help("Restart all containers, whether they run or not")), mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Filter output based on conditions given
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Restart only running containers
    #[arg(long)]
    running: bool,
    /// Seconds to wait for stop before killing the container, -1 for ever [default: 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Signal to send instead of the container's stop signal
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let narrowed = args.chosen.is_named() || !args.filters.is_empty();
    args.chosen.required(narrowed || args.running)?;
    let mut selection = Selection { filters: &args.filters, ..args.chosen.selection() };
    selection.all |= args.running && !narrowed;
    let (mut selected, errors) = selection.resolve(context)?;
    stop::with_signal(&mut selected, args.signal.as_deref())?;
    select::each(&selected, errors, |one| {
        let record = &one.record;
        if args.running && !status::observe(&context.layout, record)?.state.is_alive() {
            return Ok(());
        }
        lifecycle::begin_stop(context, record, stop::timeout(args.time, record))?.finish(context)?;
        // The supervisor clears up before it lets go of the container.
        match status::lock_at_rest(&context.layout, record) {
            Ok(lock) => drop(lock),
            Err(ContainerError::NotFound(_)) => {
                return Err(CommandError::user(format_args!("container {} was to be removed at its end", record.name)));
            }
            Err(error) => return Err(error.into()),
        }
        context.note(record, "restart");
        start::start(context, record.clone())?;
        output::print_line(&one.typed)
    })
}
