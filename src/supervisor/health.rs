//! Health checks: a timer of the supervisor's, and one child at a time that runs the command in the container.
//!
//! ```text
//! S: timer ── forks ─▶ prober ── exec ─▶ X, in the container
//!    ◀── code and output, when the prober has ended ──┘      killed by the prober when its time is up
//! ```
//! The rules are docker's: failures count after the start period, `retries` of them in a row make it unhealthy, one success
//! makes it healthy. One check more runs at once after the start, of which only a success counts: who waits for a container
//! that is healthy already need not wait for an interval.
//!
//! **Runs in:** S, single-threaded; the prober is a fork of it.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use runtime::exec;
use runtime::identity::{self, Emulation};
use runtime::init::credentials::LoadFilter;
use runtime::init::namespaces::has_private;
use runtime::init::steps::{BecomeOptions, InitError, keeps_groups};
use runtime::monitor::attach::Answer;
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::monitor::relay::ClientId;
use runtime::process::inherited::Inherited;
use runtime::process::signal::Signal;
use runtime::process::spawn::{Servant, servant};
use runtime::process::stdio::{Input, Streams};
use runtime::process::{Exit, pidfd_send_signal, wait};
use storage::state::request::{HealthAction, HealthLog, Healthcheck, StartupCheck};
use storage::state::status::{Health, HealthCheck, HealthStatus, State};

use super::launch::Launch;
use super::supervise::Supervisor;
use crate::error::CommandError;

/// How often a container is checked during its start period, unless it says so itself.
const START_INTERVAL: Duration = Duration::from_secs(5);

/// The code of a check whose time was up, as podman and docker have it.
const TIMED_OUT: i32 = -1;

/// A client learns what came of the check it asked for.
const SUCCEEDED: u8 = 0;
const FAILED: u8 = 1;
const TOOK_TOO_LONG: u8 = 2;

/// How long a prober may take beyond the time of its program: one that does not come back cannot enter the container.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a prober may take to end when it is told to.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// No output is kept beyond this: it must fit into the pipe between the prober and us.
const MAX_OUTPUT_BYTES: usize = 48 * 1024;

/// The checks of a running container.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// When the next one begins.
    next: Option<Instant>,
    /// When the run began.
    since: Option<Instant>,
    /// Only a success of it counts.
    is_early: bool,
    /// The container starts: its startup check is asked, this is what came of it.
    startup: Option<Startup>,
    current: Option<Probe>,
    /// Who waits for the current one.
    asked: Vec<ClientId>,
}

/// What came of the check of the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Startup {
    /// Successes in a row.
    successes: u32,
    failures: u32,
}

/// What follows from a result of the check of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes on.
    Starting(Startup),
    /// The regular check takes over.
    Started,
    /// It has failed too often.
    Restart,
}

impl Startup {
    /// Takes one result into account; a failure that does not count is only no success.
    fn with(self, check: &StartupCheck, has_succeeded: bool, counts: bool) -> Verdict {
        let successes = if has_succeeded { self.successes.saturating_add(1) } else { 0 };
        let failures = self.failures.saturating_add(u32::from(!has_succeeded && counts));
        match check.retries.filter(|retries| *retries > 0) {
            _ if successes >= check.successes.unwrap_or(1).max(1) => Verdict::Started,
            Some(retries) if failures >= retries => Verdict::Restart,
            _ => Verdict::Starting(Self { successes, failures }),
        }
    }
}

/// One check.
#[derive(Debug)]
struct Probe {
    prober: OwnedFd,
    result: PipeReader,
    /// Closed, it asks the prober to end.
    order: PipeWriter,
    start: Timestamp,
    deadline: Instant,
    is_early: bool,
}

