//! Who reads the device, and whether by sleeping or by looking again and again.
//!
//! To wake a thread that sleeps on another processor costs 10 to 20 µs, on a virtual machine whose idle processors halt
//! twice that: more than most requests take. A thread that looks for the next request instead of sleeping spares that, but
//! only if it is the only one: the kernel wakes a sleeper for each request, although the looking thread is faster, and for
//! each FORGET, which nobody waits for. So there are three ways to wait, and [`Tuner`] measures which is faster for the load
//! and the machine as they are:
//!
//! - **asleep**: all threads sleep in `read`, the kernel wakes one for each request;
//! - **alone**: one thread takes all requests, the others are parked. While requests come quickly it looks for the next
//!   one, up to [`LOOK`], else it sleeps in `read` as well. With several clients it mostly finds one waiting, and neither
//!   looks nor sleeps;
//! - **each**: all threads look, each on a processor of its own, which it yields to whoever else wants it. With as many
//!   clients as processors each finds the thread that serves it on its own one, and nothing is woken across: 6,000 files
//!   created by two clients on two processors in 130 ms, where sleeping takes 220 to 440 and one that is alone 220 to 260.
//!   Tried only if there are as many threads as processors, and not many more or less clients.
//!
//! A parked thread looks every [`PATIENCE`] whether anything has come. If not, the one that is alone is stuck in a request
//! (a large copy-up), or nobody asks for anything: in either case all go back to sleep in `read`, and an idle file system
//! wakes nobody.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// How long the thread that is alone looks for the next request.
pub(super) const LOOK: Duration = Duration::from_micros(60);

/// How long one request may keep all others waiting, and how long nothing may come before all sleep in `read` again.
const PATIENCE: Duration = Duration::from_millis(10);

/// A client that takes longer than this before it asks again has had something else to do: that says nothing about us.
const PAUSE: Duration = Duration::from_micros(250);

const NOBODY: usize = 0;

/// All look.
const ALL: usize = usize::MAX;

/// How threads wait for requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// All sleep.
    Asleep,
    /// One looks, the others are parked.
    Alone,
    /// All look.
    Each,
}

/// What the threads of a session share.
#[derive(Debug)]
pub(super) struct Turns {
    /// The thread that is alone, or [`ALL`].
    alone: AtomicUsize,
    /// What this process may run on.
    processors: CpuSet,
    /// Threads that are not, and sleep in `read`.
    sleepers: AtomicUsize,
    /// Requests received in all.
    received: AtomicU64,
    /// Of the current window, those that had been waiting already.
    queued: AtomicU64,
    /// Of the current window, who sent its first request, and how many requests others have sent.
    first_client: AtomicU32,
    others: AtomicU64,
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
    pub(super) fn new(threads: usize) -> Self {
        let processors = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let most_clients = if numbers(&processors).count() == threads { threads as u64 } else { 0 };
        Self {
            processors,
            first_client: AtomicU32::new(0),
            others: AtomicU64::new(0),
            alone: AtomicUsize::new(NOBODY),
            sleepers: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            last: AtomicU64::new(0),
            paused: AtomicU64::new(0),
            begin: Instant::now(),
            tuner: Mutex::new(Tuner::new(most_clients)),
            bell: Condvar::new(),
            parked: Mutex::new(()),
        }
    }

    /// Waits until this thread (a number above 0) may read, and says how.
    pub(super) fn take(&self, me: usize) -> Way {
        loop {
            match self.alone.load(Ordering::Acquire) {
                NOBODY => return Way::Asleep,
                ALL => return Way::Each,
                other if other == me => return Way::Alone,
                other => self.park(other),
            }
        }
    }

    /// The processor that a thread has for its own while all look.
    pub(super) fn processor_of(&self, me: usize) -> Option<CpuSet> {
        let mut own = CpuSet::new();
        let number = numbers(&self.processors).nth(me.checked_sub(1)?)?;
        own.set(number).ok().map(|()| own)
    }

    /// All processors that there are for threads.
    pub(super) fn processors(&self) -> CpuSet {
        self.processors
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
        self.change(alone, NOBODY);
    }

    /// One of those that all look has waited in vain.
    pub(super) fn end_each(&self) {
        if self.change(ALL, NOBODY) {
            unpoisoned(self.tuner.lock()).give_up(true);
        }
    }

    fn change(&self, from: usize, to: usize) -> bool {
        let guard = unpoisoned(self.parked.lock());
        let is_changed = self.alone.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_changed {
            self.bell.notify_all();
        }
        drop(guard);
        is_changed
    }

