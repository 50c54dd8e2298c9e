//! The supervisor's life: build-up (`build.rs`), the loop (here), tear-down (`teardown.rs`).
//!
//! **Runs in:** S, a fork of the CLI; single-threaded; root of the container's base user namespace and, unless the
//! container shares the host's pids, init of a pid namespace of its own; the host's mount and network namespaces.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use net::forward::Forwarder;
use runtime::cgroup::Cgroup;
use runtime::identity::Notifier;
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::monitor::relay::{self, Relay, Request as RelayRequest};
use runtime::mount::rootfs::Driver;
use runtime::process::signal::{Signal, SignalSource};
use runtime::process::spawn::MapsPending;
use runtime::process::{Exit, pidfd_send_signal, wait};
use storage::state::container::{self, Record};
use storage::state::layout::Layout;
use storage::state::lock::FileLock;
use storage::state::status::{ExitRecord, HealthStatus, StateFile};
use storage::state::trash;

use super::arrival::Verdict;
use super::build::Word;
use super::channel::ResultWriter;
use super::launch::Launch;
use super::network::Started;
use super::notify::Notifications;
use super::restart::Rests;
use super::streams::{first_client, handed_over, let_go_of_streams};
use super::union_server::{self, UnionServer};
use crate::error::{CommandError, FAILED};

/// What wakes the supervisor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Relay(relay::Event),
    Exited,
    Signal,
    Helper,
    Forwarder,
    Notifier,
    Union,
    /// The union server says why it will end.
    Refused,
    Prober,
    /// The image is here, or will never be.
    Arrived,
    /// What its server has answered of it holds.
    Confirmed,
    /// The container says something to the service manager.
    Notify,
    /// Memory may have run out.
    Memory,
}

