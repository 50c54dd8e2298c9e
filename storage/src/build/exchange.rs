//! The cache of builds on its way to a registry or a directory and back: an image whose layers are the trees of steps.
//!
//! ```text
//! manifest ─ config: {"os", "architecture", "rootfs": {"diff_ids": […]},
//!          │          "dev.coracle.build.cache": {"version": 1, "steps": [{"key", "created", "layer": 0}]}}
//!          └ layers: the trees of those steps that changed files, each once
//! ```
//! Whoever imports it reads the two documents; a layer is fetched when a later step, or the image, needs it. A cache of
//! another version has no steps. What it says is believed as far as an image from there is: layers are checked against
//! their digests, keys are whatever the one who could write there said.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cache::{BuildCache, Key};
use super::image::{Part, settle};
use super::{BuildError, Step};
use crate::digest::{DiffId, Digest};
use crate::image::index::Platform;
use crate::image::manifest::{Descriptor, Document, media_type};
use crate::image::{CONFIG_LIMIT_BYTES, Image, ImageStore};
use crate::layer::IdPolicy;
use crate::progress::Silent;
use crate::reference::Reference;
use crate::transport::pull::fetch_layers;
use crate::transport::registry::RegistrySource;
use crate::transport::{BlobReader, ImageSource, PullOptions, RawManifest, Source, TransportError, load};

const FIELD: &str = "dev.coracle.build.cache";
const VERSION: u64 = 1;

/// A step that was built elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// When it was built (RFC 3339).
    pub created: String,
    /// The blob and the digest of its layer, if it changed files.
    pub layer: Option<(Descriptor, DiffId)>,
}

/// The steps of a cache that was exported.
pub type Steps = BTreeMap<Key, Foreign>;

#[derive(Serialize, Deserialize)]
struct Written {
    version: u64,
    steps: Vec<WrittenStep>,
}

#[derive(Serialize, Deserialize)]
struct WrittenStep {
    key: Key,
    created: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
}

fn open(store: &ImageStore, source: &Source, options: &PullOptions) -> Result<Box<dyn ImageSource>, TransportError> {
    Ok(match source {
        Source::Registry(reference) => Box::new(RegistrySource::new(reference, &options.client)),
        local => load::open(local, &store.layout().images())?,
    })
}

/// Reads what steps a cache has; `None` if what is there is no cache.
///
/// # Errors
/// [`TransportError`].
pub fn read(store: &ImageStore, source: &Source, options: &PullOptions) -> Result<Option<Steps>, TransportError> {
    let opened = open(store, source, options)?;
    let what = opened.describe();
    let raw = opened.manifest(None)?;
    let manifest = match Document::parse(&what, raw.media_type.as_deref(), &raw.bytes)? {
        Document::Manifest(manifest) => manifest,
        // Of images for several platforms that carry their caches, ours.
        Document::Index(index) => {
            let Ok(chosen) = index.choose(&what, &Platform::host()) else { return Ok(None) };
            let raw = opened.manifest(Some(chosen))?;
            match Document::parse(&what, raw.media_type.as_deref(), &raw.bytes)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Ok(None),
            }
        }
    };
    let mut config = Vec::new();
    let blob = opened.blob(&manifest.config, 0)?;
    let limited = blob.reader.take(CONFIG_LIMIT_BYTES).read_to_end(&mut config);
    limited.map_err(|source| TransportError::Io { what: format!("read {what}"), source })?;
    let mut hasher = manifest.config.digest.hasher();
    hasher.update(&config);
    let config: Value = match hasher.finish() == manifest.config.digest {
        true => serde_json::from_slice(&config).unwrap_or_default(),
        false => return Err(TransportError::Invalid { what, reason: "its configuration is damaged".to_owned() }),
    };
    let Ok(written) = serde_json::from_value::<Written>(config[FIELD].clone()) else { return Ok(None) };
    let diff_ids: Vec<DiffId> = serde_json::from_value(config["rootfs"]["diff_ids"].clone()).unwrap_or_default();
    if written.version != VERSION || diff_ids.len() != manifest.layers.len() {
        return Ok(None);
    }
    let layers: Vec<(Descriptor, DiffId)> = manifest.layers.into_iter().zip(diff_ids).collect();
    let step = |step: WrittenStep| match step.layer.map(|at| layers.get(at).cloned()) {
        // It names a layer that is not there.
        Some(None) => None,
        layer => Some((step.key, Foreign { created: step.created, layer: layer.flatten() })),
    };
    Ok(Some(written.steps.into_iter().filter_map(step).collect()))
}

