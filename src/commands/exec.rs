//! `coracle exec`: a program more in a running container.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use runtime::cgroup::Cgroup;
use runtime::exec::{self, ExecError};
use runtime::identity::{self, Emulation};
use runtime::init::credentials::LoadFilter;
use runtime::init::sealed_exe::SealedExe;
use runtime::init::steps::{BecomeOptions, InitError, keeps_groups};
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::monitor::log::Log;
use runtime::monitor::relay::{self, Relay, StdinPolicy};
use runtime::process::inherited::Inherited;
use runtime::process::pty::{RawMode, Winsize, is_terminal};
use runtime::process::signal::{Signal, SignalSource};
use runtime::process::stdio::Input;
use runtime::process::{Exit, Forked, clone3, pidfd, pidfd_send_signal, wait};
use runtime::security::capabilities::{CapabilitySet, Selection, process_sets};
use runtime::userns::Mapping;
use storage::state::container::{self, Record};
use storage::state::events::Event;
use storage::state::layout::ContainerId;
use storage::state::status::{self, State};

use super::descriptors::DescriptorOptions;
use super::run::parse_detach_keys;
use super::{Context, Outcome, create};
use crate::cli::exec_options::{ExecOptions, ExecRequest};
use crate::cli::user;
use crate::error::{CommandError, reason};
use crate::supervisor::bundle;
use crate::supervisor::launch::seccomp_of;
use crate::supervisor::rootfs::View;
use crate::supervisor::secrets::Secrets;

const EXAMPLES: &str = r#"Examples:
  coracle exec -it web sh                # a shell in a running container
  coracle exec -u root -w /tmp web ls -l
  coracle exec -d web touch /ready"#;

/// Run a process in a running container
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    #[command(flatten)]
    descriptors: DescriptorOptions,
    #[command(flatten)]
    options: ExecOptions,
}

/// What wakes the command while the program runs.
#[derive(Debug, Clone, Copy)]
enum Wake {
    Relay(relay::Event),
    Exited,
    Signal,
}

/// Runs `coracle exec`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let request = create::with_caller(|caller| args.options.ask(caller).map_err(CommandError::user))?;
    args.options.accepted.warn();
    let inherited = args.descriptors.take()?;
    let record = match &request.container {
        Some(name) => container::find(&context.layout, name).map_err(|error| missing(context, error))?,
        None => super::select::latest(context)?,
    };
    let observed = status::observe(&context.layout, &record).map_err(CommandError::host)?;
    let init = match &observed.state {
        State::Running { init, .. } => *init,
        other => return Err(not_running(context, &record, other)),
    };
    let gone = |_| CommandError::user(format!("container {} is not running", record.name));
    let target = pidfd::open_checked(init.pid, init.start_time).map_err(gone)?;
    if request.detach {
        return detach(context, &request, &record, (init.pid, target.as_fd()), inherited);
    }
    start(context, &request, &record, (init.pid, target.as_fd()), inherited, || ())
}

