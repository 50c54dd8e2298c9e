//! `exec`: a program more in a running container.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxCapabilities, Process, Spec, User};
use runtime::cgroup::Cgroup;
use runtime::exec::{self, ExecError, Streams, namespaces_unlike_ours};
use runtime::init::credentials::LoadFilter;
use runtime::init::sealed_exe::SealedExe;
use runtime::init::steps::{BecomeOptions, InitError, keeps_groups};
use runtime::process::inherited::Inherited;
use runtime::process::pidfd;
use runtime::process::pty::Winsize;
use runtime::security::capabilities::{CapabilitySet, Selection, Sets};

use super::status::{self, Status};
use super::{Outcome, Runtime, bundle, create, run as client};
use crate::error::CommandError;
use crate::supervisor::cgroup::come_near;

/// Execute a program in a running container
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// The program with its arguments, without --process
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// File with what a bundle has as process
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return when the program runs
    #[arg(short, long)]
    detach: bool,
    /// File to write the program's pid to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that gets the master end of the program's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Give the program a terminal
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: Option<bool>,
    /// Working directory of the program
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Variable of its environment (can be repeated)
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Its ids: UID or UID:GID
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Supplementary group (can be repeated)
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Capability besides those of the container's process (can be repeated)
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// It gains no privileges by executing something
    #[arg(long)]
    no_new_privs: bool,
    /// Number of descriptors from 3 upward that the program gets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// AppArmor profile (refused: it cannot be applied without root)
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label (refused: not supported)
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
}

