//! The supervisor's life: build-up, the loop, tear-down.
//!
//! **Runs in:** S, a fork of the CLI; single-threaded; root of the container's base user namespace and, unless the
//! container shares the host's pids, init of a pid namespace of its own; the host's mount and network namespaces.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use net::driver::Started;
use net::forward::Forwarder;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use runtime::cgroup::Cgroup;
use runtime::init::credentials::LoadFilter;
use runtime::init::handshake::{self, Report};
use runtime::init::steps::{self, InitError, has_private};
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::monitor::log;
use runtime::monitor::relay::{self, Relay, Request as RelayRequest, StdinPolicy};
use runtime::mount::stage::{self, Staged};
use runtime::process::pty::Winsize;
use runtime::process::signal::SignalSource;
use runtime::process::spawn::MapsPending;
use runtime::process::stdio::{self, Input, Streams};
use runtime::process::{Exit, Forked, SysError, clone3, pidfd, pidfd_send_signal, wait};
use storage::state::atomic::Durability;
use storage::state::container::{self, Creation, Record};
use storage::state::layout::Layout;
use storage::state::lock::FileLock;
use storage::state::request::{LogDriver, Request};
use storage::state::status::{self, Event as StateEvent, ExitRecord, Init, StateFile};
use storage::state::trash;

use super::channel::ResultWriter;
use super::launch::{Birth, Launch, Seccomp};
use crate::error::CommandError;

/// How the command that started the container stays with it.
#[derive(Debug, Clone)]
pub(crate) struct FirstClient {
    /// Its stdin feeds the container.
    pub(crate) stdin: bool,
    /// It gets the container's output.
    pub(crate) stdout: bool,
    /// It gets the container's error output.
    pub(crate) stderr: bool,
    /// Keys that detach; empty for none.
    pub(crate) detach_keys: runtime::monitor::detach_keys::DetachKeys,
    /// Size of its terminal.
    pub(crate) size: Option<Winsize>,
}

/// How long slow clients may take for the last output of a container that has ended, before its clean-up goes on.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What wakes the supervisor.
#[derive(Debug, Clone, Copy)]
enum Event {
    Relay(relay::Event),
    Exited,
    Signal,
    Helper,
    Forwarder,
}

/// Becomes the supervisor; returns its exit status.
pub(crate) fn run(launch: Launch, maps: MapsPending, result: ResultWriter, control: Option<OwnedFd>) -> i32 {
    // The command's terminal sends its signals to the command, which proxies them.
    let _ = nix::unistd::setsid();
    // What the container sees of us (hosts, resolv.conf) must be readable there, whatever the user's umask.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let first = launch.attach.as_ref().map(|first| first_client(first, control)).transpose();
    // Whoever reads the command's output must see its end when the command ends.
    let first = let_go_of_streams().and(first);
    match first.map_err(Failure::from).and_then(|first| Supervisor::build(launch, maps, first)) {
        Ok(mut supervisor) => {
            result.started();
            supervisor.after_start();
            supervisor.supervise();
            0
        }
        Err(Failure { error, undo }) => {
            result.failed(error.code(), &error.to_string());
            if let Some(layout) = undo {
                let _ = trash::empty(&layout);
            }
            1
        }
    }
}

/// A start that failed; everything is taken back but the trash.
struct Failure {
    error: CommandError,
    undo: Option<Layout>,
}

impl<E: Into<CommandError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { error: error.into(), undo: None }
    }
}

/// A running container and all that belongs to it.
struct Supervisor {
    layout: Layout,
    record: Record,
    state: StateFile,
    relay: Relay,
    init: OwnedFd,
    network: super::network::Plan,
    netns: Option<OwnedFd>,
    helper: Option<Started>,
    forwarder: Option<Forwarder>,
    /// When the forwarder was started.
    forwarding_since: Instant,
    cgroup: Option<Cgroup>,
    signals: SignalSource,
    lock: Option<FileLock>,
    is_new: bool,
}

