//! Bytes on their way to the container until they are acknowledged: a ring, there only while there are any.

use std::num::NonZeroUsize;

use crate::sys::Pages;

/// Size of a ring in bytes: what may be under way to the container. It answers at once, so more would only be colder.
pub(in crate::builtin) const CAPACITY: usize = 256 * 1024;

/// Rings for all connections.
#[derive(Debug)]
pub(in crate::builtin) struct Pool {
    spare: Vec<Pages>,
    left: usize,
}

/// Rings that wait for their next use.
const MOST_SPARE: usize = 2;

impl Pool {
    /// A pool of at most `most` rings.
    pub(in crate::builtin) fn new(most: usize) -> Self {
        Self { spare: Vec::new(), left: most }
    }

    /// Whether there is one for whoever asks next.
    pub(in crate::builtin) fn has_ring(&self) -> bool {
        self.left > 0
    }

    fn take(&mut self) -> Option<Pages> {
        let left = self.left.checked_sub(1)?;
        let ring = self.spare.pop().or_else(|| Pages::new(NonZeroUsize::new(CAPACITY)?).ok())?;
        self.left = left;
        Some(ring)
    }

    fn give_back(&mut self, ring: Pages) {
        self.left += 1;
        if self.spare.len() < MOST_SPARE {
            self.spare.push(ring);
        }
    }

    /// Whether it holds what is not in use.
    pub(in crate::builtin) fn has_spare(&self) -> bool {
        !self.spare.is_empty()
    }

    /// Lets go of what is not in use.
    pub(in crate::builtin) fn shrink(&mut self) {
        self.spare.clear();
    }
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub(in crate::builtin) struct Queue {
    ring: Option<Pages>,
    head: usize,
    len: usize,
}

impl Queue {
    /// Bytes in it.
    pub(in crate::builtin) fn len(&self) -> usize {
        self.len
    }

    /// Whether it has a ring already.
    pub(in crate::builtin) fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Bytes it has room for.
    pub(in crate::builtin) fn room(&self) -> usize {
        CAPACITY - self.len
    }

    /// Lets `read` fill up to `most` bytes, given as two pieces; it returns how many it filled. `None` if all rings are in
    /// use.
    pub(in crate::builtin) fn fill<E>(
        &mut self,
        pool: &mut Pool,
        most: usize,
        read: impl FnOnce(&mut [u8], &mut [u8]) -> Result<usize, E>,
    ) -> Option<Result<usize, E>> {
        if self.ring.is_none() {
            self.ring = Some(pool.take()?);
        }
        let ring = self.ring.as_mut()?;
        let most = most.min(CAPACITY - self.len);
        let start = (self.head + self.len) % CAPACITY;
        let first = most.min(CAPACITY - start);
        let (front, back) = ring.split_at_mut(start);
        let filled = read(back.get_mut(..first)?, front.get_mut(..most - first)?);
        if let Ok(filled) = &filled {
            self.len += (*filled).min(most);
        }
        if self.len == 0 {
            self.release(pool);
        }
        Some(filled)
    }

    /// `len` bytes from `offset` on, in two pieces.
    pub(in crate::builtin) fn slices(&self, offset: usize, len: usize) -> (&[u8], &[u8]) {
        let Some(ring) = &self.ring else { return (&[], &[]) };
        let len = len.min(self.len.saturating_sub(offset));
        let start = (self.head + offset) % CAPACITY;
        let first = len.min(CAPACITY - start);
        let (front, back) = ring.split_at(start);
        (back.get(..first).unwrap_or_default(), front.get(..len - first).unwrap_or_default())
    }

    /// Drops the first `count` bytes.
    pub(in crate::builtin) fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        // Its beginning is the warmest part.
        self.head = if self.len == 0 { 0 } else { (self.head + count) % CAPACITY };
    }

    /// Gives the ring back, if it is empty.
    pub(in crate::builtin) fn release(&mut self, pool: &mut Pool) {
        if self.len == 0
            && let Some(ring) = self.ring.take()
        {
            pool.give_back(ring);
        }
    }

    /// Gives the ring back with what is in it.
    pub(in crate::builtin) fn dismantle(&mut self, pool: &mut Pool) {
        self.consume(self.len);
        self.release(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_round_and_round() {
        let mut pool = Pool::new(1);
        let mut queue = Queue::default();
        let (mut written, mut read) = (0usize, 0usize);
        for round in 0..100 {
            let filled = queue.fill(&mut pool, 30_000 + round * 2_777, |first, second| {
                for (at, byte) in first.iter_mut().chain(second.iter_mut()).enumerate() {
                    *byte = ((written + at) % 251) as u8;
                }
                Ok::<usize, ()>(first.len() + second.len())
            });
            written += filled.expect("there is a ring").expect("it is filled");
            let (first, second) = queue.slices(0, 90_000);
            for (at, byte) in first.iter().chain(second).enumerate() {
                assert_eq!(usize::from(*byte), (read + at) % 251);
            }
            let count = first.len() + second.len();
            queue.consume(count);
            read += count;
            assert_eq!(written - read, queue.len());
        }
        assert!(read > 3 * CAPACITY);
        let mut other = Queue::default();
        queue.fill(&mut pool, 5, |first, _| Ok::<usize, ()>(first.len())).expect("it has one").expect("filled");
        assert!(other.fill(&mut pool, 1, |_, _| Ok::<usize, ()>(0)).is_none());
        queue.dismantle(&mut pool);
        assert!(other.fill(&mut pool, 1, |_, _| Ok::<usize, ()>(0)).is_some());
        assert_eq!((other.len(), pool.left), (0, 1));
    }
}
