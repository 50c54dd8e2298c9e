//! The names of a directory, as far as no index has them: those of the upper and of layers without index.
//!
//! Names stand in the order of their hashes, which also are the cookies: a name keeps its place whatever comes and goes,
//! and when the listing was dropped and is made again.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::attributes::FileKind;

/// The names of one directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    slots: BTreeMap<u64, Slot>,
    bytes: usize,
}

/// A name and what is behind it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: Box<[u8]>,
    /// The topmost place that has the name: 0 is the upper, then the directory's parts.
    pub(super) place: u16,
    /// What it is there; `None` is a whiteout.
    pub(super) kind: Option<FileKind>,
    /// The file's number, if that is known without asking.
    pub(super) number: Option<NonZeroU64>,
    /// Of a directory: which places below have it as well.
    pub(super) below: Below,
}

/// The places below the topmost that have a directory of the same name, as far as nothing lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Below(u64);

impl Below {
    /// Nobody knows: each has to be asked.
    pub(super) const UNKNOWN: Self = Self(1);
    /// Nothing that is further below shows.
    const ENDED: u64 = 2;

    /// Whether a place has a directory of the name; `None` if that is not known.
    pub(super) fn has(self, place: u16) -> Option<bool> {
        (self.0 & Self::UNKNOWN.0 == 0).then(|| bit(place).is_some_and(|bit| self.0 & bit != 0))
    }

    /// True if no place behind this one has anything to do with the name.
    pub(super) fn is_last(self, place: u16) -> bool {
        let is_known = self.0 & Self::UNKNOWN.0 == 0;
        is_known && (self.0 & !Self::ENDED).checked_shr(u32::from(place) + 2).unwrap_or(0) == 0
    }

    fn add(&mut self, place: u16, is_directory: bool) {
        if self.0 & Self::ENDED == 0 {
            self.0 |= if is_directory { bit(place).unwrap_or(Self::UNKNOWN.0) } else { Self::ENDED };
        }
    }
}

fn bit(place: u16) -> Option<u64> {
    1_u64.checked_shl(u32::from(place) + 1).filter(|_| place > 0)
}

impl Slot {
    /// A name that nothing below has.
    pub(super) fn new(name: &[u8], place: u16, kind: Option<FileKind>, number: Option<NonZeroU64>) -> Self {
        Self { name: name.into(), place, kind, number, below: Below(0) }
    }
}

/// Names of one hash beyond this many share their cookie.
const SAME_HASH: u64 = 0xff;

impl Listing {
    /// What has the name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Slot> {
        self.find(name).map(|(_, slot)| slot)
    }

    /// Puts or replaces a name.
    pub(super) fn put(&mut self, slot: Slot) {
        let found = self.find(&slot.name).map(|(key, _)| key);
        let key = found.unwrap_or_else(|| {
            let first = key(&slot.name);
            (first..=first | SAME_HASH).find(|key| !self.slots.contains_key(key)).unwrap_or(first | SAME_HASH)
        });
        self.bytes += cost(&slot);
        if let Some(old) = self.slots.insert(key, slot) {
            self.bytes = self.bytes.saturating_sub(cost(&old));
        }
    }

    /// Puts a name of a place that is lower than all before. One that is there already only learns of it.
    pub(super) fn put_below(&mut self, slot: Slot) {
        match self.find(&slot.name).map(|(key, _)| key).and_then(|key| self.slots.get_mut(&key)) {
            None => self.put(slot),
            Some(known) if known.place == slot.place => {}
            Some(known) => known.below.add(slot.place, slot.kind == Some(FileKind::Directory)),
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(slot) = self.find(name).map(|(key, _)| key).and_then(|key| self.slots.remove(&key)) {
            self.bytes = self.bytes.saturating_sub(cost(&slot));
        }
    }

    /// The first name behind a cookie (0: the first of all), and its cookie.
    pub(super) fn after(&self, cookie: u64) -> Option<(u64, &Slot)> {
        self.slots.range(cookie.saturating_add(1)..).next().map(|(cookie, slot)| (*cookie, slot))
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn find(&self, name: &[u8]) -> Option<(u64, &Slot)> {
        let first = key(name);
        let mut same = self.slots.range(first..=first | SAME_HASH);
        same.find(|(_, slot)| *slot.name == *name).map(|(key, slot)| (*key, slot))
    }
}

fn cost(slot: &Slot) -> usize {
    72 + slot.name.len().next_multiple_of(16)
}

/// Never 0, and below 2^60.
fn key(name: &[u8]) -> u64 {
    let hash = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let hash = (hash ^ hash >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 4).max(0x100) & !SAME_HASH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, place: u16) -> Slot {
        Slot::new(name.as_bytes(), place, Some(FileKind::File), None)
    }

    #[test]
    fn names_keep_their_cookies_while_others_come_and_go() {
        let mut listing = Listing::default();
        (0..1000).for_each(|at| listing.put(slot(&format!("name-{at}"), 0)));
        let mut cookie = 0;
        let mut seen = Vec::new();
        while let Some((next, slot)) = listing.after(cookie) {
            seen.push(slot.name.clone());
            cookie = next;
            if seen.len() == 300 {
                for name in &seen {
                    listing.remove(name);
                }
                (1000..1300).for_each(|at| listing.put(slot_of(at)));
            }
        }
        let old = |name: &[u8]| std::str::from_utf8(name).unwrap()[5..].parse::<u32>().unwrap() < 1000;
        assert_eq!(seen.iter().filter(|name| old(name)).count(), 1000);
    }

    fn slot_of(at: u32) -> Slot {
        slot(&format!("name-{at}"), 0)
    }

    #[test]
    fn higher_place_wins_and_memory_is_counted() {
        let mut listing = Listing::default();
        let directory = |place| Slot { kind: Some(FileKind::Directory), ..slot("a", place) };
        for place in [1, 3, 5] {
            listing.put_below(directory(place));
        }
        listing.put_below(slot("a", 6));
        listing.put_below(directory(7));
        let found = listing.get(b"a").unwrap();
        assert_eq!(found.place, 1);
        let has = |place| found.below.has(place).unwrap();
        assert_eq!((2..9).filter(|place| has(*place)).collect::<Vec<_>>(), [3, 5]);
        assert!(!found.below.is_last(3) && found.below.is_last(5));
        listing.put_below(directory(64));
        assert_eq!(Below::UNKNOWN.has(3), None);
        assert!(listing.bytes() > 0);
        listing.remove(b"a");
        listing.remove(b"a");
        assert_eq!((listing.bytes(), listing.slots.len()), (0, 0));
    }
}
