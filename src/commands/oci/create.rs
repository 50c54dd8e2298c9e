//! `create`: everything but the program. Its init waits for `start`.
//!
//! ```text
//! init                        create
//!  │          ◄──── go ─────  id maps are written
//!  │ ──── ready ───────────►  prestart and createRuntime hooks
//!  │          ◄──── go ─────
//!  │ createContainer hooks, pivot_root
//!  │ ──── console ─────────►  to --console-socket
//!  │ ──── ready ───────────►
//!  │          ◄──── go ─────
//!  │ credentials, filter; the program is looked for
//!  │ ──── ready ───────────►  the state is written
//!  │          ◄──── go ─────  ends
//! ```

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use oci_spec::runtime::{Hook, Process, Spec};
use runtime::cgroup::Cgroup;
use runtime::hooks;
use runtime::init::gate;
use runtime::init::handshake::{self, Channel, Report};
use runtime::init::sealed_exe::SealedExe;
use runtime::process::pty::Winsize;
use runtime::process::{pidfd, pidfd_send_signal, spawn, wait};
use runtime::security::seccomp::Filter;
use storage::state::atomic::{Durability, write_atomic};
use storage::state::oci::{Container, Stage};

use super::bundle::Bundle;
use super::init::{self, Maps, Plan};
use super::log::Level;
use super::{Outcome, Runtime, cgroup, status};
use crate::error::{CommandError, reason};

/// What `create` and `run` have in common.
#[derive(clap::Args, Debug)]
pub(super) struct Options {
    /// Id of the container: unique among those of --root
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Configuration to take instead of the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket that gets the master end of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// File to write the pid of the container's init to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Number of descriptors from 3 upward that the process gets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Do without pivot_root (refused: the host's files would stay within reach)
    #[arg(long)]
    no_pivot: bool,
    /// Leave the process the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Make no subreaper (there never is one)
    #[arg(long)]
    no_subreaper: bool,
}

/// Create a container, whose process waits for start
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
}

/// Runs `create`.
pub(super) fn run(args: Args, runtime: &Runtime) -> Outcome {
    let created = create(&args.options, args.options.console_socket.is_some(), runtime);
    // 126 and 127 are for those who run a program.
    created.map(|_| 0).map_err(|error| error.with_code(1))
}

/// A container whose init waits.
pub(super) struct Created {
    pub(super) container: Container,
    /// A child of ours.
    pub(super) init: OwnedFd,
    /// The terminal's master, without `--console-socket`.
    pub(super) console: Option<OwnedFd>,
}

/// Creates a container. `takes_console`: there is somebody for the terminal.
pub(super) fn create(options: &Options, takes_console: bool, runtime: &Runtime) -> Result<Created, CommandError> {
    if options.no_pivot {
        return Err(CommandError::user("--no-pivot: not supported: the host's files would stay within reach"));
    }
    let mut bundle = Bundle::open(&options.bundle, options.config.as_deref())?;
    let is_terminal = bundle.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
    match (is_terminal, takes_console, &options.console_socket) {
        (true, false, _) => {
            return Err(CommandError::user("process.terminal: the terminal is for nobody: --console-socket is needed"));
        }
        (false, _, Some(socket)) => {
            let name = socket.display();
            return Err(CommandError::user(format_args!("--console-socket {name}: the process has no terminal")));
        }
        _ => {}
    }
    let preserved_fds = preserved(options.preserve_fds, &mut bundle.spec)?;
    let mut container = runtime.root.create(&options.id)?;
    let spec = &bundle.spec;
    let record = &mut container.record;
    record.oci_version = spec.version().clone();
    record.bundle = bundle.path.clone();
    record.rootfs = bundle.rootfs.clone();
    record.annotations = spec.annotations().clone().unwrap_or_default().into_iter().collect();
    record.created = Timestamp::now().to_string();
    record.owner = nix::unistd::getuid().as_raw();
    record.keeps_keyring = options.no_new_keyring;
    let prepared = container.write("config.json", &bundle.text).and_then(|()| container.save());
    let attempt = prepared.map_err(CommandError::from).and_then(|()| {
        Ok(Attempt {
            listener: gate::listen_in(container.directory())?,
            cgroup: cgroup::make(spec, runtime.manager, &runtime.log)?,
        })
    });
    let attempt = match attempt {
        Ok(attempt) => attempt,
        Err(error) => {
            let _ = container.remove();
            return Err(error);
        }
    };
    attempt.go(options, bundle, container, is_terminal, preserved_fds, runtime)
}

/// What is to be taken back if it comes to nothing.
struct Attempt {
    listener: OwnedFd,
    cgroup: Option<Cgroup>,
}

