//! Collects a layer's tree in memory while it is unpacked, then writes the index.
//!
//! A layer of half a million names shall fit in the memory that a pull may have, so an entry is 72 bytes and its name:
//! all names lie in one buffer, children are a linked list, and one table for the whole layer finds a name in its parent.

use super::{FLAG_IMPLICIT, FLAG_OPAQUE, HEADER_BYTES, IndexError, Kind, MAGIC, RECORD_BYTES, VERSION};
use crate::layer::journal::{Change, Journal};
use crate::layer::tar::{Timestamp, Xattr};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;

/// A node's place in the writer; reused after the node is removed.
pub(crate) type NodeId = u32;

/// The root directory.
pub(crate) const ROOT: NodeId = 0;

/// No node, in the links between nodes; no name, in the nodes that wait to be used again.
const NONE: u32 = u32::MAX;

/// Most names of one layer: what is in memory at once must end somewhere (about 100 bytes each).
const MAX_NODES: usize = 4 << 20;

/// Bytes of removed names that are not worth a clean-up.
const SPARE_NAME_BYTES: usize = 1 << 20;

/// The tree of a layer in the making.
#[derive(Debug)]
pub struct Writer {
    nodes: Vec<Slot>,
    free: Vec<NodeId>,
    names: Names,
    table: Table,
    link_groups: u32,
    /// Where it is told as it grows.
    journal: Option<Journal>,
}

#[derive(Debug)]
struct Slot {
    parent: NodeId,
    /// In [`Names`].
    name: u32,
    first_child: NodeId,
    /// The next and the previous child of the same parent.
    next: NodeId,
    previous: NodeId,
    /// The next in the same bucket of the table.
    collides: NodeId,
    node: Node,
}

/// Names one after another, each with its length before it.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    dead_bytes: usize,
}

impl Names {
    fn add(&mut self, name: &[u8]) -> Result<u32, IndexError> {
        let at = u32::try_from(self.bytes.len()).ok().filter(|at| *at != NONE).ok_or(IndexError::TooLarge)?;
        let len = u16::try_from(name.len()).map_err(|_| IndexError::TooLarge)?;
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(name);
        Ok(at)
    }

    fn get(&self, at: u32) -> &[u8] {
        let at = at as usize;
        let len = u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]);
        &self.bytes[at + 2..at + 2 + usize::from(len)]
    }
}

/// The heads of the buckets, a power of two of them. Keyed, so that no archive can choose names that collide.
#[derive(Debug)]
struct Table {
    heads: Vec<NodeId>,
    keys: RandomState,
}

impl Table {
    fn bucket(&self, parent: NodeId, name: &[u8]) -> usize {
        self.keys.hash_one((parent, name)) as usize & (self.heads.len() - 1)
    }
}

/// One entry's metadata.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) is_opaque: bool,
    pub(crate) is_implicit: bool,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) link_group: u32,
    pub(crate) size: u64,
    mtime_secs: i64,
    mtime_nanos: u32,
    /// Most entries have neither target nor xattrs.
    pub(crate) extra: Option<Box<Extra>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: Vec<Xattr>,
}

impl Node {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            is_opaque: false,
            is_implicit: false,
            mode: 0,
            uid: 0,
            gid: 0,
            link_group: 0,
            size: 0,
            mtime_secs: 0,
            mtime_nanos: 0,
            extra: None,
        }
    }

    /// A directory that the tar needs but does not name.
    pub(crate) fn implicit_directory() -> Self {
        Self { is_implicit: true, mode: 0o755, ..Self::new(Kind::Directory) }
    }

    pub(crate) fn mtime(&self) -> Timestamp {
        Timestamp { secs: self.mtime_secs, nanos: self.mtime_nanos }
    }

    pub(crate) fn set_mtime(&mut self, mtime: Timestamp) {
        (self.mtime_secs, self.mtime_nanos) = (mtime.secs, mtime.nanos);
    }

    pub(crate) fn target(&self) -> &[u8] {
        self.extra.as_ref().map_or(b"", |extra| &extra.target)
    }

    pub(crate) fn xattrs(&self) -> &[Xattr] {
        self.extra.as_ref().map_or(&[], |extra| &extra.xattrs)
    }
}

