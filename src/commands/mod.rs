//! One file per command: `Args`, and `run`. Logic lives in the crates.

pub(crate) mod attach;
pub(crate) mod container;
pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod exists;
pub(crate) mod filter;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod lifecycle;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod port;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod rename;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod select;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod unshare;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod wait;

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
    /// Manage containers
    #[command(subcommand)]
    Container(container::Command),
    /// Create a container but do not start it
    Create(Box<create::Args>),
    /// Check what this host lacks, and how to mend it
    Doctor(doctor::Args),
    /// Run a process in a running container
    Exec(exec::Args),
    /// Show history of a specified image
    History(history::Args),
    /// Manage images
    #[command(subcommand)]
    Image(image::Command),
    /// List images in local storage
    Images(images::Args),
    /// Import a tarball to create a filesystem image
    Import(import::Args),
    /// Display system information
    Info(info::Args),
    /// Display the configuration of object denoted by ID
    Inspect(inspect::Args),
    /// Kill one or more running containers with a specific signal
    Kill(kill::Args),
    /// Load image(s) from a tar archive
    Load(load::Args),
    /// Fetch the logs of one or more containers
    Logs(logs::Args),
    /// List port mappings or a specific mapping for the container
    Port(port::Args),
    /// List containers
    Ps(ps::Args),
    /// Pull an image from a registry, an archive or a layout
    Pull(pull::Args),
    /// Rename an existing container
    Rename(rename::Args),
    /// Restart one or more containers
    Restart(restart::Args),
    /// Remove one or more containers
    Rm(rm::Args),
    /// Remove one or more images from local storage
    Rmi(rmi::Args),
    /// Run a command in a new container
    Run(Box<run::Args>),
    /// Save image(s) to an archive
    Save(save::Args),
    /// Start one or more containers
    Start(start::Args),
    /// Stop one or more containers
    Stop(stop::Args),
    /// Manage everything coracle keeps
    #[command(subcommand)]
    System(system::Command),
    /// Add an additional name to a local image
    Tag(tag::Args),
    /// Display the running processes of a container
    Top(top::Args),
    /// Run a command in a modified user namespace
    Unshare(unshare::Args),
    /// Remove a name from a local image
    Untag(tag::UntagArgs),
    /// Display the coracle version information
    Version(version::Args),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Block on one or more containers
    Wait(wait::Args),
}

pub(crate) use lifecycle::empty_trash;

/// Parses the command line and runs what it says.
pub(crate) fn run(persona: Persona) -> Outcome {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            return Err(CommandError::user(crate::cli::usage::one_line(&error)));
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
        Command::Container(command) => container::run(command, &context),
        Command::Create(args) => create::run(*args, &context),
        Command::Doctor(args) => doctor::run(&args, &context),
        Command::Exec(args) => exec::run(args, &context),
        Command::History(args) => history::run(args, &context),
        Command::Image(command) => image::run(command, &context),
        Command::Images(args) => images::run(args, &context),
        Command::Import(args) => import::run(args, &context),
        Command::Info(args) => info::run(args, &context),
        Command::Inspect(args) => inspect::run(args, &context),
        Command::Kill(args) => kill::run(args, &context),
        Command::Load(args) => load::run(args, &context),
        Command::Logs(args) => logs::run(args, &context),
        Command::Port(args) => port::run(args, &context),
        Command::Ps(args) => ps::run(args, &context),
        Command::Pull(args) => pull::run(args, &context),
        Command::Rename(args) => rename::run(args, &context),
        Command::Restart(args) => restart::run(args, &context),
        Command::Rm(args) => rm::run(args, &context),
        Command::Rmi(args) => rmi::run(args, &context),
        Command::Run(args) => run::run(*args, &context),
        Command::Save(args) => save::run(args, &context),
        Command::Start(args) => start::run(args, &context),
        Command::Stop(args) => stop::run(args, &context),
        Command::System(command) => system::run(command, &context),
        Command::Tag(args) => tag::run(args, &context),
        Command::Top(args) => top::run(args, &context),
        Command::Unshare(args) => unshare::run(args, &context),
        Command::Untag(args) => tag::run_untag(args, &context),
        Command::Version(args) => version::run(args, &context),
        Command::Volume(command) => volume::run(command, &context),
        Command::Wait(args) => wait::run(args, &context),
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
