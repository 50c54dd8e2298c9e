//! The image at the end of a build: its layers get blobs and digests, its documents are written, and it gets its names.
//!
//! ```text
//! build/trees/<key>/diff → tar ─┬→ SHA-256 (diffID and digest of the blob, which is not compressed)
//!                               └→ images/blobs/.tmp-…     ── syncfs ── rename both
//! ```
//! Layers are archived side by side. A push compresses what it sends; nothing that stays here is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use serde_json::json;

use super::cache::{BuildCache, Found, Key};
use super::{BuildError, tree};
use crate::blob::spool::Spooled;
use crate::digest::{DiffId, Digest};
use crate::image::index::Platform;
use crate::image::manifest::{Descriptor, media_type};
use crate::image::store::{Layer, NewImage};
use crate::image::{Image, ImageStore};
use crate::layer::IdPolicy;
use crate::layer::diff::{TreeForm, write_tree};
use crate::layer::staging;
use crate::layer::tar::Timestamp;
use crate::reference::Reference;
use crate::state::layout::create_dir;
use crate::transport::commit::{Format, layer_type};

/// One layer of an image that is about to be.
#[derive(Clone, Debug)]
pub enum Part {
    /// A layer of the image below, and the length of its tar if that is known.
    Layer(Box<Layer>, Option<u64>),
    /// The tree of a step.
    Step(Key),
}

/// A layer with its blob in the store.
pub type Settled = (Layer, Option<u64>);

/// What an image is, beside its files.
#[derive(Clone, Debug)]
pub struct Documents {
    /// The bytes of its configuration.
    pub config: Vec<u8>,
    /// The kind of its documents.
    pub format: Format,
    /// Of the manifest; docker's has none.
    pub annotations: BTreeMap<String, String>,
    /// The machine it is for.
    pub platform: Platform,
    /// The names it shall have; `None` leaves it out of the store's index: a list will keep it.
    pub names: Option<Vec<Reference>>,
}

/// An archive that takes longer is large.
const LONG: Duration = Duration::from_millis(10);

/// A layer that was archived and waits for its name.
struct Archived {
    key: Key,
    blob: Spooled,
}

/// Makes a layer, with a blob, of every step. The caller holds the cache and the store's pin.
///
/// With `times` no file of the new layers is younger.
///
/// **Runs in:** a process in the user namespace of `ids`; starts threads.
///
/// # Errors
/// [`BuildError`].
pub fn settle(
    store: &ImageStore,
    cache: &BuildCache,
    parts: &[Part],
    ids: &IdPolicy,
    times: Option<Timestamp>,
) -> Result<Vec<Settled>, BuildError> {
    let mut wanted: Vec<(Key, PathBuf)> = Vec::new();
    let mut known: BTreeMap<String, Settled> = BTreeMap::new();
    for part in parts {
        let Part::Step(key) = part else { continue };
        let found = cache.find(key, ids.ownership()).ok_or_else(|| gone(key))?;
        let Some(diff) = &found.diff else { continue };
        match blob_of(store, &found) {
            Some(settled) => drop(known.insert(key.hex().to_owned(), settled)),
            None if wanted.iter().any(|(other, _)| other == key) => {}
            None => wanted.push((key.clone(), diff.clone())),
        }
    }
    let archived = archive_all(store, &wanted, ids, times)?;
    if !archived.is_empty() {
        create_dir(&store.layout().layers())?;
        // One for all: what has a layer's name or a blob's is believed for ever.
        staging::sync(&store.layout().layers())?;
    }
    for Archived { key, blob } in archived {
        let (diff_id, size) = (DiffId::new(blob.digest.clone()), blob.size_bytes);
        store.blobs().publish_spooled(blob)?;
        cache.settle(&key, (&diff_id, size), ids.ownership())?;
        known.insert(key.hex().to_owned(), uncompressed(diff_id, size));
    }
    let settled = parts.iter().map(|part| match part {
        Part::Layer(layer, size) => Ok((layer.as_ref().clone(), *size)),
        Part::Step(key) => known.get(key.hex()).cloned().ok_or_else(|| gone(key)),
    });
    settled.collect()
}

/// Whether all layers have their blobs: then [`settle`] looks at no file of theirs.
pub fn is_settled(store: &ImageStore, cache: &BuildCache, parts: &[Part], ids: &IdPolicy) -> bool {
    parts.iter().all(|part| match part {
        Part::Layer(..) => true,
        Part::Step(key) => cache
            .find(key, ids.ownership())
            .is_some_and(|found| found.diff.is_none() || blob_of(store, &found).is_some()),
    })
}

fn uncompressed(diff_id: DiffId, size: u64) -> Settled {
    let blob = Descriptor::new(media_type::OCI_LAYER, diff_id.as_digest().clone(), size);
    (Layer { blob, diff_id }, Some(size))
}