impl Probe {
    /// Has the prober end its program and itself. Killed at once it would leave the program to us, unwaited for, and a pid
    /// namespace cannot end before the last of its processes has been waited for.
    fn end(self) {
        let Self { prober, order, .. } = self;
        drop(order);
        let mut turn = Turn::new();
        turn.watch(prober.as_fd(), Interest::Read, ());
        if turn.wait(Some(Instant::now() + LAST_MOMENT)).is_ok_and(|ready| ready.is_empty()) {
            // It waits for something that cannot be hurried.
            let _ = pidfd_send_signal(prober.as_fd(), libc::SIGKILL);
        }
        let _ = wait(prober.as_fd(), true);
    }
}

impl Checks {
    /// When there is something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.current {
            Some(probe) => Some(probe.deadline),
            None => self.next,
        }
    }

    /// Who is at work, readable at its end.
    pub(super) fn watch<'fd, E: Copy>(&'fd self, turn: &mut Turn<'fd, E>, event: E) {
        if let Some(probe) = &self.current {
            turn.watch(probe.prober.as_fd(), Interest::Read, event);
        }
    }
}

impl Supervisor {
    fn check(&self) -> Option<&Healthcheck> {
        self.record.request.healthcheck.as_ref().filter(|check| check.is_on())
    }

    /// The check that is due: during the start, that of the start.
    fn check_due(&self) -> Option<Healthcheck> {
        let check = self.check()?;
        let startup = check.startup.as_ref().filter(|_| self.checks.startup.is_some());
        Some(match startup {
            Some(StartupCheck { test, interval, timeout, .. }) => {
                let (test, interval, timeout) = (test.clone(), *interval, *timeout);
                Healthcheck { test, interval, timeout, start_period: None, ..check.clone() }
            }
            None => check.clone(),
        })
    }

    /// A run has begun.
    pub(super) fn begin_checks(&mut self) {
        self.end_checks();
        let Some(check) = self.check() else { return };
        let startup = check.startup.is_some().then(Startup::default);
        let is_timed = check.interval.is_none_or(|interval| !interval.is_zero());
        let now = Instant::now();
        let next = is_timed.then_some(now);
        self.checks = Checks { next, since: Some(now), is_early: true, startup, ..Checks::default() };
        let health = self.state.health.get_or_insert_default();
        (health.status, health.failing_streak) = (HealthStatus::Starting, 0);
        let _ = self.state.write(&self.layout, &self.record.id);
    }

    /// The run is over, and with it what was at work.
    pub(super) fn end_checks(&mut self) {
        if let Some(probe) = self.checks.current.take() {
            probe.end();
        }
        self.answer_checks(Answer::Refused);
        self.checks = Checks::default();
    }

    /// What the container is checked with has changed.
    pub(super) fn renew_checks(&mut self) {
        match self.check() {
            Some(_) => self.begin_checks(),
            None => {
                self.end_checks();
                self.state.health = None;
                let _ = self.state.write(&self.layout, &self.record.id);
            }
        }
    }

    /// A client wants a check now, or the result of the one at work.
    pub(super) fn check_for(&mut self, client: ClientId) {
        if self.check().is_none() {
            return self.relay.answer(client, Answer::Refused);
        }
        self.checks.asked.push(client);
        if self.checks.current.is_none() {
            self.probe(false);
        }
    }

    /// Does what is due.
    pub(super) fn run_checks(&mut self) {
        let now = Instant::now();
        if let Some(probe) = &self.checks.current {
            if probe.deadline > now {
                return;
            }
            if let Some(probe) = self.checks.current.take() {
                let (start, is_early) = (probe.start, probe.is_early);
                probe.end();
                self.conclude(start, is_early, TIMED_OUT, String::new());
            }
            return;
        }
        if self.checks.next.is_none_or(|next| next > now) {
            return;
        }
        match self.state.state {
            State::Running { .. } => {
                let is_early = std::mem::take(&mut self.checks.is_early);
                self.probe(is_early);
            }
            // It could not answer.
            _ => self.schedule(),
        }
    }

