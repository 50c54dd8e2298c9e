//! `secret`: create, exists, inspect, ls, rm.

mod create;
mod show;

use clap::Subcommand;
use storage::secret::{self, SecretError};

use super::{Context, Outcome, exists, select};
use crate::cli::output;
use crate::error::CommandError;

/// What to do with secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a new secret
    Create(create::Args),
    /// Check if a secret exists in local storage
    Exists(exists::Args),
    /// Inspect a secret
    Inspect(show::InspectArgs),
    /// List secrets
    #[command(visible_alias = "list")]
    Ls(show::LsArgs),
    /// Remove one or more secrets
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

/// Remove one or more secrets
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct RmArgs {
    /// Name or ID (can be repeated)
    #[arg(value_name = "SECRET")]
    secrets: Vec<String>,
    /// Remove all secrets
    #[arg(short, long)]
    all: bool,
    /// Ignore errors when a specified secret is missing
    #[arg(short, long)]
    ignore: bool,
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Create(args) => create::run(args, context),
        Command::Exists(args) => exists::secret(args, context),
        Command::Inspect(args) => show::inspect(args, context),
        Command::Ls(args) => show::ls(args, context),
        Command::Rm(args) => rm(args, context),
    }
}

fn rm(args: RmArgs, context: &Context) -> Outcome {
    if args.secrets.is_empty() != args.all {
        return Err(CommandError::user("rm requires at least 1 argument, or --all, not both"));
    }
    let names = match args.all {
        true => secret::list(&context.layout)?.into_iter().map(|secret| secret.id).collect(),
        false => args.secrets,
    };
    let mut errors = Vec::new();
    for name in &names {
        match secret::remove(&context.layout, name) {
            Ok(secret) => output::print_line(&secret.id)?,
            Err(SecretError::NotFound(_)) if args.ignore => {}
            Err(error) => errors.push(error.into()),
        }
    }
    select::finish(errors)
}
