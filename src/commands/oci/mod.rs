//! `coracle oci`: the command line of an OCI runtime, runc's and crun's, on what `run` and `exec` are made of. podman and
//! others may name it as their runtime.
//!
//! ```text
//! create ── clone3 ──▶ init: mounts, credentials, waits      (create ends; init is whose subreaper's or init's it is)
//! start ── connects to the waiting init ──▶ execve
//! delete ── takes cgroup and directory away
//! ```
//! Nothing of ours stays behind; containers are directories below `--root`, see [`storage::state::oci`].
//!
//! **Runs in:** the caller's namespaces. The caller is root of a user namespace (podman's case), or an ordinary user whose
//! bundles have a user namespace.

mod bundle;
mod cgroup;
mod create;
mod delete;
mod exec;
mod features;
mod init;
mod kill;
mod log;
mod pause;
mod run;
mod show;
mod spec;
mod start;
mod status;
mod update;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as _, FromArgMatches as _};
use storage::state::layout::Layout;
use storage::state::oci::Root;

use super::{Context, Outcome};
use crate::cli::{output, usage};
use crate::error::CommandError;
use log::{Level, Log};

/// The version of the runtime specification that is followed.
const OCI_VERSION: &str = "1.2.1";

/// Run containers from bundles, as runc and crun do
///
/// Takes the command line of an OCI runtime, and explains it with --help. The program is the same when it is executed by a name that ends with coracle-oci, or as crun or runc.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Words {
    /// The command line of an OCI runtime
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

const EXAMPLES: &str = "Examples:
  podman --runtime ~/.local/bin/coracle-oci run --rm IMAGE    # a link to coracle
  coracle oci spec --rootless                                 # config.json for the directory rootfs
  coracle oci run --bundle . one
  coracle oci create two && coracle oci start two && coracle oci delete --force two";

