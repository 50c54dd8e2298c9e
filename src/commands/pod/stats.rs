//! `pod stats`.

use storage::state::pod;

use super::{observed_members, state_of};
use crate::commands::{Context, Outcome, stats};
use crate::error::CommandError;

/// Display a live stream of resource usage statistics for the containers in one or more pods
///
/// Without a name, those of all pods that run.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID (can be repeated)
    #[arg(value_name = "POD", conflicts_with_all = ["all", "latest"])]
    pods: Vec<String>,
    /// Provide stats for all pods
    #[arg(short, long)]
    all: bool,
    /// Pretty-print container statistics to JSON or using a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Act on the latest pod
    #[arg(short, long, conflicts_with = "all")]
    latest: bool,
    /// Disable resetting the screen when streaming
    #[arg(long)]
    no_reset: bool,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let layout = &context.layout;
    let mut pods = match args.pods.is_empty() {
        false => args.pods.iter().map(|name| pod::find(layout, name)).collect::<Result<Vec<_>, _>>()?,
        true => pod::list(layout)?,
    };
    if args.latest {
        pods = pods.pop().into_iter().collect();
    }
    let is_chosen_by_state = args.pods.is_empty() && !args.latest && !args.all;
    let mut containers = Vec::new();
    for pod in &pods {
        let members = observed_members(context, pod)?;
        if is_chosen_by_state && !matches!(state_of(&members), "Running" | "Degraded") {
            continue;
        }
        containers
            .extend(members.into_iter().filter(|(_, observed)| observed.state.is_alive()).map(|(record, _)| record));
    }
    if containers.is_empty() {
        return Err(CommandError::user("there are no running containers in these pods"));
    }
    let ids = containers.iter().map(|record| record.id.to_string()).collect();
    stats::of_pods(ids, args.format, (args.no_reset, args.no_stream), context)
}