/// The layer of a step, if its blob is in the store: its own tar, or what it came as from elsewhere.
fn blob_of(store: &ImageStore, found: &Found) -> Option<Settled> {
    let diff_id = found.step.diff_id.clone()?;
    if let Some(size) = found.step.size_bytes
        && store.blobs().has(diff_id.as_digest(), size)
    {
        return Some(uncompressed(diff_id, size));
    }
    let blob = found.step.blob.clone().filter(|blob| store.blobs().has(&blob.digest, blob.size))?;
    Some((Layer { blob, diff_id }, None))
}

fn gone(key: &Key) -> BuildError {
    let source = std::io::Error::from(std::io::ErrorKind::NotFound);
    BuildError::Io { what: format!("build cache: step {}", key.short()), source }
}

fn archive_all(
    store: &ImageStore,
    wanted: &[(Key, PathBuf)],
    ids: &IdPolicy,
    times: Option<Timestamp>,
) -> Result<Vec<Archived>, BuildError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(wanted.len());
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Ok(Vec::new()));
    let (working, all_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        // The disk need not wait until all is archived: what is left for the sync at the end is little then.
        let layers = store.layout().layers();
        scope.spawn(move || {
            if let Err(mpsc::RecvTimeoutError::Timeout) = all_done.recv_timeout(LONG) {
                // Its failure is that of the other one too.
                let _ = staging::sync(layers.parent().unwrap_or(&layers));
            }
        });
        for _ in 0..threads {
            let working = working.clone();
            let (next, done) = (&next, &done);
            scope.spawn(move || {
                let _working = working;
                while let Some((key, diff)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let archived = archive(store, diff, ids, times);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    match (archived, done.as_mut()) {
                        (Ok(blob), Ok(done)) => done.push(Archived { key: key.clone(), blob }),
                        (Err(error), Ok(_)) => *done = Err(error),
                        (_, Err(_)) => return,
                    }
                }
            });
        }
        drop(working);
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn archive(store: &ImageStore, diff: &Path, ids: &IdPolicy, times: Option<Timestamp>) -> Result<Spooled, BuildError> {
    if let Some(times) = times {
        set_times(diff, times)?;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(diff, flags, Mode::empty())
        .map_err(|source| BuildError::call("open", diff.as_os_str().as_encoded_bytes(), source))?;
    let mut tar = BufWriter::with_capacity(1 << 18, store.blobs().spool()?);
    write_tree(root.as_fd(), TreeForm::Overlay, ids, &mut tar)?;
    let io = |source| BuildError::Io { what: "write layer".to_owned(), source };
    tar.flush().map_err(io)?;
    Ok(tar.into_inner().map_err(|error| io(error.into_error()))?.finish()?)
}

/// Makes no file of a tree younger than `limit`.
fn set_times(diff: &Path, limit: Timestamp) -> Result<(), BuildError> {
    let spec = TimeSpec::new(limit.secs, i64::from(limit.nanos));
    let tree = tree::Tree::of_directory(diff);
    tree.walk(Path::new("/"), &tree::everything, &mut |path, _, node| {
        if node.mtime() <= limit {
            return Ok(());
        }
        // A tree of ours: nobody else writes in it any more, and the last name is not followed.
        let file = diff.join(OsStr::from_bytes(path));
        utimensat(AT_FDCWD, &file, &TimeSpec::UTIME_OMIT, &spec, UtimensatFlags::NoFollowSymlink)
            .map_err(|source| BuildError::call("utimens", path, source))
    })
}

/// Writes the documents of an image and gives it its names.
///
/// # Errors
/// [`BuildError`].
pub fn record(store: &ImageStore, layers: &[Settled], documents: &Documents) -> Result<Image, BuildError> {
    let (manifest_type, config_type) = match documents.format {
        Format::Oci => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
        Format::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
    };
    let id = store.blobs().put(&documents.config)?;
    let blobs: Vec<Descriptor> = layers
        .iter()
        .map(|(layer, _)| Descriptor {
            media_type: layer_type(&layer.blob.media_type, documents.format),
            ..layer.blob.clone()
        })
        .collect();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": Descriptor::new(config_type, id.clone(), documents.config.len() as u64),
        "layers": blobs,
    });
    if documents.format == Format::Oci && !documents.annotations.is_empty() {
        manifest["annotations"] = json!(documents.annotations);
    }
    let manifest = manifest.to_string().into_bytes();
    let digest: Digest = store.blobs().put(&manifest)?;
    let mut descriptor = Descriptor::new(manifest_type, digest.clone(), manifest.len() as u64);
    descriptor.platform = Some(documents.platform.clone());
    let layer_sizes = layers.iter().map(|(_, size)| *size).collect();
    if let Some(names) = &documents.names {
        let names = names.clone();
        store.record(&NewImage { manifest: descriptor.clone(), index: None, id, names, layer_sizes })?;
    }
    store.image_of(&descriptor)?.ok_or_else(|| BuildError::Io {
        what: "the image just built".to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}
