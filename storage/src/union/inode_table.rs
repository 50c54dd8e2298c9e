//! The files that the kernel knows of, or that lead to one it knows of.
//!
//! A node lives while somebody refers to it: the kernel (each answered lookup counts) or a name of a living node in it.
//! So the way from any living node up to the root is always in the table.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attributes::{FileKind, InodeNo};
use super::handles::Handle;
use super::listing::Listing;
use super::stack::Part;

/// A file of the union.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ino: InodeNo,
    pub(super) kind: FileKind,
    pub(super) privileges: Privileges,
    references: AtomicU64,
    state: Mutex<State>,
}

/// Whether a file is known to have neither setuid, setgid nor capabilities: the lowest bit, beside a count of the changes
/// that may have given it some. What was found out before such a change says nothing after it.
#[derive(Debug, Default)]
pub(super) struct Privileges(AtomicU32);

impl Privileges {
    const NONE: u32 = 1;

    /// True if it is known to have none.
    pub(super) fn are_none(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::NONE != 0
    }

    /// The count of changes, to be asked for before a look at the file.
    pub(super) fn changes(&self) -> u32 {
        self.0.load(Ordering::Acquire) & !Self::NONE
    }

    /// The file has none, as somebody has seen or done who knew `changes` before.
    pub(super) fn have_gone(&self, changes: u32) {
        // Changed meanwhile: nothing is known.
        let _ = self.0.compare_exchange(changes, changes | Self::NONE, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The file may have some from now on.
    pub(super) fn may_have_come(&self) {
        let next = |known: u32| Some((known & !Self::NONE).wrapping_add(2));
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }
}

/// What may change about a file. Locked shortly, never while the kernel is asked for something.
#[derive(Debug)]
pub(super) struct State {
    /// The directory of its first name; 0 if it has no name (any more).
    pub(super) parent: InodeNo,
    /// Its first name; empty if that is the record's (see [`State::part`]).
    pub(super) name: Box<[u8]>,
    /// The number of its file in the upper, 0 if it is not there.
    pub(super) upper: u64,
    /// Its topmost part in the lower layers.
    pub(super) part: Part,
    /// What few files have.
    pub(super) more: Option<Box<More>>,
}

/// What few files have.
#[derive(Debug)]
pub(super) struct More {
    /// A directory's further parts.
    pub(super) rest: Arc<[Part]>,
    /// Further names.
    pub(super) names: Vec<(InodeNo, Box<[u8]>)>,
    /// The file itself, when it has no name.
    pub(super) pinned: Option<Handle>,
    /// The names of a directory, as far as no index has them.
    pub(super) listing: Option<Box<Listing>>,
    /// What creating in this directory must know.
    pub(super) facts: Option<Facts>,
    /// Count of a merged directory's subdirectories, or of the names of a file that has several in an indexed layer.
    pub(super) count: Option<u32>,
}

/// What creating in an upper directory must know about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The group on disk that new files get.
    pub(super) set_gid: Option<u32>,
    /// True if it has a default ACL.
    pub(super) has_default_acl: bool,
    /// True if files in it may have another number than their own.
    pub(super) is_impure: bool,
    /// True if empty files in it may be whiteouts.
    pub(super) may_have_whiteout_files: bool,
}

impl Default for More {
    fn default() -> Self {
        let (rest, names) = (Arc::from([]), Vec::new());
        Self { rest, names, pinned: None, listing: None, facts: None, count: None }
    }
}

/// Where a directory lies.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) in_upper: bool,
    first: Part,
    rest: Option<Arc<[Part]>>,
}

impl Places {
    /// The parts in lower layers from the top.
    pub(super) fn parts(&self) -> impl DoubleEndedIterator<Item = Part> + '_ {
        let first = (!self.first.is_none()).then_some(self.first);
        first.into_iter().chain(self.rest.iter().flat_map(|rest| rest.iter().copied()))
    }

    pub(super) fn has_lower(&self) -> bool {
        !self.first.is_none()
    }

    pub(super) fn is_merged(&self) -> bool {
        self.has_lower() && (self.in_upper || self.rest.is_some())
    }
}

