//! Who reads the device, and whether by sleeping or by looking again and again.
//!
//! To wake a sleeping thread on another processor costs 10 to 20 µs, more than most requests take. A thread that looks for
//! the next request instead of sleeping spares that, but only if it is the only one: the kernel wakes a sleeper for each
//! request, although the looking thread is faster. So there are two ways to wait, and [`Tuner`] measures which is faster
//! for the load and the machine as they are:
//!
//! - **asleep**: all threads sleep in `read`, the kernel wakes one for each request;
//! - **alone**: one thread looks for requests, for [`LOOK`] after each, the others are parked. When nothing came in that
//!   time, or requests queue up, all go back to sleep in `read`: an idle file system wakes nobody.
//!
//! A parked thread looks every [`PATIENCE`] whether the one that is alone is stuck in a request (a large copy-up), and
//! takes over.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the thread that is alone looks for the next request.
pub(super) const LOOK: Duration = Duration::from_micros(60);

/// How long one request may keep all others waiting.
const PATIENCE: Duration = Duration::from_millis(10);

const NOBODY: usize = 0;

/// What the threads of a session share.
#[derive(Debug)]
pub(super) struct Turns {
    /// The thread that is alone.
    alone: AtomicUsize,
    /// Requests received in all.
    received: AtomicU64,
    /// Of the current window, those that had been waiting already.
    queued: AtomicU64,
    tuner: Mutex<Tuner>,
    bell: Condvar,
    parked: Mutex<()>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            alone: AtomicUsize::new(NOBODY),
            received: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            tuner: Mutex::new(Tuner::new(Instant::now())),
            bell: Condvar::new(),
            parked: Mutex::new(()),
        }
    }

    /// Waits until this thread (a number above 0) may read; true if it is to look, alone.
    pub(super) fn take(&self, me: usize) -> bool {
        loop {
            match self.alone.load(Ordering::Acquire) {
                NOBODY => return false,
                other if other == me => return true,
                other => self.park(other),
            }
        }
    }

    fn park(&self, alone: usize) {
        let before = self.received.load(Ordering::Relaxed);
        let guard = unpoisoned(self.parked.lock());
        if self.alone.load(Ordering::Acquire) != alone {
            return;
        }
        let (guard, timeout) = self.bell.wait_timeout(guard, PATIENCE).unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        if timeout.timed_out() && self.received.load(Ordering::Relaxed) == before {
            self.end(alone);
        }
    }

    /// Ends the time that `alone` is alone, if it is.
    pub(super) fn end(&self, alone: usize) {
        let guard = unpoisoned(self.parked.lock());
        if self.alone.compare_exchange(alone, NOBODY, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.bell.notify_all();
        }
        drop(guard);
    }

    /// Nothing came while `me` was alone.
    pub(super) fn idle(&self, me: usize) {
        self.end(me);
        unpoisoned(self.tuner.lock()).interrupted(Instant::now());
    }

    /// Counts a request that `me` has received, `was_queued` if it need not wait for it. May make `me` alone, or end that.
    pub(super) fn received(&self, me: usize, was_queued: bool) {
        if was_queued {
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        if self.received.fetch_add(1, Ordering::Relaxed) % WINDOW != WINDOW - 1 {
            return;
        }
        let queued = self.queued.swap(0, Ordering::Relaxed);
        let is_alone = self.alone.load(Ordering::Acquire);
        let mut tuner = unpoisoned(self.tuner.lock());
        let shall_be_alone = tuner.window(Instant::now(), is_alone != NOBODY, queued);
        match (is_alone, shall_be_alone) {
            (NOBODY, true) => self.alone.store(me, Ordering::Release),
            (NOBODY, false) | (_, true) => {}
            (other, false) => self.end(other),
        }
    }
}

