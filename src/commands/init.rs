//! `init`: a container's network, mounts and first process, which waits for `start`.

use storage::state::container::Record;
use storage::state::status::{self, State};

use super::select::{self, Selection};
use super::{Context, Outcome, create, start};
use crate::cli::output;
use crate::error::CommandError;
use crate::supervisor::Birth;

const EXAMPLES: &str = r#"Examples:
  coracle create --name web nginx
  coracle init web                       # its network and mounts can be looked at
  coracle start web                      # its program begins"#;

/// Initialize one or more containers
///
/// Creates namespaces, network and mounts of containers, so that they can be looked at before a program runs; start lets
/// it begin.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "latest"])]
    containers: Vec<String>,
    /// Initialize all containers
    #[arg(short, long)]
    all: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let selection = Selection { names: &args.containers, all: args.all, latest: args.latest, ..Selection::default() };
    let (selected, errors) = selection.resolve(context)?;
    select::each(&selected, errors, |one| {
        let state = status::observe(&context.layout, &one.record)?.state;
        match state {
            State::Created | State::Stopped { .. } => {
                init(context, one.record.clone())
                    .map_err(|error| error.while_doing(format!("initialize container {}", one.record.name)))?;
                output::print_line(&one.typed)
            }
            _ if args.all => Ok(()),
            _ => Err(CommandError::user(format_args!(
                "container {} has already been created in runtime: it is {}: container state improper",
                one.record.id,
                state.as_str()
            ))),
        }
    })
}

fn init(context: &Context, record: Record) -> Result<(), CommandError> {
    start::start_required(context, &record.request)?;
    let mut prepared = create::prepare(context, record)?;
    prepared.held = true;
    prepared.launch(context, Birth::Existing, None)?.wait_started()?;
    Ok(())
}
