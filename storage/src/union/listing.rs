//! The names of a directory, as far as no index has them: those of the upper and of layers without index.
//!
//! Names stand in the order of their hashes, which also are the cookies: a name keeps its place whatever comes and goes,
//! and when the listing was dropped and is made again.

use std::collections::BTreeMap;

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
    pub(super) number: Option<std::num::NonZeroU64>,
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

    /// Puts a name unless a higher place has it.
    pub(super) fn put_below(&mut self, slot: Slot) {
        if self.get(&slot.name).is_none_or(|known| known.place > slot.place) {
            self.put(slot);
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
        Slot { name: name.as_bytes().into(), place, kind: Some(FileKind::File), number: None }
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
        listing.put_below(slot("a", 2));
        listing.put_below(slot("a", 1));
        listing.put_below(slot("a", 3));
        assert_eq!(listing.get(b"a").map(|slot| slot.place), Some(1));
        assert!(listing.bytes() > 0);
        listing.remove(b"a");
        listing.remove(b"a");
        assert_eq!((listing.bytes(), listing.slots.len()), (0, 0));
    }
}
