//! Who reads the device, and whether by sleeping or by looking again and again.
//!
//! To wake a thread that sleeps on another processor costs 10 to 20 µs, on a virtual machine whose idle processors halt
//! twice that: more than most requests take. A thread that looks for the next request instead of sleeping spares that, but
//! only if it is the only one: the kernel wakes a sleeper for each request, although the looking thread is faster, and for
//! each FORGET, which nobody waits for. So there are two ways to wait, and [`Tuner`] measures which is faster for the load
//! and the machine as they are:
//!
//! - **asleep**: all threads sleep in `read`, the kernel wakes one for each request;
//! - **alone**: one thread takes all requests, the others are parked. While requests come quickly it looks for the next
//!   one, up to [`LOOK`], else it sleeps in `read` as well. With several clients it mostly finds one waiting, and neither
//!   looks nor sleeps.
//!
//! A parked thread looks every [`PATIENCE`] whether anything has come. If not, the one that is alone is stuck in a request
//! (a large copy-up), or nobody asks for anything: in either case all go back to sleep in `read`, and an idle file system
//! wakes nobody.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the thread that is alone looks for the next request.
pub(super) const LOOK: Duration = Duration::from_micros(60);

/// How long one request may keep all others waiting, and how long nothing may come before all sleep in `read` again.
const PATIENCE: Duration = Duration::from_millis(10);

/// A client that takes longer than this before it asks again has had something else to do: that says nothing about us.
const PAUSE: Duration = Duration::from_micros(250);

const NOBODY: usize = 0;

