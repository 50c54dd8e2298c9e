//! One file per command: `Args`, and `run`. Logic lives in the crates.

use clap::{Parser, Subcommand};
use storage::state::layout::Layout;

use crate::error::CommandError;
use crate::role::Persona;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// Every path on disk.
    pub(crate) layout: Layout,
    /// Whose command line we answer like.
    pub(crate) persona: Persona,
}

/// How a command ends: with an exit status or an error.
pub(crate) type Outcome = Result<u8, CommandError>;

/// Rootless, daemonless containers
#[derive(Debug, Parser)]
#[command(name = "coracle", version, disable_help_subcommand = true, args_override_self = true)]
struct Cli {
    /// Directory of images, containers and volumes
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<std::path::PathBuf>,
    /// Directory of the state of running containers
    #[arg(long, global = true, value_name = "DIR")]
    runroot: Option<std::path::PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

/// Parses the command line and runs what it says.
pub(crate) fn run(persona: Persona) -> Outcome {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            return Err(CommandError::user(error.to_string().trim_start_matches("error: ")));
        }
        Err(help) => {
            let _ = help.print();
            return Ok(0);
        }
    };
    let layout = match (cli.root, cli.runroot) {
        (None, None) => Layout::from_env()?,
        (root, runroot) => {
            let default = Layout::from_env()?;
            Layout::new(
                root.unwrap_or_else(|| default.data_dir().to_owned()),
                runroot.unwrap_or_else(|| default.runtime_dir().to_owned()),
            )
        }
    };
    let context = Context { layout, persona };
    match cli.command {}
}