impl Attempt {
    fn go(
        self,
        options: &Options,
        bundle: Bundle,
        mut container: Container,
        is_terminal: bool,
        preserved_fds: u32,
        runtime: &Runtime,
    ) -> Result<Created, CommandError> {
        let Attempt { listener, cgroup } = self;
        container.record.cgroup = cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        let undo = |container: Container, error| {
            take_away(cgroup.as_ref());
            let _ = container.remove();
            error
        };
        let plan = match plan(options, bundle, &container, listener, is_terminal, preserved_fds) {
            Ok(plan) => plan,
            Err(error) => return Err(undo(container, error)),
        };
        let (theirs, channel) = match handshake::pair() {
            Ok(pair) => pair,
            Err(error) => return Err(undo(container, error.into())),
        };
        let directory = runtime.root.clone();
        let (pid, init, mut container) = match init::clone(&plan, container, cgroup.as_ref(), theirs) {
            Ok(born) => born,
            Err(error) => {
                take_away(cgroup.as_ref());
                // It went with the attempt to clone; nobody else can have it.
                if let Ok(container) = directory.open(&options.id) {
                    let _ = container.remove();
                }
                return Err(error);
            }
        };
        let mut progress = Progress { is_made: false, console: None };
        match progress.follow(&plan, &mut container, (pid, &init), &channel, options) {
            Ok(()) => {
                runtime.log.line(Level::Debug, format_args!("container {}: init is process {pid}", options.id));
                Ok(Created { container, init, console: progress.console })
            }
            Err(error) => {
                let _ = pidfd_send_signal(init.as_fd(), libc::SIGKILL);
                let _ = wait(init.as_fd(), true);
                let record = container.record.clone();
                let error = undo(container, error);
                if progress.is_made {
                    poststop(&plan.spec, &record, runtime);
                }
                Err(error)
            }
        }
    }
}

/// How far a creation has come.
struct Progress {
    is_made: bool,
    console: Option<OwnedFd>,
}

impl Progress {
    fn follow(
        &mut self,
        plan: &Plan,
        container: &mut Container,
        (pid, init): (i32, &OwnedFd),
        channel: &Channel,
        options: &Options,
    ) -> Result<(), CommandError> {
        plan.maps.write(&plan.spec, pid)?;
        channel.send_go()?;
        let mut ready = 0;
        loop {
            match channel.receive()? {
                Report::Console(master) => {
                    let asked = plan.spec.process().as_ref().and_then(Process::console_size).map(|size| Winsize {
                        rows: size.height().try_into().unwrap_or(0),
                        cols: size.width().try_into().unwrap_or(0),
                    });
                    // Ours, if the terminal is to be shown on it.
                    let own = options.console_socket.is_none().then(own_size).flatten();
                    if let Some(size) = asked.or(own) {
                        // A size that cannot be set is one the program will not see; it still runs.
                        let _ = size.apply(&master);
                    }
                    match &options.console_socket {
                        Some(socket) => send_console(socket, &master)?,
                        None => self.console = Some(master),
                    }
                }
                Report::Ready => {
                    ready += 1;
                    match ready {
                        1 => {
                            self.is_made = true;
                            container.record.pid = pid;
                            created_hooks(&plan.spec, container)?;
                        }
                        2 => {}
                        _ => {
                            self.written(container, (pid, init), options)?;
                            return Ok(channel.send_go()?);
                        }
                    }
                    channel.send_go()?;
                }
                Report::Failed { code, message } => return Err(init_failed(code, message)),
                Report::Closed => return Err(ended(init)),
                Report::Root(..) | Report::Process(_) | Report::Fuse(_) | Report::Listener(_) => {}
            }
        }
    }

    fn written(
        &self,
        container: &mut Container,
        (pid, init): (i32, &OwnedFd),
        options: &Options,
    ) -> Result<(), CommandError> {
        container.record.start_time = pidfd::start_time(pid).ok_or_else(|| ended(init))?;
        container.record.status = Stage::Created;
        if let Some(path) = &options.pid_file {
            write_pid(path, pid)?;
        }
        Ok(container.save()?)
    }
}

fn plan(
    options: &Options,
    bundle: Bundle,
    container: &Container,
    listener: OwnedFd,
    is_terminal: bool,
    preserved_fds: u32,
) -> Result<Plan, CommandError> {
    let Bundle { mut spec, rootfs, .. } = bundle;
    let filter = filter_of(&spec)?;
    let maps = Maps::of(&spec)?;
    if spec.process().is_none() {
        let mut process = Process::default();
        process.set_args(None).set_env(None).set_capabilities(None).set_rlimits(None);
        spec.set_process(Some(process));
    }
    let keyring = match options.no_new_keyring {
        true => None,
        false => Some(keyring_name(&options.id)),
    };
    Ok(Plan {
        spec,
        rootfs,
        record: container.record.clone(),
        listener,
        is_terminal,
        keyring,
        filter,
        seal: SealedExe::of_self()?,
        maps,
        preserved_fds,
    })
}

/// The filter that a bundle asks for.
pub(super) fn filter_of(spec: &Spec) -> Result<Option<Filter>, CommandError> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    seccomp.map(Filter::from_oci).transpose().map_err(CommandError::user)
}

