//! Joins a running container and executes a program there.
//!
//! ```text
//! P (CLI)                 J (joiner)                     X
//!  │ clone3 ────────────▶ not dumpable                   ·
//!  │                      setns(pidfd of init, all)      ·
//!  │ ◀── console ──────── opens a pty (-t)               ·
//!  │                      clone3(PARENT, INTO_CGROUP) ──▶ streams, credentials, filter
//!  │ ◀── process ──────── exits                          │
//!  │ ◀════ end of file, or failed ══════════════════════ execve
//! ```
//! P itself never enters the container; X is its child all the same, so P waits for it like for any other. Nothing in the
//! container can look into J or X before `execve`: they are not dumpable, and what they run belongs to the host's user
//! namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use oci_spec::runtime::Process;

use crate::identity;
use crate::init::handshake::{Channel, Report, pair};
use crate::init::sealed_exe::SealedExe;
use crate::init::steps::{self, BecomeOptions, InitError};
use crate::mount::open_in_root;
use crate::process::pty::{Pty, Winsize};
use crate::process::stdio::{self, ContainerEnd, Input, pipes};
use crate::process::{Forked, clone3, prctl, wait};
use crate::sys::SysError;
use crate::sys::process::setns;

/// What to execute, and where.
pub struct Request<'a> {
    /// The container's init.
    pub init: BorrowedFd<'a>,
    /// The namespaces to join, `CLONE_NEW*`.
    pub namespaces: i32,
    /// The container's cgroup.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The program and its credentials.
    pub process: &'a Process,
    /// Where its standard streams lead.
    pub streams: Streams,
    /// Our binary, if it needs protection.
    pub seal: Option<&'a SealedExe>,
    /// The runtime directory of a container whose ids are emulated.
    pub notifier: Option<BorrowedFd<'a>>,
    /// What [`steps::become_program`] needs besides.
    pub options: BecomeOptions<'a>,
}

/// Where the standard streams of a program lead.
#[derive(Debug, Clone, Copy)]
pub enum Streams {
    /// A terminal of the container's own, of this size.
    Terminal(Option<Winsize>),
    /// The same, whose master goes to somebody else.
    Console(Option<Winsize>),
    /// Pipes; standard input is this.
    Pipes(Input),
    /// Where the caller's lead: to `/dev/null` or what the container shall have.
    Inherited,
}

/// A program that runs.
#[derive(Debug)]
pub struct Started {
    /// Its pidfd; it is a child of the caller.
    pub pidfd: OwnedFd,
    /// Our ends of its streams; `None` for those it inherited, and with [`Streams::Console`].
    pub streams: Option<stdio::Streams>,
    /// The master of [`Streams::Console`].
    pub console: Option<OwnedFd>,
}

/// Why a program could not be executed in a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// A kernel call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// The container's side failed, and said why.
    #[error("{message}")]
    Failed {
        /// Exit status: 125, 126 or 127.
        code: i32,
        /// One line.
        message: String,
    },
    /// The container went away meanwhile.
    #[error("the container has exited")]
    Gone,
}

/// Starts the program.
pub fn start(request: Request<'_>) -> Result<Started, ExecError> {
    let (theirs, ours) = pair()?;
    let (ends, streams) = match request.streams {
        Streams::Terminal(_) | Streams::Console(_) | Streams::Inherited => (None, None),
        Streams::Pipes(stdin) => {
            let (container, supervisor) = pipes(stdin).map_err(SysError::of("pipe2", "O_CLOEXEC"))?;
            (Some(container), Some(supervisor))
        }
    };
    let wanted = request.streams;
    let notifier = request.notifier;
    let groups = request.process.user().additional_gids().clone().unwrap_or_default();
    let joiner = match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Child => {
            drop(ours);
            std::process::exit(join(request, ends, theirs))
        }
        Forked::Parent { pidfd, .. } => pidfd,
    };
    drop((ends, theirs));
    let (mut process, mut streams, mut console) = (None, streams, None);
    let outcome = loop {
        match ours.receive()? {
            Report::Process(pidfd) => process = Some(pidfd),
            Report::Console(master) => {
                if let Streams::Terminal(Some(size)) | Streams::Console(Some(size)) = wanted {
                    // A size that cannot be set is one the program will not see; it still runs.
                    let _ = size.apply(&master);
                }
                if matches!(wanted, Streams::Console(_)) {
                    console = Some(master);
                    continue;
                }
                streams = Some(stdio::Streams::terminal(master).map_err(SysError::of("ioctl", "TIOCGPTPEER"))?);
            }
            // Without the notifier the calls of the program fail, and it says so.
            Report::Listener(listener) => {
                let _ = notifier.map(|directory| identity::socket::hand_in(directory, listener.as_fd(), &groups));
            }
            Report::Ready | Report::Root(..) | Report::Fuse(_) => {}
            Report::Failed { code, message } => break Err(ExecError::Failed { code, message }),
            Report::Closed => break Ok(()),
        }
    };
    // The joiner has closed its end, so it has exited or is about to.
    let _ = wait(joiner.as_fd(), true);
    if let (Err(_), Some(process)) = (&outcome, &process) {
        // It has said why and exits. A pid namespace cannot end before the last of its processes has been waited for.
        let _ = wait(process.as_fd(), true);
    }
    outcome?;
    let pidfd = process.ok_or(ExecError::Gone)?;
    Ok(Started { pidfd, streams, console })
}

