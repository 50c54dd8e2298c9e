//! `container cleanup`: what a container that does not run has left. Its supervisor clears up after it; this is for what
//! was killed.

use storage::prune;
use storage::state::status::{self, State};

use crate::cli::output;
use crate::commands::select::{self, Selection};
use crate::commands::{Context, Outcome, lifecycle, rm, space};
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle container cleanup web
  coracle container cleanup --rm --all"#;

/// Clean up network and mountpoints of one or more containers
///
/// Containers clear up after themselves when they end: there is something to do only after their supervisor was killed, or
/// for one that was initialized and not started.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "latest"])]
    containers: Vec<String>,
    /// Clean up all containers
    #[arg(short, long)]
    all: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Clean up an exec session, of which nothing is ever left
    #[arg(long, value_name = "SESSION", hide = true)]
    exec: Option<String>,
    /// After cleanup, remove the container entirely
    #[arg(long)]
    rm: bool,
    /// After cleanup, remove the image entirely
    #[arg(long)]
    rmi: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if let Some(session) = &args.exec {
        return Err(CommandError::user(format_args!("--exec {session}: exec sessions leave nothing to clean up")));
    }
    let selection = Selection { names: &args.containers, all: args.all, latest: args.latest, ..Selection::default() };
    let (selected, errors) = selection.resolve(context)?;
    let outcome = select::each(&selected, errors, |one| {
        let record = &one.record;
        match status::observe(&context.layout, record)?.state {
            State::Starting { .. } => lifecycle::begin_stop(context, record, None)?.finish(context)?,
            state if state.is_alive() && args.all => return Ok(()),
            state if state.is_alive() => {
                return Err(CommandError::user(format_args!(
                    "container {} is running or paused, refusing to clean up: container state improper",
                    record.id
                )));
            }
            _ => {}
        }
        if args.rm {
            rm::remove(context, record, false)?;
        }
        if args.rmi
            && let Some(image) = &record.image
        {
            crate::commands::run_as(&["rmi".to_owned(), image.id.to_string()], context)?;
        }
        output::print_line(&one.typed)
    });
    prune::sweep_runtime(&context.layout)?;
    space::sweep(context);
    outcome
}
