//! Tables of contents: what a layer has, and where in its blob, told at its end and read before the rest.
//!
//! ```text
//! annotations of the layer ─ Place ─ range request ─ digest right? ─ Toc: the layer's tree, and pieces of files in the blob
//!                                                      └── wrong: refused; no table, or an odd one: tar order
//! ```
//! Two formats have one, with almost the same entries: zstd:chunked (containers/storage) and eStargz (stargz-snapshotter).
//!
//! What a table says is believed in advance only: the archive is unpacked and hashed all the same, and where the two disagree
//! the layer is refused ([`Toc::disagrees`]). So a table can make a container see nothing that the image's own digests do not
//! vouch for in the end.
//!
//! Bounds: [`MAX_PACKED_BYTES`] and [`MAX_RAW_BYTES`] of JSON, which is read entry by entry; names and depth as with archives;
//! [`MAX_PIECES`]. A table that is honest and larger is not used; one that lies is an error.
//!
//! # Source
//! `containers/storage` `pkg/chunked/internal/minimal/compression.go`; `containerd/stargz-snapshotter` `docs/estargz.md`.

mod parse;

mod place;

mod tree;

pub(crate) use place::{Footer, Place};

use std::collections::HashMap;

use super::index::{Kind, Node, NodeId, ROOT, Writer};

/// Longest table as it is in the blob.
pub(crate) const MAX_PACKED_BYTES: u64 = 16 << 20;

/// Longest table in JSON.
pub(crate) const MAX_RAW_BYTES: u64 = 128 << 20;

/// Most pieces of files.
const MAX_PIECES: usize = 1 << 20;

/// Annotations of zstd:chunked.
pub(crate) const CHUNKED_CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
pub(crate) const CHUNKED_POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
pub(crate) const CHUNKED_TAR_SPLIT: &str = "io.github.containers.zstd-chunked.tarsplit-position";
/// The annotation of eStargz.
pub(crate) const ESTARGZ_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// Why a table is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TocError {
    /// It is not what an honest builder writes: the layer is refused.
    #[error("table of contents: {0}")]
    Hostile(String),
    /// It is larger or odder than what is worth reading in advance: the layer comes in the order of its archive.
    #[error("table of contents: {0}")]
    Unusable(&'static str),
}

/// Some bytes of a file, which can be fetched alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where in the file.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Where in the blob its member or frame begins, and where it surely ends.
    pub(crate) blob_offset: u64,
    pub(crate) blob_end: u64,
    /// How far into what comes out of the member.
    pub(crate) inner_offset: u64,
    /// SHA-256 of the bytes.
    pub(crate) digest: [u8; 32],
}

impl Piece {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// A table that was read.
#[derive(Debug)]
pub(crate) struct Toc {
    pub(crate) tree: Writer,
    files: HashMap<NodeId, Box<[Piece]>>,
    /// Times are rounded to seconds.
    has_coarse_times: bool,
}

impl Toc {
    /// The pieces of a file in their order, without a gap; none of one that is empty or not to be fetched alone.
    pub(crate) fn pieces(&self, id: NodeId) -> &[Piece] {
        self.files.get(&id).map_or(&[], |pieces| pieces)
    }

    /// The node at the same path as one of another tree.
    pub(crate) fn counterpart(&self, other: &Writer, id: NodeId) -> Option<NodeId> {
        let mut path = Vec::new();
        let mut at = id;
        while at != ROOT {
            path.push(at);
            at = other.parent(at);
        }
        path.into_iter().rev().try_fold(ROOT, |at, id| self.tree.child(at, other.name(id)))
    }

    /// The path of something that an archive says otherwise, or only one of them says.
    pub(crate) fn disagrees(&self, archive: &Writer) -> Option<Vec<u8>> {
        // Which group of one is which of the other.
        let (mut there, mut back) = (HashMap::new(), HashMap::new());
        let mut pending = vec![(ROOT, ROOT)];
        while let Some((ours, theirs)) = pending.pop() {
            let (one, other) = (self.tree.node(ours), archive.node(theirs));
            let groups = (one.link_group, other.link_group);
            let is_same_file = (groups.0 == 0) == (groups.1 == 0)
                && *there.entry(groups.0).or_insert(groups.1) == groups.1
                && *back.entry(groups.1).or_insert(groups.0) == groups.0;
            if !is_same_file || !self.is_same(one, other) {
                return Some(path_of(archive, theirs));
            }
            if one.kind != Kind::Directory {
                continue;
            }
            let mut known = 0_usize;
            for child in archive.children(theirs) {
                match self.tree.child(ours, archive.name(child)) {
                    Some(counterpart) => pending.push((counterpart, child)),
                    None => return Some(path_of(archive, child)),
                }
                known += 1;
            }
            if self.tree.children(ours).count() != known {
                let missing = self.tree.children(ours).find(|id| archive.child(theirs, self.tree.name(*id)).is_none());
                return Some(missing.map_or_else(|| path_of(archive, theirs), |id| path_of(&self.tree, id)));
            }
        }
        None
    }

    fn is_same(&self, one: &Node, other: &Node) -> bool {
        let of = |node: &Node| (node.kind, node.is_opaque, node.is_implicit, node.mode, node.uid, node.gid, node.size);
        let (told, meant) = (one.mtime(), other.mtime());
        let is_same_time = match self.has_coarse_times && told.nanos == 0 {
            true => (told.secs == meant.secs) || told.secs.checked_sub(1) == Some(meant.secs),
            false => told == meant,
        };
        of(one) == of(other) && is_same_time && one.target() == other.target() && one.xattrs() == other.xattrs()
    }
}

fn path_of(tree: &Writer, id: NodeId) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at = id;
    while at != ROOT {
        names.push(tree.name(at));
        at = tree.parent(at);
    }
    names.reverse();
    names.join(&b'/')
}

#[cfg(test)]
mod tests;