impl Default for Writer {
    fn default() -> Self {
        let mut names = Names::default();
        // An empty name at the begin of an empty buffer.
        let name = names.add(b"").unwrap_or(0);
        let table = Table { heads: vec![NONE; 64], keys: RandomState::new() };
        let root = Slot::new(ROOT, name, Node::implicit_directory());
        Self { nodes: vec![root], free: Vec::new(), names, table, link_groups: 0, journal: None }
    }
}

impl Slot {
    fn new(parent: NodeId, name: u32, node: Node) -> Self {
        Self { parent, name, first_child: NONE, next: NONE, previous: NONE, collides: NONE, node }
    }
}

impl Writer {
    /// An index of an empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An index of an empty layer that is told to others while it grows, entry by entry.
    pub(crate) fn journaled(journal: Journal) -> Self {
        Self { journal: Some(journal), ..Self::default() }
    }

    /// Tells what has changed since the last time: an entry is whole.
    pub(crate) fn tell(&mut self) -> Result<(), IndexError> {
        let Some(mut journal) = self.journal.take() else { return Ok(()) };
        let told = journal.tell(self);
        self.journal = Some(journal);
        told
    }

    /// Tells that there will be no other names.
    pub(crate) fn tell_end(&mut self) -> Result<(), IndexError> {
        self.tell()?;
        self.journal.as_mut().map_or(Ok(()), Journal::end)
    }

    fn note(&mut self, change: Change) {
        if let Some(journal) = &mut self.journal {
            journal.note(change);
        }
    }

    /// One more than the greatest id.
    pub(crate) fn len(&self) -> NodeId {
        self.nodes.len() as NodeId
    }

    /// Whether a node is one now.
    pub(crate) fn is_alive(&self, id: NodeId) -> bool {
        self.nodes.get(id as usize).is_some_and(|slot| slot.name != NONE)
    }