    /// The prober has ended.
    pub(super) fn on_prober(&mut self) {
        let Some(mut probe) = self.checks.current.take() else { return };
        if !matches!(wait(probe.prober.as_fd(), false), Ok(Some(_))) {
            self.checks.current = Some(probe);
            return;
        }
        let mut bytes = Vec::new();
        let _ = probe.result.read_to_end(&mut bytes);
        let (code, output) = match bytes.split_first_chunk() {
            Some((code, output)) => (i32::from_le_bytes(*code), String::from_utf8_lossy(output).into_owned()),
            None => (125, "the process that checks was killed".to_owned()),
        };
        self.conclude(probe.start, probe.is_early, code, output);
    }

    fn schedule(&mut self) {
        let is_starting = self.is_starting();
        let Some(check) = self.check_due() else { return };
        let interval = check.interval.unwrap_or_default();
        let pause = match is_starting {
            true => check.start_interval.unwrap_or(START_INTERVAL).min(interval),
            false => interval,
        };
        self.checks.next = (!interval.is_zero()).then(|| Instant::now() + pause);
    }

    /// Whether failures do not count yet.
    fn is_starting(&self) -> bool {
        let period = self.check().and_then(|check| check.start_period).unwrap_or_default();
        let is_new = self.checks.since.is_some_and(|since| since.elapsed() < period);
        // The check of the start has an interval of its own.
        self.checks.startup.is_none()
            && is_new
            && self.state.health.as_ref().is_none_or(|health| health.status == HealthStatus::Starting)
    }

    /// Takes one result into account.
    fn conclude(&mut self, start: Timestamp, is_early: bool, code: i32, output: String) {
        let Some(check) = self.check().cloned() else { return };
        // One that was paused meanwhile could not answer.
        let is_paused = matches!(self.state.state, State::Paused { .. });
        let counts = !is_early && !is_paused && !self.is_starting();
        let result = HealthCheck { start, end: Timestamp::now(), exit_code: code, output };
        if let (Some(startup), Some(of_start)) = (self.checks.startup, &check.startup) {
            return self.conclude_startup(startup.with(of_start, code == 0, counts), &check, result);
        }
        let health = self.state.health.get_or_insert_default();
        let before = health.status;
        let output = result.output.clone();
        note(health, &check, result, counts);
        let status = health.status;
        self.keep_health(&check);
        if status != before {
            self.note_health(status, Some(output.as_str()).filter(|_| check.log == HealthLog::Events));
            if let (HealthStatus::Healthy, Some(notifications)) = (status, &self.launch.notifications) {
                notifications.healthy();
            }
        }
        self.answer_checks(answer_of(code));
        self.schedule();
        if status == HealthStatus::Unhealthy && code != 0 {
            self.act(check.on_failure);
        }
    }

    /// The same during the start.
    fn conclude_startup(&mut self, verdict: Verdict, check: &Healthcheck, result: HealthCheck) {
        let code = result.exit_code;
        let health = self.state.health.get_or_insert_default();
        keep(health, check, result);
        self.keep_health(check);
        self.answer_checks(answer_of(code));
        match verdict {
            Verdict::Starting(startup) => {
                self.checks.startup = Some(startup);
                self.schedule();
            }
            Verdict::Started => {
                self.checks.startup = None;
                self.checks.since = Some(Instant::now());
                self.checks.is_early = true;
                let is_timed = check.interval.is_none_or(|interval| !interval.is_zero());
                self.checks.next = is_timed.then(Instant::now);
            }
            Verdict::Restart => self.act(HealthAction::Restart),
        }
    }

    /// Writes the results where they are kept.
    fn keep_health(&mut self, check: &Healthcheck) {
        let _ = self.state.write(&self.layout, &self.record.id);
        if let (HealthLog::Directory(directory), Some(health)) = (&check.log, &self.state.health) {
            // A directory that has gone takes nothing else with it.
            let _ = health.write_log(&directory.join(format!("{}-healthcheck.log", self.record.id)));
        }
    }