fn unpoisoned<'a, T>(locked: Result<MutexGuard<'a, T>, PoisonError<MutexGuard<'a, T>>>) -> MutexGuard<'a, T> {
    // Nobody panics while holding these; and if so, what they guard is whole.
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// Requests between two decisions.
const WINDOW: u64 = 64;

/// Longest mean time from one request to the next at which looking can pay.
const BUSY: Duration = Duration::from_micros(100);

/// Decides by trial: once in a while a window is served the other way, and the faster way goes on.
#[derive(Debug)]
struct Tuner {
    begin: Instant,
    /// The last window that was served asleep.
    asleep: Duration,
    /// Windows until the other way is tried.
    countdown: u32,
    /// Windows between trials to be alone that failed.
    pause: u32,
    /// What [`Self::asleep`] was at the last of them: another load deserves another trial.
    failed: Duration,
}

/// Windows alone between two that are served asleep for comparison.
const RECHECK: u32 = 64;

const PAUSE_MIN: u32 = 4;
const PAUSE_MAX: u32 = 128;

impl Tuner {
    fn new(begin: Instant) -> Self {
        Self { begin, asleep: Duration::ZERO, countdown: PAUSE_MIN, pause: PAUSE_MIN, failed: Duration::ZERO }
    }

    /// A window alone ended early, because nothing came. What is measured now would be the idleness.
    fn interrupted(&mut self, now: Instant) {
        self.begin = now;
        self.countdown = self.pause;
    }

    /// A window has ended, served alone or asleep, with so many requests that had queued up. True if the next is to be served
    /// alone.
    fn window(&mut self, now: Instant, was_alone: bool, queued: u64) -> bool {
        let took = now.duration_since(self.begin);
        self.begin = now;
        let is_concurrent = queued > WINDOW / 4;
        if took > BUSY * WINDOW as u32 || (was_alone && is_concurrent) {
            self.give_up(was_alone);
            return false;
        }
        if !was_alone {
            self.asleep = took;
            if took * 2 > self.failed * 3 || took * 3 < self.failed * 2 {
                (self.failed, self.pause) = (took, PAUSE_MIN);
                self.countdown = self.countdown.min(PAUSE_MIN);
            }
            self.countdown = self.countdown.saturating_sub(1);
            return self.countdown == 0;
        }
        // It costs a processor: it must be worth it.
        if took * 20 > self.asleep * 17 {
            self.give_up(true);
            return false;
        }
        self.pause = PAUSE_MIN;
        self.countdown = if self.countdown == 0 { RECHECK } else { self.countdown - 1 };
        if self.countdown == 0 {
            self.countdown = 1;
            return false;
        }
        true
    }

    fn give_up(&mut self, was_alone: bool) {
        if was_alone {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            self.failed = self.asleep;
        }
        self.countdown = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves windows that take `asleep` or `alone` microseconds a request; gives how many of them were served alone.
    fn windows(count: usize, asleep: u64, alone: u64, queued: u64) -> usize {
        let mut now = Instant::now();
        let mut tuner = Tuner::new(now);
        let mut is_alone = false;
        (0..count)
            .filter(|_| {
                let was_alone = is_alone;
                now += Duration::from_micros(if was_alone { alone } else { asleep }) * WINDOW as u32;
                is_alone = tuner.window(now, was_alone, if was_alone { queued } else { 0 });
                was_alone
            })
            .count()
    }

    #[test]
    fn the_faster_way_is_found_and_kept() {
        assert!(windows(1000, 40, 20, 0) > 950);
        assert!(windows(1000, 5, 12, 0) < 15);
        assert!(windows(1000, 20, 19, 0) < 15, "not worth a processor");
    }

    #[test]
    fn requests_that_queue_up_are_for_all_threads() {
        assert!(windows(1000, 40, 20, WINDOW) < 15);
    }

    #[test]
    fn an_idle_file_system_is_never_looked_at() {
        assert_eq!(windows(1000, 500, 20, 0), 0);
    }

    #[test]
    fn one_that_is_stuck_is_relieved() {
        let turns = Turns::new();
        turns.alone.store(1, Ordering::Release);
        assert!(turns.take(1));
        assert!(!turns.take(2), "takes over after a while");
        assert!(!turns.take(1));
    }
}
