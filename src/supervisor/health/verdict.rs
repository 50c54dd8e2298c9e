//! What follows from the results of checks: pure.

use storage::state::request::{Healthcheck, StartupCheck};
use storage::state::status::{Health, HealthCheck, HealthStatus};

/// What came of the check of the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Startup {
    /// Successes in a row.
    successes: u32,
    failures: u32,
}

/// What follows from a result of the check of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Starting(Startup),
    /// The regular check takes over.
    Started,
    /// It has failed too often.
    Restart,
}

impl Startup {
    /// Takes one result into account; a failure that does not count is only no success.
    pub(super) fn with(self, check: &StartupCheck, has_succeeded: bool, counts: bool) -> Verdict {
        let successes = if has_succeeded { self.successes.saturating_add(1) } else { 0 };
        let failures = self.failures.saturating_add(u32::from(!has_succeeded && counts));
        match check.retries.filter(|retries| *retries > 0) {
            _ if successes >= check.successes.unwrap_or(1).max(1) => Verdict::Started,
            Some(retries) if failures >= retries => Verdict::Restart,
            _ => Verdict::Starting(Self { successes, failures }),
        }
    }
}

/// Takes a result into the record of a container's health.
pub(super) fn note(health: &mut Health, check: &Healthcheck, result: HealthCheck, counts: bool) {
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
pub(super) fn keep(health: &mut Health, check: &Healthcheck, result: HealthCheck) {
    health.log.push(result);
    let kept = match check.max_log_count {
        None => 5,
        Some(0) => usize::MAX,
        Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
    };
    health.log.drain(..health.log.len().saturating_sub(kept));
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::TIMED_OUT;
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
}
