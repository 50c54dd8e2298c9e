//! From entries to the tree that the archive will give, by the rules of [`crate::layer::apply`], and to pieces of files.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::parse::Entry;
use super::{MAX_PIECES, Piece, Toc, TocError};
use crate::digest::Digest;
use crate::layer::apply::{MAX_DEPTH, is_allowed_xattr, path};
use crate::layer::index::{IndexError, Kind, Node, NodeId, ROOT, Writer};
use crate::layer::tar::{MAX_XATTRS, Timestamp, Xattr};
use crate::layer::{IdPolicy, Shown};
use crate::whiteout::{self, TarName};

/// A file whose pieces are being told.
struct Open {
    id: NodeId,
    name: String,
    size: u64,
    /// Where its last frame ends, if that is told.
    blob_end: u64,
    /// Digest of the whole: that of its only piece.
    digest: String,
    pieces: Vec<(u64, u64, u64, String)>,
}

/// A tree in the making.
pub(super) struct Builder<'a> {
    ids: &'a IdPolicy,
    /// Where in the blob contents end: the table begins there.
    blob_end: u64,
    is_estargz: bool,
    tree: Writer,
    files: HashMap<NodeId, Box<[Piece]>>,
    pieces: usize,
    open: Option<Open>,
    /// Devices, which are left out, and hardlinks to them.
    devices: HashSet<Vec<u8>>,
}

/// A refusal.
fn hostile(name: &str, what: &str) -> TocError {
    TocError::Hostile(format!("'{}' {what}", Shown(name.as_bytes())))
}

fn too_large(_: IndexError) -> TocError {
    TocError::Hostile("it has more names than coracle unpacks (4194304)".to_owned())
}

impl<'a> Builder<'a> {
    pub(super) fn new(blob_end: u64, ids: &'a IdPolicy, is_estargz: bool) -> Self {
        Self {
            ids,
            blob_end,
            is_estargz,
            tree: Writer::new(),
            files: HashMap::new(),
            pieces: 0,
            open: None,
            devices: HashSet::new(),
        }
    }

    /// Takes the next entry.
    pub(super) fn add(&mut self, entry: Entry) -> Result<(), TocError> {
        if entry.kind == "chunk" {
            return self.more(&entry);
        }
        self.close()?;
        let (name, components) = (entry.name.as_str(), self.components(&entry.name, &entry.name)?);
        let components: Vec<&[u8]> = components.iter().map(Vec::as_slice).collect();
        let Some((last, parents)) = components.split_last() else {
            if entry.kind != "dir" {
                return Err(hostile(name, "is the root, and no directory"));
            }
            return self.describe(ROOT, &entry);
        };
        let is_aufs = |name: &&[u8]| TarName::parse(name) == TarName::AufsMetadata;
        if is_aufs(last) || parents.iter().any(is_aufs) {
            return Ok(());
        }
        if parents.iter().any(|name| whiteout::is_reserved(name)) {
            return Err(hostile(name, "is not a valid whiteout"));
        }
        let parent = self.parent(name, parents)?;
        match TarName::parse(last) {
            TarName::AufsMetadata => Ok(()),
            TarName::Invalid => Err(hostile(name, "is not a valid whiteout")),
            TarName::Opaque => {
                self.tree.node_mut(parent).is_opaque = true;
                Ok(())
            }
            TarName::Whiteout(hidden) => match self.tree.child(parent, hidden) {
                None => self.tree.insert(parent, hidden, Node::new(Kind::Whiteout)).map(drop).map_err(too_large),
                Some(_) => Err(TocError::Unusable("it hides what it has")),
            },
            TarName::Plain(last) => self.plain(entry, parent, &components, last),
        }
    }

    fn plain(&mut self, entry: Entry, parent: NodeId, path: &[&[u8]], last: &[u8]) -> Result<(), TocError> {
        let existing = self.tree.child(parent, last);
        if entry.kind == "dir" {
            let id = match existing {
                Some(id) if self.tree.node(id).kind == Kind::Directory && self.tree.node(id).is_implicit => id,
                Some(_) => return Err(TocError::Unusable("it has a name twice")),
                None => self.tree.insert(parent, last, Node::implicit_directory()).map_err(too_large)?,
            };
            return self.describe(id, &entry);
        }
        if existing.is_some() {
            return Err(TocError::Unusable("it has a name twice"));
        }
        let kind = match entry.kind.as_str() {
            "reg" => Kind::File,
            "symlink" => Kind::Symlink,
            "fifo" => Kind::Fifo,
            "char" | "block" => {
                self.devices.insert(path.join(&b'/'));
                return Ok(());
            }
            "hardlink" => return self.hardlink(&entry, parent, last),
            other => {
                let what = format!("is of the unknown kind '{}'", Shown(other.as_bytes()));
                return Err(hostile(&entry.name, &what));
            }
        };
        if kind == Kind::Symlink && (entry.link_name.is_empty() || entry.link_name.contains('\0')) {
            return Err(hostile(&entry.name, "is a link to nothing"));
        }
        let id = self.tree.insert(parent, last, Node::new(kind)).map_err(too_large)?;
        self.describe(id, &entry)?;
        if kind == Kind::Symlink {
            self.tree.node_mut(id).extra.get_or_insert_default().target = entry.link_name.into_bytes();
        } else if kind == Kind::File {
            if i64::try_from(entry.size).is_err() {
                return Err(hostile(&entry.name, "is larger than any file"));
            }
            self.tree.node_mut(id).size = entry.size;
            self.begin(id, entry);
        }
        Ok(())
    }

