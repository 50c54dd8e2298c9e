//! A layer's names while it is unpacked, for those who read it before it is whole.
//!
//! - **File**: `layers/.tmp-<random>/journal`, beside `tree/`; goes with the temporary directory.
//! - **Writer**: the unpacking thread: after each entry of the archive what that entry has changed, in one `write`. A file is
//!   told when its contents are in place.
//! - **Readers**: [`crate::union::lazy`], any number, which read on where they stopped; what they have open they can read to
//!   its end when the name is gone.
//! - **Durability**: none. **Version**: none; writer and readers are of one binary, and a file lives as long as one pull.
//!
//! ```text
//! frames: u32 length of what follows, then
//!   1 put     u32 id, u32 parent, u8 kind, u8 flags (1 opaque, 2 implicit), u16 mode, u32 uid, u32 gid, u32 link group,
//!             u64 size, i64 mtime seconds, u32 nanoseconds, u16 + name, u32 + target, { u16 + name, u32 + value } xattrs
//!   2 remove  u32 id: it and all below it
//!   3 end     there will be no other names
//!   4 apart   names come from a table of contents: they say nothing of contents, which the frames below do
//!   5 here    u32 id: the file lies in the tree
//!   6 piece   u32 id, u64 offset, u64 length: these bytes lie in the file `early/<id>`, verified
//! ```
//! With `apart`, all names come at once and their ids are those of the table. The unpacking thread writes `here`, threads that
//! fetch in advance write `piece`; each frame is one `write` to the end of the file.
//!
//! Ids are those of the index that is being collected; the same archive always gives the same ones. What a frame says is
//! checked before it is believed, as with an index: a damaged journal gives wrong answers or none, never a crash.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use super::index::{Extra, IndexError, Kind, Node, NodeId, ROOT, Writer};
use super::tar::Timestamp;
use super::toc::Toc;

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const END: u8 = 3;
const APART: u8 = 4;
const HERE: u8 = 5;
const PIECE: u8 = 6;
const FLAG_OPAQUE: u8 = 1;
const FLAG_IMPLICIT: u8 = 2;

/// More ids than an index can have names.
const MAX_NODES: usize = 4 << 20;

/// Something about a node is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is there, or another than before.
    Put(NodeId),
    /// It is gone, with all below it.
    Remove(NodeId),
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    changes: Vec<Change>,
    bytes: Vec<u8>,
    /// What has told all names already.
    toc: Option<Arc<Toc>>,
}

/// Bytes of names that are told at once.
const BATCH_BYTES: usize = 1 << 16;

impl Journal {
    pub(crate) fn new(file: File) -> Self {
        Self { file, changes: Vec::new(), bytes: Vec::new(), toc: None }
    }

    /// Tells all names of a table of contents; from then on only which files are here.
    pub(crate) fn of_contents(file: File, toc: Arc<Toc>) -> Result<Self, IndexError> {
        let mut journal = Self::new(file);
        frame(&mut journal.bytes, |bytes| bytes.push(APART));
        // In the order of their ids: parents are before what lies in them.
        for id in 0..toc.tree.len() {
            if toc.tree.is_alive(id) {
                frame(&mut journal.bytes, |bytes| put(bytes, &toc.tree, id));
            }
            if journal.bytes.len() > BATCH_BYTES {
                journal.write()?;
                journal.bytes.clear();
            }
        }
        frame(&mut journal.bytes, |bytes| bytes.push(END));
        journal.write()?;
        journal.toc = Some(toc);
        Ok(journal)
    }

    pub(super) fn note(&mut self, change: Change) {
        let is_known = |known: &&Change| matches!(known, Change::Remove(_)) || **known == change;
        // A node that was put already is told as it is at the end, unless something was removed meanwhile.
        if self.changes.iter().rev().find(is_known) != Some(&change) {
            self.changes.push(change);
        }
    }

    pub(super) fn tell(&mut self, tree: &Writer) -> Result<(), IndexError> {
        self.bytes.clear();
        for change in self.changes.drain(..) {
            match change {
                // Removed again.
                Change::Put(id) if !tree.is_alive(id) => {}
                Change::Put(id) if self.toc.is_some() => {
                    let toc = self.toc.as_ref().filter(|_| tree.node(id).kind == Kind::File);
                    if let Some(known) = toc.and_then(|toc| toc.counterpart(tree, id)) {
                        frame(&mut self.bytes, |bytes| {
                            bytes.push(HERE);
                            bytes.extend(known.to_le_bytes());
                        });
                    }
                }
                Change::Remove(_) if self.toc.is_some() => {}
                Change::Put(id) => frame(&mut self.bytes, |bytes| put(bytes, tree, id)),
                Change::Remove(id) => frame(&mut self.bytes, |bytes| {
                    bytes.push(REMOVE);
                    bytes.extend(id.to_le_bytes());
                }),
            }
        }
        self.write()
    }

