//! Build-up: from a launch to a running container, or to nothing at all.
//!
//! **Runs in:** S, single-threaded, and where the init is born in C.

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use jiff::Timestamp;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use runtime::cgroup::Cgroup;
use runtime::identity::{self, Notifier};
use runtime::init::credentials::LoadFilter;
use runtime::init::handshake::{self, Report};
use runtime::init::namespaces::{clone_flags, has_private, pid_namespace};
use runtime::init::steps::{self, InitError};
use runtime::monitor::relay::{self, Relay};
use runtime::mount::rootfs::{Connection, Driver, Rootfs};
use runtime::mount::stage::{self, Staged};
use runtime::process::signal::SignalSource;
use runtime::process::spawn::MapsPending;
use runtime::process::stdio::{self, Input, Streams};
use runtime::process::{Forked, SysError, clone3, pidfd, prctl, wait};
use storage::state::container;
use storage::state::lock::FileLock;
use storage::state::request::RestartPolicy;
use storage::state::status::{self, Event as StateEvent, ExitRecord, Init, State, StateFile};
use storage::volume::Owner;

use super::create::create;
use super::launch::{Birth, Launch};
use super::network::Started;
use super::notify::Notifications;
use super::streams::{listener, open_log, stdin_policy};
use super::supervise::{Failure, Run, Supervisor};
use super::union_server::{self, UnionServer};
use crate::error::CommandError;

/// How many leaders may end while a container waits for its network.
const LEADERS: usize = 3;

impl Supervisor {
    pub(super) fn build(
        mut launch: Launch,
        maps: MapsPending,
        first: Option<relay::FirstClient>,
    ) -> Result<Supervisor, Failure> {
        let signals = SignalSource::block(&runtime::process::signal::proxied())
            .map_err(|errno| CommandError::host(format!("signalfd(): {}", errno.desc().to_lowercase())))?;
        let layout = launch.layout.clone();
        let (lock, is_new) = match &launch.birth {
            Birth::New { .. } => (create(&mut launch)?, true),
            Birth::Existing => {
                let lock = status::lock_at_rest(&layout, &launch.record).map_err(CommandError::host)?;
                // Not before: a supervisor that still clears up is known by what it wrote.
                status::forget_last_run(&layout, &launch.record.id).map_err(CommandError::host)?;
                (lock, false)
            }
        };
        let id = launch.record.id.clone();
        let built = Self::start(launch, maps, first, signals, lock, is_new);
        built.map_err(|(error, lock)| {
            // What `run` made is gone as if it had never been; what existed stays, with the reason in its exit record.
            if is_new {
                let _ = container::remove(&layout, &id);
            } else {
                let exit = status::Exit {
                    code: i32::from(error.code()),
                    finished_at: Some(Timestamp::now()),
                    oom: false,
                    error: error.to_string(),
                };
                let _ = ExitRecord::write(&layout, &id, None, Some(&exit), 0);
                let _ = std::fs::remove_file(layout.runtime_container(&id).join("state.json"));
            }
            drop(lock);
            Failure { error, undo: is_new.then(|| Box::new(layout)) }
        })
    }

    fn start(
        launch: Launch,
        maps: MapsPending,
        first: Option<relay::FirstClient>,
        signals: SignalSource,
        lock: FileLock,
        is_new: bool,
    ) -> Result<Supervisor, (CommandError, FileLock)> {
        let mut lock = Some(lock);
        match Self::try_start(launch, maps, first, signals, &mut lock, is_new) {
            Ok(supervisor) => Ok(supervisor),
            // Nothing below takes the lock before it succeeds.
            Err(error) => match lock {
                Some(lock) => Err((error, lock)),
                None => std::process::exit(1),
            },
        }
    }

