//! `wait`: the exit codes of containers, once they have them.

use storage::state::status::{self, State};

use super::lifecycle::{self, Until};
use super::select::{self, Selection};
use super::{Context, Outcome};
use crate::cli::output;
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle wait job                       # prints its exit code"#;

/// Block on one or more containers
///
/// Block until one or more containers stop and then print their exit codes.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Condition to wait on: stopped, exited, running, healthy, …
    #[arg(long = "condition", value_name = "CONDITION", value_delimiter = ',')]
    conditions: Vec<String>,
    /// Ignore if a container does not exist
    #[arg(long)]
    ignore: bool,
    /// Time between two looks (nothing is polled: accepted and not needed)
    #[arg(short, long, value_name = "TIME", hide = true)]
    interval: Option<String>,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
}

const CONDITIONS: &[&str] = &["stopped", "exited", "removed", "removing", "not-running", "next-exit"];

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.containers.is_empty() && !args.latest {
        return Err(CommandError::user("\"coracle wait\" requires a name, id, or the \"--latest\" flag"));
    }
    if let Some(other) = args.conditions.iter().find(|condition| !CONDITIONS.contains(&condition.as_str())) {
        return Err(CommandError::user(format_args!("{other}: waiting for this condition is not supported")));
    }
    let selection =
        Selection { names: &args.containers, latest: args.latest, ignore: args.ignore, ..Selection::default() };
    let (selected, errors) = selection.resolve(context)?;
    select::each(&selected, errors, |one| {
        let record = &one.record;
        if let State::Created = status::observe(&context.layout, record)?.state {
            // podman gives the code of a container that never ran: none, which prints as 0.
            return output::print_line(0);
        }
        output::print_line(lifecycle::wait(context, record, Until::Exited)?)
    })
}