    pub(super) fn end(&mut self) -> Result<(), IndexError> {
        if self.toc.is_some() {
            return Ok(());
        }
        self.bytes.clear();
        frame(&mut self.bytes, |bytes| bytes.push(END));
        self.write()
    }

    fn write(&mut self) -> Result<(), IndexError> {
        if self.bytes.is_empty() { Ok(()) } else { self.file.write_all(&self.bytes).map_err(IndexError::Write) }
    }
}

/// Tells of bytes of a file that lie in `early/`.
pub(crate) fn tell_piece(mut file: &File, id: NodeId, offset: u64, len: u64) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(32);
    frame(&mut bytes, |bytes| {
        bytes.push(PIECE);
        bytes.extend(id.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(len.to_le_bytes());
    });
    file.write_all(&bytes)
}

fn frame(bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let begin = bytes.len();
    bytes.extend([0; 4]);
    fill(bytes);
    let len = (bytes.len() - begin - 4) as u32;
    bytes[begin..begin + 4].copy_from_slice(&len.to_le_bytes());
}

fn put(bytes: &mut Vec<u8>, tree: &Writer, id: NodeId) {
    let node = tree.node(id);
    bytes.push(PUT);
    bytes.extend(id.to_le_bytes());
    bytes.extend(tree.parent(id).to_le_bytes());
    bytes.push(node.kind.to_byte());
    bytes.push((u8::from(node.is_opaque) * FLAG_OPAQUE) | (u8::from(node.is_implicit) * FLAG_IMPLICIT));
    bytes.extend(node.mode.to_le_bytes());
    for number in [node.uid, node.gid, node.link_group] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(node.size.to_le_bytes());
    bytes.extend(node.mtime().secs.to_le_bytes());
    bytes.extend(node.mtime().nanos.to_le_bytes());
    // Names and those of attributes are shorter than this by the rules of archives and the kernel.
    bytes.extend((tree.name(id).len() as u16).to_le_bytes());
    bytes.extend(tree.name(id));
    bytes.extend((node.target().len() as u32).to_le_bytes());
    bytes.extend(node.target());
    for (name, value) in node.xattrs() {
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend(name);
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(value);
    }
}

/// The names of a layer as far as a journal has told them.
#[derive(Debug)]
pub(crate) struct Table {
    nodes: Vec<Option<Told>>,
    names: HashMap<(NodeId, Box<[u8]>), NodeId>,
    /// The first name of each file with several, and how many there are.
    groups: HashMap<u32, (NodeId, u32)>,
    /// Bytes of a frame that has not come whole.
    rest: Vec<u8>,
    /// There will be no other names.
    pub(crate) is_complete: bool,
    /// Names say nothing of contents.
    pub(crate) is_apart: bool,
    /// Files whose contents are in the tree, where names say nothing of that.
    here: HashSet<NodeId>,
    /// Bytes that are here earlier, one range after another.
    pieces: HashMap<NodeId, Vec<Range<u64>>>,
    /// What was told to somebody is not so any more: the path.
    pub(crate) contradiction: Option<String>,
}

/// One name.
#[derive(Debug)]
struct Told {
    parent: NodeId,
    name: Box<[u8]>,
    node: Node,
    children: Vec<NodeId>,
    /// Somebody believes it for ever.
    is_believed: bool,
}

impl Default for Table {
    fn default() -> Self {
        let root = Told {
            parent: ROOT,
            name: Box::default(),
            node: Node::implicit_directory(),
            children: Vec::new(),
            is_believed: false,
        };
        Self {
            nodes: vec![Some(root)],
            names: HashMap::new(),
            groups: HashMap::new(),
            rest: Vec::new(),
            is_complete: false,
            is_apart: false,
            here: HashSet::new(),
            pieces: HashMap::new(),
            contradiction: None,
        }
    }
}

