//! One file per command: `Args`, and `run`. Logic lives in the crates.

pub(crate) mod attach;
pub(crate) mod change;
pub(crate) mod commit;
pub(crate) mod container;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod exists;
pub(crate) mod filter;
pub(crate) mod fuse_overlayfs;
pub(crate) mod healthcheck;
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
pub(crate) mod mount;
pub(crate) mod pause;
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
pub(crate) mod storage_driver;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod unshare;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod wait;

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, FromArgMatches};
use runtime::userns::{self, Mapping};
use storage::state::layout::Layout;

use crate::error::{CommandError, FAILED};
use crate::role::Persona;
use crate::supervisor::rootfs::DriverChoice;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// Every path on disk.
    pub(crate) layout: Layout,
    /// Whose command line we answer like.
    pub(crate) persona: Persona,
    /// `--storage-driver`.
    storage_driver: Option<String>,
}

impl Context {
    /// What is to mount root file systems: `--storage-driver`, else `$STORAGE_DRIVER`.
    pub(crate) fn storage_driver(&self) -> Result<DriverChoice, CommandError> {
        let named = self.storage_driver.clone().or_else(|| std::env::var("STORAGE_DRIVER").ok());
        DriverChoice::parse(&named.unwrap_or_default())
    }
}

/// How a command ends: with an exit status or an error.
pub(crate) type Outcome = Result<u8, CommandError>;

/// One command: what stands in the list, what is built only when it is named, and what runs.
struct Entry {
    name: &'static str,
    about: &'static str,
    define: fn(clap::Command) -> clap::Command,
    run: fn(&ArgMatches, &Context) -> Outcome,
}

/// A command from its `Args` and its function. The options of all commands together take clap longer to build than most
/// commands take to run, so each is built when it is needed.
macro_rules! command {
    ($name:literal, $about:literal, $args:ty, $run:path) => {
        Entry {
            name: $name,
            about: $about,
            define: <$args as clap::Args>::augment_args,
            run: |matches, context| $run(<$args>::from_arg_matches(matches).map_err(misparsed)?, context),
        }
    };
}

/// A noun with commands of its own.
macro_rules! group {
    ($name:literal, $about:literal, $commands:ty, $run:path) => {
        Entry {
            name: $name,
            about: $about,
            define: |command| {
                <$commands as clap::Subcommand>::augment_subcommands(command)
                    .subcommand_required(true)
                    .arg_required_else_help(true)
            },
            run: |matches, context| $run(<$commands>::from_arg_matches(matches).map_err(misparsed)?, context),
        }
    };
}

/// Every command, in the order of `--help`.
const COMMANDS: &[Entry] = &[
    command!("attach", "Attach to a running container", attach::Args, attach::run),
    command!("commit", "Create new image based on the changed container", commit::Args, commit::run),
    group!("container", "Manage containers", container::Command, container::run),
    command!("cp", "Copy files/folders between a container and the local filesystem", cp::Args, cp::run),
    command!("create", "Create a container but do not start it", create::Args, create::run),
    command!("diff", "Display the changes to the object's file system", diff::Args, diff::run),
    command!("doctor", "Check what this host lacks, and how to mend it", doctor::Args, doctor::run),
    command!("exec", "Run a process in a running container", exec::Args, exec::run),
    group!("healthcheck", "Manage health checks on containers", healthcheck::Command, healthcheck::run),
    command!("history", "Show history of a specified image", history::Args, history::run),
    command!(
        "fuse-overlayfs",
        "Mount a stack of layers for other programs, as fuse-overlayfs does",
        fuse_overlayfs::Args,
        fuse_overlayfs::run_command
    ),
    group!("image", "Manage images", image::Command, image::run),
    command!("images", "List images in local storage", images::Args, images::run),
    command!("import", "Import a tarball to create a filesystem image", import::Args, import::run),
    command!("info", "Display system information", info::Args, info::run),
    command!("inspect", "Display the configuration of object denoted by ID", inspect::Args, inspect::run),
    command!("kill", "Kill one or more running containers with a specific signal", kill::Args, kill::run),
    command!("load", "Load image(s) from a tar archive", load::Args, load::run),
    command!("logs", "Fetch the logs of one or more containers", logs::Args, logs::run),
    command!("mount", "Mount a working container's root filesystem", mount::Args, mount::run),
    command!("pause", "Pause all the processes in one or more containers", pause::Args, pause::run),
    command!("port", "List port mappings or a specific mapping for the container", port::Args, port::run),
    command!("ps", "List containers", ps::Args, ps::run),
    command!("pull", "Pull an image from a registry, an archive or a layout", pull::Args, pull::run),
    command!("rename", "Rename an existing container", rename::Args, rename::run),
    command!("restart", "Restart one or more containers", restart::Args, restart::run),
    command!("rm", "Remove one or more containers", rm::Args, rm::run),
    command!("rmi", "Remove one or more images from local storage", rmi::Args, rmi::run),
    command!("run", "Run a command in a new container", run::Args, run::run),
    command!("save", "Save image(s) to an archive", save::Args, save::run),
    command!("start", "Start one or more containers", start::Args, start::run),
    command!("stop", "Stop one or more containers", stop::Args, stop::run),
    group!("system", "Manage everything coracle keeps", system::Command, system::run),
    command!("tag", "Add an additional name to a local image", tag::Args, tag::run),
    command!("top", "Display the running processes of a container", top::Args, top::run),
    command!("unmount", "Unmount working container's root filesystem", mount::UnmountArgs, mount::run_unmount),
    command!("unpause", "Unpause the processes in one or more containers", pause::UnpauseArgs, pause::run_unpause),
    command!("unshare", "Run a command in a modified user namespace", unshare::Args, unshare::run),
    command!("untag", "Remove a name from a local image", tag::UntagArgs, tag::run_untag),
    command!("update", "Update an existing container", update::Args, update::run),
    command!("version", "Display the coracle version information", version::Args, version::run),
    group!("volume", "Manage volumes", volume::Command, volume::run),
    command!("wait", "Block on one or more containers", wait::Args, wait::run),
];