/// What the threads of a session share.
#[derive(Debug)]
pub(super) struct Turns {
    /// The thread that is alone.
    alone: AtomicUsize,
    /// Threads that are not, and sleep in `read`.
    sleepers: AtomicUsize,
    /// Requests received in all.
    received: AtomicU64,
    /// Of the current window, those that had been waiting already.
    queued: AtomicU64,
    begin: Instant,
    /// When the last request came or the last answer went: nanoseconds since [`Self::begin`].
    last: AtomicU64,
    /// Of the current window, how many nanoseconds clients paused.
    paused: AtomicU64,
    tuner: Mutex<Tuner>,
    bell: Condvar,
    parked: Mutex<()>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            alone: AtomicUsize::new(NOBODY),
            sleepers: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            last: AtomicU64::new(0),
            paused: AtomicU64::new(0),
            begin: Instant::now(),
            tuner: Mutex::new(Tuner::new()),
            bell: Condvar::new(),
            parked: Mutex::new(()),
        }
    }

    /// Waits until this thread (a number above 0) may read; true if it does so alone.
    pub(super) fn take(&self, me: usize) -> bool {
        loop {
            match self.alone.load(Ordering::Acquire) {
                NOBODY => return false,
                other if other == me => return true,
                other => self.park(other),
            }
        }
    }

    /// Reads by sleeping, not alone.
    pub(super) fn sleep<T>(&self, read: impl FnOnce() -> T) -> T {
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        let result = read();
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// True if another thread sleeps in `read`, which the kernel wakes for each request until it gets one. It is the first to
    /// get one if the thread that is alone sleeps behind it.
    pub(super) fn has_sleepers(&self) -> bool {
        self.sleepers.load(Ordering::Relaxed) > 0
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
            unpoisoned(self.tuner.lock()).interrupted();
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

    /// Counts a request that `me` has received, `was_queued` if it need not wait for it. May make `me` alone, or end that.
    pub(super) fn received(&self, me: usize, was_queued: bool) {
        let (now, waited) = self.touch();
        if waited > PAUSE {
            self.paused.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
        }
        if was_queued {
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        if self.received.fetch_add(1, Ordering::Relaxed) % WINDOW != WINDOW - 1 {
            return;
        }
        let queued = self.queued.swap(0, Ordering::Relaxed);
        let paused = Duration::from_nanos(self.paused.swap(0, Ordering::Relaxed));
        let is_alone = self.alone.load(Ordering::Acquire);
        let shall_be_alone = unpoisoned(self.tuner.lock()).window(now, paused, is_alone != NOBODY, queued);
        match (is_alone, shall_be_alone) {
            (NOBODY, true) => self.alone.store(me, Ordering::Release),
            (NOBODY, false) | (_, true) => {}
            (other, false) => self.end(other),
        }
    }

    /// An answer was sent.
    pub(super) fn sent(&self) {
        self.touch();
    }

    /// The time since the session began, and since this was called last.
    fn touch(&self) -> (Duration, Duration) {
        let now = self.begin.elapsed();
        let last = self.last.swap(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        (now, now.saturating_sub(Duration::from_nanos(last)))
    }
}

fn unpoisoned<'a, T>(locked: Result<MutexGuard<'a, T>, PoisonError<MutexGuard<'a, T>>>) -> MutexGuard<'a, T> {
    // Nobody panics while holding these; and if so, what they guard is whole.
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// Requests between two decisions.
const WINDOW: u64 = 64;

/// Longest mean time from one request to the next at which being alone can pay.
const BUSY: Duration = Duration::from_micros(100);

/// Decides by trial: once in a while a window is served the other way, and the faster way goes on.
#[derive(Debug)]
struct Tuner {
    /// When the window began.
    begin: Duration,
    /// How long the last window took that was served asleep.
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

const PAUSE_MIN: u32 = 2;
const PAUSE_MAX: u32 = 128;

impl Tuner {
    fn new() -> Self {
        Self { begin: Duration::ZERO, asleep: Duration::ZERO, countdown: 1, pause: PAUSE_MIN, failed: Duration::ZERO }
    }

    /// Nothing came for long, or one request took long: all sleep, but what was faster before is tried again soon.
    fn interrupted(&mut self) {
        self.countdown = if self.pause == PAUSE_MIN { 1 } else { self.pause };
    }

    /// A window has ended, served alone or asleep, with so many requests that had queued up. True if the next is to be served
    /// alone.
    fn window(&mut self, now: Duration, paused: Duration, was_alone: bool, queued: u64) -> bool {
        let took = now.saturating_sub(self.begin).saturating_sub(paused);
        self.begin = now;
        let is_concurrent = queued > WINDOW / 4;
        // Few requests: not worth a parked thread that looks after the other.
        if paused > took * 16 {
            self.interrupted();
            return false;
        }
        if took > BUSY * WINDOW as u32 {
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
        // To look for requests costs a processor, and must be worth it; one thread that always finds some costs nothing.
        if took * 20 > self.asleep * if is_concurrent { 20 } else { 17 } {
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

    /// Serves windows that take `asleep` or `alone` microseconds a request, beside `paused`; gives how many of them were
    /// served alone.
    fn windows(count: usize, asleep: u64, alone: u64, paused: u64, queued: u64) -> usize {
        let mut now = Duration::ZERO;
        let mut tuner = Tuner::new();
        let mut is_alone = false;
        let per_request = |us| Duration::from_micros(us) * WINDOW as u32;
        (0..count)
            .filter(|_| {
                let was_alone = is_alone;
                now += per_request(if was_alone { alone } else { asleep } + paused);
                is_alone = tuner.window(now, per_request(paused), was_alone, if was_alone { queued } else { 0 });
                was_alone
            })
            .count()
    }

    #[test]
    fn the_faster_way_is_found_and_kept() {
        assert!(windows(1000, 40, 20, 0, 0) > 950);
        assert!(windows(1000, 5, 12, 0, 0) < 15);
        assert!(windows(1000, 20, 19, 0, 0) < 15, "not worth a processor");
    }

    #[test]
    fn one_thread_is_enough_while_it_always_finds_a_request() {
        assert!(windows(1000, 20, 19, 0, WINDOW) > 950);
        assert!(windows(1000, 20, 25, 0, WINDOW) < 15, "requests that queue up are for all threads");
    }

    #[test]
    fn pauses_of_clients_decide_nothing() {
        assert!(windows(1000, 40, 20, 300, 0) > 950);
        assert!(windows(1000, 20, 40, 300, 0) < 15);
        assert_eq!(windows(1000, 40, 20, 5000, 0), 0, "nearly idle");
    }

    #[test]
    fn slow_requests_are_for_all_threads() {
        assert_eq!(windows(1000, 500, 20, 0, 0), 0);
    }

    #[test]
    fn what_was_good_is_tried_again_soon_after_a_pause() {
        let turns = Turns::new();
        let window = |tuner: &mut Tuner, at: u64, was_alone| {
            tuner.window(Duration::from_millis(at), Duration::ZERO, was_alone, 0)
        };
        let mut tuner = turns.tuner.lock().unwrap();
        assert!(window(&mut tuner, 2, false));
        assert!(window(&mut tuner, 3, true));
        tuner.interrupted();
        assert!(window(&mut tuner, 5, false));
    }

    #[test]
    fn sleepers_are_known() {
        let turns = Turns::new();
        turns.sleep(|| assert!(turns.has_sleepers()));
        assert!(!turns.has_sleepers());
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
