//! What was refused, told once and not a thousand times.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::netfilter::Destination;

/// How long the same refusal of the same container is not told again.
const SILENCE: Duration = Duration::from_secs(60);

/// How many of a container are told at once, and how long until there may be one more.
const AT_ONCE: u32 = 30;
const ONE_MORE: Duration = Duration::from_secs(2);

/// Different ones of a container that are remembered.
const REMEMBERED: usize = 256;

/// What a container was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// To know where a name leads.
    Name(String),
    /// To send a packet there.
    Packet(Destination),
}

/// What a container was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its id.
    pub container: String,
    /// `tcp 192.0.2.7:443`, or a name.
    pub destination: String,
}

type Tell = Box<dyn FnMut(&Refused)>;

/// What was told, and to whom it is.
#[derive(Default)]
pub(super) struct Refusals {
    tell: Option<Tell>,
    told: HashMap<String, Told>,
}

struct Told {
    seen: HashMap<What, Instant>,
    left: u32,
    since: Instant,
}

impl std::fmt::Debug for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refusals").field("containers", &self.told.len()).finish_non_exhaustive()
    }
}

impl Refusals {
    /// Ones that somebody is told of.
    pub(super) fn telling(tell: Tell) -> Self {
        Self { tell: Some(tell), told: HashMap::new() }
    }

    /// Tells of one, unless that was done, or there were too many.
    pub(super) fn add(&mut self, container: &str, what: What) {
        if self.is_news(container, &what, Instant::now())
            && let Some(tell) = &mut self.tell
        {
            let destination = match what {
                What::Name(name) => name,
                What::Packet(to) => to.to_string(),
            };
            tell(&Refused { container: container.to_owned(), destination });
        }
    }

    fn is_news(&mut self, container: &str, what: &What, now: Instant) -> bool {
        // One that has been silent for so long has nothing that would be told twice.
        self.told.retain(|_, told| now.duration_since(told.since) < SILENCE || !told.seen.is_empty());
        let told = self.told.entry(container.to_owned());
        let told = told.or_insert_with(|| Told { seen: HashMap::new(), left: AT_ONCE, since: now });
        told.seen.retain(|_, then| now.duration_since(*then) < SILENCE);
        let more = now.duration_since(told.since).as_secs() / ONE_MORE.as_secs();
        if more > 0 {
            told.left = AT_ONCE.min(told.left.saturating_add(u32::try_from(more).unwrap_or(AT_ONCE)));
            told.since = now;
        }
        if told.left == 0 || told.seen.len() >= REMEMBERED || told.seen.contains_key(what) {
            return false;
        }
        told.left -= 1;
        told.seen.insert(what.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_a_minute_and_not_too_many_at_once() {
        let mut refusals = Refusals::default();
        let begin = Instant::now();
        let name = |number: usize| What::Name(format!("n{number}.example"));
        let mut is_news = |container: &str, number, seconds| {
            refusals.is_news(container, &name(number), begin + Duration::from_secs(seconds))
        };
        assert!(is_news("a", 0, 0) && !is_news("a", 0, 0) && !is_news("a", 0, 59));
        assert!(is_news("b", 0, 59) && is_news("a", 0, 60));
        let told = (1..100).filter(|number| is_news("a", *number, 61)).count();
        assert!((AT_ONCE as usize - 2..=AT_ONCE as usize).contains(&told), "{told}");
        assert!(is_news("a", 100, 63) && !is_news("a", 101, 63) && is_news("b", 100, 63));
    }
}
