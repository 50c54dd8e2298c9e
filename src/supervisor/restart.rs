//! Restart policies: whether a container that has ended is started again, and when.
//!
//! ```text
//! watch ── exit ─▶ policy says no, or a user had it stopped ─▶ tear-down
//!    ▲              │ yes
//!    │              ▼
//!    │             rest: 100 ms, twice as long after each run of less than 10 s, a minute at most
//!    │              │       a stop, or SIGTERM to the supervisor, ends it ─▶ tear-down
//!    └── start ◀────┘ over
//! ```
//! These are docker's numbers. The supervisor stays: its pid namespace, its base user namespace, the log, the listeners of
//! published ports. Everything else is made anew.
//!
//! **Runs in:** S; single-threaded.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::process::signal::Signal;
use runtime::process::{Exit, pidfd_send_signal};
use storage::state::container;
use storage::state::request::RestartPolicy;
use storage::state::status::{self, Event as StateEvent, ExitRecord};

use super::supervise::{Event, Supervisor};

/// The first rest.
const SHORTEST: Duration = Duration::from_millis(100);

/// No rest is longer.
const LONGEST: Duration = Duration::from_secs(60);

/// After a run of this length the next rest is the first again.
const STEADY: Duration = Duration::from_secs(10);

/// How long a container rests between two runs.
#[derive(Debug, Default)]
pub(super) struct Rests {
    last: Option<Duration>,
}

impl Rests {
    /// The rest after a run that took so long.
    fn after(&mut self, ran: Duration) -> Duration {
        let rest = match self.last {
            Some(last) if ran < STEADY => (last * 2).min(LONGEST),
            _ => SHORTEST,
        };
        self.last = Some(rest);
        rest
    }
}

/// Whether a policy wants another run after this end. `restarts` is how often it has had its way.
fn wants_another(policy: RestartPolicy, code: u8, restarts: u32) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        // 0 is docker's spelling of no limit.
        RestartPolicy::OnFailure { max_retries: None | Some(0) } => code != 0,
        RestartPolicy::OnFailure { max_retries: Some(max) } => code != 0 && restarts < max,
    }
}

impl Supervisor {
    /// Runs the container again if its policy wants that; otherwise returns how it has ended for good.
    pub(super) fn run_again(&mut self, exit: Exit, rests: &mut Rests) -> Result<(), Exit> {
        let wants_restart = std::mem::take(&mut self.wants_restart);
        // `update` may have changed what is wanted. What removes itself has no time for that, and needs none.
        if !self.record.request.remove
            && let Ok(Some(record)) = container::load(&self.layout, &self.record.id)
        {
            self.record = record.clone();
            self.launch.record = record;
        }
        let wanted = wants_restart || wants_another(self.record.request.restart, exit.code(), self.state.restarts);
        if !wanted || self.is_stop_requested() {
            return Err(exit);
        }
        let rest = rests.after(self.run.since.elapsed());
        self.lie_down(exit);
        self.rest(Instant::now() + rest);
        if self.is_stop_requested() {
            return Err(exit);
        }
        self.state.restarts += 1;
        if let Err(error) = self.start_again() {
            self.ended_by = Some(error.to_string());
            return Err(Exit::Code(error.code()));
        }
        // A reboot shall find it begun and not ended.
        let (started_at, restarts) = (self.state.started_at, self.state.restarts);
        let _ = ExitRecord::write(&self.layout, &self.record.id, started_at, None, restarts);
        self.note_restarted();
        self.complete_network();
        self.begin_checks();
        // Who asked in the last moment has found no process, and waits. This one has done nothing yet.
        if self.is_stop_requested() {
            let _ = pidfd_send_signal(self.run.init.as_fd(), Signal::KILL.number());
        }
        Ok(())
    }

    fn is_stop_requested(&self) -> bool {
        self.is_given_up || status::is_stop_requested(&self.layout, &self.record.id)
    }

    /// Clears up after a run, with another one in mind.
    fn lie_down(&mut self, exit: Exit) {
        let finished_at = Timestamp::now();
        self.notice_dead_server(exit);
        if let Some(forwarder) = self.run.forwarder.take() {
            forwarder.stop();
        }
        let exit_status = status::Exit {
            code: i32::from(exit.code()),
            finished_at: Some(finished_at),
            oom: self.run.oom_kills > 0,
            error: self.ended_by.take().unwrap_or_default(),
        };
        let _ = self.state.on(StateEvent::Resting(exit_status));
        self.state.network = Default::default();
        let _ = self.state.write(&self.layout, &self.record.id);
        self.note_resting(exit);
        // Only now do the clients hear of it.
        let failed = self.relay.container_exited(exit);
        self.complain(failed);
        self.stop_helpers();
        self.close_root();
    }

    /// Lets time pass, and clients come and go.
    fn rest(&mut self, until: Instant) {
        while Instant::now() < until && !self.is_stop_requested() {
            let mut turn = Turn::new();
            self.relay.watch(&mut turn, Event::Relay);
            turn.watch(self.signals.as_fd(), Interest::Read, Event::Signal);
            for one in turn.wait(Some(until)).unwrap_or_default() {
                match one.event {
                    // There is no process that a client's signal could be for.
                    Event::Relay(event) => drop(self.relay.on(event)),
                    Event::Signal => {
                        while let Ok(Some(arrived)) = self.signals.next() {
                            // What `stop` wakes us with, and whoever ends a session.
                            self.is_given_up |= arrived.signal == Signal::TERM;
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_to_a_minute_and_a_steady_run_begins_anew() {
        let mut rests = Rests::default();
        let brief = Duration::from_millis(5);
        let first: Vec<u128> = (0..4).map(|_| rests.after(brief).as_millis()).collect();
        assert_eq!(first, [100, 200, 400, 800]);
        let last = (0..20).map(|_| rests.after(brief)).last();
        assert_eq!(last, Some(LONGEST));
        assert_eq!(rests.after(STEADY), SHORTEST);
        assert_eq!(rests.after(brief), SHORTEST * 2);
    }

    #[test]
    fn policies_look_at_the_code_and_count() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let limited = OnFailure { max_retries: Some(2) };
        let unlimited = OnFailure { max_retries: None };
        for (policy, code, restarts, expected) in [
            (No, 1, 0, false),
            (Always, 0, 1000, true),
            (UnlessStopped, 0, 0, true),
            (unlimited, 0, 0, false),
            (unlimited, 1, 1000, true),
            (OnFailure { max_retries: Some(0) }, 1, 1000, true),
            (limited, 137, 1, true),
            (limited, 137, 2, false),
            (limited, 0, 0, false),
        ] {
            assert_eq!(wants_another(policy, code, restarts), expected, "{policy:?} {code} {restarts}");
        }
    }
}
