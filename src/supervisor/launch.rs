//! The command's half of a start: everything that can be decided before there is a process, then the fork.
//!
//! **Runs in:** the CLI, single-threaded, on the host.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Spec;
use runtime::init::sealed_exe::SealedExe;
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::mount::rootfs::Rootfs;
use runtime::mount::target::Append;

use runtime::process::signal::{Signal, SignalSource};
use runtime::process::spawn::{self, Side};
use runtime::process::{pidfd_send_signal, wait};
use runtime::security::capabilities::{CapabilitySet, Sets};
use runtime::security::seccomp::{self, Filter};
use runtime::userns::Mapping;
use runtime::userns::making::Making;
use storage::layer::IdMap;
use storage::state::container::Record;
use storage::state::layout::Layout;
use storage::state::request::{Request, SeccompProfile};

use super::channel::{self, ResultReader};
use super::streams::FirstClient;
use super::supervise;
use crate::error::{CommandError, Kind};

/// Whether the container is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Birth {
    /// `run`: it is created by its supervisor; without a name it gets a random one.
    New {
        /// `--name`.
        name: Option<String>,
    },
    /// `start`: its directory and record exist.
    Existing,
}

/// A container to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Every path on disk.
    pub(crate) layout: Layout,
    /// What it was asked to be; the name is filled in for [`Birth::New`].
    pub(crate) record: Record,
    /// Its bundle.
    pub(crate) spec: Spec,
    /// Its system call filter.
    pub(crate) seccomp: Option<Seccomp>,
    /// Its root file system.
    pub(crate) rootfs: Rootfs,
    /// How ids of the base user namespace become those that its layers have, which are those of its own user namespace.
    pub(crate) layer_ids: IdMap,
    /// New volumes to be filled.
    pub(crate) fill: Vec<PathBuf>,
    /// Its secrets, as files and as variables.
    pub(crate) secrets: super::secrets::Secrets,
    /// Lines for files of its root.
    pub(crate) accounts: Vec<Append>,
    /// What is to be done to files before they are mounted.
    pub(crate) chores: super::mounts::Chores,
    /// Its cgroup, decided.
    pub(crate) cgroup: super::cgroup::Plan,
    /// Its network, decided.
    pub(crate) network: super::network::Plan,
    /// Whether it is there already.
    pub(crate) birth: Birth,
    /// The command stays as the first client.
    pub(crate) attach: Option<FirstClient>,
    /// Init of a container whose namespaces are shared.
    pub(crate) beside: Option<OwnedFd>,
    /// The base user namespace, if there is one already; a bridge needs that of its leader.
    pub(crate) base: Option<OwnedFd>,
    /// Its base user namespace, which is being made; none if it joins another, or makes it when it is needed.
    pub(crate) making: Option<Making>,
    /// Held until the record says which ids the container has.
    pub(crate) ids: Option<storage::state::lock::FileLock>,
    /// The user's ids.
    pub(crate) mapping: Mapping,
    /// It ends with the process that starts it: a step of a build.
    pub(crate) dies_with_starter: bool,
    /// It is made ready and waits for somebody to start it.
    pub(crate) held: bool,
    /// Our binary, if it needs protection.
    pub(crate) seal: Option<SealedExe>,
    /// What the container gets of its starter's besides.
    pub(crate) handed: crate::commands::descriptors::Handed,
    /// Who wants to hear of it.
    pub(crate) notifications: Option<super::notify::Notifications>,
    /// Descriptors 0, 1 and 2 of the container, where those are the command's; the supervisor fills it in.
    pub(crate) handed_over: Option<[OwnedFd; 3]>,
}

/// A system call filter, compiled and as `config.json` has it.
#[derive(Debug)]
pub(crate) struct Seccomp {
    /// The program.
    pub(crate) filter: Filter,
    /// The `linux.seccomp` section.
    pub(crate) json: Cow<'static, str>,
    /// It is the default one, which lets nobody call `keyctl` and its kin.
    pub(crate) hides_keyrings: bool,
}

/// The filter that a container is to have.
pub(crate) fn seccomp_of(request: &Request, spec: &Spec) -> Result<Option<Seccomp>, CommandError> {
    let bounding = spec
        .process()
        .as_ref()
        .and_then(|process| process.capabilities().as_ref())
        .map(|all| Sets::from(all).bounding)
        .unwrap_or_default();
    let filter = match &request.security.seccomp {
        SeccompProfile::Unconfined => return Ok(None),
        SeccompProfile::Default if request.privileged => return Ok(None),
        SeccompProfile::Default => Filter::default_for(bounding).map_err(CommandError::host)?,
        SeccompProfile::File(path) => {
            let refused = |error: &dyn std::fmt::Display| {
                CommandError::user(format!("--security-opt seccomp={}: {error}", path.display()))
            };
            let text = std::fs::read(path).map_err(|error| refused(&crate::error::reason(&error)))?;
            Filter::from_profile_json(&text, bounding).map_err(|error| refused(&error))?
        }
    };
    let json = if bounding == CapabilitySet::DEFAULT && request.security.seccomp == SeccompProfile::Default {
        Cow::Borrowed(seccomp::default_oci_json())
    } else {
        let section = filter.to_oci().map_err(CommandError::host)?;
        Cow::Owned(serde_json::to_string(&section).map_err(|error| CommandError::new(Kind::Internal, error))?)
    };
    let hides_keyrings = request.security.seccomp == SeccompProfile::Default;
    Ok(Some(Seccomp { filter, json, hides_keyrings }))
}