/// The name of a container's session keyring.
pub(super) fn keyring_name(id: &str) -> CString {
    CString::new(format!("_ses.{id}")).unwrap_or_default()
}

/// Counts the descriptors that the process gets: those of `--preserve-fds`, and those that systemd has handed over, which
/// come first. They must be there: what we open ourselves would take their numbers.
pub(super) fn preserved(asked: u32, spec: &mut Spec) -> Result<u32, CommandError> {
    let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let handed_over = std::env::var("LISTEN_FDS").ok().filter(|_| is_ours).and_then(|count| count.parse::<u32>().ok());
    let handed_over = handed_over.unwrap_or(0);
    if handed_over > 0
        && let Some(mut process) = spec.process().clone()
    {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend([format!("LISTEN_FDS={handed_over}"), "LISTEN_PID=1".to_owned()]);
        process.set_env(Some(env));
        spec.set_process(Some(process));
    }
    let count = asked.saturating_add(handed_over);
    if let Some(missing) = (3..3 + count.min(4096)).find(|fd| !Path::new(&format!("/proc/self/fd/{fd}")).exists()) {
        return Err(CommandError::user(format_args!("--preserve-fds {asked}: descriptor {missing} is not open")));
    }
    if count > 4096 {
        return Err(CommandError::user(format_args!("--preserve-fds {asked}: too many")));
    }
    spawn::keep_from_programs(3 + count.cast_signed())?;
    Ok(count)
}

fn created_hooks(spec: &Spec, container: &Container) -> Result<(), CommandError> {
    let Some(all) = spec.hooks() else { return Ok(()) };
    let state = status::state(&container.record, "creating", container.record.pid).to_string();
    #[allow(deprecated)]
    let prestart = all.prestart().as_deref();
    hooks::run_all("prestart", prestart, state.as_bytes())?;
    Ok(hooks::run_all("createRuntime", all.create_runtime().as_deref(), state.as_bytes())?)
}

/// Runs the poststop hooks: one that fails is no reason not to run the others.
pub(super) fn poststop(spec: &Spec, record: &storage::state::oci::Record, runtime: &Runtime) {
    let list: Option<&[Hook]> = spec.hooks().as_ref().and_then(|all| all.poststop().as_deref());
    let state = status::state(record, "stopped", 0).to_string();
    for hook in list.unwrap_or_default() {
        if let Err(error) = hooks::run("poststop", hook, state.as_bytes()) {
            runtime.log.line(Level::Warning, error);
        }
    }
}

/// Takes away a cgroup whose processes have been killed or are about to be.
pub(super) fn take_away(cgroup: Option<&Cgroup>) {
    let Some(cgroup) = cgroup else { return };
    let _ = cgroup.kill();
    let _ = cgroup.wait_empty();
    let _ = cgroup.remove();
}

/// Writes a pid file.
pub(super) fn write_pid(path: &Path, pid: i32) -> Result<(), CommandError> {
    Ok(write_atomic(path, pid.to_string().as_bytes(), Durability::None)?)
}

/// The size of the terminal that we are on.
pub(super) fn own_size() -> Option<Winsize> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    [stdin.as_fd(), stdout.as_fd()].into_iter().find_map(|fd| Winsize::of(fd).ok())
}

/// Hands a terminal's master to whoever listens.
///
/// # Source
/// runc, `docs/terminals.md`.
pub(super) fn send_console(path: &Path, master: &OwnedFd) -> Result<(), CommandError> {
    use std::os::fd::AsRawFd;
    let failed = |errno: nix::errno::Errno| {
        CommandError::user(format_args!("--console-socket {}: {}", path.display(), errno.desc().to_lowercase()))
    };
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path).map_err(failed)?).map_err(failed)?;
    let fds = [master.as_raw_fd()];
    let name = [std::io::IoSlice::new(b"/dev/ptmx")];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(fd.as_raw_fd(), &name, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop).map_err(failed)
}

/// What init has reported. podman takes a program that is a directory for one that may not be executed, as the kernel does,
/// if it reads the words of that.
pub(super) fn init_failed(code: i32, message: String) -> CommandError {
    let is_directory = code == 126 && message.ends_with("is a directory");
    let message = if is_directory { message + ": permission denied" } else { message };
    CommandError::host(message).with_code(code as u8)
}

fn ended(init: &OwnedFd) -> CommandError {
    match wait(init.as_fd(), true) {
        Ok(Some(exit)) => {
            CommandError::host(format_args!("the container's init ended before it was ready (status {})", exit.code()))
        }
        _ => CommandError::host("the container's init ended before it was ready"),
    }
}

/// A reason for what the file system says.
pub(super) fn because(what: &str, error: &std::io::Error) -> CommandError {
    CommandError::host(format_args!("{what}: {}", reason(error)))
}
