//! Descriptors kept open for the next request, the least recently used closed first.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};

use super::attributes::InodeNo;
use super::inode_table::ByNumber;

/// Most descriptors to have the kernel make room for at once: 128 KiB of its memory.
const ROOM: usize = (1 << 14) - 1;

/// Which of a file's descriptors: [`OWN`] or that of a directory in a lower layer.
pub(super) type Which = u16;

/// The data of a file, or a directory in the upper.
pub(super) const OWN: Which = 0;

/// A directory in a lower layer.
pub(super) fn in_layer(layer: u16) -> Which {
    layer.saturating_add(1)
}

/// An open file and whether it can be written.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) writable: bool,
}

/// The descriptors. A handle that was given out stays valid when it is dropped from here.
#[derive(Debug)]
pub(super) struct Handles {
    max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    open: HashMap<(u64, Which), Slot, ByNumber>,
    /// The order in which they may be closed (a clock: one that was used since goes round again).
    clock: VecDeque<(u64, Which)>,
}

#[derive(Debug)]
struct Slot {
    handle: Handle,
    used: bool,
}

impl Handles {
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(8), inner: Mutex::default() }
    }

    /// See [`Union::make_room`](super::Union::make_room); `any` is any descriptor.
    pub(super) fn make_room(&self, any: BorrowedFd<'_>) {
        let last = i32::try_from(self.max.min(ROOM)).unwrap_or(i32::MAX);
        // What cannot be had now is asked for again when it is needed.
        let _ = fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(last)).and_then(nix::unistd::close);
    }

    pub(super) fn get(&self, ino: InodeNo, which: Which) -> Option<Handle> {
        let mut inner = self.lock();
        let slot = inner.open.get_mut(&(ino.0, which))?;
        slot.used = true;
        Some(slot.handle.clone())
    }

    pub(super) fn insert(&self, ino: InodeNo, which: Which, fd: OwnedFd, writable: bool) -> Handle {
        let handle = Handle { fd: Arc::new(fd), writable };
        let mut closed = Vec::new();
        let mut inner = self.lock();
        while inner.open.len() >= self.max {
            closed.extend(inner.evict());
        }
        if inner.open.insert((ino.0, which), Slot { handle: handle.clone(), used: false }).is_none() {
            inner.clock.push_back((ino.0, which));
        }
        inner.tidy();
        drop(inner);
        // Closing may take time (the last reference of an unlinked file): not under the lock.
        drop(closed);
        handle
    }

    pub(super) fn remove(&self, ino: InodeNo, which: Which) -> Option<Handle> {
        self.lock().open.remove(&(ino.0, which)).map(|slot| slot.handle)
    }

    /// Closes half of all, when the process has no descriptor left.
    pub(super) fn shrink(&self) {
        let mut closed = Vec::new();
        let mut inner = self.lock();
        for _ in 0..inner.open.len().div_ceil(2) {
            closed.extend(inner.evict());
        }
        drop(inner);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn evict(&mut self) -> Option<Slot> {
        while let Some(key) = self.clock.pop_front() {
            match self.open.get_mut(&key) {
                None => {}
                Some(slot) if slot.used => {
                    slot.used = false;
                    self.clock.push_back(key);
                }
                Some(_) => return self.open.remove(&key),
            }
        }
        self.open.clear();
        None
    }

    /// Drops marks of the clock whose descriptors are gone, before they outnumber the rest.
    fn tidy(&mut self) {
        if self.clock.len() > 2 * self.open.len() + 64 {
            let mut seen = std::collections::HashSet::new();
            let open = &self.open;
            self.clock.retain(|key| open.contains_key(key) && seen.insert(*key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn room_is_made_for_as_many_as_may_be_open() {
        let size = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            line.trim().parse::<usize>().unwrap()
        };
        let any = null();
        Handles::new(700).make_room(any.as_fd());
        assert!(size() > 700);
        let before = size();
        Handles::new(usize::MAX).make_room(any.as_fd());
        assert!(size() >= before, "no room is no failure");
    }

    #[test]
    fn least_recently_used_descriptor_is_closed_first() {
        let handles = Handles::new(8);
        for ino in 0..8 {
            handles.insert(InodeNo(ino), OWN, null(), false);
        }
        let kept = handles.get(InodeNo(0), OWN).unwrap();
        handles.insert(InodeNo(8), OWN, null(), false);
        assert!(handles.get(InodeNo(0), OWN).is_some_and(|handle| Arc::ptr_eq(&handle.fd, &kept.fd)));
        assert!(handles.get(InodeNo(1), OWN).is_none());
        for round in 0..1000 {
            handles.insert(InodeNo(round % 5), OWN, null(), false);
            handles.remove(InodeNo(round % 5), OWN);
        }
        assert!(handles.lock().clock.len() < 100);
        let before = handles.lock().open.len();
        handles.shrink();
        assert_eq!(handles.lock().open.len(), before / 2);
    }
}
