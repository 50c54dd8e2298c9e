//! `system service`, which podman has for its API, and what to do here instead.

use crate::commands::{Context, Outcome};
use crate::error::CommandError;

/// Serve an API, which there is none of
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What podman takes
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(_: Args, context: &Context) -> Outcome {
    let program = context.program;
    Err(CommandError::user("system service: there is no API socket: programs call the command line instead")
        .hinted(format_args!("{program} compose up, or --podman-path {program} where a program has such an option")))
}