fn misparsed(error: clap::Error) -> CommandError {
    CommandError::user(crate::cli::usage::one_line(&error))
}

/// The whole command line.
fn command_line() -> clap::Command {
    let path = |name, help| {
        Arg::new(name).long(name).value_name("DIR").help(help).value_parser(clap::value_parser!(PathBuf)).global(true)
    };
    clap::Command::new("coracle")
        .about("Rootless, daemonless containers")
        .version(concat!("version ", env!("CARGO_PKG_VERSION")))
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .arg(Arg::new("version").short('v').long("version").action(ArgAction::Version).help("Print version"))
        .args_override_self(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(path("root", "Directory of images, containers and volumes"))
        .arg(path("runroot", "Directory of the state of running containers"))
        .arg(
            Arg::new("storage-driver")
                .long("storage-driver")
                .value_name("DRIVER")
                .help("What mounts root file systems: auto, overlay, overlay-fuse or fuse")
                .global(true),
        )
        .subcommands(COMMANDS.iter().map(|entry| clap::Command::new(entry.name).about(entry.about).defer(entry.define)))
}

pub(crate) use lifecycle::empty_trash;

/// Parses the command line and runs what it says.
pub(crate) fn run(persona: Persona) -> Outcome {
    let matches = match command_line().try_get_matches() {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Err(misparsed(error));
        }
        Err(help) => {
            // A closed stdout is no failure.
            let _ = help.print();
            return Ok(if help.use_stderr() { FAILED } else { 0 });
        }
    };
    let chosen = matches
        .subcommand()
        .and_then(|(name, matches)| COMMANDS.iter().find(|entry| entry.name == name).map(|entry| (entry, matches)));
    let Some((entry, matches)) = chosen else {
        return Err(CommandError::user("a command is needed; see coracle --help"));
    };
    // Processes of ours work in other directories.
    let directory = |name| Some(std::path::absolute(matches.get_one::<PathBuf>(name)?).unwrap_or_default());
    let layout = match (directory("root"), directory("runroot")) {
        (None, None) => Layout::from_env()?,
        (Some(root), Some(runroot)) => Layout::new(root, runroot),
        (root, runroot) => {
            let default = Layout::from_env()?;
            Layout::new(
                root.unwrap_or_else(|| default.data_dir().to_owned()),
                runroot.unwrap_or_else(|| default.runtime_dir().to_owned()),
            )
        }
    };
    let storage_driver = matches.get_one::<String>("storage-driver").cloned();
    match (entry.run)(matches, &Context { layout, persona, storage_driver }) {
        // docker's client has 125 for `run` alone, and 1 for whatever else fails.
        Err(error) if persona == Persona::Docker && entry.name != "run" && matches!(error.code(), FAILED | 2) => {
            Err(error.with_code(1))
        }
        outcome => outcome,
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
