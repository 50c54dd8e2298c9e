//! What podman has for its API, and what to do here instead.

use crate::commands::{Context, Outcome};
use crate::error::CommandError;

/// Serve an API, which there is none of
#[derive(clap::Args, Debug)]
pub(crate) struct ServiceArgs {
    /// What podman takes
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Manage other machines' services, which there is none of
#[derive(clap::Args, Debug)]
pub(crate) struct ConnectionArgs {
    /// What podman takes
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs `system service`.
pub(crate) fn service(_: ServiceArgs, context: &Context) -> Outcome {
    let program = context.program;
    Err(CommandError::user("system service: there is no API socket: programs call the command line instead")
        .hinted(format_args!("{program} compose up, or --podman-path {program} where a program has such an option")))
}

/// Runs `system connection`: there is one machine, and it has no name.
pub(crate) fn connection(args: ConnectionArgs, context: &Context) -> Outcome {
    match args.args.first().map(String::as_str) {
        Some("list" | "ls") => {
            crate::cli::output::print("Name        URI         Identity    Default     ReadWrite\n").map(|()| 0)
        }
        _ => Err(CommandError::user("system connection: coracle acts on the machine it runs on")
            .hinted(format_args!("ssh HOST {} ...", context.program))),
    }
}
