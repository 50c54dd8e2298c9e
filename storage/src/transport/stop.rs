//! The end of a transfer for all of its threads, when something has failed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A flag that threads look at, and wait for.
#[derive(Debug, Default)]
pub(super) struct Stop {
    is_set: AtomicBool,
    waiting: Mutex<()>,
    set: Condvar,
}

impl Stop {
    pub(super) fn set(&self) {
        // Under the lock, so that nobody looks before and falls asleep after.
        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_set.store(true, Ordering::Relaxed);
        self.set.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Lets time pass until the flag is set; returns whether it is.
    pub(super) fn wait(&self, duration: Duration) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.set.wait_timeout_while(waiting, duration, |()| !self.is_set());
        drop(end.unwrap_or_else(PoisonError::into_inner));
        self.is_set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn wait_ends_at_once_when_something_fails() {
        let stop = Stop::default();
        assert!(!stop.wait(Duration::from_millis(1)));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(stop.wait(Duration::from_secs(60))));
            stop.set();
        });
        assert!(begin.elapsed() < Duration::from_secs(30) && stop.wait(Duration::from_secs(60)));
    }
}
