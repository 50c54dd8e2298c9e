//! Blobs of unpacked layers that are dropped, and made again byte for byte when something is to be pushed or saved.
//!
//! ```text
//! blob ─ tar ─┬ what is the contents of a file of the tree: its path and length ┐
//!             └ all the rest, as it is                                         ┴→ recipe
//! recipe + tree ─ tar ─ compressed as it was ─ digest is the blob's? ─ yes: the blob goes; no: it stays
//! ```
//! A blob can be made again if it is a plain tar, or compressed by coracle: nobody else's compressor gives the same bytes.
//!
//! ```text
//! images/recipes/<algorithm>-<hex of the blob>   one zstd frame:
//!   "coracle recipe 1\n"  <packing: 0 plain, 1 gzip, 2 zstd>  <level>  <diffID as text>
//!   pieces: 1 <bytes>  |  2 <path of a file of the tree> <how many bytes of it, u64>  |  0: the end
//!   a text, a path and bytes each begin with their length, u32; all numbers are little-endian
//! ```
//! | writer | readers | lock | durability | version |
//! |---|---|---|---|---|
//! | [`ImageStore::drop_blobs`] | who needs the blob, checks, garbage collection | `images/pin.lock`: exclusive to drop, shared to make again | fdatasync, rename, directory fsync before the blob goes | in the first line; an older coracle pulls the blob again |
//!
//! **Runs in:** a process in the user namespace of the trees, for they have files of many owners.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use libdeflater::{CompressionLvl, Compressor};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::store::{ImageStore, Layer, StoreError};
use crate::blob::{BlobError, Claim};
use crate::digest::{DiffId, Digest, Hasher};
use crate::layer::compress::{self, Format};
use crate::layer::compression::{Compression, Decompressor};
use crate::layer::tar::{EntryKind, Reader};
use crate::state::atomic::{Durability, remove_if_there, write_atomic};
use crate::state::layout::{Ownership, create_dir};
use crate::state::lock::FileLock;

const MAGIC: &[u8] = b"coracle recipe 1\n";

/// A recipe that is longer would save little.
const MAX_RECIPE_BYTES: usize = 32 << 20;

/// Contents shorter than this are kept in the recipe: their path would be as long.
const MIN_CONTENTS_BYTES: u64 = 64;

const BUFFER_BYTES: usize = 128 << 10;

const RECIPE_LEVEL: i32 = 6;

/// Why a blob cannot be made again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// By somebody else's program.
    #[error("it was compressed by another program or with a table of contents, and these bytes cannot be made again")]
    Foreign,
    /// The tree is not there.
    #[error("its layer is not unpacked")]
    NotUnpacked,
    /// The tree has little of what the blob has.
    #[error("what it takes to make it again is hardly shorter")]
    TooLong,
    /// What was made is something else.
    #[error("what is made from the unpacked layer is {got}")]
    Other {
        /// Its digest.
        got: Digest,
    },
    /// The recipe is none.
    #[error("its recipe is damaged")]
    Damaged,
    /// The blob, the tree or the recipe cannot be read.
    #[error("{}", crate::sys::reason(.0))]
    Io(#[from] io::Error),
}

/// What became of the blob of a layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dropped {
    /// The blob.
    pub digest: Digest,
    /// Its length in bytes, less the recipe's.
    pub freed_bytes: u64,
    /// Why it stays.
    pub kept: Option<String>,
}

impl ImageStore {
    fn recipe_path(&self, blob: &Digest) -> PathBuf {
        self.layout().images().join("recipes").join(format!("{}-{}", blob.algorithm().as_str(), blob.hex()))
    }

    /// Whether a blob that is not here can be made again.
    pub fn is_dropped(&self, blob: &Digest) -> bool {
        self.recipe_path(blob).is_file() && !self.blobs().path(blob).exists()
    }

    /// Removes the blobs of all unpacked layers that can be made again; each is made once, to be sure.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while an image is pulled, built or pushed; those of reading the store.
    pub fn drop_blobs(&self) -> Result<Vec<Dropped>, StoreError> {
        let pin = FileLock::try_exclusive(&self.prepared()?.join("pin.lock"))?;
        let _pin = pin.ok_or(StoreError::Busy)?;
        let mut seen = HashSet::new();
        let mut dropped = Vec::new();
        for layer in self.list()?.into_iter().flat_map(|image| image.layers) {
            let digest = layer.blob.digest.clone();
            if !seen.insert(digest.clone()) || !self.blobs().has(&digest, layer.blob.size) {
                continue;
            }
            let kept = match self.write_recipe(&layer) {
                Ok(recipe) if (recipe.len() as u64) < layer.blob.size => {
                    let path = self.recipe_path(&digest);
                    create_dir(path.parent().unwrap_or(&path))?;
                    write_atomic(&path, &recipe, Durability::Full)?;
                    self.blobs().remove(&digest)?;
                    dropped.push(Dropped { digest, freed_bytes: layer.blob.size - recipe.len() as u64, kept: None });
                    continue;
                }
                Ok(_) => RecipeError::TooLong,
                Err(why) => why,
            };
            dropped.push(Dropped { digest, freed_bytes: 0, kept: Some(kept.to_string()) });
        }
        Ok(dropped)
    }