/// An image's configuration that tells which steps its layers are: the image is its own cache then.
///
/// # Errors
/// It is no JSON.
pub fn inlined(config: &[u8], steps: Vec<(Key, String, usize)>) -> serde_json::Result<Vec<u8>> {
    let mut config: serde_json::Map<String, Value> = serde_json::from_slice(config)?;
    let steps = steps.into_iter().map(|(key, created, layer)| WrittenStep { key, created, layer: Some(layer) });
    let written = Written { version: VERSION, steps: steps.collect() };
    config.insert(FIELD.to_owned(), serde_json::to_value(written)?);
    serde_json::to_vec(&config)
}

/// Brings steps of such a cache into this machine's, with their layers.
///
/// **Runs in:** a process in the user namespace; several threads. The caller holds the cache and the store's pin.
///
/// # Errors
/// [`BuildError`].
pub fn fetch(
    store: &ImageStore,
    cache: &BuildCache,
    source: &Source,
    wanted: &[(&Key, &Foreign)],
    options: &PullOptions,
) -> Result<(), BuildError> {
    let mut seen = BTreeSet::new();
    let layers = wanted.iter().filter_map(|(_, step)| step.layer.as_ref());
    let layers: Vec<&(Descriptor, DiffId)> = layers.filter(|(blob, _)| seen.insert(blob.digest.to_string())).collect();
    if !layers.is_empty() {
        let opened = open(store, source, options)?;
        fetch_layers(store, &Narrowed::new(opened.as_ref(), &layers), options, &Silent)?;
    }
    for (key, step) in wanted {
        cache.adopt(key, &Step::foreign(&step.created, step.layer.clone()))?;
    }
    Ok(())
}

/// A source of which only some layers are wanted.
struct Narrowed<'a> {
    source: &'a dyn ImageSource,
    manifest: Vec<u8>,
    config: Vec<u8>,
    config_digest: Digest,
}

impl<'a> Narrowed<'a> {
    fn new(source: &'a dyn ImageSource, layers: &[&(Descriptor, DiffId)]) -> Self {
        let diff_ids: Vec<&DiffId> = layers.iter().map(|(_, diff_id)| diff_id).collect();
        let blobs: Vec<&Descriptor> = layers.iter().map(|(blob, _)| blob).collect();
        let Platform { os, architecture, .. } = Platform::host();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = json!({"os": os, "architecture": architecture, "rootfs": rootfs}).to_string().into_bytes();
        let config_digest = Digest::of(&config);
        let descriptor = Descriptor::new(media_type::OCI_CONFIG, config_digest.clone(), config.len() as u64);
        let kind = media_type::OCI_MANIFEST;
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": descriptor, "layers": blobs});
        Self { source, manifest: manifest.to_string().into_bytes(), config, config_digest }
    }
}

impl ImageSource for Narrowed<'_> {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn names(&self) -> Vec<Reference> {
        Vec::new()
    }

    fn manifest(&self, _which: Option<&Descriptor>) -> Result<RawManifest, TransportError> {
        Ok(RawManifest { media_type: Some(media_type::OCI_MANIFEST.to_owned()), bytes: self.manifest.clone() })
    }

    fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobReader<'_>, TransportError> {
        if blob.digest == self.config_digest {
            return Ok(BlobReader { offset: 0, reader: Box::new(self.config.as_slice()) });
        }
        self.source.blob(blob, offset)
    }

    fn retries(&self) -> u32 {
        self.source.retries()
    }
}

