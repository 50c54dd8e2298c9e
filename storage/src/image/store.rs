//! The image store: an OCI image layout that any tool can read, and what coracle knows about the images in it.
//!
//! ```text
//! images/oci-layout  index.json  lock  pin.lock  blobs/
//! ```
//! | what | lock | durability |
//! |---|---|---|
//! | `resolve`, `list` | none: `index.json` is replaced by rename, blobs never change | |
//! | `record`, `tag`, `untag`, `remove` | `images/lock`, exclusive | `index.json`: fsync, rename, directory fsync |
//! | a pull, from its first look at a blob to its record | `images/pin.lock`, shared | blobs and layers synced before they get their names |
//! | deleting blobs and layers | `images/pin.lock`, exclusive and only tried: while anybody pulls, nothing is deleted | none: what reappears after a power cut is garbage again |
//!
//! A blob or a layer directory is first there, then referred to; and first not referred to any more, then deleted. So a
//! process killed anywhere leaves garbage at worst, which [`ImageStore::collect_garbage`] finds.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

use super::config::Config;
use super::index::Platform;
use super::manifest::{Descriptor, Document, Manifest};
use super::record::{
    ANNOTATION_CREATED, ANNOTATION_ID, ANNOTATION_INDEX, ANNOTATION_NAME, ANNOTATION_SIZES, IndexFile, name_of,
};
use super::{CONFIG_LIMIT_BYTES, INDEX_DEPTH_LIMIT, ImageError, MANIFEST_LIMIT_BYTES};
use crate::blob::BlobStore;
use crate::digest::{DiffId, Digest};
use crate::reference::Reference;
use crate::state::atomic::{Durability, TEMPORARY_PREFIX, write_atomic};
use crate::state::layout::{Layout, create_dir, is_lower_hex};
use crate::state::lock::FileLock;
use crate::transport::registry::Registries;

pub use super::error::StoreError;

/// One layer of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// The tar as it was sent, possibly compressed.
    pub blob: Descriptor,
    /// The digest of the tar; names the unpacked tree.
    pub diff_id: DiffId,
}

/// An image in the store, with everything that `run`, `inspect` and `images` ask for.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the configuration.
    pub id: Digest,
    /// The platform's manifest.
    pub manifest: Descriptor,
    /// The index that the name resolved to, if there was one.
    pub index: Option<Digest>,
    /// All names of the manifest, as they stand in the store.
    pub names: Vec<Reference>,
    /// The machine it is for.
    pub platform: Platform,
    /// Length of all layers in bytes: uncompressed if known, else as they were sent.
    pub size: u64,
    /// When the image was built, as its configuration says (RFC 3339).
    pub created: Option<String>,
    /// When it came into the store (RFC 3339).
    pub stored: Option<String>,
    /// What to run.
    pub config: ImageConfiguration,
    /// The bytes of the configuration; also hold what OCI does not specify (`Healthcheck`, `OnBuild`).
    pub raw_config: Vec<u8>,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
    /// Lengths of the uncompressed layers, if known.
    pub layer_sizes: Option<Vec<u64>>,
    /// The data directory of the additional store that it is in; such an image is never changed or removed.
    pub read_only: Option<PathBuf>,
}

/// What a pull, a load or a build adds to the store; all blobs and layers are there by then.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// The platform's manifest, with its platform.
    pub manifest: Descriptor,
    /// The index it was found through.
    pub index: Option<Digest>,
    /// The digest of the configuration.
    pub id: Digest,
    /// Names it shall have; they are taken from others.
    pub names: Vec<Reference>,
    /// Lengths of the uncompressed layers, if all are known.
    pub layer_sizes: Option<Vec<u64>>,
}

/// The images of one user.
#[derive(Clone, Debug)]
pub struct ImageStore {
    layout: Layout,
    blobs: BlobStore,
}

impl ImageStore {
    /// Opens the store; touches no file.
    pub fn open(layout: &Layout) -> Self {
        let additional = layout.additional().iter().map(|dir| dir.join("images/blobs")).collect();
        let blobs = BlobStore::new(layout.images().join("blobs")).with_additional(additional);
        Self { layout: layout.clone(), blobs }
    }