    fn try_start(
        mut launch: Launch,
        maps: MapsPending,
        first: Option<relay::FirstClient>,
        signals: SignalSource,
        lock: &mut Option<FileLock>,
        is_new: bool,
    ) -> Result<Supervisor, CommandError> {
        let layout = launch.layout.clone();
        let record = launch.record.clone();
        if let Some(notifications) = &mut launch.notifications {
            notifications.listen(&layout.runtime_container(&record.id))?;
        }
        let (Waiting { mut run, word }, streams) = Waiting::build(&mut launch, Some(maps))?;
        let mut relay =
            Relay::new(streams, stdin_policy(&launch), open_log(&layout, &record)?).map_err(errno("dup"))?;
        if let Some(first) = first {
            relay.attach_first(first);
        }
        relay.listen(listener(&layout, &record)?);
        let mut state = StateFile::new(supervisor_pid());
        let held = match launch.held {
            true => {
                word.wait(&run, &launch, &mut state)?;
                Some(word)
            }
            false => {
                word.go(&mut run, &launch, &mut state)?;
                None
            }
        };
        // What another run needs differently: its volumes are filled, and nobody waits for it.
        launch.fill.clear();
        (launch.attach, launch.beside, launch.base) = (None, None, None);
        if record.request.restart == RestartPolicy::No {
            launch.handed.descriptors.let_go();
        }
        if let (Some(notifications), None) = (&mut launch.notifications, &held) {
            notifications.started(supervisor_pid());
        }
        let lock = lock.take();
        let verdict = launch.verdict.take();
        Ok(Supervisor {
            layout,
            record,
            state,
            relay,
            run,
            held,
            launch,
            signals,
            lock,
            is_new,
            ended_by: None,
            wants_restart: false,
            is_given_up: false,
            verdict,
            withheld: None,
            is_image_refused: false,
            kill_at: None,
            checks: Default::default(),
        })
    }

    /// Starts the container once more, as it was started the first time.
    pub(super) fn start_again(&mut self) -> Result<(), CommandError> {
        let (Waiting { run, word }, streams) = Waiting::build(&mut self.launch, None)?;
        self.relay.restart(streams).map_err(errno("dup"))?;
        self.run = run;
        word.go(&mut self.run, &self.launch, &mut self.state)
    }

    /// Lets the program of a container that `init` has made ready begin.
    pub(super) fn let_go(&mut self, word: Word) -> Result<(), CommandError> {
        word.go(&mut self.run, &self.launch, &mut self.state)?;
        if let Some(notifications) = &mut self.launch.notifications {
            notifications.started(supervisor_pid());
        }
        Ok(())
    }
}

/// A container whose init has made everything ready and waits for the word to become the program.
struct Waiting {
    run: Run,
    word: Word,
}

/// The word that an init waits for.
pub(super) struct Word {
    host_pid: i32,
    channel: handshake::Channel,
}