    fn act(&mut self, action: HealthAction) {
        match action {
            HealthAction::None => return,
            HealthAction::Kill => {
                let _ = pidfd_send_signal(self.run.init.as_fd(), libc::SIGKILL);
            }
            HealthAction::Stop | HealthAction::Restart => {
                match action {
                    HealthAction::Restart => self.wants_restart = true,
                    _ => self.is_given_up = true,
                }
                self.ask_to_end();
            }
        }
        // What is about to end needs no other check.
        self.checks.next = None;
    }

    /// Sends the stop signal, and SIGKILL when the container has had its time.
    pub(super) fn ask_to_end(&mut self) {
        let request = &self.record.request;
        let signal = request.stop_signal.as_deref().and_then(|name| name.parse::<Signal>().ok());
        let _ = pidfd_send_signal(self.run.init.as_fd(), signal.unwrap_or(Signal::TERM).number());
        let patience = Duration::from_secs(u64::from(request.stop_timeout.unwrap_or(10)));
        self.kill_at = Some(Instant::now() + patience);
        // What is about to end needs no other check.
        self.checks.next = None;
    }

    fn answer_checks(&mut self, answer: Answer) {
        for client in std::mem::take(&mut self.checks.asked) {
            self.relay.answer(client, answer);
        }
    }

    /// Starts a check.
    fn probe(&mut self, is_early: bool) {
        let Some(check) = self.check_due() else { return };
        self.checks.next = None;
        let start = Timestamp::now();
        match self.start_prober(&check) {
            Ok((prober, result, order)) => {
                let deadline = Instant::now() + timeout_of(&check) + PATIENCE;
                self.checks.current = Some(Probe { prober, result, order, start, deadline, is_early });
            }
            Err(error) => self.conclude(start, is_early, 125, error.to_string()),
        }
    }

    fn start_prober(&self, check: &Healthcheck) -> Result<(OwnedFd, PipeReader, PipeWriter), CommandError> {
        let fail = |error: std::io::Error| CommandError::host(format!("pipe2(): {}", crate::error::reason(&error)));
        let (result, writer) = std::io::pipe().map_err(fail)?;
        let (orders, order) = std::io::pipe().map_err(fail)?;
        let directory = std::fs::File::open(self.layout.runtime_container(&self.record.id)).map_err(fail)?;
        let mut keep = vec![writer.as_fd(), orders.as_fd(), self.run.init.as_fd(), directory.as_fd()];
        keep.extend(self.run.cgroup.as_ref().map(|cgroup| cgroup.fd.as_fd()));
        let limit = match check.max_log_size {
            None => 500,
            Some(0) => MAX_OUTPUT_BYTES,
            Some(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX).min(MAX_OUTPUT_BYTES),
        };
        let role = Servant { name: c"coracle-health", keep: &keep, dies_with_parent: true };
        let prober = servant(&role, || {
            let init = self.run.init.as_fd();
            let cgroup = self.run.cgroup.as_ref().map(|cgroup| cgroup.fd.as_fd());
            let (code, output) = run(&self.launch, check, init, cgroup, directory.as_fd(), (orders.as_fd(), limit));
            let _ = (&writer).write_all(&[&code.to_le_bytes()[..], &output].concat());
            0
        })?;
        Ok((prober, result, order))
    }
}

/// Takes a result into the record of a container's health.
fn note(health: &mut Health, check: &Healthcheck, result: HealthCheck, counts: bool) {
    if result.exit_code == 0 {
        (health.status, health.failing_streak) = (HealthStatus::Healthy, 0);
    } else if counts {
        health.failing_streak = health.failing_streak.saturating_add(1);
        if health.failing_streak >= check.retries.unwrap_or(3) {
            health.status = HealthStatus::Unhealthy;
        }
    }
    keep(health, check, result);
}

/// Adds a result to those that are kept.
fn keep(health: &mut Health, check: &Healthcheck, result: HealthCheck) {
    health.log.push(result);
    let kept = match check.max_log_count {
        None => 5,
        Some(0) => usize::MAX,
        Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
    };
    health.log.drain(..health.log.len().saturating_sub(kept));
}

