//! One file per command: `Args`, and `run`. Logic lives in the crates.

pub(crate) mod attach;
pub(crate) mod auto_update;
pub(crate) mod boot;
pub(crate) mod build;
pub(crate) mod builder;
mod buildx;
pub(crate) mod change;
pub(crate) mod commit;
pub(crate) mod completion;
mod compose;
pub(crate) mod container;
pub(crate) mod context;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod dependents;
pub(crate) mod descriptors;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod exists;
pub(crate) mod export;
pub(crate) mod filter;
pub(crate) mod fuse_overlayfs;
pub(crate) mod generate;
pub(crate) mod globals;
pub(crate) mod healthcheck;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod kube;
pub(crate) mod lazy;
pub(crate) mod lifecycle;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod manifest;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod oci;
pub(crate) mod pause;
pub(crate) mod plan;
pub(crate) mod pod;
pub(crate) mod port;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod quadlet;
pub(crate) mod rename;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod search;
pub(crate) mod secret;
pub(crate) mod select;
pub(crate) mod space;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod storage_driver;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod trash;
pub(crate) mod undo;
pub(crate) mod unshare;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod wait;

#[cfg(test)]
mod tiers;

use std::cell::{OnceCell, RefCell};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, FromArgMatches};
use runtime::userns::{self, Mapping};
use storage::digest::Digest;
use storage::state::container::Record;
use storage::state::events::{self as journal, Event};
use storage::state::layout::Layout;
use storage::state::undo::Removal;

use crate::error::{CommandError, FAILED};
use crate::role::{Persona, Program};
use crate::supervisor::arrival::Verdict;
use crate::supervisor::rootfs::DriverChoice;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// Every path on disk.
    pub(crate) layout: Layout,
    /// Whose command line we answer like.
    pub(crate) persona: Persona,
    /// The name that the command line was called by.
    pub(crate) program: &'static str,
    /// `--storage-driver`.
    storage_driver: Option<String>,
    /// `--cdi-spec-dir`.
    cdi_spec_dirs: Vec<PathBuf>,
    /// What this command removes; made when the first thing is.
    removal: OnceCell<Option<Removal>>,
    /// The images that arrive for containers of this command.
    arrivals: RefCell<Vec<(Digest, Verdict)>>,
}

impl Context {
    /// The name that the command line was called by, and whose it is.
    pub(crate) fn program(&self) -> Program {
        Program { name: self.program, persona: self.persona, is_buildx: false }
    }

    /// What is to mount root file systems: `--storage-driver`, else `$STORAGE_DRIVER`.
    pub(crate) fn storage_driver(&self) -> Result<DriverChoice, CommandError> {
        let named = self.storage_driver.clone().or_else(|| std::env::var("STORAGE_DRIVER").ok());
        DriverChoice::parse(&named.unwrap_or_default())
    }

    /// What this command removes, to be brought back together; `None` if it is to go for good.
    pub(crate) fn removal(&self) -> Option<&Removal> {
        self.removal.get_or_init(|| (!space::undo_window().is_zero()).then(Removal::new)).as_ref()
    }

    /// Tells the journal of events what has happened to a container.
    pub(crate) fn note(&self, record: &Record, action: &str) {
        journal::note(&self.layout, &[Event::container(record, action)]);
    }