/// Becomes the supervisor; returns its exit status.
pub(crate) fn run(mut launch: Launch, maps: MapsPending, result: ResultWriter, control: Option<OwnedFd>) -> i32 {
    // The command's terminal sends its signals to the command, which proxies them.
    let _ = nix::unistd::setsid();
    // What the container sees of us (hosts, resolv.conf) must be readable there, whatever the user's umask.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let handed_over = handed_over(&launch.record).map(|handed_over| launch.handed_over = handed_over);
    let is_attached = launch.attach.is_some();
    let first = launch.attach.as_ref().map(|first| first_client(first, control)).transpose();
    // Whoever reads the command's output must see its end when the command ends.
    let first = let_go_of_streams().and(handed_over).and(first);
    match first.map_err(Failure::from).and_then(|first| Supervisor::build(launch, maps, first)) {
        Ok(mut supervisor) => {
            let begun = match supervisor.held.take() {
                Some(word) => {
                    result.started();
                    supervisor.hold(word)
                }
                None => {
                    supervisor.note_started(is_attached);
                    result.started();
                    supervisor.after_start();
                    Ok(())
                }
            };
            let exit = match begun {
                Ok(()) => supervisor.watch_runs(),
                Err(end) => end,
            };
            supervisor.tear_down(exit);
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
pub(super) struct Failure {
    pub(super) error: CommandError,
    pub(super) undo: Option<Box<Layout>>,
}

impl<E: Into<CommandError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { error: error.into(), undo: None }
    }
}

/// A container and all that stays with it from one run to the next.
pub(super) struct Supervisor {
    pub(super) layout: Layout,
    pub(super) record: Record,
    pub(super) state: StateFile,
    pub(super) relay: Relay,
    /// What there is of the current run; of the last one while the container rests.
    pub(super) run: Run,
    /// What the container of `init` waits for.
    pub(super) held: Option<Word>,
    /// What another run is made from; it holds the published ports.
    pub(super) launch: Launch,
    pub(super) signals: SignalSource,
    pub(super) lock: Option<FileLock>,
    pub(super) is_new: bool,
    /// Why we ended the container, if nobody asked us to.
    pub(super) ended_by: Option<String>,
    /// We ended the container so that another run begins, whatever its policy says.
    pub(super) wants_restart: bool,
    /// There shall be no other run.
    pub(super) is_given_up: bool,
    /// What becomes of the image, while that is not known.
    pub(super) verdict: Option<Verdict>,
    /// How the container has ended, while it is not known whether its image was what it should be.
    pub(super) withheld: Option<Exit>,
    /// The image was not.
    pub(super) is_image_refused: bool,
    /// When what was asked to end is killed.
    pub(super) kill_at: Option<Instant>,
    pub(super) checks: super::health::Checks,
}

/// What exists for one run of a container.
pub(super) struct Run {
    pub(super) init: OwnedFd,
    /// The container's root: let go of last, since that may sync a file system.
    pub(super) root: Option<OwnedFd>,
    /// What mounted it.
    pub(super) driver: Option<Driver>,
    /// Who answers for it, if it is a FUSE mount or lies over one.
    pub(super) union: Option<UnionServer>,
    pub(super) netns: Option<OwnedFd>,
    pub(super) helper: Option<Started>,
    pub(super) rescue: Rescue,
    /// Emulates ids, where the container has one.
    pub(super) notifier: Option<Notifier>,
    pub(super) forwarder: Option<Forwarder>,
    /// When the forwarder was started.
    pub(super) forwarding_since: Instant,
    /// When one is started that takes the place of another, which ended at once.
    pub(super) forward_at: Option<Instant>,
    pub(super) cgroup: Option<Cgroup>,
    /// What changes when its memory runs out.
    pub(super) memory_events: Option<std::fs::File>,
    /// How often processes of it were killed for want of memory.
    pub(super) oom_kills: u64,
    /// When it began.
    pub(super) since: Instant,
}

/// The search for a successor of the network's leader.
#[derive(Debug, Default)]
pub(super) struct Rescue {
    /// When it goes on; until then nobody listens to the connection that has ended.
    at: Option<Instant>,
    last: Option<Instant>,
    /// How often in a row.
    tries: u32,
}

impl Rescue {
    /// A leader has ended. Those that end again and again get longer to come to themselves.
    fn begin(&mut self) {
        let now = Instant::now();
        self.tries = match self.last {
            Some(last) if now.duration_since(last) < LASTING => self.tries + 1,
            _ => 0,
        };
        self.last = Some(now);
        self.at = Some(if self.tries < AT_ONCE { now } else { now + PAUSE });
    }
}

/// A leader that lasts so long was none of those that end at once.
const LASTING: Duration = Duration::from_secs(10);

/// So many are succeeded at once, one soon after the other.
const AT_ONCE: u32 = 8;

/// How long is waited for those that end at once.
const PAUSE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Watches one run after the other, to the end of the last.
    fn watch_runs(&mut self) -> Exit {
        let mut rests = Rests::default();
        loop {
            let exit = self.watch();
            if let Err(end) = self.run_again(exit, &mut rests) {
                return end;
            }
        }
    }

    /// What may happen after the container runs: nobody waits for it.
    pub(super) fn after_start(&mut self) {
        if !self.is_new {
            // A reboot shall find it begun and not ended.
            let _ = ExitRecord::write(&self.layout, &self.record.id, self.state.started_at, None, 0);
        }
        self.complete_network();
        self.begin_checks();
        if let Some(driver) = self.run.driver
            && self.launch.arriving.is_none()
            && driver.as_str() != self.record.driver
        {
            // The next start tries it first. Where this cannot be written, it finds out again.
            let _ = container::set_driver(&self.layout, &self.record.id, driver.as_str());
        }
        self.keep_addresses();
        if !self.record.request.remove {
            let directory = self.layout.container(&self.record.id);
            if let Ok(directory) = std::fs::File::open(directory) {
                let _ = directory.sync_all();
            }
        }
        runtime::process::heap::give_back();
    }

    /// What pasta configured is known only afterwards.
    pub(super) fn complete_network(&mut self) {
        let Some(helper) = &mut self.run.helper else { return };
        if !helper.attachment().addresses.is_empty() {
            return;
        }
        let Ok(attachment) = helper.discover().cloned() else { return };
        let _ = self.launch.network.write_files(&self.layout, &self.record, Some(&attachment));
        self.state.network = self.launch.network.status(&self.record, self.run.helper.as_ref());
        let _ = self.state.write(&self.layout, &self.record.id);
        if let Some(netns) = &self.run.netns {
            self.run.forwarder = self.launch.network.forward(netns.as_fd(), Some(&attachment)).ok().flatten();
        }
    }

    /// Lets the service manager's watchdog know that we live, if it is time; when it will be time again.
    fn sign_of_life(&mut self) -> Option<Instant> {
        let is_ill = self.state.health.as_ref().is_some_and(|health| health.status == HealthStatus::Unhealthy);
        let notifications = self.launch.notifications.as_mut()?;
        notifications.live(is_ill);
        notifications.deadline()
    }

    /// Watches until the container has ended.
    fn watch(&mut self) -> Exit {
        let timeout = self.record.request.timeout.filter(|seconds| *seconds > 0);
        let mut deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs(u64::from(seconds)));
        let mut is_killed = false;
        if let (Some(true), Some(union)) = (self.verdict.as_ref().map(Verdict::is_good), &self.run.union) {
            // The server of another run, which was not asked.
            union.ask();
        }
        loop {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                match &self.run.union {
                    Some(union) if is_killed => {
                        union.kill();
                        deadline = None;
                    }
                    union => {
                        let _ = pidfd_send_signal(self.run.init.as_fd(), libc::SIGKILL);
                        // What waits for an answer of a server that hangs cannot be killed.
                        deadline = union.as_ref().map(|_| Instant::now() + union_server::UNANSWERED);
                        is_killed = true;
                    }
                }
            }
            if self.kill_at.is_some_and(|moment| moment <= Instant::now()) {
                let _ = pidfd_send_signal(self.run.init.as_fd(), libc::SIGKILL);
                self.kill_at = None;
            }
            self.run_checks();
            self.rescue();
            self.forward_again();
            let sign = self.sign_of_life();
            let mut turn = Turn::new();
            self.relay.watch(&mut turn, Event::Relay);
            if self.withheld.is_none() {
                turn.watch(self.run.init.as_fd(), Interest::Read, Event::Exited);
            }
            match (&self.verdict, &self.run.union) {
                (Some(verdict), _) if !verdict.is_good() => {
                    turn.watch(verdict.as_fd(), Interest::Read, Event::Arrived);
                }
                (Some(_), Some(union)) => {
                    if let Some(answer) = union.confirmation() {
                        turn.watch(answer, Interest::Read, Event::Confirmed);
                    }
                }
                _ => {}
            }
            turn.watch(self.signals.as_fd(), Interest::Read, Event::Signal);
            if let Some(helper) = self.run.helper.as_ref().filter(|_| self.run.rescue.at.is_none()) {
                turn.watch(helper.watch(), Interest::Read, Event::Helper);
            }
            if let Some(forwarder) = &self.run.forwarder {
                turn.watch(forwarder.pidfd(), Interest::Read, Event::Forwarder);
            }
            if let Some(notifier) = &self.run.notifier {
                turn.watch(notifier.pidfd(), Interest::Read, Event::Notifier);
            }
            if let Some(union) = &self.run.union {
                turn.watch(union.pidfd(), Interest::Read, Event::Union);
                if self.verdict.is_some() {
                    turn.watch(union.refusing(), Interest::Read, Event::Refused);
                }
            }
            self.checks.watch(&mut turn, Event::Prober);
            if let Some(events) = &self.run.memory_events {
                turn.watch(events.as_fd(), Interest::Change, Event::Memory);
            }
            if let Some(fd) = self.launch.notifications.as_ref().and_then(Notifications::fd) {
                turn.watch(fd, Interest::Read, Event::Notify);
            }
            let soonest =
                [deadline, self.kill_at, self.checks.deadline(), self.run.rescue.at, self.run.forward_at, sign];
            let soonest = soonest.into_iter().flatten().min();
            let Ok(ready) = turn.wait(soonest) else { continue };
            for one in ready {
                match one.event {
                    Event::Relay(event) => {
                        let request = self.relay.on(event);
                        if let (Some(_), Some(RelayRequest::Signal(_))) = (self.withheld, &request) {
                            return self.give_up_waiting();
                        }
                        self.complain(request);
                    }
                    Event::Arrived => {
                        if let Some(exit) = self.on_verdict() {
                            return exit;
                        }
                    }
                    Event::Confirmed => {
                        if self.run.union.as_ref().is_some_and(UnionServer::is_confirmed) {
                            self.verdict = None;
                            if let Some(exit) = self.withheld.take() {
                                return exit;
                            }
                        }
                    }
                    Event::Memory => self.notice_oom(),
                    Event::Exited => {
                        if let Ok(Some(exit)) = wait(self.run.init.as_fd(), false) {
                            self.notice_oom();
                            self.kill_at = None;
                            self.end_checks();
                            match self.judge(exit) {
                                Some(exit) => return exit,
                                None => self.withheld = Some(exit),
                            }
                        }
                    }
                    Event::Signal => {
                        while let Ok(Some(arrived)) = self.signals.next() {
                            // Whoever ends a session, or the machine. A user's `stop` would have left a note.
                            if arrived.signal == Signal::TERM {
                                self.is_given_up = true;
                                if self.withheld.is_some() {
                                    return self.give_up_waiting();
                                }
                                self.ask_to_end();
                                continue;
                            }
                            let _ = pidfd_send_signal(self.run.init.as_fd(), arrived.signal.number());
                        }
                    }
                    Event::Forwarder => {
                        // The listeners are ours, so a new one goes on where the last one was killed.
                        self.run.forwarder = None;
                        let died_at_once = self.run.forwarding_since.elapsed() < PAUSE;
                        self.run.forward_at = Some(Instant::now() + if died_at_once { PAUSE } else { Duration::ZERO });
                    }
                    Event::Notifier => {
                        // It ends by being killed alone, and leaves processes whose calls all fail.
                        if let Some(notifier) = self.run.notifier.take() {
                            notifier.stop();
                        }
                        let _ = pidfd_send_signal(self.run.init.as_fd(), libc::SIGKILL);
                    }
                    Event::Refused => {
                        // One that ends without a word is noticed by its end.
                        if let Some(why) = self.run.union.as_mut().and_then(UnionServer::refusal) {
                            // In this order: with its files gone first, the container would make a failure of its own of it.
                            let _ = pidfd_send_signal(self.run.init.as_fd(), libc::SIGKILL);
                            self.run.union = None;
                            self.refuse_image(why);
                            if self.withheld.is_some() {
                                return Exit::Code(FAILED);
                            }
                        }
                    }
                    Event::Union => {
                        // Every file of the container answers "not connected" from now on.
                        let failure = self.run.union.as_mut().and_then(UnionServer::failure);
                        self.run.union = None;
                        if self.verdict.is_some() {
                            self.refuse_image(failure.unwrap_or_default());
                            if self.withheld.is_some() {
                                return Exit::Code(FAILED);
                            }
                        } else {
                            self.ended_by = failure;
                        }
                        let _ = pidfd_send_signal(self.run.init.as_fd(), libc::SIGKILL);
                    }
                    Event::Prober => self.on_prober(),
                    Event::Notify => {
                        if let Some(notifications) = &self.launch.notifications {
                            notifications.pass_on();
                        }
                    }
                    Event::Helper => match &self.run.helper {
                        Some(Started::Bridge { leader, .. }) => {
                            // It says nothing by itself.
                            if !matches!(leader.answer(), Ok(Some(_))) {
                                self.run.rescue.begin();
                            }
                        }
                        // The container goes on without a way out; there is nobody to tell but its network.
                        _ => {
                            if let Some(helper) = self.run.helper.take() {
                                helper.stop();
                            }
                        }
                    },
                }
            }
        }
    }

    /// How the container has ended: it has not succeeded before its image is known to be what it should be.
    fn judge(&mut self, exit: Exit) -> Option<Exit> {
        if self.is_image_refused {
            return Some(Exit::Code(FAILED));
        }
        // A failure is one whatever comes of the image.
        (self.verdict.is_none() || exit.code() != 0).then_some(exit)
    }

    /// The pull has ended.
    fn on_verdict(&mut self) -> Option<Exit> {
        if let Err(why) = self.verdict.as_mut()?.take() {
            self.refuse_image(why);
            let _ = pidfd_send_signal(self.run.init.as_fd(), libc::SIGKILL);
            return self.withheld.take().map(|_| Exit::Code(FAILED));
        }
        // All is here and good: was it answered so? A server that has ended is noticed by itself.
        if let Some(union) = &self.run.union {
            union.ask();
        }
        None
    }

    /// What the container has seen was not its image, or cannot be known to have been.
    fn refuse_image(&mut self, why: String) {
        if let Some(verdict) = &mut self.verdict {
            verdict.tell(&why);
        }
        self.verdict = None;
        self.ended_by = Some(why);
        (self.is_image_refused, self.is_given_up) = (true, true);
    }

    /// The container has ended, and nobody wants to know whether its image was good.
    fn give_up_waiting(&mut self) -> Exit {
        self.refuse_image("stopped before all of its image was here and verified".to_owned());
        Exit::Code(FAILED)
    }

    /// Starts another forwarder, when it is time to.
    fn forward_again(&mut self) {
        if self.run.forward_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.run.forward_at = None;
        self.run.forwarding_since = Instant::now();
        if let Some(netns) = &self.run.netns {
            let attachment = self.run.helper.as_ref().map(Started::attachment);
            self.run.forwarder = self.launch.network.forward(netns.as_fd(), attachment).ok().flatten();
        }
    }

    /// Finds a successor at once if the leader has ended and nobody has looked: it is about to be asked something.
    pub(super) fn notice_dead_leader(&mut self) {
        let Some(helper @ Started::Bridge { leader, .. }) = &self.run.helper else { return };
        let mut turn = Turn::new();
        turn.watch(helper.watch(), Interest::Read, ());
        let is_silent = turn.wait(Some(Instant::now())).is_ok_and(|ready| ready.is_empty());
        if !is_silent && !matches!(leader.answer(), Ok(Some(_))) {
            self.run.rescue.begin();
            self.rescue();
        }
    }

    /// Finds a successor of the network's leader, when it is time to.
    fn rescue(&mut self) {
        let is_due = self.run.rescue.at.is_some_and(|at| at <= Instant::now());
        let Some(helper) = self.run.helper.as_mut().filter(|_| is_due) else { return };
        self.run.rescue.at = None;
        let rejoined = self.launch.network.rejoin(&self.layout, &self.launch.mapping, &self.record, helper);
        if !matches!(rejoined, Ok(true)) {
            // There is nobody to tell why; it is tried again.
            self.run.rescue.begin();
        }
    }

    /// Does what a client asked for; there is nobody to tell if it fails.
    pub(super) fn complain(&mut self, request: Option<RelayRequest>) {
        match request {
            Some(RelayRequest::Signal(signal)) => {
                let _ = pidfd_send_signal(self.run.init.as_fd(), signal.number());
            }
            Some(RelayRequest::Ask(client, question)) => self.answer(client, question),
            _ => {}
        }
    }
}