impl Table {
    /// Reads on.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        while let Some((len, after)) = rest.split_first_chunk::<4>()
            && let Some((frame, after)) = after.split_at_checked(u32::from_le_bytes(*len) as usize)
        {
            rest = after;
            // What makes no sense says nothing.
            let _ = self.read(frame);
        }
        self.rest = rest.to_vec();
    }

    fn read(&mut self, frame: &[u8]) -> Option<()> {
        let mut input = Input(frame);
        match input.u8()? {
            PUT => {
                let (id, parent) = (input.u32()?, input.u32()?);
                let mut node = Node::new(Kind::from_byte(input.u8()?)?);
                let flags = input.u8()?;
                (node.is_opaque, node.is_implicit) = (flags & FLAG_OPAQUE != 0, flags & FLAG_IMPLICIT != 0);
                node.mode = input.u16()?;
                (node.uid, node.gid, node.link_group) = (input.u32()?, input.u32()?, input.u32()?);
                node.size = input.u64()?;
                let mtime = Timestamp { secs: input.u64()?.cast_signed(), nanos: input.u32()? };
                node.set_mtime(mtime);
                let len = usize::from(input.u16()?);
                let name = input.take(len)?;
                let len = input.u32()? as usize;
                let target = input.take(len)?.to_vec();
                let mut xattrs = Vec::new();
                while !input.0.is_empty() {
                    let len = usize::from(input.u16()?);
                    let name = input.take(len)?.to_vec();
                    let len = input.u32()? as usize;
                    xattrs.push((name, input.take(len)?.to_vec()));
                }
                if !target.is_empty() || !xattrs.is_empty() {
                    node.extra = Some(Box::new(Extra { target, xattrs }));
                }
                self.put(id, parent, name, node);
            }
            REMOVE => {
                let id = input.u32()?;
                self.remove(id);
            }
            END => self.is_complete = true,
            APART => self.is_apart = true,
            HERE => {
                let id = input.u32()?;
                self.pieces.remove(&id);
                self.here.insert(id);
            }
            PIECE => {
                let (id, offset, len) = (input.u32()?, input.u64()?, input.u64()?);
                if !self.here.contains(&id) {
                    add_range(self.pieces.entry(id).or_default(), offset..offset.checked_add(len)?);
                }
            }
            _ => {}
        }
        Some(())
    }

    fn put(&mut self, id: NodeId, parent: NodeId, name: &[u8], node: Node) {
        let has_parent = id == ROOT || (id != parent && self.get(parent).is_some());
        if id as usize >= MAX_NODES || !has_parent {
            return;
        }
        if self.nodes.len() <= id as usize {
            self.nodes.resize_with(id as usize + 1, || None);
        }
        let group = node.link_group;
        let mut is_new_in_group = group != 0;
        let contradicts = match self.nodes.get_mut(id as usize).and_then(Option::as_mut) {
            Some(told) => {
                is_new_in_group &= told.node.link_group == 0;
                let is_other = differs(&told.node, &node);
                told.node = node;
                told.is_believed && is_other
            }
            None => {
                let told = Told { parent, name: name.into(), node, children: Vec::new(), is_believed: false };
                if let Some(slot) = self.nodes.get_mut(id as usize) {
                    *slot = Some(told);
                }
                if id != ROOT {
                    self.names.insert((parent, name.into()), id);
                    if let Some(parent) = self.nodes.get_mut(parent as usize).and_then(Option::as_mut) {
                        parent.children.push(id);
                    }
                }
                false
            }
        };
        if is_new_in_group {
            self.groups.entry(group).or_insert((id, 0)).1 += 1;
        }
        if contradicts {
            self.contradict(id);
        }
    }

    fn remove(&mut self, id: NodeId) {
        if id == ROOT {
            return;
        }
        let Some(parent) = self.get(id).map(|told| told.parent) else { return };
        if let Some(parent) = self.nodes.get_mut(parent as usize).and_then(Option::as_mut) {
            parent.children.retain(|child| *child != id);
        }
        let mut doomed = vec![id];
        while let Some(id) = doomed.pop() {
            if self.get(id).is_some_and(|told| told.is_believed) {
                self.contradict(id);
            }
            let Some(told) = self.nodes.get_mut(id as usize).and_then(Option::take) else { continue };
            doomed.extend(told.children);
            if let Some((_, count)) = self.groups.get_mut(&told.node.link_group) {
                *count = count.saturating_sub(1);
            }
            self.names.remove(&(told.parent, told.name));
        }
    }

    fn contradict(&mut self, id: NodeId) {
        let path = self.path(id).join(&b'/');
        self.contradiction.get_or_insert_with(|| super::Shown(&path).to_string());
    }

    fn get(&self, id: NodeId) -> Option<&Told> {
        self.nodes.get(id as usize)?.as_ref()
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.get(id).map(|told| &told.node)
    }

    /// What a name leads to.
    pub(crate) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.names.get(&(parent, name.into())).copied()
    }

    pub(crate) fn name(&self, id: NodeId) -> &[u8] {
        self.get(id).map_or(b"", |told| &told.name)
    }

    pub(crate) fn children(&self, id: NodeId) -> &[NodeId] {
        self.get(id).map_or(&[], |told| &told.children)
    }

    /// The names on the way to a node, from the root down.
    pub(crate) fn path(&self, id: NodeId) -> Vec<&[u8]> {
        let mut names = Vec::new();
        let mut at = id;
        // Parents were there before their children; a circle cannot be told.
        while at != ROOT
            && names.len() < 8192
            && let Some(told) = self.get(at)
        {
            names.push(&*told.name);
            at = told.parent;
        }
        names.reverse();
        names
    }

    /// The first name of a file with several, and how many it has so far.
    pub(crate) fn group(&self, group: u32) -> Option<(NodeId, u32)> {
        self.groups.get(&group).copied()
    }

    /// Whether a file's contents are in the tree.
    pub(crate) fn is_here(&self, id: NodeId) -> bool {
        !self.is_apart || self.here.contains(&id)
    }

    /// Whether these bytes of a file are here earlier than the rest of it.
    pub(crate) fn has_early(&self, id: NodeId, wanted: Range<u64>) -> bool {
        let found = self.pieces.get(&id).into_iter().flatten();
        found.into_iter().any(|range| range.start <= wanted.start && wanted.end <= range.end)
    }

    /// From now on it must stay as it is.
    pub(crate) fn believe(&mut self, id: NodeId) {
        if let Some(told) = self.nodes.get_mut(id as usize).and_then(Option::as_mut) {
            told.is_believed = true;
        }
    }

    /// Adds what an index has and this table has not: somebody else has made the layer whole.
    pub(crate) fn complete_from(&mut self, index: &super::index::Index) {
        let mut pending = vec![(index.root(), ROOT)];
        while let Some((record, id)) = pending.pop() {
            let mut node = Node::new(record.kind().unwrap_or(Kind::Whiteout));
            (node.is_opaque, node.is_implicit) = (record.is_opaque(), record.is_implicit());
            node.mode = (record.mode() & 0o7777) as u16;
            (node.uid, node.gid, node.link_group) = (record.uid(), record.gid(), record.link_group());
            node.size = record.size();
            node.set_mtime(record.mtime());
            let xattrs: Vec<_> = record.xattrs().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            if !record.target().is_empty() || !xattrs.is_empty() {
                node.extra = Some(Box::new(Extra { target: record.target().to_vec(), xattrs }));
            }
            let parent = self.get(id).map_or(ROOT, |told| told.parent);
            match self.get(id) {
                Some(told) => node.link_group = told.node.link_group,
                None if id == ROOT => {}
                None => continue,
            }
            self.put(id, parent, record.name(), node);
            for child in record.children() {
                let known = self.child(id, child.name());
                let next = known.unwrap_or(self.nodes.len() as NodeId);
                if known.is_none() {
                    self.put(next, id, child.name(), Node::new(child.kind().unwrap_or(Kind::Whiteout)));
                }
                pending.push((child, next));
            }
        }
        self.is_complete = true;
    }
}