/// Runs `exec`.
pub(super) fn run(args: Args, runtime: &Runtime) -> Outcome {
    let record = runtime.record(&args.id)?;
    let refused = |why: &str| CommandError::user(format_args!("cannot execute in container {}: {why}", args.id));
    match Status::of(&record) {
        Status::Running => {}
        status => return Err(refused(&format!("it is {status}"))),
    }
    let mut spec = runtime.spec(&args.id)?;
    let process = args.process_of(&spec)?;
    bundle::check_process(&process)?;
    let is_terminal = process.terminal().unwrap_or(false);
    match (is_terminal, &args.console_socket) {
        (true, None) if args.detach => return Err(refused("the terminal is for nobody: --console-socket is needed")),
        (false, Some(socket)) => {
            let name = socket.display();
            return Err(CommandError::user(format_args!("--console-socket {name}: the program has no terminal")));
        }
        _ => {}
    }
    spec.set_process(Some(process));
    let preserved_fds = create::preserved(args.preserve_fds, &mut spec)?;
    let process = spec.process().clone().unwrap_or_default();
    let init = status::init_of(&record)?.ok_or_else(|| refused("it is stopped"))?;
    let namespaces = namespaces_unlike_ours(record.pid)
        .map_err(|error| refused(&format!("/proc/{}/ns: {}", record.pid, crate::error::reason(&error))))?;
    let filter = create::filter_of(&spec)?;
    let load = filter.as_ref().map(|filter| || filter.load().map_err(InitError::from));
    let keyring = create::keyring_name(&record.id);
    let seal = SealedExe::of_self()?;
    let cgroup = record.cgroup.clone().and_then(|path| Cgroup::existing(path).ok());
    if let Some(cgroup) = &cgroup {
        come_near(cgroup.path()).map_err(|error| refused(&format!("cgroup: {error}")))?;
    }
    let denies_setgroups =
        std::fs::read_to_string(format!("/proc/{}/setgroups", record.pid)).is_ok_and(|text| text.trim() == "deny");
    let wants_groups = process.user().additional_gids().as_ref().is_some_and(|groups| !groups.is_empty());
    let asked = process.console_size().map(|size| Winsize {
        rows: size.height().try_into().unwrap_or(0),
        cols: size.width().try_into().unwrap_or(0),
    });
    let own = args.console_socket.is_none().then(create::own_size).flatten();
    let signals = if args.detach { None } else { Some(client::signals()?) };
    let started = exec::start(exec::Request {
        init: init.as_fd(),
        namespaces,
        cgroup: cgroup.as_ref().map(|cgroup| cgroup.fd.as_fd()),
        process: &process,
        streams: if is_terminal { Streams::Console(asked.or(own)) } else { Streams::Inherited },
        seal: seal.as_ref(),
        notifier: None,
        options: BecomeOptions {
            keyring: (!record.keeps_keyring).then_some(&keyring),
            filter_hides_keyrings: false,
            keep_groups: keeps_groups(&spec) || (denies_setgroups && !wants_groups),
            emulation: None,
            dies_with_parent: false,
            filter: load.as_ref().map(|load| load as LoadFilter<'_>),
            sealed: None,
            pause: false,
            gate: None,
            preserved_fds,
            inherited: &Inherited::default(),
        },
    })
    .map_err(failure)?;
    if let Some(path) = &args.pid_file {
        let pid = pidfd::host_pid(started.pidfd.as_fd()).ok_or_else(|| refused("the program has ended"))?;
        create::write_pid(path, pid)?;
    }
    let console = match (started.console, &args.console_socket) {
        (Some(master), Some(socket)) => {
            create::send_console(socket, &master)?;
            None
        }
        (master, _) => master,
    };
    let Some(signals) = signals else { return Ok(0) };
    let exit = match console {
        Some(master) => client::on_terminal(master, started.pidfd.as_fd(), &signals)?,
        None => client::until_exit(started.pidfd.as_fd(), &signals),
    };
    Ok(exit.map_or(0, runtime::process::Exit::code))
}

fn failure(error: ExecError) -> CommandError {
    match error {
        ExecError::Failed { code, message } => create::init_failed(code, message),
        other => CommandError::host(other),
    }
}

impl Args {
    /// The program: what `--process` says, or the container's process with what the command line changes.
    fn process_of(&self, spec: &Spec) -> Result<Process, CommandError> {
        for (option, value) in [("--apparmor", &self.apparmor), ("--process-label", &self.process_label)] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                return Err(CommandError::user(format_args!("{option} {value}: not supported")));
            }
        }
        let mut process = match &self.process {
            Some(path) => {
                if !self.command.is_empty() {
                    return Err(CommandError::user(
                        "--process: the file names the program, and so does the command line",
                    ));
                }
                return parse(path, &bundle::read(path)?);
            }
            None if self.command.is_empty() => return Err(CommandError::user("a program is needed, or --process")),
            None => spec.process().clone().unwrap_or_default(),
        };
        process.set_args(Some(self.command.clone())).set_terminal(Some(self.tty.unwrap_or(false)));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        let mut env = process.env().clone().unwrap_or_default();
        for pair in &self.env {
            let name = pair.split('=').next().unwrap_or_default();
            env.retain(|other| other.split('=').next() != Some(name));
            env.push(pair.clone());
        }
        process.set_env(Some(env));
        if let Some(user) = &self.user {
            process.set_user(ids(user, process.user())?);
        }
        if !self.additional_gids.is_empty() {
            let mut user = process.user().clone();
            user.set_additional_gids(Some(self.additional_gids.clone()));
            process.set_user(user);
        }
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        if !self.cap.is_empty() {
            process.set_capabilities(Some(with(process.capabilities().as_ref(), &self.cap)?));
        }
        Ok(process)
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Process, CommandError> {
    serde_json::from_slice(text).map_err(|error| CommandError::user(format_args!("{}: {error}", path.display())))
}

/// `UID[:GID]`; names are for those who know the container's files.
fn ids(text: &str, before: &User) -> Result<User, CommandError> {
    let wrong = || CommandError::user(format_args!("--user {text}: must be UID or UID:GID, in numbers"));
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let mut user = before.clone();
    user.set_uid(uid.parse().map_err(|_| wrong())?);
    if let Some(gid) = gid {
        user.set_gid(gid.parse().map_err(|_| wrong())?);
    }
    Ok(user)
}

/// Adds capabilities to all sets but the ambient one, as runc and crun do.
fn with(before: Option<&LinuxCapabilities>, names: &[String]) -> Result<LinuxCapabilities, CommandError> {
    let names = names.iter().map(|name| name.parse::<Selection>().map_err(CommandError::user));
    let added = CapabilitySet::EMPTY.adjust(&names.collect::<Result<Vec<_>, _>>()?, &[]);
    let sets = before.map(Sets::from).unwrap_or_default();
    let more = |set: CapabilitySet| CapabilitySet::from_bits(set.bits() | added.bits());
    let sets = Sets {
        bounding: more(sets.bounding),
        effective: more(sets.effective),
        permitted: more(sets.permitted),
        inheritable: sets.inheritable,
        ambient: sets.ambient,
    };
    Ok(sets.into())
}