/// J: everything until X exists.
fn join(request: Request<'_>, ends: Option<ContainerEnd>, channel: Channel) -> i32 {
    match enter(request, ends, &channel) {
        Ok(()) => 0,
        Err(error) => {
            let code = error.code();
            // Nobody listening means that the caller is gone, and we go too.
            let _ = channel.report(&Report::Failed { code, message: error.to_string() });
            code
        }
    }
}

fn enter(request: Request<'_>, ends: Option<ContainerEnd>, channel: &Channel) -> Result<(), InitError> {
    prctl(libc::PR_SET_DUMPABLE, 0).map_err(SysError::of("prctl", "PR_SET_DUMPABLE, 0"))?;
    crate::sys::process::hide_command_line(c"coracle-exec");
    // A terminal's ^C and ^Z are for the client; what it means for the program, it says.
    nix::unistd::setsid().map_err(SysError::of("setsid", ""))?;
    let mut flags = request.namespaces;
    let mut sealed = None;
    if let Some(seal) = request.seal {
        // A mount of the host's tree can be made only in a mount namespace that the container's user namespace owns.
        if flags & libc::CLONE_NEWUSER != 0 {
            join_namespaces(request.init, libc::CLONE_NEWUSER)?;
            flags &= !libc::CLONE_NEWUSER;
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(SysError::of("unshare", "CLONE_NEWNS"))?;
        sealed = Some(seal.open()?);
    }
    // From inside of a cgroup namespace nobody gets into it who was not there before: the program joins it after its cgroup.
    let cgroup_namespace = flags & libc::CLONE_NEWCGROUP;
    join_namespaces(request.init, flags & !libc::CLONE_NEWCGROUP)?;
    let pty = match request.streams {
        Streams::Terminal(_) | Streams::Console(_) => {
            let single_id = request.options.emulation.is_some();
            Some(open_pty(request.process, single_id, channel)?)
        }
        Streams::Pipes(_) | Streams::Inherited => None,
    };
    let forked = match clone3(libc::CLONE_PARENT as u64, request.cgroup) {
        // Who was started in a login's cgroup may not leave it for one of the user manager's: the program runs, and is
        // counted with the login.
        Err(nix::errno::Errno::EACCES) if request.cgroup.is_some() => clone3(libc::CLONE_PARENT as u64, None),
        forked => forked,
    };
    match forked.map_err(SysError::of("clone3", "CLONE_PARENT"))? {
        Forked::Parent { pidfd, .. } => {
            channel.report(&Report::Process(pidfd))?;
            Ok(())
        }
        Forked::Child => {
            let mut options = request.options;
            options.sealed = sealed.as_ref();
            if cgroup_namespace != 0 {
                join_namespaces(request.init, cgroup_namespace)?;
            }
            Err(run(request.process, ends, pty, &options, channel))
        }
    }
}

/// X: everything until `execve`. Returns only a failure.
fn run(
    process: &Process,
    ends: Option<ContainerEnd>,
    terminal: Option<OwnedFd>,
    options: &BecomeOptions<'_>,
    channel: &Channel,
) -> InitError {
    let attempt = || {
        crate::userns::become_root()?;
        nix::unistd::setsid().map_err(SysError::of("setsid", ""))?;
        let streams = ends.map_or(steps::Streams::Inherited, steps::Streams::Pipes);
        steps::connect_streams(streams, terminal, process)?;
        let root =
            nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
                .map_err(SysError::of("open", "/"))?;
        steps::become_program(process, root, options, channel)
    };
    attempt().unwrap_or_else(|error| error)
}

/// The namespaces of process `pid` that are others than the caller's, `CLONE_NEW*`: what there is to join.
///
/// # Errors
/// `/proc` does not say: the process has ended, or is not the caller's to look into.
pub fn namespaces_unlike_ours(pid: i32) -> std::io::Result<i32> {
    let kinds = [
        ("user", libc::CLONE_NEWUSER),
        ("mnt", libc::CLONE_NEWNS),
        ("pid", libc::CLONE_NEWPID),
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("time", libc::CLONE_NEWTIME),
    ];
    kinds.into_iter().try_fold(0, |flags, (name, flag)| {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{name}"));
        match of("self") {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(flags),
            ours => Ok(if ours? == of(&pid.to_string())? { flags } else { flags | flag }),
        }
    })
}

fn join_namespaces(init: BorrowedFd<'_>, flags: i32) -> Result<(), SysError> {
    setns(init, flags).map_err(SysError::of("setns", format!("pidfd, {flags:#x}")))
}

/// Opens a pty in the container's devpts, of which the container has to be believed nothing.
fn open_pty(process: &Process, single_id: bool, channel: &Channel) -> Result<OwnedFd, InitError> {
    let root =
        nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
            .map_err(SysError::of("open", "/"))?;
    let devpts = open_in_root(root.as_fd(), Path::new("/dev/pts"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let kind = nix::sys::statfs::fstatfs(&devpts).map_err(SysError::of("fstatfs", "/dev/pts"))?.filesystem_type();
    // DEVPTS_SUPER_MAGIC of linux/magic.h.
    if kind.0 as u64 & 0xffff_ffff != 0x1cd1 {
        return Err(SysError { call: "fstatfs", args: "/dev/pts".into(), errno: nix::errno::Errno::ENOTTY }.into());
    }
    let pty = Pty::open(&devpts).map_err(SysError::of("open", "/dev/pts/ptmx"))?;
    steps::give_terminal(&pty, process, single_id)?;
    channel.report(&Report::Console(pty.master))?;
    Ok(pty.slave)
}