/// Adds a range to sorted ones that do not touch.
fn add_range(ranges: &mut Vec<Range<u64>>, new: Range<u64>) {
    let first = ranges.partition_point(|range| range.end < new.start);
    let last = ranges.partition_point(|range| range.start <= new.end);
    let touched = ranges.get(first..last).unwrap_or_default();
    let start = touched.first().map_or(new.start, |range| range.start.min(new.start));
    let end = touched.last().map_or(new.end, |range| range.end.max(new.end));
    ranges.splice(first..last.max(first), std::iter::once(start..end));
}

/// Whether two answers about one name would differ, as far as they are believed for ever: what a name hides below it is
/// asked of layers that are complete only, and a file may get further names.
fn differs(old: &Node, new: &Node) -> bool {
    let of = |node: &Node| (node.kind, node.mode, node.uid, node.gid, node.size, node.mtime().secs, node.mtime().nanos);
    of(old) != of(new) || old.target() != new.target() || old.xattrs() != new.xattrs()
}

/// What is left of a frame.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journaled(work: impl FnOnce(&mut Writer)) -> (Table, Writer) {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut tree = Writer::journaled(Journal::new(path.reopen().unwrap()));
        work(&mut tree);
        tree.tell_end().unwrap();
        let bytes = std::fs::read(path.path()).unwrap();
        let mut table = Table::default();
        // As it may come.
        bytes.chunks(7).for_each(|piece| table.feed(piece));
        (table, tree)
    }

    fn make(tree: &mut Writer, parent: NodeId, name: &str, kind: Kind, size: u64) -> NodeId {
        let id = tree.insert(parent, name.as_bytes(), Node::new(kind)).unwrap();
        tree.node_mut(id).size = size;
        tree.tell().unwrap();
        id
    }

    #[test]
    fn what_is_told_is_what_was_collected_removed_and_reused_nodes_included() {
        let (table, tree) = journaled(|tree| {
            let dir = make(tree, ROOT, "dir", Kind::Directory, 0);
            let old = make(tree, dir, "old", Kind::Directory, 0);
            make(tree, old, "below", Kind::File, 1);
            tree.remove(old);
            let link = make(tree, ROOT, "link", Kind::Symlink, 2);
            let file = make(tree, dir, "file", Kind::File, 3);
            tree.node_mut(link).extra.get_or_insert_default().target = b"dir/file".to_vec();
            tree.link_group(file);
            let node = tree.node(file).clone();
            tree.insert(ROOT, b"second", node).unwrap();
            // Within one entry made, removed and made as something else.
            let gone = tree.insert(ROOT, b"gone", Node::implicit_directory()).unwrap();
            tree.remove(gone);
            tree.insert(ROOT, b"came", Node::new(Kind::Whiteout)).unwrap();
        });
        assert!(table.is_complete && table.contradiction.is_none());
        let mut pending = vec![ROOT];
        while let Some(id) = pending.pop() {
            let (told, meant) = (table.children(id), tree.children(id).collect::<Vec<_>>());
            assert_eq!(told.len(), meant.len(), "{id}");
            for child in meant {
                assert_eq!(table.child(id, tree.name(child)), Some(child));
                assert!(!differs(table.node(child).unwrap(), tree.node(child)));
                pending.push(child);
            }
        }
        let group = table.node(table.child(ROOT, b"second").unwrap()).unwrap().link_group;
        assert_eq!(table.group(group).map(|(_, names)| names), Some(2));
    }

    #[test]
    fn what_was_believed_and_is_replaced_is_a_contradiction() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut tree = Writer::journaled(Journal::new(path.reopen().unwrap()));
        let mut table = Table::default();
        let id = make(&mut tree, ROOT, "file", Kind::File, 1);
        table.feed(&std::fs::read(path.path()).unwrap());
        table.believe(id);
        let told = std::fs::read(path.path()).unwrap().len();
        tree.remove(id);
        make(&mut tree, ROOT, "file", Kind::File, 2);
        table.feed(&std::fs::read(path.path()).unwrap()[told..]);
        assert_eq!(table.contradiction.as_deref(), Some("file"));
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut ranges = Vec::new();
        for (new, expected) in [
            (10..20, "10..20"),
            (30..40, "10..20 30..40"),
            (0..5, "0..5 10..20 30..40"),
            (20..30, "0..5 10..40"),
            (12..13, "0..5 10..40"),
            (3..11, "0..40"),
            (50..60, "0..40 50..60"),
        ] {
            add_range(&mut ranges, new);
            let shown: Vec<_> = ranges.iter().map(|range| format!("{range:?}")).collect();
            assert_eq!(shown.join(" "), expected);
        }
    }

    #[test]
    fn a_damaged_journal_does_no_harm() {
        let mut table = Table::default();
        for frame in [&[PUT][..], &[PUT, 255, 255, 255, 255, 0, 0, 0, 0], &[REMOVE, 0, 0, 0, 0], &[9], &[]] {
            table.feed(&(frame.len() as u32).to_le_bytes());
            table.feed(frame);
        }
        table.feed(&[255; 64]);
        assert!(table.children(ROOT).is_empty() && !table.is_complete);
    }
}
