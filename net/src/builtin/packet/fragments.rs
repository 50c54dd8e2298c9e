//! Parts of packets until the others come. Datagrams larger than the device's MTU need it, nothing else does.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Fragment, Ip};

/// Packets in the making at a time: eight whole ones are half a MiB.
const MOST: usize = 8;

/// How long the parts of a packet are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest payload, in bytes.
const LARGEST: usize = 65_535;

/// Packets in the making.
#[derive(Debug, Default)]
pub(in crate::builtin) struct Fragments(Vec<Making>);

#[derive(Debug)]
struct Making {
    of: (IpAddr, IpAddr, u8, u32),
    since: Instant,
    /// In order, none over another.
    parts: Vec<(usize, Vec<u8>)>,
    /// Known from the last part.
    len: Option<usize>,
}

impl Fragments {
    /// Adds a part; returns the payload that it completes.
    pub(in crate::builtin) fn add(&mut self, ip: &Ip<'_>, part: Fragment, now: Instant) -> Option<Vec<u8>> {
        self.0.retain(|making| now.saturating_duration_since(making.since) < PATIENCE);
        let of = (ip.source, ip.dest, ip.protocol, part.id);
        let at = self.0.iter().position(|making| making.of == of).unwrap_or_else(|| {
            // The oldest gives way.
            if self.0.len() >= MOST {
                self.0.remove(0);
            }
            self.0.push(Making { of, since: now, parts: Vec::new(), len: None });
            self.0.len() - 1
        });
        let done = match self.0.get_mut(at)?.add(part, ip.payload) {
            Some(true) => self.0.remove(at),
            Some(false) => return None,
            None => {
                self.0.remove(at);
                return None;
            }
        };
        Some(done.parts.into_iter().flat_map(|(_, bytes)| bytes).collect())
    }
}

impl Making {
    /// Whether it is whole now; `None` for parts that do not fit each other, which are an attack or an accident.
    fn add(&mut self, part: Fragment, bytes: &[u8]) -> Option<bool> {
        let end = part.offset + bytes.len();
        if end > LARGEST || bytes.is_empty() || (part.has_more && !bytes.len().is_multiple_of(8)) {
            return None;
        }
        let at = self.parts.partition_point(|(offset, _)| *offset < part.offset);
        let before = at.checked_sub(1).and_then(|at| self.parts.get(at));
        let overlaps = before.is_some_and(|(offset, bytes)| offset + bytes.len() > part.offset)
            || self.parts.get(at).is_some_and(|(offset, _)| *offset < end);
        if overlaps {
            return None;
        }
        if !part.has_more {
            self.len = Some(end);
        }
        self.parts.insert(at, (part.offset, bytes.to_vec()));
        let has: usize = self.parts.iter().map(|(_, bytes)| bytes.len()).sum();
        match self.len {
            Some(len) if self.parts.last().is_some_and(|(offset, bytes)| offset + bytes.len() > len) => None,
            Some(len) => Some(has == len),
            None => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(payload: &[u8]) -> Ip<'_> {
        let (source, dest) = ("10.0.2.100".parse().unwrap(), "192.0.2.1".parse().unwrap());
        Ip { source, dest, protocol: 17, fragment: None, payload, whole: &[] }
    }

    fn part(id: u32, offset: usize, has_more: bool) -> Fragment {
        Fragment { id, offset, has_more }
    }

    #[test]
    fn parts_come_in_any_order() {
        let now = Instant::now();
        let mut fragments = Fragments::default();
        assert_eq!(fragments.add(&ip(b"klm"), part(1, 16, false), now), None);
        assert_eq!(fragments.add(&ip(b"otherone"), part(2, 0, true), now), None);
        assert_eq!(fragments.add(&ip(b"abcdefgh"), part(1, 0, true), now), None);
        let whole = fragments.add(&ip(b"ABCDEFGH"), part(1, 8, true), now);
        assert_eq!(whole.as_deref(), Some(&b"abcdefghABCDEFGHklm"[..]));
        assert_eq!(fragments.0.len(), 1);
    }

    #[test]
    fn parts_over_each_other_too_long_or_too_late_are_dropped() {
        let now = Instant::now();
        let mut fragments = Fragments::default();
        fragments.add(&ip(b"abcdefgh"), part(1, 0, true), now);
        assert_eq!(fragments.add(&ip(b"ABCDEFGH"), part(1, 0, true), now), None);
        assert_eq!(fragments.add(&ip(b"tail"), part(1, 8, false), now), None);
        assert_eq!(fragments.add(&ip(b"bcd"), part(3, 65_528, false), now).map(|whole| whole.len()), None);
        fragments.add(&ip(b"abcdefgh"), part(4, 0, true), now);
        assert_eq!(fragments.add(&ip(b"tail"), part(4, 8, false), now + PATIENCE), None);
        for id in 0..100 {
            fragments.add(&ip(b"abcdefgh"), part(id, 0, true), now);
        }
        assert_eq!(fragments.0.len(), MOST);
    }
}