    pub(crate) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let first = self.table.heads[self.table.bucket(parent, name)];
        self.chain(first, |slot| slot.collides)
            .find(|id| self.slot(*id).parent == parent && self.name(*id) == name && *id != ROOT)
    }

    pub(crate) fn parent(&self, id: NodeId) -> NodeId {
        self.slot(id).parent
    }

    pub(crate) fn name(&self, id: NodeId) -> &[u8] {
        self.names.get(self.slot(id).name)
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.slot(id).node
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.note(Change::Put(id));
        &mut self.slot_mut(id).node
    }

    /// The children in no order.
    pub(crate) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.chain(self.slot(id).first_child, |slot| slot.next)
    }

    fn chain(&self, first: NodeId, next: impl Fn(&Slot) -> NodeId) -> impl Iterator<Item = NodeId> {
        let some = |id: NodeId| (id != NONE).then_some(id);
        std::iter::successors(some(first), move |id| some(next(self.slot(*id))))
    }

    /// Adds a name that is not there yet.
    pub(crate) fn insert(&mut self, parent: NodeId, name: &[u8], node: Node) -> Result<NodeId, IndexError> {
        if self.free.is_empty() && self.nodes.len() >= MAX_NODES {
            return Err(IndexError::TooLarge);
        }
        let slot = Slot::new(parent, self.names.add(name)?, node);
        let id = match self.free.pop() {
            Some(id) => {
                *self.slot_mut(id) = slot;
                id
            }
            None => {
                self.nodes.push(slot);
                (self.nodes.len() - 1) as NodeId
            }
        };
        self.note(Change::Put(id));
        let next = std::mem::replace(&mut self.slot_mut(parent).first_child, id);
        self.slot_mut(id).next = next;
        if next != NONE {
            self.slot_mut(next).previous = id;
        }
        if self.nodes.len() > self.table.heads.len() {
            self.grow_table();
        } else {
            self.enter(id);
        }
        Ok(id)
    }

    /// Puts a node into its bucket.
    fn enter(&mut self, id: NodeId) {
        let bucket = self.table.bucket(self.parent(id), self.name(id));
        let collides = std::mem::replace(&mut self.table.heads[bucket], id);
        self.slot_mut(id).collides = collides;
    }

    fn grow_table(&mut self) {
        let len = self.table.heads.len() * 2;
        self.table.heads.clear();
        self.table.heads.resize(len, NONE);
        for id in 1..self.nodes.len() as NodeId {
            if self.slot(id).name != NONE {
                self.enter(id);
            }
        }
    }

    /// Takes a node out of its bucket.
    fn leave(&mut self, id: NodeId) {
        let bucket = self.table.bucket(self.parent(id), self.name(id));
        let collides = self.slot(id).collides;
        let first = self.table.heads[bucket];
        let before = self.chain(first, |slot| slot.collides).find(|other| self.slot(*other).collides == id);
        match before {
            Some(before) => self.slot_mut(before).collides = collides,
            None => self.table.heads[bucket] = collides,
        }
    }

    /// Forgets a node and all below it.
    pub(crate) fn remove(&mut self, id: NodeId) {
        self.note(Change::Remove(id));
        let Slot { parent, next, previous, .. } = *self.slot(id);
        match previous {
            NONE => self.slot_mut(parent).first_child = next,
            previous => self.slot_mut(previous).next = next,
        }
        if next != NONE {
            self.slot_mut(next).previous = previous;
        }
        let mut doomed = vec![id];
        while let Some(id) = doomed.pop() {
            doomed.extend(self.children(id));
            self.leave(id);
            self.names.dead_bytes += 2 + self.name(id).len();
            *self.slot_mut(id) = Slot::new(ROOT, NONE, Node::new(Kind::Whiteout));
            self.free.push(id);
        }
        if self.names.dead_bytes > SPARE_NAME_BYTES.max(self.names.bytes.len() / 2) {
            self.drop_dead_names();
        }
    }

    fn drop_dead_names(&mut self) {
        let old = std::mem::take(&mut self.names);
        self.names.bytes.reserve(old.bytes.len() - old.dead_bytes);
        for slot in self.nodes.iter_mut().filter(|slot| slot.name != NONE) {
            // It fitted with the dead ones.
            slot.name = self.names.add(old.get(slot.name)).unwrap_or(slot.name);
        }
    }

    /// Gives a file its link group, so that another name of it can be added.
    pub(crate) fn link_group(&mut self, id: NodeId) -> u32 {
        if self.slot(id).node.link_group == 0 {
            self.link_groups += 1;
            let group = self.link_groups;
            self.slot_mut(id).node.link_group = group;
            self.note(Change::Put(id));
        }
        self.slot(id).node.link_group
    }

    /// Writes the index of the tree as it is now. `out` should be buffered.
    ///
    /// # Errors
    /// [`IndexError::Write`], [`IndexError::TooLarge`].
    pub fn finish(&self, out: &mut impl Write) -> Result<(), IndexError> {
        let order = self.breadth_first();
        let mut names_of_group: HashMap<u32, u32> = HashMap::new();
        for (id, _) in &order {
            let group = self.node(*id).link_group;
            if group != 0 {
                *names_of_group.entry(group).or_default() += 1;
            }
        }
        let mut strings_len = 0_usize;
        for (id, _) in &order {
            strings_len += self.strings_len(*id);
        }
        u32::try_from(strings_len).map_err(|_| IndexError::TooLarge)?;
        let strings_offset = (HEADER_BYTES + order.len() * RECORD_BYTES) as u64;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(RECORD_BYTES as u32).to_le_bytes());
        header.extend_from_slice(&(order.len() as u32).to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        header.extend_from_slice(&strings_offset.to_le_bytes());
        header.extend_from_slice(&(strings_len as u64).to_le_bytes());
        header.resize(HEADER_BYTES, 0);
        out.write_all(&header).map_err(IndexError::Write)?;

        let (mut next_child, mut strings_at) = (1_u32, 0_u32);
        let mut record = Vec::with_capacity(RECORD_BYTES);
        for (id, parent) in &order {
            let children = self.children(*id).count() as u32;
            let names = names_of_group.get(&self.node(*id).link_group).copied().unwrap_or(1);
            record.clear();
            self.put_record(&mut record, strings_at, *id, (*parent, names, next_child, children));
            out.write_all(&record).map_err(IndexError::Write)?;
            next_child += children;
            strings_at += self.strings_len(*id) as u32;
        }
        for (id, _) in &order {
            self.write_strings(*id, out).map_err(IndexError::Write)?;
        }
        out.flush().map_err(IndexError::Write)
    }

    /// All live nodes with the record number of their parent, children of one directory together and by their names.
    fn breadth_first(&self) -> Vec<(NodeId, u32)> {
        let mut order = Vec::with_capacity(self.nodes.len() - self.free.len());
        order.push((ROOT, 0));
        let mut at = 0;
        while let Some(&(id, _)) = order.get(at) {
            let begin = order.len();
            order.extend(self.children(id).map(|child| (child, at as u32)));
            order[begin..].sort_unstable_by(|(one, _), (other, _)| self.name(*one).cmp(self.name(*other)));
            at += 1;
        }
        order
    }

    /// The strings of a record: name, target, extended attributes.
    fn write_strings(&self, id: NodeId, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(self.name(id))?;
        out.write_all(self.node(id).target())?;
        for (name, value) in self.node(id).xattrs() {
            out.write_all(&(name.len() as u16).to_le_bytes())?;
            out.write_all(&(value.len() as u32).to_le_bytes())?;
            out.write_all(name)?;
            out.write_all(value)?;
        }
        Ok(())
    }

    fn strings_len(&self, id: NodeId) -> usize {
        self.name(id).len() + self.node(id).target().len() + xattrs_len(self.node(id))
    }

    fn put_record(
        &self,
        record: &mut Vec<u8>,
        name_at: u32,
        id: NodeId,
        (parent, names, first_child, children): (u32, u32, u32, u32),
    ) {
        let (name, node) = (self.name(id), self.node(id));
        let target_at = name_at + name.len() as u32;
        let xattrs_at = target_at + node.target().len() as u32;
        let flags = if node.is_opaque { FLAG_OPAQUE } else { 0 } | if node.is_implicit { FLAG_IMPLICIT } else { 0 };
        let size = if node.kind == Kind::Symlink { node.target().len() as u64 } else { node.size };
        record.extend_from_slice(&parent.to_le_bytes());
        record.extend_from_slice(&name_at.to_le_bytes());
        record.extend_from_slice(&(name.len() as u16).to_le_bytes());
        record.extend_from_slice(&[node.kind.to_byte(), flags]);
        for number in [u32::from(node.mode), node.uid, node.gid] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&size.to_le_bytes());
        record.extend_from_slice(&node.mtime_secs.to_le_bytes());
        let (target_len, xattrs_len) = (node.target().len() as u32, xattrs_len(node) as u32);
        let (first_child, zero) = (if children == 0 { 0 } else { first_child }, 0);
        for number in [
            node.mtime_nanos,
            node.link_group,
            names,
            zero,
            target_at,
            target_len,
            xattrs_at,
            xattrs_len,
            first_child,
            children,
            zero,
            zero,
        ] {
            record.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn slot(&self, id: NodeId) -> &Slot {
        &self.nodes[id as usize]
    }

    fn slot_mut(&mut self, id: NodeId) -> &mut Slot {
        &mut self.nodes[id as usize]
    }
}