/// Leaves the program to a process that waits for its end, so that somebody can say how it ended.
///
/// ```text
/// CLI ── fork ──▶ watcher: starts the program
///  │ ◀── status, message ── │ (nothing but a zero once it has started)
///  id on stdout             waits, notes `exec_died`
/// ```
fn detach(
    context: &Context,
    request: &ExecRequest,
    record: &Record,
    init: (i32, BorrowedFd<'_>),
    inherited: Inherited,
) -> Outcome {
    let (mut answer, question) =
        std::io::pipe().map_err(|error| CommandError::host(format!("pipe(): {}", reason(&error))))?;
    let forked =
        clone3(0, None).map_err(|errno| CommandError::host(format!("clone3(): {}", errno.desc().to_lowercase())))?;
    if let Forked::Child = forked {
        drop(answer);
        let _ = nix::unistd::setsid();
        let mut question = Some(question);
        let mut say = |code: u8, message: &str| {
            if let Some(mut pipe) = question.take() {
                // Nobody to read it means nobody to tell.
                let _ = pipe.write_all(&[&[code], message.as_bytes()].concat());
            }
        };
        let started =
            let_go_of_streams().and_then(|()| start(context, request, record, init, inherited, || say(0, "")));
        if let Err(error) = started {
            say(error.code(), &error.to_string());
        }
        std::process::exit(0);
    }
    drop(question);
    let mut told = Vec::new();
    answer
        .read_to_end(&mut told)
        .map_err(|error| CommandError::host(format!("read from a process of ours: {}", reason(&error))))?;
    match told.split_first() {
        Some((0, _)) => {}
        Some((code, message)) => {
            return Err(CommandError::user(String::from_utf8_lossy(message)).with_code(*code));
        }
        None => return Err(create::internal("exec was given up without a word")),
    }
    if context.persona == crate::role::Persona::Podman {
        // The id of the session; sessions end with their programs, and nothing asks for them by id.
        crate::cli::output::print_line(ContainerId::random())?;
    }
    Ok(0)
}

fn missing(context: &Context, error: container::ContainerError) -> CommandError {
    let error = CommandError::user(error);
    if context.persona == crate::role::Persona::Docker { error.with_code(1) } else { error }
}

/// podman's code for a container in another state is 255, docker's is 1.
fn not_running(context: &Context, record: &Record, state: &State) -> CommandError {
    let code = if context.persona == crate::role::Persona::Docker { 1 } else { 255 };
    let error = CommandError::user(format!(
        "can only create exec sessions on running containers: container {} is {}: container state improper",
        record.name,
        state.as_str()
    ))
    .with_code(code);
    match state {
        State::Paused { .. } => error.hinted(format!("coracle unpause {}", record.name)),
        _ => error,
    }
}

fn start(
    context: &Context,
    request: &ExecRequest,
    record: &Record,
    (pid, target): (i32, BorrowedFd<'_>),
    mut inherited: Inherited,
    started_well: impl FnOnce(),
) -> Outcome {
    let path = context.layout.container(&record.id).join("config.json");
    let text = std::fs::read(&path)
        .map_err(|error| CommandError::host(format!("read {}: {}", path.display(), crate::error::reason(&error))))?;
    let spec: Spec =
        serde_json::from_slice(&text).map_err(|error| CommandError::host(format!("{}: {error}", path.display())))?;
    let spec = Secrets::find(&context.layout, &record.request.secrets)?.add_variables(&spec).into_owned();
    let process = process_of(request, record, &spec, pid)?;
    let keys = parse_detach_keys(request.detach_keys.as_deref())?;
    let seccomp = if request.privileged { None } else { seccomp_of(&record.request, &spec)? };
    let load = seccomp.as_ref().map(|seccomp| || seccomp.filter.load().map_err(InitError::from));
    let keyring = std::ffi::CString::new(format!("_coracle.{}", record.id)).unwrap_or_default();
    let seal = SealedExe::of_self()?;
    let cgroup = cgroup_of(context, record);
    let runtime_dir = context.layout.runtime_container(&record.id);
    let (emulation, notifier) = match bundle::is_single(&record.request.userns, &Mapping::of_user()) {
        false => (None, None),
        true if runtime_dir.join(identity::socket::NAME).exists() => {
            let directory = std::fs::File::open(&runtime_dir).map_err(|error| {
                let reason = crate::error::reason(&error);
                CommandError::host(format!("open {}: {reason}", runtime_dir.display()))
            })?;
            (Some(Emulation::Notify), Some(directory))
        }
        true => (Some(Emulation::Succeed), None),
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let size = [stdin.as_fd(), stdout.as_fd()].into_iter().find_map(|fd| Winsize::of(fd).ok());
    let keep = |fd: BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|error| CommandError::host(format!("dup(): {}", reason(&error))))
    };
    let streams = match (request.detach, request.tty) {
        // The watcher's, which lead nowhere.
        (true, _) => exec::Streams::Inherited,
        (false, true) => exec::Streams::Terminal(size),
        (false, false) => exec::Streams::Pipes(if request.interactive { Input::Pipe } else { Input::Null }),
    };
    // From here on signals are the program's.
    let signals = SignalSource::block(&[runtime::process::signal::proxied(), vec![Signal::WINCH]].concat())
        .map_err(|errno| CommandError::host(format!("signalfd(): {}", errno.desc().to_lowercase())))?;
    let started = exec::start(exec::Request {
        init: target,
        namespaces: namespaces_of(&spec),
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
        process: &process,
        streams,
        seal: seal.as_ref(),
        notifier: notifier.as_ref().map(AsFd::as_fd),
        options: BecomeOptions {
            keyring: Some(&keyring),
            filter_hides_keyrings: seccomp.as_ref().is_some_and(|seccomp| seccomp.hides_keyrings),
            keep_groups: keeps_groups(&spec),
            emulation,
            dies_with_parent: false,
            filter: load.as_ref().map(|load| load as LoadFilter<'_>),
            sealed: None,
            inherited: &inherited,
            pause: false,
            gate: None,
            preserved_fds: 0,
        },
    })
    .map_err(failure);
    let started = started?;
    inherited.let_go();
    context.note(record, "exec");
    started_well();
    let Some(streams) = started.streams else {
        if let Ok(Some(exit)) = wait(started.pidfd.as_fd(), true) {
            note_end(context, record, exit);
        }
        return Ok(0);
    };
    let policy = if request.interactive { StdinPolicy::Once } else { StdinPolicy::NotInteractive };
    let errno = |errno: nix::errno::Errno| CommandError::host(format!("dup(): {}", errno.desc().to_lowercase()));
    let mut relay = Relay::new(streams, policy, Log::none()).map_err(errno)?;
    let is_raw = request.tty && request.interactive && is_terminal(stdin.as_fd());
    let raw = is_raw.then(|| RawMode::enter(stdin.as_fd())).transpose().map_err(errno)?;
    relay.attach_first(relay::FirstClient {
        control: None,
        stdin: request.interactive.then(|| keep(stdin.as_fd())).transpose()?,
        stdout: Some(keep(stdout.as_fd())?),
        stderr: (!request.tty).then(|| keep(stderr.as_fd())).transpose()?,
        detach_keys: if is_raw { keys } else { runtime::monitor::detach_keys::DetachKeys::none() },
    });
    let exit = watch(&mut relay, started.pidfd.as_fd(), &signals);
    drop(raw);
    if exit.is_none() {
        hold(&mut relay, started.pidfd.as_fd())?;
    }
    if let Some(exit) = exit {
        note_end(context, record, exit);
    }
    Ok(exit.map_or(0, Exit::code))
}

fn note_end(context: &Context, record: &Record, exit: Exit) {
    let died = Event::container(record, "exec_died").with_exit_code(i32::from(exit.code()));
    storage::state::events::note(&context.layout, &[died]);
}

/// Copies until the program has ended (`None`: the user detached).
pub(super) fn watch(relay: &mut Relay, program: BorrowedFd<'_>, signals: &SignalSource) -> Option<Exit> {
    let mut ended = None;
    loop {
        let mut turn = Turn::new();
        relay.watch(&mut turn, Wake::Relay);
        if ended.is_none() {
            turn.watch(program, Interest::Read, Wake::Exited);
        }
        turn.watch(signals.as_fd(), Interest::Read, Wake::Signal);
        for one in turn.wait(None).unwrap_or_default() {
            match one.event {
                Wake::Relay(event) => {
                    let _ = relay.on(event);
                }
                Wake::Exited => {
                    if let Ok(Some(exit)) = wait(program, false) {
                        ended = Some(exit);
                        let _ = relay.container_exited(exit);
                    }
                }
                Wake::Signal => {
                    while let Ok(Some(arrived)) = signals.next() {
                        if arrived.signal != Signal::WINCH {
                            let _ = pidfd_send_signal(program, arrived.signal.number());
                        } else if let Ok(size) = Winsize::of(std::io::stdin().as_fd()) {
                            relay.resize(size);
                        }
                    }
                }
            }
        }
        if relay.is_alone() {
            return ended;
        }
    }
}

/// Leaves a process behind that holds the terminal of a program whose client has detached: without it the program would be
/// hung up.
fn hold(relay: &mut Relay, program: BorrowedFd<'_>) -> Result<(), CommandError> {
    let forked =
        clone3(0, None).map_err(|errno| CommandError::host(format!("clone3(): {}", errno.desc().to_lowercase())))?;
    if let Forked::Parent { .. } = forked {
        return Ok(());
    }
    let _ = nix::unistd::setsid();
    let _ = let_go_of_streams();
    loop {
        let mut turn = Turn::new();
        relay.watch(&mut turn, Wake::Relay);
        turn.watch(program, Interest::Read, Wake::Exited);
        for one in turn.wait(None).unwrap_or_default() {
            match one.event {
                Wake::Relay(event) => drop(relay.on(event)),
                Wake::Exited | Wake::Signal => std::process::exit(0),
            }
        }
    }
}

fn let_go_of_streams() -> Result<(), CommandError> {
    let fail = |reason: String| CommandError::host(format!("open /dev/null: {reason}"));
    let null =
        std::fs::File::options().read(true).write(true).open("/dev/null").map_err(|error| fail(reason(&error)))?;
    nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .and_then(|()| nix::unistd::dup2_stderr(&null))
        .map_err(|errno| fail(errno.desc().to_lowercase()))
}

fn failure(error: ExecError) -> CommandError {
    match error {
        ExecError::Failed { code, message } => CommandError::host(message).with_code(code as u8),
        other => CommandError::host(other),
    }
}

/// The program: the container's process with what the command line changes.
fn process_of(request: &ExecRequest, record: &Record, spec: &Spec, pid: i32) -> Result<Process, CommandError> {
    let mut process = spec.process().clone().ok_or_else(|| create::internal("a bundle without a process"))?;
    let mut env = process.env().clone().unwrap_or_default();
    let set = |env: &mut Vec<String>, pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        env.retain(|other| other.split('=').next() != Some(name));
        env.push(pair.to_owned());
    };
    if let Some(spec) = &request.user {
        let root = View::Running(pid);
        let user = user::resolve(spec, &[], &root.read("/etc/passwd")?, &root.read("/etc/group")?)
            .map_err(CommandError::user)?;
        set(&mut env, &format!("HOME={}", user.home));
        let mut ids = process.user().clone();
        ids.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.additional_gids.clone()));
        process.set_user(ids);
    }
    let parse = |list: &[String]| {
        list.iter().map(|text| text.parse::<Selection>().map_err(CommandError::user)).collect::<Result<Vec<_>, _>>()
    };
    let (add, drop) = (parse(&record.request.cap_add)?, parse(&record.request.cap_drop)?);
    let bounding = match request.privileged || record.request.privileged {
        true => CapabilitySet::ALL,
        false => CapabilitySet::DEFAULT.adjust(&add, &drop),
    };
    let last = runtime::security::capabilities::last_capability();
    process.set_capabilities(Some(process_sets(bounding.up_to(last), &add, process.user().uid() == 0).into()));
    for pair in &request.env {
        set(&mut env, pair);
    }
    process.set_env(Some(env)).set_args(Some(request.args.clone())).set_terminal(Some(request.tty));
    if let Some(workdir) = &request.workdir {
        process.set_cwd(workdir.clone());
    }
    if let Some(limit) = bundle::open_files(&record.request) {
        let mut limits = process.rlimits().clone().unwrap_or_default();
        limits.retain(|other| other.typ() != limit.typ());
        limits.push(limit);
        process.set_rlimits(Some(limits));
    }
    Ok(process)
}

/// The namespaces of a container that are not the host's, which can be joined by nobody but root.
pub(crate) fn namespaces_of(spec: &Spec) -> i32 {
    let listed = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    let flags = listed.map(|one| match one.typ() {
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Mount | LinuxNamespaceType::User | LinuxNamespaceType::Time => 0,
    });
    flags.fold(libc::CLONE_NEWUSER | libc::CLONE_NEWNS, |all, one| all | one)
}

/// The cgroup that the supervisor made for the container, if it made one; this process goes where it can be reached from.
fn cgroup_of(context: &Context, record: &Record) -> Option<OwnedFd> {
    let path = status::observe(&context.layout, record).ok()?.cgroup?;
    if let Err(error) = crate::supervisor::cgroup::come_near(&path) {
        eprintln!("Warning: the limits of container {} do not hold this process: {error}", record.name);
        return None;
    }
    Cgroup::open(&path)
}