impl Waiting {
    /// Makes the namespaces and what belongs to them. Without `maps` the base user namespace has its ids already.
    fn build(launch: &mut Launch, maps: Option<MapsPending>) -> Result<(Waiting, Streams), CommandError> {
        let layout = launch.layout.clone();
        let record = launch.record.clone();
        let request = &record.request;
        launch.network.write_files(&layout, &record, None)?;
        let runtime_dir = layout.runtime_container(&record.id);

        let (streams, ours) = match (&launch.handed_over, request.tty) {
            (Some(descriptors), _) => {
                let (container, supervisor) = stdio::handed_over(descriptors).map_err(errno("dup"))?;
                (steps::Streams::Pipes(container), Some(supervisor))
            }
            (None, true) => (steps::Streams::Terminal, None),
            (None, false) => {
                let stdin = if request.stdin_open { Input::Pipe } else { Input::Null };
                let (container, supervisor) = stdio::pipes(stdin).map_err(errno("pipe2"))?;
                (steps::Streams::Pipes(container), Some(supervisor))
            }
        };
        let cgroup = launch.cgroup.make(&record)?;
        let (theirs, channel) = handshake::pair()?;
        let nested = has_private(&launch.spec, LinuxNamespaceType::User);
        let mut union = None;
        let gone = || CommandError::host("the command that started the container is gone");
        // The init of the common case does not need ids to be born: it can wait along with us.
        let (mut maps, mut staged) = (maps, Staged::default());
        if (nested || !launch.chores.is_empty()) && !maps.take().map_or(Ok(true), MapsPending::wait)? {
            return Err(gone());
        }
        launch.chores.run(&layout, &record)?;
        if nested {
            staged = stage(launch, &mut union).map_err(|error| because_of(&mut union, error))?;
        }
        let flags = clone_flags(&launch.spec);
        let cgroup_fd = cgroup.as_ref().map(|cgroup| cgroup.fd.as_fd());
        let forked = match pid_namespace(&launch.spec) {
            Some(path) => runtime::process::spawn::child_in_pid_namespace(path, flags, cgroup_fd)?,
            None => clone3(flags, cgroup_fd)
                .map_err(|errno| CommandError::host(format!("clone3({flags:#x}): {}", errno.desc().to_lowercase())))?,
        };
        let (pid, init) = match forked {
            Forked::Child => {
                drop(channel);
                std::process::exit(become_init(launch, staged, streams, theirs))
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((streams, theirs, staged));
        if !maps.take().map_or(Ok(true), MapsPending::wait)? {
            return Err(gone());
        }
        if launch.dies_with_starter {
            // Not before: taking id 0 undoes it.
            let _ = prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
        }
        // From here on /proc/<pid> of the host's procfs says what the kernel thinks of init.
        let host_pid = pidfd::host_pid(init.as_fd()).unwrap_or(pid);
        if let Some(cpus) = launch.cgroup.affinity() {
            runtime::process::run_on(pid, cpus).map_err(errno("sched_setaffinity"))?;
        }
        if nested {
            write_nested_maps(&launch.spec, host_pid)?;
            if let (true, Some(cgroup)) = (request.service.systemd, &cgroup) {
                give_cgroup(&launch.spec, cgroup);
            }
        }
        // An init that changes its id on the host can no longer be looked into.
        let netns = match has_private(&launch.spec, LinuxNamespaceType::Network) {
            true => Some(super::network::namespace_of(host_pid)?),
            false => None,
        };
        channel.send_go()?;

        let mut helper = match &netns {
            Some(netns) => launch.network.start(&record, netns.as_fd(), host_pid, &runtime_dir)?,
            None => None,
        };

        let mut streams = ours;
        let mut root = None;
        let mut driver = None;
        loop {
            match channel.receive()? {
                Report::Fuse(connection) => union = Some(serve(launch, connection)?),
                Report::Console(master) => {
                    let size = launch.attach.as_ref().and_then(|client| client.size);
                    if let Some(size) = size {
                        let _ = size.apply(&master);
                    }
                    streams = Some(Streams::terminal(master).map_err(errno("ioctl"))?);
                }
                Report::Root(fd, by) => (root, driver) = (Some(fd), by),
                Report::Ready => break,
                Report::Failed { code, message } => return Err(because_of(&mut union, failed(code, &message))),
                Report::Process(_) | Report::Listener(_) => {}
                Report::Closed => return Err(because_of(&mut union, init_killed(&init))),
            }
        }
        if let Some(helper) = &mut helper {
            for tries in 0.. {
                if helper.wait()? {
                    break;
                }
                if tries == LEADERS {
                    return Err(CommandError::host("network leader: it was killed"));
                }
                launch.network.find_successor(&layout, &launch.mapping, None)?;
                if let Some(netns) = &netns
                    && let Some(again) = launch.network.start(&record, netns.as_fd(), host_pid, &runtime_dir)?
                {
                    *helper = again;
                }
            }
            if matches!(helper, Started::Bridge { .. }) {
                // Its addresses were not known before.
                launch.network.write_files(&layout, &record, Some(helper.attachment()))?;
            }
        }
        let streams = streams.ok_or_else(|| CommandError::host("init made no terminal"))?;
        if driver == Some(Driver::Overlay) {
            union = None;
        }
        let run = Run {
            init,
            root,
            driver,
            union,
            netns,
            helper,
            memory_events: cgroup.as_ref().and_then(Cgroup::memory_events),
            cgroup,
            oom_kills: 0,
            notifier: None,
            forwarder: None,
            forwarding_since: Instant::now(),
            forward_at: None,
            rescue: Default::default(),
            since: Instant::now(),
        };
        Ok((Waiting { run, word: Word { host_pid, channel } }, streams))
    }
}

impl Word {
    /// Writes down that the container is ready.
    fn wait(&self, run: &Run, launch: &Launch, state: &mut StateFile) -> Result<(), CommandError> {
        self.note_spawned(run, launch, state)?;
        state.write(&launch.layout, &launch.record.id).map_err(CommandError::host)
    }

    fn note_spawned(&self, run: &Run, launch: &Launch, state: &mut StateFile) -> Result<(), CommandError> {
        let start = Init::of(self.host_pid).ok_or_else(|| init_killed(&run.init))?;
        state.on(StateEvent::Spawned(start)).map_err(internal)?;
        state.network = launch.network.status(&launch.record, run.helper.as_ref());
        state.cgroup = run.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        Ok(())
    }

    /// Writes down that it runs, and lets it.
    fn go(self, run: &mut Run, launch: &Launch, state: &mut StateFile) -> Result<(), CommandError> {
        if !matches!(state.state, State::Starting { .. }) {
            self.note_spawned(run, launch, state)?;
        }
        state.on(StateEvent::Execed(Timestamp::now())).map_err(internal)?;
        let Word { host_pid, channel } = self;
        let (layout, record) = (&launch.layout, &launch.record);
        let attachment = run.helper.as_ref().map(Started::attachment);
        run.forwarder = match &run.netns {
            // A driver that does not know its addresses yet is asked once the container runs.
            _ if attachment.is_some_and(|attachment| attachment.addresses.is_empty()) => None,
            Some(netns) => launch.network.forward(netns.as_fd(), attachment)?,
            None => None,
        };
        state.write(layout, &record.id).map_err(CommandError::host)?;

        channel.send_go()?;
        let runtime_dir = layout.runtime_container(&record.id);
        loop {
            match channel.receive()? {
                Report::Listener(listener) => {
                    run.notifier = Some(start_notifier(listener, run.root.as_ref(), &runtime_dir)?);
                }
                Report::Closed => break,
                Report::Failed { code, message } => return Err(failed(code, &message)),
                _ => {}
            }
        }
        if let Some(path) = &record.request.pidfile {
            std::fs::write(path, host_pid.to_string()).map_err(|error| {
                CommandError::host(format!("--pidfile {}: {}", path.display(), crate::error::reason(&error)))
            })?;
        }
        if let Some(path) = &record.request.supervisor_pidfile {
            std::fs::write(path, supervisor_pid().to_string()).map_err(|error| {
                CommandError::host(format!("--conmon-pidfile {}: {}", path.display(), crate::error::reason(&error)))
            })?;
        }
        run.since = Instant::now();
        run.forwarding_since = run.since;
        Ok(())
    }
}

/// Starts what emulates the ids of a container that has one.
fn start_notifier(
    listener: OwnedFd,
    root: Option<&OwnedFd>,
    runtime_dir: &std::path::Path,
) -> Result<Notifier, CommandError> {
    let fail = |error: std::io::Error| {
        CommandError::host(format!("open {}: {}", runtime_dir.display(), crate::error::reason(&error)))
    };
    let root = root.ok_or_else(|| CommandError::host("init has no root directory"))?.try_clone().map_err(fail)?;
    let directory = std::fs::File::open(runtime_dir).map_err(fail)?;
    let socket = identity::socket::Socket::bind(directory.as_fd())?;
    Ok(Notifier::start(identity::Settings { listener, root, socket: Some(socket) })?)
}

/// Forks the server of a FUSE mount. An earlier one has nothing to serve any more.
fn serve(launch: &Launch, connection: Connection) -> Result<UnionServer, SysError> {
    let Rootfs::Stack(stack) = &launch.rootfs else {
        return Err(SysError { call: "recvmsg", args: "init, a FUSE device".into(), errno: Errno::EINVAL });
    };
    let plan = union_server::Plan {
        stack,
        ids: &launch.layer_ids,
        arriving: launch.arriving.as_ref(),
        single_id: super::bundle::is_single(&launch.record.request.userns, &launch.mapping),
        dies_with_parent: true,
    };
    UnionServer::start(plan, connection)
}

/// What init ran into may only be the consequence of what the union server died of.
fn because_of(union: &mut Option<UnionServer>, error: CommandError) -> CommandError {
    match union.as_mut().and_then(UnionServer::crash) {
        Some(failure) => CommandError::host(failure),
        None => error,
    }
}

/// The ids that root of a nested user namespace has in ours.
fn nested_root(spec: &Spec) -> (u32, u32) {
    let first = |mappings: &Option<Vec<LinuxIdMapping>>| {
        let root = mappings.iter().flatten().find(|one| one.container_id() == 0);
        root.map(LinuxIdMapping::host_id).unwrap_or_default()
    };
    spec.linux().as_ref().map(|linux| (first(linux.uid_mappings()), first(linux.gid_mappings()))).unwrap_or_default()
}

/// Lets root of a nested user namespace make cgroups of its own. Where that fails it has as many as it had.
fn give_cgroup(spec: &Spec, cgroup: &Cgroup) {
    let (uid, gid) = nested_root(spec);
    for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        let _ = std::os::unix::fs::chown(cgroup.path().join(name), Some(uid), Some(gid));
    }
}

/// Makes ready what an init with other ids than ours cannot reach.
fn stage(launch: &Launch, union: &mut Option<UnionServer>) -> Result<Staged, CommandError> {
    let owner = nested_root(&launch.spec);
    let request = stage::Request {
        rootfs: &launch.rootfs,
        mounts: launch.spec.mounts().as_deref().unwrap_or_default(),
        mount_point: &launch.layout.container(&launch.record.id),
        fill: &launch.fill,
        owner,
    };
    let mut serve = |connection| serve(launch, connection).map(|server| *union = Some(server));
    Staged::for_nested(&request, &mut serve).map_err(CommandError::host)
}

fn become_init(launch: &Launch, staged: Staged, streams: steps::Streams, channel: handshake::Channel) -> i32 {
    let keyring = std::ffi::CString::new(format!("_coracle.{}", launch.record.id)).unwrap_or_default();
    let mount_point = launch.layout.container(&launch.record.id);
    let load = launch.seccomp.as_ref().map(|seccomp| || seccomp.filter.load().map_err(InitError::from));
    let single_id = super::bundle::is_single(&launch.record.request.userns, &launch.mapping);
    let hooks = launch.spec.hooks().is_some();
    let run_hooks = || super::hooks::create_container(launch, &mount_point);
    // The bundle on disk does not have them.
    let mut spec = launch.secrets.add_variables(&launch.spec);
    add_own_variables(launch, &mut spec);
    let plan = steps::Plan {
        spec: &spec,
        early_sysctls: launch.network.sysctls(),
        rootfs: &launch.rootfs,
        staged,
        mount_point: &mount_point,
        fill: &launch.fill,
        append: &launch.accounts,
        copy_tree,
        own: &launch.chores.own_filled,
        own_tree: if single_id { record_tree } else { own_tree },
        single_id,
        secrets: &launch.secrets.files,
        streams,
        init: launch.record.request.init && launch.record.request.init_path.is_none(),
        pause: launch.record.request.infra,
        seal: launch.seal.as_ref(),
        inherited: &launch.handed.descriptors,
        keyring: Some(&keyring),
        filter_hides_keyrings: launch.seccomp.as_ref().is_some_and(|seccomp| seccomp.hides_keyrings),
        filter: load.as_ref().map(|load| load as LoadFilter<'_>),
        before_pivot: hooks.then_some(&run_hooks),
        gate: None,
        keep_groups: false,
        preserved_fds: 0,
    };
    steps::run(plan, channel)
}

/// What only the container's first process is told: of descriptors that no other has, and of whom it may notify.
fn add_own_variables(launch: &Launch, spec: &mut Cow<'_, Spec>) {
    let of_service = launch.notifications.as_ref().map(Notifications::variables).unwrap_or_default();
    let more: Vec<String> = launch.handed.variables.iter().cloned().chain(of_service).collect();
    if more.is_empty() {
        return;
    }
    if let Some(process) = spec.to_mut().process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        env.retain(|pair| !more.iter().any(|other| name(other) == name(pair)));
        env.extend(more);
        process.set_env(Some(env));
    }
}

fn copy_tree(from: std::os::fd::BorrowedFd<'_>, to: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
    storage::volume::copy_up(from, to).map(drop).map_err(std::io::Error::other)
}

fn own_tree(tree: std::os::fd::BorrowedFd<'_>, uid: u32, gid: u32) -> std::io::Result<()> {
    storage::volume::own_opened(".".as_ref(), tree, Owner::Real(uid, gid)).map_err(|error| error.source)
}

fn record_tree(tree: std::os::fd::BorrowedFd<'_>, uid: u32, gid: u32) -> std::io::Result<()> {
    storage::volume::own_opened(".".as_ref(), tree, Owner::Recorded(uid, gid)).map_err(|error| error.source)
}

/// Maps the ids of a namespace inside the supervisor's, which has the privilege to map any of its own.
fn write_nested_maps(spec: &Spec, pid: i32) -> Result<(), CommandError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for (name, mappings) in [("uid_map", linux.uid_mappings()), ("gid_map", linux.gid_mappings())] {
        let text: String = mappings
            .iter()
            .flatten()
            .map(|one| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size()))
            .collect();
        let path = format!("/proc/{pid}/{name}");
        std::fs::write(&path, text)
            .map_err(|error| CommandError::host(format!("write {path}: {}", crate::error::reason(&error))))?;
    }
    Ok(())
}

/// Our pid as the host counts: `/proc` is the host's, `getpid` is not.
fn supervisor_pid() -> i32 {
    std::fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok()).unwrap_or(0)
}

fn internal(error: impl std::fmt::Display) -> CommandError {
    CommandError::new(crate::error::Kind::Internal, error)
}

fn failed(code: i32, message: &str) -> CommandError {
    CommandError::host(message).with_code(code as u8)
}

fn init_killed(init: &OwnedFd) -> CommandError {
    match wait(init.as_fd(), true) {
        Ok(Some(exit)) => CommandError::host(format!(
            "the container's init ended before its program was started (status {})",
            exit.code()
        )),
        _ => CommandError::host("the container's init ended before its program was started"),
    }
}

pub(super) fn errno(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> CommandError {
    move |errno| CommandError::host(SysError { call, args: String::new(), errno })
}