/// Makes the image of a cache with these steps, which no name of the store leads to. Steps that are gone are left out.
///
/// **Runs in:** a process in the user namespace of `ids`; starts threads. The caller holds the cache and the store's pin.
///
/// # Errors
/// [`BuildError`].
pub fn export(store: &ImageStore, cache: &BuildCache, keys: &[Key], ids: &IdPolicy) -> Result<Descriptor, BuildError> {
    let found = |key: &Key| Some((key.clone(), cache.find(key, ids.ownership())?.step));
    let steps: Vec<(Key, Step)> = keys.iter().filter_map(found).collect();
    let with_tree: Vec<&Key> = steps.iter().filter(|(_, step)| step.tree).map(|(key, _)| key).collect();
    let parts: Vec<Part> = with_tree.iter().map(|key| Part::Step((*key).clone())).collect();
    let settled = settle(store, cache, &parts, ids, None)?;
    let (mut layers, mut diff_ids): (Vec<Descriptor>, Vec<DiffId>) = (Vec::new(), Vec::new());
    let mut places: BTreeMap<&Key, usize> = BTreeMap::new();
    for (key, (layer, _)) in with_tree.into_iter().zip(settled) {
        // Two steps may have come to the same.
        let at = diff_ids.iter().position(|known| *known == layer.diff_id).unwrap_or_else(|| {
            diff_ids.push(layer.diff_id);
            layers.push(layer.blob);
            layers.len() - 1
        });
        places.insert(key, at);
    }
    let written = |(key, step): &(Key, Step)| WrittenStep {
        key: key.clone(),
        created: step.created.clone(),
        layer: places.get(key).copied(),
    };
    let written = Written { version: VERSION, steps: steps.iter().map(written).collect() };
    let Platform { os, architecture, .. } = Platform::host();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let config = json!({"os": os, "architecture": architecture, "rootfs": rootfs, FIELD: written});
    let config = config.to_string().into_bytes();
    let blob = Descriptor::new(media_type::OCI_CONFIG, store.blobs().put(&config)?, config.len() as u64);
    let kind = media_type::OCI_MANIFEST;
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": blob, "layers": layers});
    let manifest = manifest.to_string().into_bytes();
    let mut descriptor = Descriptor::new(kind, store.blobs().put(&manifest)?, manifest.len() as u64);
    descriptor.platform = Some(Platform::host());
    Ok(descriptor)
}

/// Writes the image of a cache into a directory, in place of one that was there.
///
/// # Errors
/// [`TransportError`].
pub fn save(store: &ImageStore, image: &Image, directory: &Path) -> Result<(), TransportError> {
    crate::transport::save::oci_directory_as(store, image, Some(TAG), directory)
}

/// The name of a cache that none was given: a tag in its repository, and in a directory.
pub const TAG: &str = "buildcache";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::state::layout::{Layout, Ownership};

    #[test]
    fn steps_come_back_with_their_files_and_layers_only_when_asked_for() {
        let scratch = tempfile::tempdir().unwrap();
        let machine = |name: &str| {
            let layout = Layout::new(scratch.path().join(name), scratch.path().join("run"));
            let cache = BuildCache::open(&layout);
            (ImageStore::open(&layout), cache.hold().unwrap(), cache)
        };
        let (store, _held, cache) = machine("one");
        let keys: Vec<Key> = ["a", "b", "c"].map(|text| Key::of([text.as_bytes()])).into();
        for (key, text) in keys.iter().zip(["A", "B"]) {
            let staging = cache.stage().unwrap();
            fs::write(staging.diff().join("file"), text).unwrap();
            cache.keep(key, Some(staging), "then", Ownership::Single).unwrap();
        }
        cache.keep(&keys[2], None, "then", Ownership::Single).unwrap();
        let exported = export(&store, &cache, &keys, &IdPolicy::Single).unwrap();
        let image = store.image_of(&exported).unwrap().unwrap();
        let directory = scratch.path().join("cache");
        save(&store, &image, &directory).unwrap();

        let (store, _held, cache) = machine("two");
        let source = Source::OciLayout { path: directory, reference: Some(TAG.to_owned()) };
        let options = PullOptions { ids: IdPolicy::Single, is_durable: false, ..PullOptions::default() };
        let steps = read(&store, &source, &options).unwrap().expect("it is a cache");
        assert_eq!(steps.len(), 3);
        assert!(steps[&keys[2]].layer.is_none() && steps[&keys[0]].layer.is_some());
        fetch(&store, &cache, &source, &[(&keys[1], &steps[&keys[1]])], &options).unwrap();
        let found = cache.find(&keys[1], Ownership::Single).expect("it was fetched");
        assert_eq!(fs::read_to_string(found.diff.unwrap().join("file")).unwrap(), "B");
        assert!(cache.find(&keys[0], Ownership::Single).is_none());
        assert!(store.list().unwrap().is_empty(), "it is no image");
        // An image of this step has the layer as it came.
        let parts = [Part::Step(keys[1].clone())];
        let settled = settle(&store, &cache, &parts, &IdPolicy::Single, None).unwrap();
        assert_eq!(Some((settled[0].0.blob.clone(), settled[0].0.diff_id.clone())), steps[&keys[1]].layer);
    }
}
