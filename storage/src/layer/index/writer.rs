//! Collects a layer's tree in memory while it is unpacked, then writes the index.

use super::{FLAG_IMPLICIT, FLAG_OPAQUE, HEADER_BYTES, IndexError, Kind, MAGIC, RECORD_BYTES, VERSION};
use crate::layer::tar::{Timestamp, Xattr};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;

/// A node's place in the writer; reused after the node is removed.
pub(crate) type NodeId = u32;

/// The root directory.
pub(crate) const ROOT: NodeId = 0;

/// Most names of one layer: what is in memory at once must end somewhere (about 200 bytes each).
const MAX_NODES: usize = 4 << 20;

type Children = BTreeMap<Arc<[u8]>, NodeId>;

/// The tree of a layer in the making.
#[derive(Debug)]
pub struct Writer {
    nodes: Vec<Slot>,
    free: Vec<NodeId>,
    link_groups: u32,
}

#[derive(Debug)]
struct Slot {
    parent: NodeId,
    name: Arc<[u8]>,
    node: Node,
    children: Option<Box<Children>>,
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
    pub(crate) mtime: Timestamp,
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
            mtime: Timestamp::default(),
            extra: None,
        }
    }

    /// A directory that the tar needs but does not name.
    pub(crate) fn implicit_directory() -> Self {
        Self { is_implicit: true, mode: 0o755, ..Self::new(Kind::Directory) }
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
        let root = Slot { parent: ROOT, name: Arc::from([]), node: Node::implicit_directory(), children: None };
        Self { nodes: vec![root], free: Vec::new(), link_groups: 0 }
    }
}

