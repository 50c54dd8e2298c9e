//! From the bytes of a layer's blob to its tree: inflate ‖ hash ‖ untar.
//!
//! ```text
//! pipe of compressed bytes → inflate (thread) ─┬→ SHA-256 (thread) → diffID
//!                                              └→ untar (this thread) → layers/.tmp-…/
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::TransportError;
use super::stream::{PipeReader, PipeWriter, Pool, pipe};
use crate::digest::{Algorithm, DiffId, Digest, Hasher};
use crate::image::ImageStore;
use crate::layer::compression::Decompressor;
use crate::layer::staging::StageError;
use crate::layer::toc::Toc;
use crate::layer::{IdPolicy, Staging};
use crate::state::layout::create_dir;
use crate::union::lazy::Announcement;
use crate::union::lazy::ask::Asked;

/// A layer being unpacked under a temporary name, or unpacked and not published yet. Dropping it deletes it.
pub(super) struct Staged {
    staging: Staging,
    name: String,
    /// Ends when the layer has its name, or is given up.
    announcement: Option<Announcement>,
}

impl Staged {
    /// A place for the layer that `diff_id` promises. With `is_told`, others may read there what has come.
    pub(super) fn new(
        store: &ImageStore,
        blob: &Digest,
        diff_id: &DiffId,
        ids: &IdPolicy,
        is_told: bool,
    ) -> Result<Self, TransportError> {
        let layers = store.layout().layers();
        create_dir(&layers).map_err(crate::image::StoreError::from)?;
        let staging = Staging::new(&layers).map_err(|error| stage_error(blob, &error))?;
        let name = ids.ownership().layer_name(diff_id);
        let announcement = match is_told {
            true => {
                let directory = staging.keep_journal().map_err(|error| stage_error(blob, &error))?;
                Announcement::make(store.layout(), &name, directory)
            }
            false => None,
        };
        Ok(Self { staging, name, announcement })
    }

    /// A place for a layer whose table of contents is known: all its names are told at once. What comes before the rest is told
    /// by what else is returned.
    pub(super) fn of_contents(
        store: &ImageStore,
        blob: &Digest,
        diff_id: &DiffId,
        ids: &IdPolicy,
        toc: &Arc<Toc>,
    ) -> Result<(Self, EarlyPlace), TransportError> {
        let layers = store.layout().layers();
        create_dir(&layers).map_err(crate::image::StoreError::from)?;
        let failed = |error: StageError| stage_error(blob, &error);
        let mut staging = Staging::new(&layers).map_err(failed)?;
        let (directory, journal, dir) = staging.keep_contents(toc).map_err(failed)?;
        let asked = Asked::make(&store.layout().lazy(), &layers, &directory)
            .map_err(|source| TransportError::Io { what: "make a pipe for questions".to_owned(), source })?;
        let tree = staging.diff();
        let name = ids.ownership().layer_name(diff_id);
        // Last: who finds it reads all of this.
        let announcement = Announcement::make(store.layout(), &name, directory);
        Ok((Self { staging, name, announcement }, EarlyPlace { journal, dir, asked, tree }))
    }

    /// Gives the layer its name; if another process was faster, theirs is as good.
    pub(super) fn publish(self) -> Result<(), TransportError> {
        let failed = |error: StageError| TransportError::Unpack {
            blob: self.name.clone(),
            reason: error.to_string(),
            is_full_disk: error.is_full_disk(),
        };
        self.staging.publish(&self.name).map(drop).map_err(failed)
    }
}

/// Where what is fetched before the rest of a layer goes.
pub(super) struct EarlyPlace {
    /// Tells of it.
    pub(super) journal: File,
    pub(super) dir: OwnedFd,
    /// Who wants what.
    pub(super) asked: Asked,
    /// The tree that the rest comes into.
    pub(super) tree: PathBuf,
}

/// What a stream of compressed bytes turned out to be.
pub(super) struct Unpacked {
    pub(super) diff_id: DiffId,
    pub(super) size_bytes: u64,
}

/// Whether a layer is there, unpacked for these ids.
pub(super) fn is_unpacked(store: &ImageStore, diff_id: &DiffId, ids: &IdPolicy) -> bool {
    store.layout().layer(diff_id, ids.ownership()).join("diff").is_dir()
}

/// Reads a whole compressed stream; unpacks it into `target`, or only hashes it.
///
/// The calling thread cannot write anywhere else from then on: it must be one made for this.
pub(super) fn unpack(
    blob: &Digest,
    compressed: PipeReader,
    algorithm: Algorithm,
    target: Option<&Staged>,
    ids: &IdPolicy,
) -> Result<Unpacked, TransportError> {
    let is_failed = AtomicBool::new(false);
    thread::scope(|scope| {
        let (to_hash, hashing) = pipe();
        let (to_tar, tar) = pipe();
        let to_tar = target.map(|_| to_tar);
        let is_eager = target.is_some_and(|target| target.announcement.is_some());
        let is_failed = &is_failed;
        let inflating = scope.spawn(move || inflate(compressed, to_hash, to_tar, (is_failed, is_eager)));
        let hashing = scope.spawn(move || hash(hashing, algorithm));
        let staged = target.map(|target| target.staging.unpack(tar, ids, true));
        is_failed.store(matches!(staged, Some(Err(_))), Ordering::Relaxed);
        let inflated = inflating.join().expect("inflating does not panic");
        let hashed = hashing.join().expect("hashing does not panic");
        match (inflated, staged) {
            // A broken stream breaks the archive in it; it is the cause.
            (Err(error), _) if error.kind() != io::ErrorKind::Interrupted => Err(read_error(blob, &error)),
            (_, Some(Err(error))) => Err(stage_error(blob, &error)),
            _ => {
                let (digest, size_bytes) = hashed.map_err(|error| read_error(blob, &error))?;
                Ok(Unpacked { diff_id: DiffId::new(digest), size_bytes })
            }
        }
    })
}

fn read_error(blob: &Digest, error: &io::Error) -> TransportError {
    TransportError::Unpack { blob: blob.to_string(), reason: crate::sys::reason(error), is_full_disk: false }
}

fn stage_error(blob: &Digest, error: &StageError) -> TransportError {
    let is_full_disk = error.is_full_disk();
    TransportError::Unpack { blob: blob.to_string(), reason: error.to_string(), is_full_disk }
}

/// Ends with `Interrupted` when unpacking has failed: the rest of the stream is of no interest then.
fn inflate(
    compressed: PipeReader,
    to_hash: PipeWriter,
    to_tar: Option<PipeWriter>,
    (is_failed, is_eager): (&AtomicBool, bool),
) -> io::Result<()> {
    let mut source = Decompressor::new(compressed)?;
    let pool = Pool::new(is_eager);
    loop {
        let (buffer, result) = pool.fill(&mut source);
        if is_failed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let is_end = buffer.is_empty();
        let buffer = Arc::new(buffer);
        if !is_end {
            if let Some(pipe) = &to_tar
                && pipe.send(buffer.clone()).is_err()
            {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let _ = to_hash.send(buffer);
        }
        result?;
        if is_end {
            if let Some(pipe) = to_tar {
                pipe.end();
            }
            to_hash.end();
            return Ok(());
        }
    }
}

fn hash(mut bytes: PipeReader, algorithm: Algorithm) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new(algorithm);
    let mut size_bytes = 0;
    while let Some(buffer) = bytes.next()? {
        hasher.update(&buffer);
        size_bytes += buffer.len() as u64;
    }
    Ok((hasher.finish(), size_bytes))
}
