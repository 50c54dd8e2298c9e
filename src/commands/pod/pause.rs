//! `pod pause` and `pod unpause`.

use storage::state::pod::Pod;
use storage::state::status::State;

use super::{Chosen, observed_members};
use crate::cli::output;
use crate::commands::{Context, Outcome, pause as of_container, select};
use crate::error::CommandError;

/// Pause one or more pods
///
/// Every process of their containers stands still.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    chosen: Chosen,
}

/// Unpause one or more pods
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct UnpauseArgs {
    #[command(flatten)]
    chosen: Chosen,
}

/// Runs `pod pause`.
pub(crate) fn pause(args: PauseArgs, context: &Context) -> Outcome {
    each(&args.chosen, context, |state| matches!(state, State::Running { .. }), of_container::pause, "pause")
}

/// Runs `pod unpause`.
pub(crate) fn unpause(args: UnpauseArgs, context: &Context) -> Outcome {
    each(&args.chosen, context, |state| matches!(state, State::Paused { .. }), of_container::unpause, "unpause")
}

/// Does it to the containers that it can be done to. Of all pods, those without any are left out.
fn each(
    chosen: &Chosen,
    context: &Context,
    fits: impl Fn(&State) -> bool,
    act: impl Fn(&Context, &storage::state::container::Record) -> Result<(), CommandError>,
    action: &str,
) -> Outcome {
    let (found, missing) = chosen.find(context, &[])?;
    let mut errors: Vec<CommandError> = missing.into_iter().map(CommandError::user).collect();
    let one = |pod: &Pod| -> Result<(), CommandError> {
        let mut members = observed_members(context, pod)?;
        members.retain(|(_, observed)| fits(&observed.state));
        if members.is_empty() && chosen.all {
            return Ok(());
        }
        for (record, _) in &members {
            act(context, record)?;
            context.note(record, action);
        }
        output::print_line(&pod.id)
    };
    for (_, pod) in &found {
        errors.extend(one(pod).err());
    }
    select::finish(errors)
}