    fn hardlink(&mut self, entry: &Entry, parent: NodeId, last: &[u8]) -> Result<(), TocError> {
        let target = self.components(&entry.name, &entry.link_name)?;
        if self.devices.contains(&target.join(&b'/')) {
            return Ok(());
        }
        // What comes later is nothing yet, so that there are no circles.
        let found = target.iter().try_fold(ROOT, |at, name| self.tree.child(at, name));
        let found = found.filter(|id| matches!(self.tree.node(*id).kind, Kind::File | Kind::Symlink | Kind::Fifo));
        let Some(found) = found else {
            let what = format!("is a hard link to '{}', which is no file before it", Shown(entry.link_name.as_bytes()));
            return Err(hostile(&entry.name, &what));
        };
        self.tree.link_group(found);
        let node = self.tree.node(found).clone();
        self.tree.insert(parent, last, node).map(drop).map_err(too_large)
    }

    fn components(&self, name: &str, path: &str) -> Result<Vec<Vec<u8>>, TocError> {
        if path.contains('\0') {
            return Err(hostile(name, "has a zero byte in its name"));
        }
        let components = path::components(path.as_bytes()).map_err(|bad| match bad {
            path::BadPath::Escapes => hostile(name, "leads out of the layer"),
            path::BadPath::TooLong => hostile(name, "has a name longer than 255 bytes"),
        })?;
        if components.len() > MAX_DEPTH {
            return Err(hostile(name, "lies too deep"));
        }
        Ok(components.into_iter().map(<[u8]>::to_vec).collect())
    }

    fn parent(&mut self, name: &str, parents: &[&[u8]]) -> Result<NodeId, TocError> {
        let mut at = ROOT;
        for component in parents {
            at = match self.tree.child(at, component) {
                Some(id) if self.tree.node(id).kind == Kind::Directory => id,
                Some(id) if self.tree.node(id).kind == Kind::Symlink => {
                    return Err(TocError::Unusable("it has a name behind a link"));
                }
                Some(id) if self.tree.node(id).kind == Kind::Whiteout => {
                    return Err(TocError::Unusable("it hides what it has"));
                }
                Some(_) => return Err(hostile(name, "lies beneath a file")),
                None => self.tree.insert(at, component, Node::implicit_directory()).map_err(too_large)?,
            };
        }
        Ok(at)
    }

    fn describe(&mut self, id: NodeId, entry: &Entry) -> Result<(), TocError> {
        let bad = |what: &str| hostile(&entry.name, what);
        let mtime = match entry.modtime.as_deref() {
            None | Some("") => Timestamp::default(),
            Some(text) => {
                let time: jiff::Timestamp = text.parse().map_err(|_| bad("has no valid time"))?;
                let nanos = time.subsec_nanosecond();
                // Before 1970 both are negative there; here the fraction counts forward.
                let secs = time.as_second() - i64::from(nanos < 0);
                let nanos = if nanos < 0 { nanos + 1_000_000_000 } else { nanos };
                Timestamp { secs, nanos: nanos.unsigned_abs() }
            }
        };
        let mut xattrs: Vec<Xattr> = Vec::new();
        let takes_xattrs = matches!(self.tree.node(id).kind, Kind::Directory | Kind::File);
        for (name, value) in entry.xattrs.iter().flatten().filter(|_| takes_xattrs) {
            if xattrs.len() >= MAX_XATTRS {
                return Err(bad("has too many extended attributes"));
            }
            let value = STANDARD.decode(value.as_deref().unwrap_or_default());
            let value = value.map_err(|_| bad("has an extended attribute that is not base64"))?;
            if is_allowed_xattr(self.ids, name.as_bytes()) {
                xattrs.push((name.clone().into_bytes(), value));
            }
        }
        xattrs.sort();
        let node = self.tree.node_mut(id);
        node.is_implicit = false;
        node.mode = (entry.mode & 0o7777) as u16;
        (node.uid, node.gid) = (entry.uid, entry.gid);
        node.set_mtime(mtime);
        if !xattrs.is_empty() {
            node.extra.get_or_insert_default().xattrs = xattrs;
        }
        Ok(())
    }

    fn begin(&mut self, id: NodeId, entry: Entry) {
        if entry.size == 0 {
            return;
        }
        let first = (entry.chunk_offset, entry.offset, entry.inner_offset, entry.chunk_digest);
        let Entry { name, size, end_offset, digest, .. } = entry;
        self.open = Some(Open { id, name, size, blob_end: end_offset, digest, pieces: vec![first] });
    }

