//! Who wants to be woken, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Wake-ups, each with what it is about. One that is not wanted any more is left in: it finds nothing to do.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Instant, u64)>>);

impl Timers {
    /// Wakes `token` at `at`, unless it is woken before that anyway; `set` is where it remembers.
    pub(super) fn set(&mut self, token: u64, at: Option<Instant>, set: &mut Option<Instant>) {
        let Some(at) = at else { return };
        if set.is_none_or(|set| at < set) {
            *set = Some(at);
            self.0.push(Reverse((at, token)));
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, u64)> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse(due)| due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earlier_wake_up_counts() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let (mut timers, mut set) = (Timers::default(), None);
        timers.set(7, Some(second(5)), &mut set);
        timers.set(7, Some(second(9)), &mut set);
        timers.set(7, Some(second(2)), &mut set);
        timers.set(7, None, &mut set);
        assert_eq!((timers.next(), timers.due(second(1))), (Some(second(2)), None));
        assert_eq!(timers.due(second(5)), Some((second(2), 7)));
        assert_eq!(timers.due(second(5)), Some((second(5), 7)));
        assert_eq!(timers.next(), None);
    }
}