impl Supervisor {
    fn build(mut launch: Launch, maps: MapsPending, first: Option<relay::FirstClient>) -> Result<Supervisor, Failure> {
        let signals = SignalSource::block(&runtime::process::signal::proxied())
            .map_err(|errno| CommandError::host(format!("signalfd(): {}", errno.desc().to_lowercase())))?;
        let layout = launch.layout.clone();
        let (lock, is_new) = match &launch.birth {
            Birth::New { .. } => (create(&mut launch)?, true),
            Birth::Existing => {
                let lock = status::lock_at_rest(&layout, &launch.record).map_err(CommandError::host)?;
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
            Failure { error, undo: is_new.then_some(layout) }
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
        let request = &record.request;
        launch.network.write_files(&layout, &record, None)?;
        let runtime_dir = layout.runtime_container(&record.id);

        let (streams, ours) = match request.tty {
            true => (steps::Streams::Terminal, None),
            false => {
                let stdin = if request.stdin_open { Input::Pipe } else { Input::Null };
                let (container, supervisor) = stdio::pipes(stdin).map_err(errno("pipe2"))?;
                (steps::Streams::Pipes(container), Some(supervisor))
            }
        };
        let cgroup = Cgroup::create(&format!("coracle-{}", record.id));
        let (theirs, channel) = handshake::pair()?;
        let nested = has_private(&launch.spec, LinuxNamespaceType::User);
        let gone = || CommandError::host("the command that started the container is gone");
        // The init of the common case does not need ids to be born: it can wait along with us.
        let (mut maps, mut staged) = (Some(maps), Staged::default());
        if nested {
            if !maps.take().map_or(Ok(true), MapsPending::wait)? {
                return Err(gone());
            }
            staged = stage(&launch)?;
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
                std::process::exit(become_init(&launch, staged, streams, theirs))
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((streams, theirs, staged));
        if !maps.take().map_or(Ok(true), MapsPending::wait)? {
            return Err(gone());
        }
        // From here on /proc/<pid> of the host's procfs says what the kernel thinks of init.
        let host_pid = pidfd::host_pid(init.as_fd()).unwrap_or(pid);
        if nested {
            write_nested_maps(&launch.spec, host_pid)?;
        }
        // An init that changes its id on the host can no longer be looked into.
        let netns = match has_private(&launch.spec, LinuxNamespaceType::Network) {
            true => Some(super::network::namespace_of(host_pid)?),
            false => None,
        };
        channel.send_go()?;

        let mut helper = match &netns {
            Some(netns) => launch.network.start(netns.as_fd(), host_pid, &runtime_dir)?,
            None => None,
        };

        let mut streams = ours;
        loop {
            match channel.receive()? {
                Report::Console(master) => {
                    let size = launch.attach.as_ref().and_then(|client| client.size);
                    if let Some(size) = size {
                        let _ = size.apply(&master);
                    }
                    streams = Some(Streams::terminal(master).map_err(errno("ioctl"))?);
                }
                Report::Ready => break,
                Report::Failed { code, message } => return Err(failed(code, &message)),
                Report::Process(_) => {}
                Report::Closed => return Err(init_killed(&init)),
            }
        }
        if let Some(helper) = &mut helper {
            super::network::wait(helper)?;
        }
        let streams = streams.ok_or_else(|| CommandError::host("init made no terminal"))?;
        let mut relay =
            Relay::new(streams, stdin_policy(&launch), open_log(&layout, &record)?).map_err(errno("dup"))?;
        if let Some(first) = first {
            relay.attach_first(first);
        }
        relay.listen(listener(&layout, &record)?);

        let mut state = StateFile::new(supervisor_pid());
        let start = Init::of(host_pid).ok_or_else(|| init_killed(&init))?;
        let moved = state.on(StateEvent::Spawned(start)).and_then(|()| state.on(StateEvent::Execed(Timestamp::now())));
        moved.map_err(|error| CommandError::new(crate::error::Kind::Internal, error))?;
        let attachment = helper.as_ref().map(Started::attachment);
        state.network = launch.network.status(&record, attachment);
        let forwarder = match &netns {
            // A driver that does not know its addresses yet is asked once the container runs.
            _ if attachment.is_some_and(|attachment| attachment.addresses.is_empty()) => None,
            Some(netns) => launch.network.forward(netns.as_fd(), attachment)?,
            None => None,
        };
        state.write(&layout, &record.id).map_err(CommandError::host)?;

        channel.send_go()?;
        loop {
            match channel.receive()? {
                Report::Closed => break,
                Report::Failed { code, message } => return Err(failed(code, &message)),
                _ => {}
            }
        }
        if let Some(path) = &request.pidfile {
            std::fs::write(path, host_pid.to_string()).map_err(|error| {
                CommandError::host(format!("--pidfile {}: {}", path.display(), super::bundle::reason(&error)))
            })?;
        }
        let lock = lock.take();
        let network = launch.network;
        Ok(Supervisor {
            layout,
            record,
            state,
            relay,
            init,
            helper,
            cgroup,
            signals,
            lock,
            is_new,
            network,
            netns,
            forwarder,
            forwarding_since: Instant::now(),
        })
    }

    /// What may happen after the container runs: nobody waits for it.
    fn after_start(&mut self) {
        if !self.is_new {
            // A reboot shall find it begun and not ended.
            let _ = ExitRecord::write(&self.layout, &self.record.id, self.state.started_at, None, 0);
        }
        self.complete_network();
        if !self.record.request.remove {
            let directory = self.layout.container(&self.record.id);
            if let Ok(directory) = std::fs::File::open(directory) {
                let _ = directory.sync_all();
            }
        }
    }

    /// What pasta configured is known only afterwards.
    fn complete_network(&mut self) {
        let Some(helper) = &mut self.helper else { return };
        if !helper.attachment().addresses.is_empty() {
            return;
        }
        if let Ok(attachment) = helper.discover() {
            let _ = self.network.write_files(&self.layout, &self.record, Some(attachment));
            self.state.network = self.network.status(&self.record, Some(attachment));
            let _ = self.state.write(&self.layout, &self.record.id);
            if let Some(netns) = &self.netns {
                self.forwarder = self.network.forward(netns.as_fd(), Some(attachment)).ok().flatten();
            }
        }
    }

    /// Watches until the container has ended, then clears up.
    fn supervise(mut self) {
        let exit = self.watch();
        let finished_at = Timestamp::now();
        if let Some(forwarder) = self.forwarder.take() {
            forwarder.stop();
        }
        // Before the result: who reads it may want the ports, the name, or to remove the image.
        self.network.close_ports();
        if self.record.request.remove {
            let _ = container::remove(&self.layout, &self.record.id);
        }
        let exit_status = status::Exit {
            code: i32::from(exit.code()),
            finished_at: Some(finished_at),
            oom: false,
            error: String::new(),
        };
        let remove = self.record.request.remove;
        if remove {
            for volume in &self.record.anonymous_volumes {
                let _ = storage::volume::remove(&self.layout, volume, |_| Vec::new());
            }
        } else {
            // The record on disk first: the state file may go at any time.
            let _ = ExitRecord::write(&self.layout, &self.record.id, self.state.started_at, Some(&exit_status), 0);
            let _ = self.state.on(StateEvent::Exited(exit_status));
            let _ = self.state.write(&self.layout, &self.record.id);
        }
        // Only now do the clients hear of it: what they run next finds the container ended, or gone.
        let failed = self.relay.container_exited(exit);
        self.complain(failed);
        self.say_last_words();
        if let Some(helper) = self.helper.take() {
            helper.stop();
        }
        if let Some(cgroup) = self.cgroup.take() {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
        if !remove {
            let _ = std::fs::remove_file(self.layout.runtime_container(&self.record.id).join("attach.sock"));
        }
        drop(self.lock.take());
        if remove {
            let _ = trash::empty(&self.layout);
        }
    }

    fn watch(&mut self) -> Exit {
        let timeout = self.record.request.timeout.filter(|seconds| *seconds > 0);
        let mut deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs(u64::from(seconds)));
        loop {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                let _ = pidfd_send_signal(self.init.as_fd(), libc::SIGKILL);
                deadline = None;
            }
            let mut turn = Turn::new();
            self.relay.watch(&mut turn, Event::Relay);
            turn.watch(self.init.as_fd(), Interest::Read, Event::Exited);
            turn.watch(self.signals.as_fd(), Interest::Read, Event::Signal);
            if let Some(helper) = &self.helper {
                turn.watch(super::network::watch(helper), Interest::Read, Event::Helper);
            }
            if let Some(forwarder) = &self.forwarder {
                turn.watch(forwarder.pidfd(), Interest::Read, Event::Forwarder);
            }
            let Ok(ready) = turn.wait(deadline) else { continue };
            for one in ready {
                match one.event {
                    Event::Relay(event) => {
                        let request = self.relay.on(event);
                        self.complain(request);
                    }
                    Event::Exited => {
                        if let Ok(Some(exit)) = wait(self.init.as_fd(), false) {
                            return exit;
                        }
                    }
                    Event::Signal => {
                        while let Ok(Some(arrived)) = self.signals.next() {
                            let _ = pidfd_send_signal(self.init.as_fd(), arrived.signal.number());
                        }
                    }
                    Event::Forwarder => {
                        // The listeners are ours, so a new one goes on where the last one was killed.
                        self.forwarder = None;
                        let died_at_once = self.forwarding_since.elapsed() < Duration::from_secs(1);
                        self.forwarding_since = Instant::now();
                        if let (Some(netns), false) = (&self.netns, died_at_once) {
                            let attachment = self.helper.as_ref().map(Started::attachment);
                            self.forwarder = self.network.forward(netns.as_fd(), attachment).ok().flatten();
                        }
                    }
                    Event::Helper => {
                        // The container goes on without a way out; there is nobody to tell but its network.
                        if let Some(helper) = self.helper.take() {
                            helper.stop();
                        }
                    }
                }
            }
        }
    }

    fn complain(&mut self, request: Option<RelayRequest>) {
        if let Some(RelayRequest::Signal(signal)) = request {
            let _ = pidfd_send_signal(self.init.as_fd(), signal.number());
        }
    }

    /// Gives each client the rest of the output, at its pace.
    fn say_last_words(&mut self) {
        self.relay.close_listener();
        let deadline = Instant::now() + LAST_WORDS;
        while !self.relay.is_alone() && Instant::now() < deadline {
            let mut turn = Turn::new();
            self.relay.watch(&mut turn, Event::Relay);
            let Ok(ready) = turn.wait(Some(deadline)) else { return };
            for one in ready {
                if let Event::Relay(event) = one.event {
                    let _ = self.relay.on(event);
                }
            }
        }
    }
}

/// Creates the container: lock, directories, name, record, bundle.
fn create(launch: &mut Launch) -> Result<FileLock, CommandError> {
    let Birth::New { name } = &launch.birth else {
        return Err(CommandError::new(crate::error::Kind::Internal, "the container exists already"));
    };
    let layout = launch.layout.clone();
    let mut creation = Creation::begin(&layout, launch.record.id.clone()).map_err(CommandError::host)?;
    launch.record.name = match name {
        Some(name) => {
            creation.claim_name(name).map_err(CommandError::host)?;
            name.clone()
        }
        None => creation.claim_random_name().map_err(CommandError::host)?,
    };
    write_bundle(&layout, &launch.record, &launch.spec, launch.seccomp.as_ref())?;
    let durability = if launch.record.request.remove { Durability::None } else { Durability::Data };
    let published = creation.publish(&launch.record, durability).map_err(CommandError::host);
    launch.ids = None;
    published
}

/// Writes what stands beside the record: `config.json` and the writable directories.
pub(crate) fn write_bundle(
    layout: &Layout,
    record: &Record,
    spec: &Spec,
    seccomp: Option<&Seccomp>,
) -> Result<(), CommandError> {
    let directory = layout.container(&record.id);
    let fail = |path: std::path::PathBuf| {
        move |error: std::io::Error| {
            CommandError::host(format!("create {}: {}", path.display(), super::bundle::reason(&error)))
        }
    };
    if record.request.rootfs.is_none() {
        for name in ["upper", "work"] {
            let path = directory.join(name);
            std::fs::create_dir(&path).map_err(fail(path))?;
        }
    }
    let path = directory.join("config.json");
    std::fs::write(&path, config_json(spec, seccomp.map(|seccomp| seccomp.json.as_ref()))?).map_err(fail(path))
}

/// The text of `config.json`. The system call filter's section is long and known as text: it is put in its place
/// instead of being made of objects. The place is unambiguous, since in a JSON string the quotes would be escaped.
fn config_json(spec: &Spec, seccomp: Option<&str>) -> Result<String, CommandError> {
    let internal = |error: &dyn std::fmt::Display| CommandError::new(crate::error::Kind::Internal, error);
    let mut text = serde_json::to_string(spec).map_err(|error| internal(&error))?;
    if let Some(seccomp) = seccomp {
        let key = "\"linux\":{";
        let place = text.find(key).ok_or_else(|| internal(&"a specification without a linux section"))? + key.len();
        text.insert_str(place, &format!("\"seccomp\":{seccomp},"));
    }
    Ok(text)
}

/// Makes ready what an init with other ids than ours cannot reach.
fn stage(launch: &Launch) -> Result<Staged, CommandError> {
    let first = |mappings: &Option<Vec<LinuxIdMapping>>| {
        let root = mappings.iter().flatten().find(|one| one.container_id() == 0);
        root.map(LinuxIdMapping::host_id).unwrap_or_default()
    };
    let linux = launch.spec.linux().as_ref();
    let owner = linux.map(|linux| (first(linux.uid_mappings()), first(linux.gid_mappings()))).unwrap_or_default();
    Staged::for_nested(&stage::Request {
        rootfs: &launch.rootfs,
        mounts: launch.spec.mounts().as_deref().unwrap_or_default(),
        mount_point: &launch.layout.container(&launch.record.id),
        fill: &launch.fill,
        owner,
    })
    .map_err(CommandError::host)
}

fn become_init(launch: &Launch, staged: Staged, streams: steps::Streams, channel: handshake::Channel) -> i32 {
    let keyring = std::ffi::CString::new(format!("_coracle.{}", launch.record.id)).unwrap_or_default();
    let mount_point = launch.layout.container(&launch.record.id);
    let load = launch.seccomp.as_ref().map(|seccomp| || seccomp.filter.load().map_err(InitError::from));
    let plan = steps::Plan {
        spec: &launch.spec,
        rootfs: &launch.rootfs,
        staged,
        mount_point: &mount_point,
        fill: &launch.fill,
        copy_tree,
        single_id: launch.mapping.single.is_some(),
        streams,
        init: launch.record.request.init && launch.record.request.init_path.is_none(),
        seal: launch.seal.as_ref(),
        keyring: &keyring,
        filter: load.as_ref().map(|load| load as LoadFilter<'_>),
    };
    steps::run(plan, channel)
}

fn copy_tree(from: std::os::fd::BorrowedFd<'_>, to: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
    storage::volume::copy_up(from, to).map(drop).map_err(std::io::Error::other)
}

fn clone_flags(spec: &Spec) -> u64 {
    let mut flags = 0;
    for (kind, flag) in [
        (LinuxNamespaceType::User, libc::CLONE_NEWUSER),
        (LinuxNamespaceType::Mount, libc::CLONE_NEWNS),
        (LinuxNamespaceType::Pid, libc::CLONE_NEWPID),
        (LinuxNamespaceType::Network, libc::CLONE_NEWNET),
        (LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC),
        (LinuxNamespaceType::Uts, libc::CLONE_NEWUTS),
        (LinuxNamespaceType::Cgroup, libc::CLONE_NEWCGROUP),
    ] {
        if has_private(spec, kind) {
            flags |= flag as u64;
        }
    }
    flags
}

/// The pid namespace to join, if it is another container's.
fn pid_namespace(spec: &Spec) -> Option<&std::path::Path> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces.iter().find(|one| one.typ() == LinuxNamespaceType::Pid)?.path().as_deref()
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
            .map_err(|error| CommandError::host(format!("write {path}: {}", super::bundle::reason(&error))))?;
    }
    Ok(())
}

fn stdin_policy(launch: &Launch) -> StdinPolicy {
    match (launch.record.request.stdin_open, launch.attach.as_ref().is_some_and(|client| client.stdin)) {
        (false, _) => StdinPolicy::NotInteractive,
        (true, true) => StdinPolicy::Once,
        (true, false) => StdinPolicy::StaysOpen,
    }
}

fn first_client(first: &FirstClient, control: Option<OwnedFd>) -> Result<relay::FirstClient, CommandError> {
    let own = |wanted: bool, fd: std::os::fd::BorrowedFd<'_>| match wanted {
        true => fd.try_clone_to_owned().map(Some),
        false => Ok(None),
    };
    let fail = |error: std::io::Error| CommandError::host(format!("dup(): {}", super::bundle::reason(&error)));
    Ok(relay::FirstClient {
        control,
        stdin: own(first.stdin, std::io::stdin().as_fd()).map_err(fail)?,
        stdout: own(first.stdout, std::io::stdout().as_fd()).map_err(fail)?,
        stderr: own(first.stderr, std::io::stderr().as_fd()).map_err(fail)?,
        detach_keys: first.detach_keys.clone(),
    })
}