fn xattrs_len(node: &Node) -> usize {
    node.xattrs().iter().map(|(name, value)| 6 + name.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Slot>() <= 72, "{}", size_of::<Slot>());
    }

    #[test]
    fn names_are_found_after_growth_removal_and_clean_up() {
        let mut writer = Writer::new();
        let mut model: BTreeMap<(NodeId, Vec<u8>), NodeId> = BTreeMap::new();
        let mut random = 1_u64;
        let mut cleaned = false;
        for step in 0..8_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (random >> 33) as u32 % 600;
            let parent = if number.is_multiple_of(3) { ROOT } else { *model.values().next().unwrap_or(&ROOT) };
            let name = format!("{number:0>600}").into_bytes();
            match model.get(&(parent, name.clone())) {
                Some(&id) => {
                    let before = writer.names.bytes.len();
                    writer.remove(id);
                    cleaned |= writer.names.bytes.len() < before;
                    let mut gone = vec![id];
                    while let Some(id) = gone.pop() {
                        gone.extend(model.iter().filter(|((parent, _), _)| *parent == id).map(|(_, child)| *child));
                        model.retain(|_, other| *other != id);
                    }
                }
                None => {
                    let id = writer.insert(parent, &name, Node::new(Kind::Directory)).unwrap();
                    assert_eq!((writer.parent(id), writer.name(id)), (parent, &*name));
                    assert!(model.insert((parent, name), id).is_none());
                }
            }
            if step % 1000 == 0 {
                for ((parent, name), id) in &model {
                    assert_eq!(writer.child(*parent, name), Some(*id));
                    assert!(writer.children(*parent).any(|child| child == *id));
                }
                assert_eq!(writer.breadth_first().len(), model.len() + 1);
            }
        }
        assert!(cleaned && writer.table.heads.len() > 64);
        assert_eq!(writer.child(ROOT, b"nothing"), None);
        let mut bytes = Vec::new();
        writer.finish(&mut bytes).unwrap();
    }
}