impl State {
    pub(super) fn in_upper(&self) -> bool {
        self.upper != 0
    }

    pub(super) fn has_name(&self) -> bool {
        self.parent.0 != 0
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    pub(super) fn places(&self) -> Places {
        let rest = self.more.as_ref().map(|more| &more.rest).filter(|rest| !rest.is_empty());
        Places { in_upper: self.in_upper(), first: self.part, rest: rest.cloned() }
    }

    /// Further names, besides the first.
    pub(super) fn further(&self) -> &[(InodeNo, Box<[u8]>)] {
        self.more.as_ref().map_or(&[], |more| &more.names)
    }
}

impl Node {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

const SHARDS: usize = 16;

/// All living nodes by number.
#[derive(Debug)]
pub(super) struct Table {
    shards: [Mutex<HashMap<u64, Arc<Node>, ByNumber>>; SHARDS],
    /// Numbers of files in the upper whose node has another one, mostly because they were copied up.
    aliases: Mutex<HashMap<u64, InodeNo, ByNumber>>,
    alias_count: AtomicUsize,
}

/// What a new node is made of.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) ino: InodeNo,
    pub(super) kind: FileKind,
    pub(super) state: State,
}

impl Table {
    pub(super) fn new(root: Seed) -> Self {
        let table = Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            aliases: Mutex::default(),
            alias_count: AtomicUsize::new(0),
        };
        let node = Arc::new(root.into_node());
        table.shard(InodeNo::ROOT).insert(InodeNo::ROOT.0, node);
        table
    }

    pub(super) fn get(&self, ino: InodeNo) -> Option<Arc<Node>> {
        self.shard(ino).get(&ino.0).cloned()
    }

    /// A living node, with one more reference.
    pub(super) fn get_referred(&self, ino: InodeNo) -> Option<Arc<Node>> {
        let shard = self.shard(ino);
        let node = shard.get(&ino.0)?;
        node.references.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(node))
    }

    /// The node of the seed's number if `is_it`, else a new one; with one more reference. `None` if the number belongs
    /// to another file.
    pub(super) fn claim(&self, seed: Seed, is_it: impl FnOnce(&State) -> bool) -> Result<(Arc<Node>, bool), Seed> {
        let mut shard = self.shard(seed.ino);
        if let Some(node) = shard.get(&seed.ino.0) {
            if node.kind != seed.kind || !is_it(&node.lock()) {
                return Err(seed);
            }
            node.references.fetch_add(1, Ordering::Relaxed);
            return Ok((Arc::clone(node), false));
        }
        let parents: Vec<InodeNo> = seed.state.further().iter().map(|(parent, _)| *parent).collect();
        let first = seed.state.parent;
        let (ino, upper) = (seed.ino, seed.state.upper);
        let node = Arc::new(seed.into_node());
        shard.insert(ino.0, Arc::clone(&node));
        drop(shard);
        if upper != 0 && upper != ino.0 {
            self.alias(upper, ino);
        }
        for parent in parents.into_iter().chain([first]) {
            self.refer(parent);
        }
        Ok((node, true))
    }

    /// One more reference to a living node.
    pub(super) fn refer(&self, ino: InodeNo) {
        if let Some(node) = self.shard(ino).get(&ino.0) {
            node.references.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes references away; what nobody refers to any more is handed to `bury` and gone.
    pub(super) fn release(&self, ino: InodeNo, count: u64, mut bury: impl FnMut(&Node)) {
        let mut pending = vec![(ino, count)];
        while let Some((ino, count)) = pending.pop() {
            if ino == InodeNo::ROOT {
                continue;
            }
            let mut shard = self.shard(ino);
            let Some(node) = shard.get(&ino.0) else { continue };
            // Under the shard's lock nobody adds a reference meanwhile.
            let before = node.references.load(Ordering::Relaxed);
            node.references.store(before.saturating_sub(count), Ordering::Relaxed);
            if before > count {
                continue;
            }
            let Some(node) = shard.remove(&ino.0) else { continue };
            drop(shard);
            let state = node.lock();
            if state.in_upper() && state.upper != ino.0 {
                self.unalias(state.upper);
            }
            if state.has_name() {
                pending.push((state.parent, 1));
            }
            pending.extend(state.further().iter().map(|(parent, _)| (*parent, 1)));
            drop(state);
            bury(&node);
        }
    }

    /// Remembers which node a file of the upper belongs to.
    pub(super) fn alias(&self, upper: u64, ino: InodeNo) {
        let mut aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        aliases.insert(upper, ino);
        self.alias_count.store(aliases.len(), Ordering::Release);
    }

    pub(super) fn unalias(&self, upper: u64) {
        let mut aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        aliases.remove(&upper);
        self.alias_count.store(aliases.len(), Ordering::Release);
    }

    /// The living node of a file of the upper that has another number.
    pub(super) fn aliased(&self, upper: InodeNo) -> Option<InodeNo> {
        if self.alias_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.aliases.lock().unwrap_or_else(PoisonError::into_inner).get(&upper.0).copied()
    }

    /// Count of living nodes.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, ino: InodeNo) -> MutexGuard<'_, HashMap<u64, Arc<Node>, ByNumber>> {
        let [first, ..] = &self.shards;
        let shard = self.shards.get((mix(ino.0) >> 56) as usize % SHARDS).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seed {
    fn into_node(self) -> Node {
        let Self { ino, kind, state } = self;
        Node { ino, kind, privileges: Privileges::default(), references: AtomicU64::new(1), state: Mutex::new(state) }
    }
}

/// Hashes numbers of files: they come in runs, and no attacker chooses many of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByNumber;

/// See [`ByNumber`].
#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

impl BuildHasher for ByNumber {
    type Hasher = NumberHasher;

    fn build_hasher(&self) -> NumberHasher {
        NumberHasher::default()
    }
}

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ number);
    }
}

fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(parent: u64, name: &[u8]) -> State {
        State { parent: InodeNo(parent), name: name.into(), upper: 0, part: Part::NONE, more: None }
    }

    fn seed(ino: u64, parent: u64) -> Seed {
        Seed { ino: InodeNo(ino), kind: FileKind::Directory, state: state(parent, b"x") }
    }

    #[test]
    fn what_was_seen_before_a_change_says_nothing_after_it() {
        let privileges = Privileges::default();
        assert!(!privileges.are_none());
        let changes = privileges.changes();
        privileges.may_have_come();
        privileges.have_gone(changes);
        assert!(!privileges.are_none());
        privileges.have_gone(privileges.changes());
        assert!(privileges.are_none());
        privileges.may_have_come();
        assert!(!privileges.are_none());
    }

    #[test]
    fn node_is_small() {
        assert!(size_of::<Node>() <= 104, "{}", size_of::<Node>());
    }

    #[test]
    fn parents_live_as_long_as_what_is_in_them() {
        let table = Table::new(seed(1, 0));
        for ino in 2..6 {
            assert!(table.claim(seed(ino, ino - 1), |_| true).is_ok_and(|(_, is_new)| is_new));
        }
        for ino in 2..5 {
            table.release(InodeNo(ino), 1, |_| panic!("has a child"));
        }
        assert_eq!(table.len(), 5);
        let mut buried = Vec::new();
        table.release(InodeNo(5), 1, |node| buried.push(node.ino.0));
        assert_eq!(buried, [5, 4, 3, 2]);
        assert_eq!(table.len(), 1);
        table.release(InodeNo(1), 5, |_| panic!("the root stays"));
        table.release(InodeNo(77), u64::MAX, |_| panic!("there is none"));
    }

    #[test]
    fn number_of_another_file_is_refused() {
        let table = Table::new(seed(1, 0));
        assert!(table.claim(seed(2, 1), |_| true).is_ok());
        assert!(table.claim(seed(2, 1), |state| state.in_upper()).is_err());
        let other = Seed { kind: FileKind::File, ..seed(2, 1) };
        assert!(table.claim(other, |_| true).is_err());
    }
}