/// A supervisor that has been forked.
#[derive(Debug)]
pub(crate) struct Running {
    result: ResultReader,
    /// The first client's end of its channel.
    pub(crate) control: Option<OwnedFd>,
    /// The supervisor.
    pub(crate) pidfd: OwnedFd,
    /// What the user may send to be rid of all this.
    signals: SignalSource,
    layout: Layout,
    /// What holds its scope until it runs.
    _seed: Option<super::cgroup::Seed>,
    /// What is taken away again when the start is interrupted; `None` if it was there before.
    new: Option<Record>,
}

impl Running {
    /// Waits until the container runs (or, if it is held, is ready to), or fails as it failed. Interrupted, it takes everything back.
    pub(crate) fn wait_started(self) -> Result<(Option<OwnedFd>, OwnedFd), CommandError> {
        loop {
            let mut turn = Turn::new();
            turn.watch(self.result.as_fd(), Interest::Read, ());
            turn.watch(self.signals.as_fd(), Interest::Read, ());
            let failed = |errno: Errno| CommandError::host(format!("poll(): {}", errno.desc().to_lowercase()));
            turn.wait(None).map_err(failed)?;
            // A signal after that is the container's.
            if is_readable(self.result.as_fd()) {
                break;
            }
            if let Ok(Some(arrived)) = self.signals.next() {
                return Err(self.give_up(arrived.signal));
            }
        }
        self.result.wait()?;
        Ok((self.control, self.pidfd))
    }

    /// Kills the supervisor, and with it whatever it has started, then removes what it has made.
    fn give_up(self, signal: Signal) -> CommandError {
        let _ = pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = wait(self.pidfd.as_fd(), true);
        if let Some(record) = &self.new {
            let _ = storage::state::container::remove(&self.layout, &record.id);
            let _ = storage::prune::remove_anonymous_volumes(&self.layout, record);
            // Its name too, which only the supervisor knew if the record was not written yet.
            let _ = storage::prune::sweep(&self.layout);
            crate::commands::empty_trash(&self.layout);
        }
        CommandError::printed(128 + signal.number() as u8)
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Begins the base user namespace of a container that shares nobody's; `None` if it will be in that of a leader that is
/// there, or if one is made as fast later.
pub(crate) fn begin_namespace(
    layout: &Layout,
    mapping: &Mapping,
    record: &Record,
) -> Result<Option<Making>, CommandError> {
    let is_led = super::network::needs_leader(&record.request) && super::leader::is_alive(layout, mapping);
    if is_led { Ok(None) } else { Ok(Making::begin(mapping)?) }
}

/// How many leaders may end while a supervisor is forked beside them.
const LEADERS: u32 = 3;

/// Forks the supervisor of `launch`.
pub(crate) fn start(mut launch: Launch) -> Result<Running, CommandError> {
    let beside = launch.beside.as_ref().map(|init| init.as_fd());
    let mut making = launch.making.take();
    let mut leader = launch.network.lead(&launch.layout, &launch.mapping, &launch.record, beside, making.as_mut())?;

    let pipe_failed =
        |error: std::io::Error| CommandError::host(format!("pipe2(O_CLOEXEC): {}", crate::error::reason(&error)));
    let (reader, writer) = channel::pair().map_err(pipe_failed)?;
    let (control, supervisor_control) = match launch.attach {
        Some(_) => {
            let (ours, theirs) = nix::sys::socket::socketpair(
                nix::sys::socket::AddressFamily::Unix,
                nix::sys::socket::SockType::SeqPacket,
                None,
                nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            )
            .map_err(|errno| CommandError::host(format!("socketpair(AF_UNIX): {}", errno.desc().to_lowercase())))?;
            (Some(ours), Some(theirs))
        }
        None => (None, None),
    };
    // Before the fork, so that none is lost: from now on they end the start, not this process alone.
    let enders = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
    let signals = SignalSource::block(&enders)
        .map_err(|errno| CommandError::host(format!("signalfd(): {}", errno.desc().to_lowercase())))?;
    let mut gate = launch.cgroup.open_gate(&launch.record)?;
    // With the host's pids there can be no namespace of ours round the container.
    let own_pids = matches!(launch.record.request.pid, storage::state::request::Namespace::Private);
    let mut tries = 0;
    let forked = loop {
        let joined = launch.beside.as_ref().or(leader.as_ref()).or(launch.base.as_ref());
        let forked = match (joined, &mut making) {
            (Some(namespace), _) => spawn::supervisor_beside(namespace.as_fd(), own_pids),
            (None, Some(making)) => spawn::supervisor_beside(making.holder(), own_pids),
            (None, None) => spawn::supervisor(own_pids),
        };
        match (forked, &leader) {
            // A leader that took another's place ends with the container whose supervisor forked it.
            (Err(_), Some(ended)) if tries < LEADERS && is_readable(ended.as_fd()) => {
                tries += 1;
                let beside = launch.beside.as_ref().map(|init| init.as_fd());
                leader = launch.network.lead(&launch.layout, &launch.mapping, &launch.record, beside, None)?;
            }
            (forked, _) => break forked?,
        }
    };
    match forked {
        Side::Supervisor(maps) => {
            drop((reader, control, gate));
            if let Some(making) = making {
                making.leave_to_parent();
            }
            std::process::exit(supervise::run(launch, maps, writer, supervisor_control))
        }
        Side::Parent(parent) => {
            drop((writer, supervisor_control));
            if let Some(gate) = &mut gate {
                gate.ask(runtime::process::pidfd::host_pid(parent.pidfd.as_fd()).unwrap_or(0));
            }
            if let Some(mut making) = making {
                making.finish()?;
            }
            let pidfd = parent.write_maps(&launch.mapping)?;
            let seed = gate.and_then(super::cgroup::Gate::open);
            let new = matches!(launch.birth, Birth::New { .. }).then_some(launch.record);
            Ok(Running { result: reader, control, pidfd, signals, layout: launch.layout, _seed: seed, new })
        }
    }
}
