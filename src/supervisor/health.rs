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
use runtime::monitor::attach::Answer;
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::monitor::relay::ClientId;
use runtime::process::signal::Signal;
use runtime::process::spawn::{Servant, servant};
use runtime::process::{pidfd_send_signal, wait};
use storage::state::request::{HealthAction, HealthLog, Healthcheck, StartupCheck};
use storage::state::status::{HealthCheck, HealthStatus, State};

mod prober;
mod verdict;

use prober::{run, timeout_of};
use verdict::{Startup, Verdict, keep, note};

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

fn answer_of(code: i32) -> Answer {
    Answer::Done(match code {
        0 => SUCCEEDED,
        TIMED_OUT => TOOK_TOO_LONG,
        _ => FAILED,
    })
}