    /// Another piece of the file before.
    fn more(&mut self, entry: &Entry) -> Result<(), TocError> {
        let open = self.open.as_mut().filter(|open| open.name == entry.name);
        let open = open.ok_or_else(|| hostile(&entry.name, "has a chunk that is not behind its file"))?;
        if self.pieces + open.pieces.len() >= MAX_PIECES {
            return Err(TocError::Unusable("it has too many chunks"));
        }
        // Some write the end of the file here.
        open.blob_end = open.blob_end.max(entry.end_offset);
        open.pieces.push((entry.chunk_offset, entry.offset, entry.inner_offset, entry.chunk_digest.clone()));
        let _ = entry.chunk_size;
        Ok(())
    }

    /// The file's pieces are all known.
    fn close(&mut self) -> Result<(), TocError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Open { id, name, size, blob_end, digest, pieces } = open;
        let is_single = pieces.len() == 1;
        let mut made: Vec<Piece> = Vec::with_capacity(pieces.len());
        for (at, (offset, blob_offset, inner_offset, chunk_digest)) in pieces.iter().enumerate() {
            let next = pieces.get(at + 1);
            let end = next.map_or(size, |next| next.0);
            if (at == 0 && *offset != 0) || end <= *offset || end > size {
                return Err(hostile(&name, "has chunks that are not one after another"));
            }
            let piece_end = match next {
                Some(next) => next.1,
                None if blob_end > 0 => blob_end,
                // To be known when all are.
                None => 0,
            };
            let text = if is_single && chunk_digest.is_empty() { &digest } else { chunk_digest };
            let digest = Digest::parse(text).ok().and_then(|digest| sha256(&digest));
            let digest = digest.ok_or_else(|| hostile(&name, "has a chunk without a valid digest"))?;
            made.push(Piece {
                offset: *offset,
                len: end - offset,
                blob_offset: *blob_offset,
                blob_end: piece_end,
                inner_offset: *inner_offset,
                digest,
            });
        }
        self.pieces += made.len();
        if self.pieces > MAX_PIECES {
            return Err(TocError::Unusable("it has too many chunks"));
        }
        self.files.insert(id, made.into());
        Ok(())
    }

    /// The table itself is a file of an eStargz layer.
    pub(super) fn add_table(&mut self, entry: &crate::layer::tar::Entry, blob_offset: u64) -> Result<(), TocError> {
        self.close()?;
        let _ = blob_offset;
        if self.tree.child(ROOT, &entry.path).is_some() {
            return Err(TocError::Unusable("it has a name twice"));
        }
        let id = self.tree.insert(ROOT, &entry.path, Node::new(Kind::File)).map_err(too_large)?;
        let node = self.tree.node_mut(id);
        node.mode = (entry.mode & 0o7777) as u16;
        (node.uid, node.gid, node.size) = (entry.uid, entry.gid, entry.size);
        node.set_mtime(entry.mtime);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Toc, TocError> {
        self.close()?;
        self.set_ends()?;
        Ok(Toc { tree: self.tree, files: self.files, has_coarse_times: self.is_estargz })
    }

    /// Sees to it that no two pieces share bytes of the blob, but those of one member of eStargz.
    fn set_ends(&mut self) -> Result<(), TocError> {
        let mut all: Vec<(u64, u64, &mut Piece, NodeId)> = Vec::with_capacity(self.pieces);
        for (id, pieces) in &mut self.files {
            all.extend(pieces.iter_mut().map(|piece| (piece.blob_offset, piece.inner_offset, piece, *id)));
        }
        all.sort_by_key(|(offset, inner, ..)| (*offset, *inner));
        // From the last: what has no end of its own ends where the next begins.
        let (mut next, mut next_inner) = (self.blob_end, None);
        for (offset, inner, piece, id) in all.iter_mut().rev() {
            let fail = |what: &str| {
                let path = super::path_of(&self.tree, *id);
                TocError::Hostile(format!("'{}' {what}", Shown(&path)))
            };
            if self.is_estargz {
                let shares = next_inner.is_some_and(|(at, inner_offset): (u64, u64)| {
                    at == *offset && inner.checked_add(piece.len).is_some_and(|end| end <= inner_offset)
                });
                match next_inner {
                    Some((at, _)) if at == *offset && !shares => return Err(fail("has a chunk that overlaps another")),
                    Some((at, _)) if at != *offset => next = at,
                    _ => {}
                }
                piece.blob_end = next;
                next_inner = Some((*offset, *inner));
            } else {
                if piece.blob_end > next || *inner != 0 {
                    return Err(fail("has a chunk that overlaps another or lies outside of the layer"));
                }
                next = *offset;
            }
            if piece.blob_offset >= piece.blob_end || piece.blob_end > self.blob_end {
                return Err(fail("has a chunk that lies outside of the layer"));
            }
        }
        Ok(())
    }
}

fn sha256(digest: &Digest) -> Option<[u8; 32]> {
    let hex = Some(digest.hex()).filter(|_| digest.algorithm() == crate::digest::Algorithm::Sha256)?;
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