    /// The additional stores, as if each were the user's own.
    fn additional(&self) -> impl Iterator<Item = Self> {
        let runtime = self.layout.runtime_dir();
        self.layout.additional().iter().map(move |dir| Self::open(&Layout::new(dir, runtime)))
    }

    /// An image of this store as another user of it sees it.
    fn marked_read_only(&self, image: Image) -> Image {
        Image { read_only: Some(self.layout.data_dir().to_owned()), ..image }
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The blobs.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// Finds an image by what a user types: a full or short reference, `name@digest`, an ID or a unique beginning of it.
    ///
    /// A short name is looked for below `localhost/` first (images built here), then at Docker Hub. Reads `index.json`,
    /// a manifest and a configuration, nothing else. What is not here is looked for in the additional stores.
    ///
    /// # Errors
    /// An ambiguous ID; an image whose documents are missing or malformed.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, StoreError> {
        if let Some(image) = self.resolve_own(name)? {
            return Ok(Some(image));
        }
        for store in self.additional() {
            if let Some(image) = store.resolve_own(name)? {
                return Ok(Some(store.marked_read_only(image)));
            }
        }
        Ok(None)
    }

    fn resolve_own(&self, name: &str) -> Result<Option<Image>, StoreError> {
        let index = self.read_index()?;
        let entries = &index.manifests;
        if let Ok(wanted) = Reference::parse(name) {
            let wanted = wanted.with_default_tag();
            let is_short = wanted.registry() == crate::reference::DOCKER_HUB && !name.starts_with("docker.io/");
            let local = is_short
                .then(|| Reference::parse(&format!("localhost/{name}")).ok())
                .flatten()
                .map(Reference::with_default_tag);
            for wanted in local.iter().chain([&wanted]) {
                if let Some(entry) = entries.iter().find(|entry| entry_answers(entry, wanted)) {
                    return self.load(&index, entry).map(Some);
                }
            }
        }
        if let Some(image) = self.resolve_id(&index, name)? {
            return Ok(Some(image));
        }
        self.resolve_short(&index, name)
    }