    /// Tells the journal of events what has happened to an image; `name` is what it was called then.
    pub(crate) fn note_image(&self, action: &str, id: &Digest, name: impl std::fmt::Display) {
        journal::note(&self.layout, &[Event::new(journal::Kind::Image, action, id.hex(), name.to_string())]);
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
                    .about($about)
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
    command!(
        "auto-update",
        "Auto update containers according to their auto-update policy",
        auto_update::Args,
        auto_update::run
    ),
    command!("build", "Build an image using instructions from Containerfiles", build::Args, build::run),
    group!("builder", "Manage builds", builder::Command, builder::run),
    group!("buildx", "Manage builds, by the name of docker's plugin", builder::BuildxCommand, builder::run_buildx),
    group!("boot", "Manage what starts with the machine", boot::Command, boot::run),
    command!("commit", "Create new image based on the changed container", commit::Args, commit::run),
    command!("compose", "Run compose files with podman-compose or docker-compose", compose::Args, compose::run),
    command!("completion", "Generate the completion script of a shell", completion::Args, completion::run),
    group!("container", "Manage containers", container::Command, container::run),
    group!("context", "Manage contexts, of which there is one", context::Command, context::run),
    command!("cp", "Copy files/folders between a container and the local filesystem", cp::Args, cp::run),
    command!("create", "Create a container but do not start it", create::Args, create::run),
    command!("diff", "Display the changes to the object's file system", diff::Args, diff::run),
    command!("doctor", "Check what this host lacks, and how to mend it", doctor::Args, doctor::run),
    command!("events", "Show system events", events::Args, events::run),
    command!("exec", "Run a process in a running container", exec::Args, exec::run),
    command!("export", "Export container's filesystem contents as a tar archive", export::Args, export::run),
    group!("generate", "Generate files for systemd or Kubernetes", generate::Command, generate::run),
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
    command!("init", "Initialize one or more containers", init::Args, init::run),
    command!("inspect", "Display the configuration of object denoted by ID", inspect::Args, inspect::run),
    command!("kill", "Kill one or more running containers with a specific signal", kill::Args, kill::run),
    group!("kube", "Play containers, pods or volumes from a structured file", kube::Command, kube::run),
    command!("load", "Load image(s) from a tar archive", load::Args, load::run),
    command!("login", "Log in to a container registry", login::Args, login::run),
    command!("logout", "Log out of a container registry", login::LogoutArgs, login::run_logout),
    command!("logs", "Fetch the logs of one or more containers", logs::Args, logs::run),
    group!("manifest", "Manage manifest lists and image indexes", manifest::Command, manifest::run),
    command!("mount", "Mount a working container's root filesystem", mount::Args, mount::run),
    group!("network", "Manage networks", network::Command, network::run),
    command!("oci", "Run containers from bundles, as runc and crun do", oci::Words, oci::run_command),
    command!("pause", "Pause all the processes in one or more containers", pause::Args, pause::run),
    group!("play", "Play containers, pods or volumes from a structured file", kube::PlayCommand, kube::run_play),
    group!("pod", "Manage pods", pod::Command, pod::run),
    command!("port", "List port mappings or a specific mapping for the container", port::Args, port::run),
    command!("ps", "List containers", ps::Args, ps::run),
    command!("pull", "Pull an image from a registry, an archive or a layout", pull::Args, pull::run),
    command!("push", "Push an image to a registry, an archive or a layout", push::Args, push::run),
    command!("quadlet", "Make systemd services of Quadlet files", quadlet::Args, quadlet::run),
    command!("rename", "Rename an existing container", rename::Args, rename::run),
    command!("restart", "Restart one or more containers", restart::Args, restart::run),
    command!("rm", "Remove one or more containers", rm::Args, rm::run),
    command!("rmi", "Remove one or more images from local storage", rmi::Args, rmi::run),
    command!("run", "Run a command in a new container", run::Args, run::run),
    command!("save", "Save image(s) to an archive", save::Args, save::run),
    command!("search", "Search registry for image", search::Args, search::run),
    group!("secret", "Manage secrets", secret::Command, secret::run),
    command!("start", "Start one or more containers", start::Args, start::run),
    command!("stats", "Display a live stream of container resource usage statistics", stats::Args, stats::run),
    command!("stop", "Stop one or more containers", stop::Args, stop::run),
    group!("system", "Manage everything coracle keeps", system::Command, system::run),
    command!("tag", "Add an additional name to a local image", tag::Args, tag::run),
    command!("top", "Display the running processes of a container", top::Args, top::run),
    group!("trash", "Manage what was removed and can be brought back", trash::Command, trash::run),
    command!("undo", "Bring back what was removed", undo::Args, undo::run),
    command!("unmount", "Unmount working container's root filesystem", mount::UnmountArgs, mount::run_unmount),
    command!("unpause", "Unpause the processes in one or more containers", pause::UnpauseArgs, pause::run_unpause),
    command!("unshare", "Run a command in a modified user namespace", unshare::Args, unshare::run),
    command!("untag", "Remove a name from a local image", tag::UntagArgs, tag::run_untag),
    command!("update", "Update an existing container", update::Args, update::run),
    command!("version", "Display the coracle version information", version::Args, version::run),
    group!("volume", "Manage volumes", volume::Command, volume::run),
    command!("wait", "Block on one or more containers", wait::Args, wait::run),
    command!("__complete", "What may follow", completion::CompleteArgs, completion::run_complete),
    group!("__man", "Manual pages", completion::ManCommand, completion::run_man),
];

/// Runs another command, as if it had been typed.
pub(crate) fn run_as(words: &[String], context: &Context) -> Outcome {
    let typed = std::iter::once("coracle".to_owned()).chain(words.iter().cloned());
    let name = words.first().map(String::as_str);
    let matches = command_line(context.program(), name).try_get_matches_from(typed).map_err(misparsed)?;
    let (name, matches) = matches.subcommand().ok_or_else(|| CommandError::user("a command is needed"))?;
    let entry = COMMANDS.iter().find(|entry| entry.name == name);
    entry.map_or_else(|| Err(CommandError::user("no such command")), |entry| (entry.run)(matches, context))
}

fn misparsed(error: clap::Error) -> CommandError {
    CommandError::user(crate::cli::usage::one_line(&error))
}

/// The whole command line; each command's own part is built when it is named. If the first word is a command's name, that
/// command is all there is: the tree of all others is most of what a short command would allocate.
fn command_line(program: Program, first: Option<&str>) -> clap::Command {
    let (display, version) = match program.persona {
        Persona::Docker => ("Docker", format!("version {}, build coracle-{}", program.version(), CORACLE_VERSION)),
        Persona::Podman => (program.name, format!("version {}", program.version())),
    };
    let command = clap::Command::new(program.name)
        .bin_name(program.name)
        .display_name(display)
        .about("Rootless, daemonless containers")
        .version(version)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .arg(Arg::new("version").short('v').long("version").action(ArgAction::Version).help("Print version"))
        .args_override_self(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(EXAMPLES.replace("coracle", program.name));
    let is_named = COMMANDS.iter().any(|entry| Some(entry.name) == first);
    let commands = COMMANDS.iter().filter(|entry| !is_named || Some(entry.name) == first);
    globals::options(command).subcommands(commands.map(|entry| named(entry).defer(entry.define)))
}

/// A command of the list, without its arguments.
fn named(entry: &Entry) -> clap::Command {
    let command = clap::Command::new(entry.name).about(entry.about).hide(entry.name.starts_with("__"));
    if entry.name == "unmount" { command.visible_alias("umount") } else { command }
}

/// The whole command line with everything in it, for completions and manual pages.
fn defined(program: Program) -> clap::Command {
    let commands = COMMANDS.iter().map(|entry| match entry.name {
        // It has a parser of its own.
        "oci" => oci::define(named(entry)),
        _ => (entry.define)(named(entry)),
    });
    globals::options(clap::Command::new(program.name).about("Rootless, daemonless containers")).subcommands(commands)
}

const CORACLE_VERSION: &str = env!("CARGO_PKG_VERSION");

const EXAMPLES: &str = "Examples:
  coracle run --rm -it IMAGE sh         # a shell in a new container
  coracle run -d --name web -p 8080:80 IMAGE
  coracle ps -a                         # what there is
  coracle logs -f web                   # what it says
  coracle exec -it web sh               # another process in it
  coracle COMMAND --help                # more about a command";

pub(crate) use space::empty_trash;

/// `help run` is `run --help`; docker's `logs -n` is what podman calls `--tail`; as docker's plugin we are `buildx`.
fn arranged(program: Program, mut args: Vec<OsString>) -> Vec<OsString> {
    if program.is_buildx {
        args = buildx::arranged(args);
    }
    args = quadlet::arranged(args);
    if args.get(1).is_some_and(|word| word == "help") {
        args.remove(1);
        args.push("--help".into());
    }
    let is_logs = match args.get(1).and_then(|word| word.to_str()) {
        Some("logs") => true,
        Some("container") => args.get(2).is_some_and(|word| word == "logs"),
        _ => false,
    };
    if program.persona == Persona::Docker && is_logs {
        for word in args.iter_mut().skip(2) {
            if let Some(count) = word.to_str().and_then(|word| word.strip_prefix("-n")) {
                *word = if count.is_empty() { "--tail".into() } else { format!("--tail={count}").into() };
            }
        }
    }
    args
}

/// Parses the command line and runs what it says.
pub(crate) fn run(program: Program) -> Outcome {
    let persona = program.persona;
    let args = arranged(program, std::env::args_os().collect());
    let spoken = args.clone();
    let first = spoken.get(1).and_then(|word| word.to_str());
    let matches = match command_line(program, first).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let names: Vec<&str> =
                COMMANDS.iter().map(|entry| entry.name).filter(|name| !name.starts_with('_')).collect();
            let spoken = globals::spoken(program.name, &command_line(program, None), &spoken);
            return Err(globals::misunderstood(&error, program, &spoken, &names));
        }
        Err(help) => {
            // A closed stdout is no failure.
            let _ = match program.name {
                "coracle" => help.print().map_err(|error| CommandError::host(crate::error::reason(&error))),
                name => crate::cli::output::print(&help.to_string().replace("  coracle ", &format!("  {name} "))),
            };
            return Ok(if help.use_stderr() { FAILED } else { 0 });
        }
    };
    let chosen = matches
        .subcommand()
        .and_then(|(name, matches)| COMMANDS.iter().find(|entry| entry.name == name).map(|entry| (entry, matches)));
    let Some((entry, of_command)) = chosen else {
        return Err(CommandError::user("a command is needed; see coracle --help"));
    };
    if asks_for_all(of_command) {
        crate::cli::output::show_all();
    }
    globals::check(&matches, persona).map_err(|error| match persona {
        Persona::Docker => error.with_code(1),
        Persona::Podman => error,
    })?;
    let additional = globals::additional_stores(&matches)?;
    let matches = of_command;
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
    let layout = layout.with_additional(additional);
    let storage_driver = matches.get_one::<String>("storage-driver").cloned();
    let context = Context {
        layout,
        persona,
        program: program.name,
        storage_driver,
        cdi_spec_dirs: matches.get_many("cdi-spec-dir").into_iter().flatten().cloned().collect(),
        removal: OnceCell::new(),
        arrivals: RefCell::default(),
    };
    match (entry.run)(matches, &context).map_err(|error| globals::name_meant(error, &context)) {
        // docker's client has 125 for `run` alone, and 1 for whatever else fails.
        Err(error) if persona == Persona::Docker && entry.name != "run" && matches!(error.code(), FAILED | 2) => {
            Err(error.with_code(1))
        }
        outcome => outcome,
    }
}

/// Whether a command was given `--no-trunc`, itself or by its noun.
fn asks_for_all(matches: &ArgMatches) -> bool {
    matches.try_get_one::<bool>("no_trunc").ok().flatten().is_some_and(|asked| *asked)
        || matches.subcommand().is_some_and(|(_, matches)| asks_for_all(matches))
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
