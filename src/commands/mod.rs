//! One file per command: `Args`, and `run`. Logic lives in the crates.

pub(crate) mod attach;
pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod pull;
pub(crate) mod run;
pub(crate) mod start;

use std::io::{Read, Write};

use clap::{Parser, Subcommand};
use runtime::userns::{self, Mapping};
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
enum Command {
    /// Attach to a running container
    Attach(attach::Args),
    /// Create a container but do not start it
    Create(Box<create::Args>),
    /// Check what this host lacks, and how to mend it
    Doctor(doctor::Args),
    /// Run a process in a running container
    Exec(exec::Args),
    /// Pull an image from a registry, an archive or a layout
    Pull(pull::Args),
    /// Run a command in a new container
    Run(Box<run::Args>),
    /// Start one or more containers
    Start(start::Args),
}

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
    match cli.command {
        Command::Attach(args) => attach::run(args, &context),
        Command::Create(args) => create::run(*args, &context),
        Command::Exec(args) => exec::run(args, &context),
        Command::Run(args) => run::run(*args, &context),
        Command::Start(args) => start::run(args, &context),
        Command::Doctor(args) => doctor::run(&args, &context),
        Command::Pull(args) => pull::run(args, &context),
    }
}

/// Runs `work` in a child that is root of the user's namespace: whatever touches files of subordinate ids. What it
/// returns comes back as text; its error as an error.
pub(crate) fn in_userns_with_output(
    mapping: &Mapping,
    work: impl FnOnce() -> Result<String, CommandError>,
) -> Result<String, CommandError> {
    let (mut reader, mut writer) = std::io::pipe().map_err(CommandError::host)?;
    let child = userns::start_in(mapping, || {
        let (tag, text, code) = match work() {
            Ok(text) => (b'O', text, 0),
            Err(error) => {
                error.print();
                (b'E', String::new(), error.code())
            }
        };
        let mut bytes = vec![tag];
        bytes.extend_from_slice(text.as_bytes());
        // A parent that is gone needs no answer.
        let _ = writer.write_all(&bytes);
        i32::from(code)
    })?;
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(CommandError::host)?;
    let exit = userns::wait_for(&child)?;
    match bytes.split_first() {
        Some((b'O', text)) => Ok(String::from_utf8_lossy(text).into_owned()),
        Some(_) => Err(CommandError::printed(exit.code())),
        None => Err(CommandError::host(format!("the worker process ended with status {}", exit.code()))),
    }
}
