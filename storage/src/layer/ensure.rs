//! Unpacked layers are a cache: what is missing is made again from the blobs.
//!
//! A layer that an additional store has unpacked for the same ids is not unpacked again: a symbolic link in its place leads
//! there. One whose files belong to others, as of a store that another user has made, is unpacked from the blob.

use super::ids::IdPolicy;
use super::index::Index;
use super::staging::{self, StageError, Staging, unpack_blob};
use crate::blob::BlobError;
use crate::image::store::{Image, ImageStore, Layer, StoreError};
use crate::progress::{Event, Kind, Progress};
use crate::state::layout::create_dir;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Why an image's layers are not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnsureError {
    /// A layer could not be unpacked.
    #[error("layer {layer}: {source}")]
    Layer {
        /// The diffID.
        layer: String,
        /// Why.
        source: StageError,
    },
    /// Its blob is not in the store.
    #[error("layer {layer}: {source}: pull the image again")]
    Blob {
        /// The diffID.
        layer: String,
        /// Why.
        source: BlobError,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes sure that every layer of an image is unpacked and returns their directories (with `diff/` and `index` in
/// them), bottom first.
///
/// Costs one `stat` per layer if all are there. Otherwise unpacks the missing ones, as many at once as there are
/// processors, and holds the store's pin meanwhile. They get their names together, after one `syncfs`: a layer that is
/// there is whole, also after a power cut.
///
/// **Runs in:** a process in the user namespace of `ids`.
///
/// # Errors
/// [`EnsureError`] of the first layer that failed.
pub fn ensure_unpacked(
    store: &ImageStore,
    image: &Image,
    ids: &IdPolicy,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, EnsureError> {
    let layers = store.layout().layers();
    let dirs: Vec<PathBuf> =
        image.layers.iter().map(|layer| store.layout().layer(&layer.diff_id, ids.ownership())).collect();
    let mut missing: Vec<&Layer> =
        image.layers.iter().zip(&dirs).filter(|(_, dir)| !dir.join("diff").is_dir()).map(|(layer, _)| layer).collect();
    missing.sort_by(|a, b| a.diff_id.hex().cmp(b.diff_id.hex()));
    missing.dedup_by(|a, b| a.diff_id == b.diff_id);
    if missing.is_empty() {
        return Ok(dirs);
    }
    create_dir(&layers).map_err(StoreError::from)?;
    let _pin = store.pin()?;
    missing.retain(|layer| !borrow(store, layer, ids));
    if missing.is_empty() {
        return Ok(dirs);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
    let next = AtomicUsize::new(0);
    let (unpacked, failure) = (Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(layer) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match unpack(store, layer, ids, progress) {
                        Ok(staging) => {
                            unpacked.lock().unwrap_or_else(PoisonError::into_inner).push((staging, *layer));
                        }
                        Err(error) => {
                            // The others stop after what they are at.
                            next.store(missing.len(), Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    // What was made is kept even if something else failed.
    publish(&layers, ids, unpacked.into_inner().unwrap_or_else(PoisonError::into_inner))?;
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(dirs),
    }
}

/// Leads the layer's name to its tree in an additional store, if one has it for these ids.
fn borrow(store: &ImageStore, layer: &Layer, ids: &IdPolicy) -> bool {
    let name = ids.ownership().layer_name(&layer.diff_id);
    let place = store.layout().layers().join(&name);
    // What leads to a store that is not there any more is in the way.
    if place.is_symlink() && !place.join("diff").is_dir() {
        let _ = fs::remove_file(&place);
    }
    let trees = store.layout().additional().iter().map(|dir| dir.join("layers").join(&name));
    trees.into_iter().find(|tree| is_usable(tree, ids)).is_some_and(|tree| match symlink(&tree, &place) {
        Err(error) => error.kind() == io::ErrorKind::AlreadyExists && place.join("diff").is_dir(),
        Ok(()) => true,
    })
}

/// Whether the files of a tree belong to whom its index says, seen from here: if the root does, all do, for one process
/// has made them.
fn is_usable(tree: &Path, ids: &IdPolicy) -> bool {
    let (Ok(found), Ok(index)) = (fs::metadata(tree.join("diff")), Index::open(&tree.join("index"))) else {
        return false;
    };
    let (uid, gid) = match ids {
        IdPolicy::Single => (0, 0),
        _ => (index.root().uid(), index.root().gid()),
    };
    found.is_dir() && (found.uid(), found.gid()) == (uid, gid)
}

fn publish(layers: &Path, ids: &IdPolicy, unpacked: Vec<(Staging, &Layer)>) -> Result<(), EnsureError> {
    let Some((_, first)) = unpacked.first() else { return Ok(()) };
    let failed = |layer: &Layer| {
        let layer = layer.diff_id.to_string();
        move |source| EnsureError::Layer { layer, source }
    };
    staging::sync(layers).map_err(failed(first))?;
    for (staging, layer) in unpacked {
        staging.publish(&ids.ownership().layer_name(&layer.diff_id)).map_err(failed(layer))?;
    }
    Ok(())
}

fn unpack(store: &ImageStore, layer: &Layer, ids: &IdPolicy, progress: &dyn Progress) -> Result<Staging, EnsureError> {
    let digest = &layer.blob.digest;
    let name = || layer.diff_id.to_string();
    // Dropped while the layer was unpacked for other ids.
    store.remake_blobs([layer])?;
    let blob = store.blobs().open(digest).map_err(|source| EnsureError::Blob { layer: name(), source })?;
    progress.event(Event::Started { digest, total_bytes: layer.blob.size, kind: Kind::Layer });
    progress.event(Event::Unpacking { digest });
    // The blob's own digest was checked when it came; the diffID is checked now, and nothing else reaches the tree.
    let (staging, _) = unpack_blob(&store.layout().layers(), blob, &layer.diff_id, ids)
        .map_err(|source| EnsureError::Layer { layer: name(), source })?;
    progress.event(Event::Done { digest });
    Ok(staging)
}