/// Run containers from bundles, as runc and crun do
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
struct CommandLine {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// What stands before the command.
#[derive(clap::Args, Debug)]
struct Globals {
    /// Directory of containers [default: $XDG_RUNTIME_DIR/coracle/oci]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Write errors to this file, not to standard error ("file:" may stand before the path)
    #[arg(long, value_name = "FILE")]
    log: Option<String>,
    /// How they are written
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// The least that is written: error, warning, info or debug
    // By the id that the option of everything has, which stands beside it in the manual.
    #[arg(id = "log-level", long, value_name = "LEVEL", default_value = "error")]
    log_level: Level,
    /// The same as --log-level debug
    #[arg(long)]
    debug: bool,
    /// Take linux.cgroupsPath for SLICE:PREFIX:NAME and have the user's systemd make that scope
    #[arg(long)]
    systemd_cgroup: bool,
    /// How a cgroup is made: cgroupfs, systemd or disabled
    #[arg(long, value_name = "MANAGER", default_value = "cgroupfs", value_parser = ["cgroupfs", "systemd", "disabled"])]
    cgroup_manager: String,
    /// Whether the caller lacks root: true or auto, which is always the case here
    #[arg(long, value_name = "BOOL", value_parser = rootless, num_args = 0..=1, default_missing_value = "true")]
    rootless: Option<bool>,
}

/// A runtime that could be told that it has root would need code for root.
fn rootless(value: &str) -> Result<bool, String> {
    match value {
        "true" | "auto" | "1" => Ok(true),
        _ => Err("containers are made without root, also for root".to_owned()),
    }
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    Create(create::Args),
    Start(start::Args),
    State(show::StateArgs),
    Kill(kill::Args),
    Delete(delete::Args),
    Exec(exec::Args),
    Ps(show::PsArgs),
    List(show::ListArgs),
    Run(run::Args),
    Spec(spec::Args),
    Features(features::Args),
    Pause(pause::Args),
    Resume(pause::ResumeArgs),
    Update(update::Args),
}

/// What every command is given.
#[derive(Debug)]
struct Runtime {
    root: Root,
    log: Log,
    manager: cgroup::Manager,
}

/// The definition of its command line, for manual pages and completion.
pub(crate) fn define(command: clap::Command) -> clap::Command {
    CommandLine::augment_args(command)
}

/// As a command of coracle.
pub(crate) fn run_command(words: Words, _: &Context) -> Outcome {
    run(words.args)
}

/// As a program of its own; `args` without its name.
pub(crate) fn run(args: Vec<OsString>) -> Outcome {
    let command = define(clap::Command::new("oci"))
        .bin_name("coracle oci")
        .display_name("coracle oci")
        .version(concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1"))
        .args_override_self(true);
    let asked = std::iter::once("oci".into()).chain(args);
    let parsed = command.try_get_matches_from(asked).and_then(|matches| CommandLine::from_arg_matches(&matches));
    let line = match parsed {
        Ok(line) => line,
        Err(error) if error.use_stderr() => {
            return Err(CommandError::user(usage::one_line(&error)).hinted("coracle oci --help").with_code(1));
        }
        Err(help) => return output::print(&help.to_string()).map(|()| 0),
    };
    let log = Log::open(&line.globals).map_err(|error| error.with_code(1))?;
    let runtime = match line.globals.runtime(log) {
        Ok(runtime) => runtime,
        Err((error, log)) => return Err(log.failed(error)),
    };
    runtime.act(line.verb).map_err(|error| runtime.log.failed(error))
}

impl Globals {
    fn runtime(self, log: Log) -> Result<Runtime, (CommandError, Log)> {
        let root = match &self.root {
            Some(root) => std::path::absolute(root).map_err(CommandError::user),
            None => Layout::from_env().map(|layout| layout.runtime_dir().join("oci")).map_err(CommandError::from),
        };
        let manager = match self.cgroup_manager.as_str() {
            "disabled" => cgroup::Manager::Disabled,
            "systemd" => cgroup::Manager::Systemd,
            _ if self.systemd_cgroup => cgroup::Manager::Systemd,
            _ => cgroup::Manager::Cgroupfs,
        };
        match root {
            Ok(root) => Ok(Runtime { root: Root::new(root), log, manager }),
            Err(error) => Err((error, log)),
        }
    }
}

impl Runtime {
    fn act(&self, verb: Verb) -> Outcome {
        match verb {
            Verb::Create(args) => create::run(args, self),
            Verb::Start(args) => start::run(args, self),
            Verb::State(args) => show::state(args, self),
            Verb::Kill(args) => kill::run(args, self),
            Verb::Delete(args) => delete::run(args, self),
            Verb::Exec(args) => exec::run(args, self),
            Verb::Ps(args) => show::ps(args, self),
            Verb::List(args) => show::list(args, self),
            Verb::Run(args) => run::run(args, self),
            Verb::Spec(args) => spec::run(args),
            Verb::Features(args) => features::run(args),
            Verb::Pause(args) => pause::run(args, self),
            Verb::Resume(args) => pause::run_resume(args, self),
            Verb::Update(args) => update::run(args, self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_do_not_contradict_themselves() {
        CommandLine::augment_args(clap::Command::new("oci")).debug_assert();
    }

    #[test]
    fn every_option_has_help_and_every_command_begins_with_a_verb() {
        for command in CommandLine::augment_args(clap::Command::new("oci")).get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(
                about.starts_with(char::is_uppercase) && !about.ends_with('.'),
                "{}: {about:?}",
                command.get_name()
            );
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn the_command_lines_of_podman_and_containerd_are_understood() {
        for line in [
            "--log-format=json --log /r/oci-log create --bundle /b --pid-file /b/pid one",
            "--systemd-cgroup --root /r --log=/l --log-format json create -b /b --console-socket /s --no-pivot --preserve-fds 3 one",
            "--cgroup-manager cgroupfs exec --pid-file /p --process /x/process.json --detach one",
            "exec -t -e A=1 -e B=2 --cwd / -u 1:2 -c CAP_CHOWN --no-new-privs --preserve-fds=1 one ls -l",
            "kill --all one 9",
            "kill one SIGTERM",
            "delete --force one",
            "start one",
            "list -q -f json",
            "ps -f json one",
            "--rootless=true spec --rootless -b /b",
            "--rootless auto --debug update --resources - one",
            "run -d --keep --no-new-keyring --no-subreaper one",
        ] {
            let words = std::iter::once("oci").chain(line.split(' '));
            let command = CommandLine::augment_args(clap::Command::new("oci"));
            let matches = command.try_get_matches_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
            CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