impl Writer {
    /// An index of an empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.slot(parent).children.as_ref()?.get(name).copied()
    }

    pub(crate) fn parent(&self, id: NodeId) -> NodeId {
        self.slot(id).parent
    }

    pub(crate) fn name(&self, id: NodeId) -> &[u8] {
        &self.slot(id).name
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.slot(id).node
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.slot_mut(id).node
    }

    pub(crate) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.slot(id).children.iter().flat_map(|children| children.values().copied())
    }

    /// Adds a name that is not there yet.
    pub(crate) fn insert(&mut self, parent: NodeId, name: &[u8], node: Node) -> Result<NodeId, IndexError> {
        let name: Arc<[u8]> = Arc::from(name);
        let slot = Slot { parent, name: Arc::clone(&name), node, children: None };
        let id = match self.free.pop() {
            Some(id) => {
                *self.slot_mut(id) = slot;
                id
            }
            None => {
                if self.nodes.len() >= MAX_NODES {
                    return Err(IndexError::TooLarge);
                }
                self.nodes.push(slot);
                (self.nodes.len() - 1) as NodeId
            }
        };
        self.slot_mut(parent).children.get_or_insert_default().insert(name, id);
        Ok(id)
    }

    /// Forgets a node and all below it.
    pub(crate) fn remove(&mut self, id: NodeId) {
        let (parent, name) = (self.slot(id).parent, Arc::clone(&self.slot(id).name));
        if let Some(siblings) = &mut self.slot_mut(parent).children {
            siblings.remove(&name);
        }
        let mut doomed = vec![id];
        while let Some(id) = doomed.pop() {
            let slot = self.slot_mut(id);
            doomed.extend(slot.children.take().into_iter().flat_map(|children| children.into_values()));
            slot.node = Node::new(Kind::Whiteout);
            self.free.push(id);
        }
    }

    /// Gives a file its link group, so that another name of it can be added.
    pub(crate) fn link_group(&mut self, id: NodeId) -> u32 {
        if self.slot(id).node.link_group == 0 {
            self.link_groups += 1;
            let group = self.link_groups;
            self.slot_mut(id).node.link_group = group;
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
        let mut strings = Vec::new();
        let mut records = Vec::with_capacity(order.len() * RECORD_BYTES);
        let mut next_child = 1_u32;
        for (id, parent) in &order {
            let children = self.slot(*id).children.as_ref().map_or(0, |children| children.len() as u32);
            let names = names_of_group.get(&self.node(*id).link_group).copied().unwrap_or(1);
            self.put_record(&mut records, &mut strings, *id, (*parent, names, next_child, children))?;
            next_child += children;
        }
        let strings_offset = (HEADER_BYTES + records.len()) as u64;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(RECORD_BYTES as u32).to_le_bytes());
        header.extend_from_slice(&(order.len() as u32).to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        header.extend_from_slice(&strings_offset.to_le_bytes());
        header.extend_from_slice(&(strings.len() as u64).to_le_bytes());
        header.resize(HEADER_BYTES, 0);
        for part in [&header, &records, &strings] {
            out.write_all(part).map_err(IndexError::Write)?;
        }
        out.flush().map_err(IndexError::Write)
    }

    /// All live nodes with the record number of their parent, children of one directory together.
    fn breadth_first(&self) -> Vec<(NodeId, u32)> {
        let mut order = Vec::with_capacity(self.nodes.len() - self.free.len());
        order.push((ROOT, 0));
        let mut at = 0;
        while let Some(&(id, _)) = order.get(at) {
            order.extend(self.children(id).map(|child| (child, at as u32)));
            at += 1;
        }
        order
    }

    fn put_record(
        &self,
        records: &mut Vec<u8>,
        strings: &mut Vec<u8>,
        id: NodeId,
        (parent, names, first_child, children): (u32, u32, u32, u32),
    ) -> Result<(), IndexError> {
        let (name, node) = (self.name(id), self.node(id));
        let name_at = put_string(strings, name)?;
        let target_at = put_string(strings, node.target())?;
        let xattrs_at = strings.len();
        for (name, value) in node.xattrs() {
            strings.extend_from_slice(&(name.len() as u16).to_le_bytes());
            strings.extend_from_slice(&(value.len() as u32).to_le_bytes());
            strings.extend_from_slice(name);
            strings.extend_from_slice(value);
        }
        let xattrs_len = strings.len() - xattrs_at;
        let xattrs_at = u32::try_from(xattrs_at).map_err(|_| IndexError::TooLarge)?;
        let flags = if node.is_opaque { FLAG_OPAQUE } else { 0 } | if node.is_implicit { FLAG_IMPLICIT } else { 0 };
        let size = if node.kind == Kind::Symlink { node.target().len() as u64 } else { node.size };
        records.extend_from_slice(&parent.to_le_bytes());
        records.extend_from_slice(&name_at.to_le_bytes());
        records.extend_from_slice(&(name.len() as u16).to_le_bytes());
        records.extend_from_slice(&[node.kind.to_byte(), flags]);
        for number in [u32::from(node.mode), node.uid, node.gid] {
            records.extend_from_slice(&number.to_le_bytes());
        }
        records.extend_from_slice(&size.to_le_bytes());
        records.extend_from_slice(&node.mtime.secs.to_le_bytes());
        let (target_len, xattrs_len) = (node.target().len() as u32, xattrs_len as u32);
        let (first_child, zero) = (if children == 0 { 0 } else { first_child }, 0);
        for number in [
            node.mtime.nanos,
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
            records.extend_from_slice(&number.to_le_bytes());
        }
        Ok(())
    }

    fn slot(&self, id: NodeId) -> &Slot {
        &self.nodes[id as usize]
    }

    fn slot_mut(&mut self, id: NodeId) -> &mut Slot {
        &mut self.nodes[id as usize]
    }
}

fn put_string(strings: &mut Vec<u8>, text: &[u8]) -> Result<u32, IndexError> {
    let at = u32::try_from(strings.len()).map_err(|_| IndexError::TooLarge)?;
    strings.extend_from_slice(text);
    Ok(at)
}