fn answer_of(code: i32) -> Answer {
    Answer::Done(match code {
        0 => SUCCEEDED,
        TIMED_OUT => TOOK_TOO_LONG,
        _ => FAILED,
    })
}

/// The argument vector of a check.
fn command(check: &Healthcheck) -> Vec<String> {
    let (kind, rest) = check.test.split_first().map_or(("", &[][..]), |(kind, rest)| (kind.as_str(), rest));
    match kind {
        "CMD" => rest.to_vec(),
        "CMD-SHELL" => vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.join(" ")],
        _ => check.test.clone(),
    }
}

/// The prober's life: the program's code and the beginning of what it printed.
fn run(
    launch: &Launch,
    check: &Healthcheck,
    init: std::os::fd::BorrowedFd<'_>,
    cgroup: Option<std::os::fd::BorrowedFd<'_>>,
    directory: std::os::fd::BorrowedFd<'_>,
    (orders, limit): (std::os::fd::BorrowedFd<'_>, usize),
) -> (i32, Vec<u8>) {
    let spec: &Spec = &launch.spec;
    let Some(mut process) = spec.process().clone() else { return (125, b"a bundle without a process".to_vec()) };
    process.set_args(Some(command(check))).set_terminal(Some(false));
    let keyring = std::ffi::CString::new(format!("_coracle.{}", launch.record.id)).unwrap_or_default();
    let load = launch.seccomp.as_ref().map(|seccomp| || seccomp.filter.load().map_err(InitError::from));
    let has_notifier = launch.layout.runtime_container(&launch.record.id).join(identity::socket::NAME).exists();
    let emulation = match super::bundle::is_single(&launch.record.request.userns, &launch.mapping) {
        false => None,
        true if has_notifier => Some(Emulation::Notify),
        true => Some(Emulation::Succeed),
    };
    // We are in the base user namespace, which may be the container's own.
    let mut namespaces = crate::commands::exec::namespaces_of(spec);
    if !has_private(spec, LinuxNamespaceType::User) {
        namespaces &= !libc::CLONE_NEWUSER;
    }
    let started = exec::start(exec::Request {
        init,
        namespaces,
        cgroup,
        process: &process,
        streams: exec::Streams::Pipes(Input::Null),
        seal: launch.seal.as_ref(),
        notifier: (emulation == Some(Emulation::Notify)).then_some(directory),
        options: BecomeOptions {
            keyring: Some(&keyring),
            filter_hides_keyrings: launch.seccomp.as_ref().is_some_and(|seccomp| seccomp.hides_keyrings),
            keep_groups: keeps_groups(spec),
            emulation,
            dies_with_parent: true,
            filter: load.as_ref().map(|load| load as LoadFilter<'_>),
            sealed: None,
            inherited: &Inherited::default(),
            pause: false,
            gate: None,
            preserved_fds: 0,
        },
    });
    let started = match started {
        Ok(started) => started,
        Err(exec::ExecError::Failed { code, message }) => return (code, message.into_bytes()),
        Err(error) => return (125, error.to_string().into_bytes()),
    };
    let Some(Streams::Pipes { stdout, stderr, .. }) = started.streams else { return (125, Vec::new()) };
    let mut output = Vec::new();
    let deadline = Instant::now() + timeout_of(check);
    let exit = collect((&started.pidfd, orders), [Some(stdout), Some(stderr)], deadline, limit, &mut output);
    if exit.is_none() {
        // Not left to others: a pid namespace cannot end before the last of its processes has been waited for.
        let _ = pidfd_send_signal(started.pidfd.as_fd(), libc::SIGKILL);
        let _ = wait(started.pidfd.as_fd(), true);
    }
    (exit.map_or(TIMED_OUT, |exit| i32::from(exit.code())), output)
}

fn timeout_of(check: &Healthcheck) -> Duration {
    check.timeout.unwrap_or(Duration::from_secs(30))
}

/// The event of an order to end.
const ORDER: usize = usize::MAX;

/// Reads what a program prints until it ends: what it leaves behind may hold its streams for ever. `None` if its time is up
/// before.
fn collect(
    (program, orders): (&OwnedFd, std::os::fd::BorrowedFd<'_>),
    mut streams: [Option<OwnedFd>; 2],
    deadline: Instant,
    limit: usize,
    output: &mut Vec<u8>,
) -> Option<Exit> {
    let mut ended = None;
    loop {
        let mut turn = Turn::new();
        for (number, stream) in streams.iter().enumerate() {
            if let Some(stream) = stream {
                turn.watch(stream.as_fd(), Interest::Read, number);
            }
        }
        if ended.is_none() {
            turn.watch(program.as_fd(), Interest::Read, streams.len());
            // Nothing is ever written there.
            turn.watch(orders, Interest::Hangup, ORDER);
        }
        // Once it has ended, only what is there already is read.
        let ready = turn.wait(Some(ended.map_or(deadline, |_| Instant::now()))).unwrap_or_default();
        if ended.is_some() && ready.is_empty() || ended.is_none() && deadline <= Instant::now() {
            return ended;
        }
        if ready.iter().any(|one| one.event == ORDER) {
            return None;
        }
        for one in ready {
            let mut bytes = [0; 4096];
            match streams.get_mut(one.event) {
                Some(stream) => match stream.as_ref().map(|stream| nix::unistd::read(stream, &mut bytes)) {
                    Some(Ok(count)) if count > 0 => {
                        let room = limit.saturating_sub(output.len()).min(count);
                        output.extend_from_slice(bytes.get(..room).unwrap_or_default());
                    }
                    Some(Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR)) => {}
                    _ => *stream = None,
                },
                None => ended = wait(program.as_fd(), false).ok().flatten(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> HealthCheck {
        let now = Timestamp::now();
        HealthCheck { start: now, end: now, exit_code, output: String::new() }
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let check = Healthcheck { retries: Some(2), max_log_count: Some(3), ..Healthcheck::default() };
        let mut health = Health::default();
        let mut step = |code, counts| {
            note(&mut health, &check, result(code), counts);
            (health.status, health.failing_streak, health.log.len())
        };
        assert_eq!(step(1, false), (HealthStatus::Starting, 0, 1));
        assert_eq!(step(1, true), (HealthStatus::Starting, 1, 2));
        assert_eq!(step(TIMED_OUT, true), (HealthStatus::Unhealthy, 2, 3));
        assert_eq!(step(1, true), (HealthStatus::Unhealthy, 3, 3));
        assert_eq!(step(0, true), (HealthStatus::Healthy, 0, 3));
        assert_eq!(step(1, true), (HealthStatus::Healthy, 1, 3));
    }

    #[test]
    fn a_start_ends_with_enough_successes_or_too_many_failures() {
        let check = StartupCheck { retries: Some(2), successes: Some(2), ..StartupCheck::default() };
        let mut startup = Startup::default();
        // A failure in between begins the count of successes anew, and one that does not count is no failure.
        for (has_succeeded, counts) in [(false, false), (true, true), (false, true), (true, true)] {
            match startup.with(&check, has_succeeded, counts) {
                Verdict::Starting(next) => startup = next,
                verdict => panic!("{verdict:?}"),
            }
        }
        assert_eq!(startup.with(&check, true, true), Verdict::Started);
        assert_eq!(startup.with(&check, false, true), Verdict::Restart);
        let patient = StartupCheck::default();
        assert!(matches!(Startup::default().with(&patient, false, true), Verdict::Starting(_)));
        assert_eq!(Startup::default().with(&patient, true, true), Verdict::Started);
    }

    #[test]
    fn tests_are_argument_vectors_or_shell_text() {
        let of = |test: &[&str]| {
            let test = test.iter().map(|word| (*word).to_owned()).collect();
            command(&Healthcheck { test, ..Healthcheck::default() })
        };
        assert_eq!(of(&["CMD", "a", "b c"]), ["a", "b c"]);
        assert_eq!(of(&["CMD-SHELL", "a b"]), ["/bin/sh", "-c", "a b"]);
    }
}