/// Puts `/dev/null` at 0, 1 and 2.
fn let_go_of_streams() -> Result<(), CommandError> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null =
        null.map_err(|error| CommandError::host(format!("open /dev/null: {}", super::bundle::reason(&error))))?;
    nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .and_then(|()| nix::unistd::dup2_stderr(&null))
        .map_err(errno("dup2"))
}

fn open_log(layout: &Layout, record: &Record) -> Result<log::Log, CommandError> {
    let request: &Request = &record.request;
    let driver = match request.log.driver {
        LogDriver::K8sFile => log::Driver::K8sFile,
        LogDriver::JsonFile => log::Driver::JsonFile,
        LogDriver::None => return Ok(log::Log::none()),
    };
    let directory = std::fs::File::open(layout.container(&record.id)).map_err(|error| {
        CommandError::host(format!("open the container's directory: {}", super::bundle::reason(&error)))
    })?;
    log::Log::open(driver, directory.as_fd(), "log", log::Limits::default()).map_err(CommandError::host)
}

fn listener(layout: &Layout, record: &Record) -> Result<runtime::monitor::attach::Listener, CommandError> {
    let directory = std::fs::File::open(layout.runtime_container(&record.id)).map_err(|error| {
        CommandError::host(format!("open the runtime directory: {}", super::bundle::reason(&error)))
    })?;
    runtime::monitor::attach::Listener::bind(directory.as_fd(), nix::unistd::Uid::from_raw(0))
        .map_err(CommandError::host)
}

/// Our pid as the host counts: `/proc` is the host's, `getpid` is not.
fn supervisor_pid() -> i32 {
    std::fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok()).unwrap_or(0)
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

fn errno(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> CommandError {
    move |errno| CommandError::host(SysError { call, args: String::new(), errno })
}
