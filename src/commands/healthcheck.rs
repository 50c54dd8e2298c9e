//! `healthcheck run`: find out now whether a container is healthy.

use std::time::Duration;

use clap::Subcommand;
use runtime::monitor::attach::{Answer, Question};
use storage::state::container;
use storage::state::request::Healthcheck;
use storage::state::status::{self, State};

use super::{Context, Outcome};
use crate::cli::output;
use crate::error::CommandError;

/// What to do about health.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the health check of a container
    Run(Args),
}

/// Run the health check of a container
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Container name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Runs the command: 0 for a success, 1 for a failure.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    let Command::Run(args) = command;
    let record = container::find(&context.layout, &args.container).map_err(|error| {
        CommandError::user(format_args!("unable to look up {} to perform a health check: {error}", args.container))
    })?;
    let Some(check) = record.request.healthcheck.as_ref().filter(|check| Healthcheck::is_on(check)) else {
        return Err(CommandError::user(format_args!("container {} has no defined healthcheck", record.id)));
    };
    let not_running = || CommandError::user(format_args!("container {} is not running", record.id));
    if !matches!(status::observe(&context.layout, &record)?.state, State::Running { .. }) {
        return Err(not_running());
    }
    match super::pause::ask(context, &record, Question::CheckHealth)? {
        Some(Answer::Done(0)) => Ok(0),
        Some(Answer::Done(1)) => {
            output::print_line("unhealthy")?;
            Ok(1)
        }
        Some(Answer::Done(_)) => {
            let time = check.timeout.unwrap_or(Duration::from_secs(30));
            Err(CommandError::host(format_args!("healthcheck command exceeded timeout of {time:?}")))
        }
        Some(Answer::Refused | Answer::Failed(_)) | None => Err(not_running()),
    }
}