    /// Counts a request that `me` has received from `client`, `was_queued` if it need not wait for it. May change the way.
    pub(super) fn received(&self, me: usize, client: u32, was_queued: bool) {
        let (now, waited) = self.touch();
        if waited > PAUSE {
            self.paused.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
        }
        if was_queued {
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        if client != self.first_client.load(Ordering::Relaxed) {
            self.others.fetch_add(1, Ordering::Relaxed);
        }
        if self.received.fetch_add(1, Ordering::Relaxed) % WINDOW != WINDOW - 1 {
            return;
        }
        self.first_client.store(client, Ordering::Relaxed);
        let window = Window {
            queued: self.queued.swap(0, Ordering::Relaxed),
            others: self.others.swap(0, Ordering::Relaxed),
            paused: Duration::from_nanos(self.paused.swap(0, Ordering::Relaxed)),
        };
        let before = self.alone.load(Ordering::Acquire);
        let way = match before {
            NOBODY => Way::Asleep,
            ALL => Way::Each,
            _ => Way::Alone,
        };
        let next = unpoisoned(self.tuner.lock()).window(now, &window, way);
        if next != way {
            let to = match next {
                Way::Asleep => NOBODY,
                Way::Alone => me,
                Way::Each => ALL,
            };
            self.change(before, to);
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

/// The numbers in a set of processors.
fn numbers(processors: &CpuSet) -> impl Iterator<Item = usize> + '_ {
    (0..CpuSet::count()).filter(|number| processors.is_set(*number).unwrap_or(false))
}

/// Requests between two decisions.
const WINDOW: u64 = 64;

/// Longest mean time from one request to the next at which being alone can pay: a client that computes between requests, as
/// python does while it imports, comes to 100 to 200 µs.
const BUSY: Duration = Duration::from_micros(300);

/// What was seen of one window.
#[derive(Debug, Default)]
struct Window {
    /// Requests that had been waiting already.
    queued: u64,
    /// Requests that did not come from who sent the last one of the window before.
    others: u64,
    /// How long clients paused.
    paused: Duration,
}

/// Decides by trial: once in a while a window is served another way, and the faster way goes on.
#[derive(Debug)]
struct Tuner {
    /// As many clients as there are processors, if each thread can have one of those; else 0.
    most_clients: u64,
    /// When the window began.
    begin: Duration,
    /// How long the last window took that was served asleep.
    asleep: Duration,
    /// Windows until the other way is tried.
    countdown: u32,
    /// Windows between trials that failed.
    pause: u32,
    /// What [`Self::asleep`] was at the last of them: another load deserves another trial.
    failed: Duration,
    /// The next window says nothing yet: threads still move to their processors.
    is_settling: bool,
}

/// Windows not asleep between two that are served asleep for comparison.
const RECHECK: u32 = 64;

const PAUSE_MIN: u32 = 2;
const PAUSE_MAX: u32 = 128;

impl Tuner {
    fn new(most_clients: u64) -> Self {
        let none = Duration::ZERO;
        Self {
            most_clients,
            begin: none,
            asleep: none,
            countdown: 1,
            pause: PAUSE_MIN,
            failed: none,
            is_settling: false,
        }
    }

    /// Nothing came for long, or one request took long: all sleep, but what was faster before is tried again soon.
    fn interrupted(&mut self) {
        self.countdown = if self.pause == PAUSE_MIN { 1 } else { self.pause };
    }

    /// A window has ended that was served in one way; gives the way for the next.
    fn window(&mut self, now: Duration, window: &Window, way: Way) -> Way {
        let took = now.saturating_sub(self.begin).saturating_sub(window.paused);
        self.begin = now;
        // Few requests: not worth a parked thread that looks after the other.
        if window.paused > took * 16 {
            self.interrupted();
            return Way::Asleep;
        }
        if took > BUSY * WINDOW as u32 {
            self.give_up(way != Way::Asleep);
            return Way::Asleep;
        }
        match way {
            Way::Asleep => {
                self.asleep = took;
                if took * 2 > self.failed * 3 || took * 3 < self.failed * 2 {
                    (self.failed, self.pause) = (took, PAUSE_MIN);
                    self.countdown = self.countdown.min(PAUSE_MIN);
                }
                self.countdown = self.countdown.saturating_sub(1);
                match self.countdown {
                    0 if self.has_client_for_each(window.others) => {
                        self.is_settling = true;
                        Way::Each
                    }
                    0 => Way::Alone,
                    _ => Way::Asleep,
                }
            }
            Way::Each if std::mem::take(&mut self.is_settling) => way,
            // That costs all processors. One that is alone may be as good.
            Way::Each if took * 20 > self.asleep * 15 => {
                self.countdown = 0;
                Way::Alone
            }
            // To look for requests costs a processor, and must be worth it; one thread that always finds some costs nothing.
            Way::Alone if took * 20 > self.asleep * if window.queued > WINDOW / 4 { 20 } else { 17 } => {
                self.give_up(true);
                Way::Asleep
            }
            Way::Alone | Way::Each => {
                self.pause = PAUSE_MIN;
                self.countdown = if self.countdown == 0 { RECHECK } else { self.countdown - 1 };
                if self.countdown == 0 {
                    self.countdown = 1;
                    return Way::Asleep;
                }
                way
            }
        }
    }

    /// True for at least two clients, and not many more than there are processors: `n` that are alike send this part of the
    /// requests but for one of them, `(n - 1) / n`.
    fn has_client_for_each(&self, others: u64) -> bool {
        others > WINDOW / 4 && others * (self.most_clients + 1) < WINDOW * self.most_clients
    }

    fn give_up(&mut self, was_tried: bool) {
        if was_tried {
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
        served(count, [asleep, alone, alone], paused, queued, 0)[1]
    }

    /// Serves windows that take so many microseconds a request asleep, alone and by each, beside `paused`; gives how many of
    /// them were served in each way.
    fn served(count: usize, took: [u64; 3], paused: u64, queued: u64, others: u64) -> [usize; 3] {
        let mut now = Duration::ZERO;
        let mut tuner = Tuner::new(2);
        let mut way = Way::Asleep;
        let mut served = [0; 3];
        let per_request = |us| Duration::from_micros(us) * WINDOW as u32;
        for _ in 0..count {
            served[way as usize] += 1;
            now += per_request(took[way as usize] + paused);
            let queued = if way == Way::Asleep { 0 } else { queued };
            way = tuner.window(now, &Window { queued, others, paused: per_request(paused) }, way);
        }
        served
    }

    #[test]
    fn all_look_only_for_several_clients_and_if_that_is_much_faster() {
        assert!(served(1000, [20, 20, 10], 0, 32, 32)[2] > 950);
        assert!(served(1000, [20, 15, 18], 0, 32, 32)[1] > 900, "one does as well");
        assert!(served(1000, [20, 21, 18], 0, 32, 32)[0] > 900);
        assert_eq!(served(1000, [20, 20, 10], 0, 0, 0)[2], 0, "a single client");
        assert_eq!(served(1000, [20, 20, 10], 0, 32, 56)[2], 0, "eight clients");
    }

    #[test]
    fn each_thread_has_another_processor() {
        let turns = Turns::new(2);
        let all: Vec<_> = (1..=numbers(&turns.processors()).count()).filter_map(|me| turns.processor_of(me)).collect();
        assert!(all.iter().enumerate().all(|(at, one)| !all[..at].contains(one)));
        assert_eq!(turns.processor_of(all.len() + 1), None);
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
    fn a_client_that_computes_between_its_requests_is_served_alone_if_that_is_faster() {
        assert!(windows(1000, 200, 150, 0, 0) > 950);
        assert!(windows(1000, 200, 190, 0, 0) < 15, "not worth a processor");
    }

    #[test]
    fn slow_requests_are_for_all_threads() {
        assert_eq!(windows(1000, 500, 20, 0, 0), 0);
    }

    #[test]
    fn what_was_good_is_tried_again_soon_after_a_pause() {
        let mut tuner = Tuner::new(2);
        let window = |tuner: &mut Tuner, at: u64, way| tuner.window(Duration::from_millis(at), &Window::default(), way);
        assert_eq!(window(&mut tuner, 2, Way::Asleep), Way::Alone);
        assert_eq!(window(&mut tuner, 3, Way::Alone), Way::Alone);
        tuner.interrupted();
        assert_eq!(window(&mut tuner, 5, Way::Asleep), Way::Alone);
    }

    #[test]
    fn sleepers_are_known() {
        let turns = Turns::new(2);
        turns.sleep(|| assert!(turns.has_sleepers()));
        assert!(!turns.has_sleepers());
    }

    #[test]
    fn one_that_is_stuck_is_relieved() {
        let turns = Turns::new(2);
        turns.alone.store(1, Ordering::Release);
        assert_eq!(turns.take(1), Way::Alone);
        assert_eq!(turns.take(2), Way::Asleep, "takes over after a while");
        assert_eq!(turns.take(1), Way::Asleep);
        turns.change(NOBODY, ALL);
        assert_eq!(turns.take(2), Way::Each);
        turns.end_each();
        assert_eq!(turns.take(1), Way::Asleep);
    }
}