    /// Makes the blobs of these layers again that were dropped. They stay until they are dropped again.
    ///
    /// # Errors
    /// [`BlobError::Remake`] if one cannot be made.
    pub fn remake_blobs<'a>(&self, layers: impl IntoIterator<Item = &'a Layer>) -> Result<(), StoreError> {
        let dropped: Vec<&Layer> = layers.into_iter().filter(|layer| self.is_dropped(&layer.blob.digest)).collect();
        if dropped.is_empty() {
            return Ok(());
        }
        let _pin = self.pin()?;
        for Layer { blob, .. } in dropped {
            let Claim::Ours(mut ingest) = self.blobs().claim(&blob.digest, blob.size)? else { continue };
            let failed =
                |reason: RecipeError| BlobError::Remake { digest: blob.digest.clone(), reason: Box::new(reason) };
            self.make(&blob.digest, |bytes| ingest.write(bytes).map_err(io::Error::other)).map_err(failed)?;
            let verified = ingest.verify().map_err(|error| match error {
                // The tree has changed since.
                BlobError::Digest { got, .. } => failed(RecipeError::Other { got }),
                other => other,
            })?;
            verified.sync()?;
            verified.publish()?;
            let path = self.recipe_path(&blob.digest);
            remove_if_there(&path).map_err(|source| StoreError::Io { call: "unlink", path, source })?;
        }
        Ok(())
    }

    /// Makes a blob that was dropped for nobody, to see whether it can be.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn check_dropped(&self, blob: &Digest) -> Result<(), RecipeError> {
        let mut hasher = blob.hasher();
        self.make(blob, |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        same(blob, hasher)
    }

    /// Removes the recipes of blobs that nobody needs, or that are there.
    pub(super) fn sweep_recipes(&self, needed: &HashSet<Digest>) {
        for entry in fs::read_dir(self.layout().images().join("recipes")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| Digest::parse(&name.replacen('-', ":", 1)).ok());
            // Half a recipe of a process that died has no digest's name.
            if digest.is_none_or(|digest| !needed.contains(&digest) || self.blobs().path(&digest).exists()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn tree(&self, diff_id: &DiffId) -> Result<OwnedFd, RecipeError> {
        let trees = [Ownership::Mapped, Ownership::Single].map(|own| self.layout().layer(diff_id, own).join("diff"));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open = |tree: &PathBuf| nix::fcntl::openat(AT_FDCWD, tree, flags, Mode::empty()).ok();
        trees.iter().find_map(open).ok_or(RecipeError::NotUnpacked)
    }

    /// The recipe of a blob that is here, proved by making the blob with it.
    fn write_recipe(&self, layer: &Layer) -> Result<Vec<u8>, RecipeError> {
        let tree = self.tree(&layer.diff_id)?;
        let blob = || self.blobs().open(&layer.blob.digest).map_err(|error| io::Error::other(error.to_string()));
        let packing = Packing::of(blob()?)?;
        let mut contents = contents(Decompressor::new(blob()?)?)?.into_iter();
        let mut tar = Decompressor::new(blob()?)?;
        let mut recipe = Writer::new(packing, &layer.diff_id)?;
        let mut at = 0;
        for Contents { path, offset, len } in contents.by_ref() {
            recipe.rest(&mut (&mut tar).take(offset.saturating_sub(at)))?;
            recipe.file(tree.as_fd(), &path, &mut (&mut tar).take(len), len)?;
            at = offset + len;
        }
        recipe.rest(&mut tar)?;
        let recipe = recipe.finish()?;
        let mut hasher = layer.blob.digest.hasher();
        follow(&recipe, tree, |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        same(&layer.blob.digest, hasher)?;
        Ok(recipe)
    }

    fn make(&self, blob: &Digest, out: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), RecipeError> {
        let recipe = fs::read(self.recipe_path(blob))?;
        let (_, diff_id, _) = head(&recipe)?;
        follow(&recipe, self.tree(&diff_id)?, out)
    }
}

fn same(blob: &Digest, hasher: Hasher) -> Result<(), RecipeError> {
    let got = hasher.finish();
    if got == *blob { Ok(()) } else { Err(RecipeError::Other { got }) }
}

/// How a tar was made a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packing(Option<(Format, i32)>);

impl Packing {
    /// Finds the level at which the first piece of the tar gives the first bytes of the blob.
    fn of(mut blob: File) -> Result<Self, RecipeError> {
        let mut begin = Vec::new();
        (&mut blob).take(8 << 20).read_to_end(&mut begin)?;
        let tar = Decompressor::new(begin.as_slice())?;
        let format = match tar.compression() {
            Compression::None => return Ok(Self(None)),
            Compression::Gzip => Format::Gzip,
            Compression::Zstd => Format::Zstd,
        };
        // Of a blob that is longer than what was read, the stream ends early: its first piece is whole all the same.
        let mut piece = Vec::new();
        let _ = tar.take(format.piece_bytes() as u64).read_to_end(&mut piece);
        let gives = |level: i32| match format {
            Format::Gzip => {
                let mut compressor = Compressor::new(CompressionLvl::new(level).unwrap_or_default());
                let mut packed = vec![0; compressor.gzip_compress_bound(piece.len())];
                let len = compressor.gzip_compress(&piece, &mut packed).unwrap_or(0);
                len > 0 && begin.starts_with(&packed[..len])
            }
            Format::Zstd => zstd::bulk::compress(&piece, level).is_ok_and(|packed| begin.starts_with(&packed)),
            // Its frames end where files do.
            Format::ZstdChunked => false,
        };
        let usual = format.default_level();
        // The highest of zstd take seconds, and are nobody's habit.
        let levels = [usual].into_iter().chain(format.levels().filter(|level| *level != usual && *level <= 12));
        levels
            .into_iter()
            .find(|level| gives(*level))
            .map(|level| Self(Some((format, level))))
            .ok_or(RecipeError::Foreign)
    }

    fn bytes(self) -> [u8; 2] {
        match self.0 {
            None => [0, 0],
            Some((Format::Gzip, level)) => [1, level as u8],
            Some((Format::Zstd, level)) => [2, level as u8],
            Some((Format::ZstdChunked, level)) => [3, level as u8],
        }
    }

    fn parse(bytes: [u8; 2]) -> Option<Self> {
        match bytes {
            [0, _] => Some(Self(None)),
            [1, level] => Some(Self(Some((Format::Gzip, level.into())))),
            [2, level] => Some(Self(Some((Format::Zstd, level.into())))),
            _ => None,
        }
    }
}

/// Where the contents of a file are in a tar.
struct Contents {
    path: Vec<u8>,
    offset: u64,
    len: u64,
}

fn contents(tar: impl Read) -> Result<Vec<Contents>, RecipeError> {
    let malformed = |error: crate::layer::tar::TarError| io::Error::other(error.to_string());
    let (mut reader, mut found) = (Reader::new(tar), Vec::new());
    while let Some(entry) = reader.next_entry().map_err(malformed)? {
        if entry.kind == EntryKind::File && !entry.sparse && entry.stored_bytes >= MIN_CONTENTS_BYTES {
            found.push(Contents { path: entry.path, offset: entry.data_offset, len: entry.stored_bytes });
        }
    }
    Ok(found)
}

/// A file of a tree by the name that the tar has for it; nothing if it is not a plain one without links on the way.
fn open_file(tree: BorrowedFd<'_>, path: &[u8]) -> Option<File> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"./").or(path.strip_prefix(b"/")) {
        path = rest;
    }
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = File::from(openat2(tree, std::ffi::OsStr::from_bytes(path), how).ok()?);
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

/// Reads until the buffer is full or the source ends.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match source.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Writes a recipe.
struct Writer {
    out: zstd::Encoder<'static, Vec<u8>>,
}

impl Writer {
    fn new(packing: Packing, diff_id: &DiffId) -> io::Result<Self> {
        let mut out = zstd::Encoder::new(Vec::new(), RECIPE_LEVEL)?;
        out.write_all(MAGIC)?;
        out.write_all(&packing.bytes())?;
        let mut writer = Self { out };
        writer.text(diff_id.to_string().as_bytes())?;
        Ok(writer)
    }

    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(&(bytes.len() as u32).to_le_bytes())?;
        self.out.write_all(bytes)
    }

    /// Bytes as they are, to the end of `source`.
    fn rest(&mut self, source: &mut impl Read) -> Result<(), RecipeError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let len = fill(source, &mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            self.out.write_all(&[1])?;
            self.text(&buffer[..len])?;
            if self.out.get_ref().len() > MAX_RECIPE_BYTES {
                return Err(RecipeError::TooLong);
            }
        }
    }

    /// The contents of a file, as far as the tree has the same; the rest as it is.
    fn file(&mut self, tree: BorrowedFd<'_>, path: &[u8], source: &mut impl Read, len: u64) -> Result<(), RecipeError> {
        let Some(mut file) = open_file(tree, path) else { return self.rest(source) };
        let (mut theirs, mut ours) = (vec![0; BUFFER_BYTES.min(len as usize)], vec![0; BUFFER_BYTES.min(len as usize)]);
        let mut same = 0;
        let differs = loop {
            let read = fill(source, &mut theirs)?;
            let found = fill(&mut file, &mut ours[..read])?;
            if read == 0 {
                break 0;
            }
            if found != read || ours[..read] != theirs[..read] {
                break read;
            }
            same += read as u64;
        };
        if same > 0 {
            self.out.write_all(&[2])?;
            self.text(path)?;
            self.out.write_all(&same.to_le_bytes())?;
        }
        if differs > 0 {
            self.rest(&mut &theirs[..differs])?;
        }
        self.rest(source)
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        self.out.write_all(&[0])?;
        self.out.finish()
    }
}