    /// An image that was pulled by a short name: what `registries.conf` says that it means. Looked at last, so that the
    /// usual names cost no look at that file; a malformed one is told by the commands that pull.
    fn resolve_short(&self, index: &IndexFile, name: &str) -> Result<Option<Image>, StoreError> {
        let Ok(parsed) = Reference::parse(name) else { return Ok(None) };
        let Ok(registries) = Registries::load(&|name| std::env::var_os(name)) else { return Ok(None) };
        for wanted in registries.meanings(name, &parsed) {
            let wanted = wanted.with_default_tag();
            if let Some(entry) = index.manifests.iter().find(|entry| entry_answers(entry, &wanted)) {
                return self.load(index, entry).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether some image has exactly this name. An unreadable store has none; whoever writes to it will say why.
    pub fn has_name(&self, name: &Reference) -> bool {
        self.read_index().is_ok_and(|index| index.manifests.iter().any(|entry| entry_answers(entry, name)))
    }

    /// The image of a manifest that is in the store, whether or not `index.json` names it; nothing if it is not there.
    ///
    /// # Errors
    /// A document of it is missing or malformed.
    pub fn image_of(&self, manifest: &Descriptor) -> Result<Option<Image>, StoreError> {
        let index = self.read_index()?;
        if let Some(entry) = index.manifests.iter().find(|entry| entry.digest == manifest.digest) {
            return self.load(&index, entry).map(Some);
        }
        match self.blobs.read(&manifest.digest, MANIFEST_LIMIT_BYTES)? {
            Some(_) => self.load(&index, manifest).map(Some),
            None => Ok(None),
        }
    }

    fn resolve_id(&self, index: &IndexFile, name: &str) -> Result<Option<Image>, StoreError> {
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if prefix.is_empty() || prefix.len() > 64 || !is_lower_hex(prefix) {
            return Ok(None);
        }
        // By ID; the digest of a manifest does as well, since that is what registries and `digests` columns show.
        let mut found: BTreeMap<String, &Descriptor> = BTreeMap::new();
        for entry in &index.manifests {
            let id = self.id_of(entry)?;
            if id.as_ref().is_some_and(|id| id.hex().starts_with(prefix)) || entry.digest.hex() == prefix {
                found.entry(id.unwrap_or_else(|| entry.digest.clone()).to_string()).or_insert(entry);
            }
        }
        match found.len() {
            0 => Ok(None),
            1 => found.into_values().next().map(|entry| self.load(index, entry)).transpose(),
            count => Err(StoreError::AmbiguousId { prefix: name.to_owned(), count }),
        }
    }

    /// All images, in the order in which they came; those with broken documents are left out.
    ///
    /// # Errors
    /// `index.json` cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        self.list_with(&mut Vec::new())
    }

    /// As [`ImageStore::list`], and says what is wrong with those that it leaves out.
    ///
    /// # Errors
    /// `index.json` cannot be read.
    pub fn list_with(&self, broken: &mut Vec<StoreError>) -> Result<Vec<Image>, StoreError> {
        let index = self.read_index()?;
        let mut names: HashMap<&Digest, Vec<Reference>> = HashMap::new();
        for entry in &index.manifests {
            names.entry(&entry.digest).or_default().extend(name_of(entry));
        }
        let mut images = Vec::new();
        for entry in &index.manifests {
            let Some(names) = names.remove(&entry.digest) else { continue };
            match self.load_named(entry, names) {
                Ok(image) => images.push(image),
                Err(error) => broken.push(error),
            }
        }
        Ok(images)
    }

    /// The images of the additional stores that are not here as well; those with broken documents are left out.
    ///
    /// # Errors
    /// The `index.json` of one cannot be read.
    pub fn list_read_only(&self) -> Result<Vec<Image>, StoreError> {
        let mut known: std::collections::HashSet<Digest> =
            self.read_index()?.manifests.into_iter().map(|entry| entry.digest).collect();
        let mut images = Vec::new();
        for store in self.additional() {
            for image in store.list()? {
                if known.insert(image.manifest.digest.clone()) {
                    images.push(store.marked_read_only(image));
                }
            }
        }
        Ok(images)
    }

    /// Adds an image under its names; durable when this returns.
    ///
    /// The caller holds a [`ImageStore::pin`] since before it looked at the first blob.
    ///
    /// # Errors
    /// Those of writing `index.json`.
    pub fn record(&self, image: &NewImage) -> Result<(), StoreError> {
        let mut entry = image.manifest.clone();
        let annotations = entry.annotations.get_or_insert_default();
        annotations.remove(ANNOTATION_NAME);
        annotations.insert(ANNOTATION_ID.to_owned(), image.id.to_string());
        let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_else(|_| jiff::Timestamp::now());
        annotations.insert(ANNOTATION_CREATED.to_owned(), now.to_string());
        if let Some(index) = &image.index {
            annotations.insert(ANNOTATION_INDEX.to_owned(), index.to_string());
        }
        if let Some(sizes) = &image.layer_sizes {
            let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
            annotations.insert(ANNOTATION_SIZES.to_owned(), sizes.join(","));
        }
        self.change_index(|index| {
            for name in &image.names {
                index.insert(entry.clone(), Some(name));
            }
            if image.names.is_empty() {
                index.insert(entry.clone(), None);
            }
            // The same configuration under another manifest, layers compressed another way, is the same image: what has
            // just lost its last name to this one is not kept beside it.
            let id = image.id.to_string();
            index.manifests.retain(|other| {
                other.digest == entry.digest
                    || other.annotation(ANNOTATION_NAME).is_some()
                    || other.annotation(ANNOTATION_ID) != Some(id.as_str())
            });
        })
    }

    /// Gives an image one more name, which another image loses if it had it.
    ///
    /// # Errors
    /// Those of writing `index.json`.
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<(), StoreError> {
        let name = name.clone().with_default_tag();
        self.change_index(|index| {
            let entry = index.manifests.iter().find(|entry| entry.digest == image.manifest.digest);
            let entry = entry.unwrap_or(&image.manifest).clone();
            index.insert(entry, Some(&name));
        })
    }

    /// Takes a name away from its image; says whether there was one. The image stays, dangling if it has no other name.
    ///
    /// # Errors
    /// Those of writing `index.json`.
    pub fn untag(&self, name: &Reference) -> Result<bool, StoreError> {
        let name = name.clone().with_default_tag();
        let mut had = false;
        self.change_index(|index| had = index.release(&name))?;
        Ok(had)
    }

    /// Deletes the temporary files of processes that died; those of the living are not disturbed.
    ///
    /// # Errors
    /// A directory cannot be read, the lock not be taken.
    pub fn sweep(&self) -> Result<(), StoreError> {
        self.blobs.sweep()?;
        let images = self.prepared()?;
        let temporaries = || -> io::Result<Vec<PathBuf>> {
            let is_temporary = |path: &PathBuf| {
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()))
            };
            Ok(fs::read_dir(&images)?.flatten().map(|entry| entry.path()).filter(is_temporary).collect())
        };
        let failed = |source| StoreError::Io { call: "read", path: images.clone(), source };
        if temporaries().map_err(failed)?.is_empty() {
            return Ok(());
        }
        // All files of this directory are written under this lock: with it in hand, whatever is there is dead.
        let _lock = FileLock::exclusive(&images.join("lock"))?;
        for path in temporaries().map_err(failed)? {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Keeps every blob and layer where it is for as long as the guard lives.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn pin(&self) -> Result<FileLock, StoreError> {
        Ok(FileLock::shared(&self.prepared()?.join("pin.lock"))?)
    }

    /// The uncompressed lengths of all layers that some image in the store, or in the trash, knows.
    ///
    /// # Errors
    /// `index.json` cannot be read.
    pub fn known_layer_sizes(&self) -> Result<HashMap<DiffId, u64>, StoreError> {
        let mut known = HashMap::new();
        // The layers of what is in the trash are there as well: who pulls that again does not measure them.
        for image in self.trashed_images().into_iter().chain(self.list()?) {
            for (layer, size) in image.layers.into_iter().zip(image.layer_sizes.unwrap_or_default()) {
                known.insert(layer.diff_id, size);
            }
        }
        Ok(known)
    }

    fn index_path(&self) -> PathBuf {
        self.layout.images().join("index.json")
    }

    pub(crate) fn read_index(&self) -> Result<IndexFile, StoreError> {
        self.read_index_file("index.json")
    }

    /// Reads a file of the form of `index.json`; one that is not there is empty.
    pub(crate) fn read_index_file(&self, name: &str) -> Result<IndexFile, StoreError> {
        let path = self.layout.images().join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Index { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(IndexFile::default()),
            Err(source) => Err(StoreError::Io { call: "read", path, source }),
        }
    }

    /// Makes the directories and the marker of an OCI layout, if they are missing.
    pub(super) fn prepared(&self) -> Result<PathBuf, StoreError> {
        let images = self.layout.images();
        let marker = images.join("oci-layout");
        if !marker.exists() {
            create_dir(&images.join("blobs/sha256"))?;
            let _lock = FileLock::exclusive(&images.join("lock"))?;
            write_atomic(&marker, b"{\"imageLayoutVersion\":\"1.0.0\"}\n", Durability::Data)?;
        }
        Ok(images)
    }

    pub(crate) fn change_index(&self, change: impl FnOnce(&mut IndexFile)) -> Result<(), StoreError> {
        let images = self.prepared()?;
        let _lock = FileLock::exclusive(&images.join("lock"))?;
        let mut index = self.read_index()?;
        change(&mut index);
        let path = self.index_path();
        let bytes = serde_json::to_vec(&index).map_err(|source| StoreError::Index { path: path.clone(), source })?;
        Ok(write_atomic(&path, &bytes, Durability::Full)?)
    }

    /// The ID of an entry: from its annotation, or for other tools' entries from the manifest; nothing if that is broken.
    fn id_of(&self, entry: &Descriptor) -> Result<Option<Digest>, StoreError> {
        if let Some(Ok(id)) = entry.annotation(ANNOTATION_ID).map(Digest::parse) {
            return Ok(Some(id));
        }
        Ok(self.manifest_of(&entry.digest.to_string(), entry).ok().map(|(_, manifest)| manifest.config.digest))
    }

    /// The manifest that an entry leads to, through an index if another tool put one there.
    pub(crate) fn manifest_of(&self, image: &str, entry: &Descriptor) -> Result<(Descriptor, Manifest), StoreError> {
        let mut entry = entry.clone();
        for _ in 0..=INDEX_DEPTH_LIMIT {
            let bytes = self.document(image, &entry.digest, MANIFEST_LIMIT_BYTES)?;
            match Document::parse(&format!("manifest {}", entry.digest), Some(&entry.media_type), &bytes)? {
                Document::Manifest(manifest) => return Ok((entry, manifest)),
                Document::Index(index) => entry = index.choose(image, &Platform::host())?.clone(),
            }
        }
        Err(ImageError::IndexDepth { what: image.to_owned(), limit: INDEX_DEPTH_LIMIT }.into())
    }

    fn document(&self, image: &str, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.blobs.read(digest, limit_bytes)?;
        bytes.ok_or_else(|| StoreError::MissingBlob { image: image.to_owned(), digest: digest.clone() })
    }

    pub(super) fn load(&self, index: &IndexFile, entry: &Descriptor) -> Result<Image, StoreError> {
        let names = index.manifests.iter().filter(|other| other.digest == entry.digest).filter_map(name_of).collect();
        self.load_named(entry, names)
    }

    /// As [`ImageStore::load`], for a caller who knows all names of the image.
    fn load_named(&self, entry: &Descriptor, names: Vec<Reference>) -> Result<Image, StoreError> {
        let what = names.first().map_or_else(|| entry.digest.to_string(), Reference::to_string);
        let (mut descriptor, manifest) = self.manifest_of(&what, entry)?;
        let raw = self.document(&what, &manifest.config.digest, CONFIG_LIMIT_BYTES)?;
        let config = Config::parse(&what, raw)?;
        config.check_layers(&what, manifest.layers.len())?;
        let layer_sizes = entry
            .annotation(ANNOTATION_SIZES)
            .and_then(|text| text.split(',').map(|size| size.parse().ok()).collect::<Option<Vec<u64>>>())
            .filter(|sizes| sizes.len() == manifest.layers.len());
        let sent = || manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
        let size = layer_sizes.as_ref().map_or_else(sent, |sizes| sizes.iter().copied().fold(0, u64::saturating_add));
        let index = match entry.digest == descriptor.digest {
            true => entry.annotation(ANNOTATION_INDEX).and_then(|digest| Digest::parse(digest).ok()),
            false => Some(entry.digest.clone()),
        };
        descriptor.media_type = manifest.media_type;
        let layers = manifest.layers.into_iter().zip(config.diff_ids);
        Ok(Image {
            id: manifest.config.digest,
            manifest: descriptor,
            index,
            names,
            platform: config.platform,
            size,
            created: config.spec.created().clone(),
            stored: entry.annotation(ANNOTATION_CREATED).map(str::to_owned),
            config: config.spec,
            raw_config: config.raw,
            layers: layers.map(|(blob, diff_id)| Layer { blob, diff_id }).collect(),
            layer_sizes,
            read_only: None,
        })
    }
}

/// Whether an entry is what a reference means: the same name and tag, or the same name at that digest.
fn entry_answers(entry: &Descriptor, wanted: &Reference) -> bool {
    // Parsing each name would cost more than all the rest of `resolve`.
    let Some(text) = entry.annotation(ANNOTATION_NAME) else { return false };
    let Some(digest) = wanted.digest() else {
        return text == wanted.to_string() || (!text.contains('/') && name_of(entry).as_ref() == Some(wanted));
    };
    let is_digest =
        entry.digest == *digest || entry.annotation(ANNOTATION_INDEX).is_some_and(|index| index == digest.to_string());
    is_digest && name_of(entry).is_some_and(|name| name.name() == wanted.name())
}

#[cfg(test)]
mod tests;
