//! `system`: what concerns everything coracle keeps.

mod check;
mod connection;
mod df;
mod prune;
mod reset;
mod service;

use clap::Subcommand;

use super::{Context, Outcome, events, info};

/// What to do with everything.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check storage for consistency, and make again what can be made again
    Check(check::Args),
    /// List services on other machines, of which there are none
    #[command(subcommand)]
    Connection(connection::Command),
    /// Show disk usage
    Df(df::Args),
    /// Show system events
    Events(events::Args),
    /// Display system information
    Info(info::Args),
    /// Migrate containers to a new version (nothing is to be done)
    Migrate(MigrateArgs),
    /// Remove unused data
    Prune(prune::Args),
    /// Migrate lock numbers (nothing is to be done)
    Renumber,
    /// Reset the storage to what it was before the first command
    Reset(reset::Args),
    /// Serve an API, which there is none of
    #[command(hide = true)]
    Service(service::Args),
}

/// Options of `migrate`.
#[derive(clap::Args, Debug)]
pub(crate) struct MigrateArgs {
    /// The runtime that containers are to have from now on
    #[arg(long, value_name = "RUNTIME")]
    new_runtime: Option<String>,
}

impl MigrateArgs {
    /// Files of every version are understood, and there is one runtime.
    fn run(&self) {
        if let Some(runtime) = self.new_runtime.as_deref().filter(|name| !matches!(*name, "coracle" | "crun" | "runc"))
        {
            let runtime = crate::cli::printable::Printable::line(runtime);
            eprintln!("Warning: --new-runtime {runtime} is ignored: containers are run by coracle itself");
        }
    }
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Check(args) => check::run(args, context),
        Command::Connection(command) => connection::run(command, context),
        Command::Df(args) => df::run(args, context),
        Command::Events(args) => events::run(args, context),
        Command::Info(args) => info::run(args, context),
        Command::Migrate(args) => {
            args.run();
            Ok(0)
        }
        Command::Renumber => Ok(0),
        Command::Reset(args) => reset::run(args, context),
        Command::Service(args) => service::run(args, context),
        Command::Prune(args) => prune::run(args, context),
    }
}