/// Reads the head of a recipe: how to pack, which tree, and the pieces.
fn head(recipe: &[u8]) -> Result<(Packing, DiffId, Box<dyn Read + Send + '_>), RecipeError> {
    let mut source = zstd::Decoder::with_buffer(recipe)?;
    let mut magic = [0; MAGIC.len()];
    let mut packing = [0; 2];
    source.read_exact(&mut magic)?;
    source.read_exact(&mut packing)?;
    let diff_id = text(&mut source)?;
    let diff_id = str::from_utf8(&diff_id).ok().and_then(|text| DiffId::parse(text).ok());
    match (magic == MAGIC, Packing::parse(packing), diff_id) {
        (true, Some(packing), Some(diff_id)) => Ok((packing, diff_id, Box::new(source))),
        _ => Err(RecipeError::Damaged),
    }
}

fn text(source: &mut impl Read) -> Result<Vec<u8>, RecipeError> {
    let mut len = [0; 4];
    source.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > BUFFER_BYTES {
        return Err(RecipeError::Damaged);
    }
    let mut bytes = vec![0; len];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Makes the blob, and gives its bytes to `out`.
fn follow(recipe: &[u8], tree: OwnedFd, mut out: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), RecipeError> {
    let (packing, _, pieces) = head(recipe)?;
    let Some((format, level)) = packing.0 else { return unroll(pieces, &tree, &mut out) };
    let (reader, mut writer) = io::pipe()?;
    let mut packed = compress::compress(reader, format, level)?;
    std::thread::scope(|scope| {
        let unrolling = scope.spawn(move || {
            let mut buffered = io::BufWriter::with_capacity(1 << 16, &mut writer);
            unroll(pieces, &tree, &mut |bytes| buffered.write_all(bytes))?;
            Ok(buffered.flush()?)
        });
        let mut buffer = vec![0; BUFFER_BYTES];
        let copied = loop {
            match packed.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(len) => {
                    if let Err(error) = out(&buffer[..len]) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        // Whoever writes into a pipe that nobody reads any more ends.
        drop(packed);
        let unrolled = unrolling.join().unwrap_or(Err(RecipeError::Damaged));
        copied?;
        unrolled
    })
}

/// Makes the tar.
fn unroll(
    mut pieces: impl Read,
    tree: &OwnedFd,
    out: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), RecipeError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut tag = [0];
        pieces.read_exact(&mut tag)?;
        match tag {
            [0] => return Ok(()),
            [1] => out(&text(&mut pieces)?)?,
            [2] => {
                let path = text(&mut pieces)?;
                let mut len = [0; 8];
                pieces.read_exact(&mut len)?;
                let file = open_file(tree.as_fd(), &path).ok_or(RecipeError::Damaged)?;
                let mut file = file.take(u64::from_le_bytes(len));
                loop {
                    let read = fill(&mut file, &mut buffer)?;
                    if read == 0 {
                        break;
                    }
                    out(&buffer[..read])?;
                }
            }
            _ => return Err(RecipeError::Damaged),
        }
    }
}

#[cfg(test)]
mod tests;
