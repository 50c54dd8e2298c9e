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

use std::collections::{BTreeMap, HashMap, HashSet};
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
use crate::blob::{BlobError, BlobStore};
use crate::digest::{DiffId, Digest};
use crate::layer::index::Index;
use crate::reference::Reference;
use crate::state::atomic::{Durability, TEMPORARY_PREFIX, WriteError, write_atomic};
use crate::state::layout::{Layout, LayoutError, Ownership, create_dir, is_lower_hex, random_hex};
use crate::state::lock::{FileLock, LockError};

/// An image store cannot be read or written, or has no one answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file of the store.
    #[error("{call} {}: {}", path.display(), crate::sys::reason(source))]
    Io {
        /// Which call.
        call: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `index.json` is not what it should be.
    #[error("image store: {}: {source}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// A prefix of an ID that fits several images.
    #[error("image ID {prefix:?} is ambiguous: {count} images begin with it")]
    AmbiguousId {
        /// What was given.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// A blob that an image needs is gone.
    #[error("image {image}: blob {digest} is missing from the store: pull it again")]
    MissingBlob {
        /// Name or digest of the image.
        image: String,
        /// What is missing.
        digest: Digest,
    },
    /// A document of an image is malformed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `index.json` could not be replaced.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A directory could not be made.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl StoreError {
    /// Whether the store's file system is full.
    pub fn is_full_disk(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } => source,
            Self::Write(error) => error.source_error(),
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

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
        Self { layout: layout.clone(), blobs: BlobStore::new(layout.images().join("blobs")) }
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
    /// a manifest and a configuration, nothing else.
    ///
    /// # Errors
    /// An ambiguous ID; an image whose documents are missing or malformed.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, StoreError> {
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
        self.resolve_id(&index, name)
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
        let mut seen = HashSet::new();
        let mut images = Vec::new();
        for entry in index.manifests.iter().filter(|entry| seen.insert(entry.digest.clone())) {
            match self.load(&index, entry) {
                Ok(image) => images.push(image),
                Err(error) => broken.push(error),
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

    /// Removes an image with all its names, and what no other image needs: blobs are deleted, layers go to the trash.
    ///
    /// While a pull is running only the record goes; the rest waits for a later `remove` or [`Self::collect_garbage`].
    /// The caller has made sure that no container uses the image.
    ///
    /// # Errors
    /// Those of writing `index.json` and of deleting. If the disk is full ([`StoreError::is_full_disk`]), unpacked layers
    /// of the image are in the trash then: once that is empty, another try has room.
    pub fn remove(&self, image: &Image) -> Result<(), StoreError> {
        let pin = FileLock::try_exclusive(&self.layout.images().join("pin.lock"))?;
        if let Err(error) = self.change_index(|index| index.remove(&image.manifest.digest)) {
            if pin.is_some() && error.is_full_disk() {
                self.shed(image)?;
            }
            return Err(error);
        }
        self.remove_mount(image);
        let blobs = image.layers.iter().map(|layer| &layer.blob.digest);
        let blobs = blobs.chain([&image.id, &image.manifest.digest]).chain(&image.index);
        match pin {
            Some(_) => self.delete_unneeded(blobs, image.layers.iter().map(|layer| &layer.diff_id)),
            None => Ok(()),
        }
    }

    /// Removes the directory that the image was mounted on; if it is mounted in some namespace, the kernel unmounts it.
    pub(super) fn remove_mount(&self, image: &Image) {
        let place = self.layout.image_mount(&image.id);
        // Never more than the empty directories that `image mount` makes.
        for name in ["merged", "0", "1"] {
            let _ = fs::remove_dir(place.join(name));
        }
        let _ = fs::remove_dir(place);
    }

    /// Moves the unpacked layers of an image that is to be removed to the trash, as far as no other has them: without
    /// room for a new `index.json` they go first, because they can be made again from their blobs.
    fn shed(&self, image: &Image) -> Result<(), StoreError> {
        let mut layers: HashSet<&str> = image.layers.iter().map(|layer| layer.diff_id.hex()).collect();
        let others = self.list()?;
        for other in others.iter().filter(|other| other.manifest.digest != image.manifest.digest) {
            for layer in &other.layers {
                layers.remove(layer.diff_id.hex());
            }
        }
        self.trash_layers(|hex, _| layers.contains(hex)).map(drop)
    }

    /// Deletes what a pull brought that then failed, as far as no image needs it and nobody is pulling.
    ///
    /// # Errors
    /// Those of deleting.
    pub fn discard(&self, blobs: &[Digest], layers: &[DiffId]) -> Result<(), StoreError> {
        match FileLock::try_exclusive(&self.layout.images().join("pin.lock"))? {
            Some(_pin) => self.delete_unneeded(blobs, layers),
            None => Ok(()),
        }
    }

    /// The caller holds the pin exclusively.
    fn delete_unneeded<'a>(
        &self,
        blobs: impl IntoIterator<Item = &'a Digest>,
        layers: impl IntoIterator<Item = &'a DiffId>,
    ) -> Result<(), StoreError> {
        let needed = self.needed()?;
        for digest in blobs.into_iter().filter(|digest| !needed.blobs.contains(*digest)) {
            self.blobs.remove(digest)?;
        }
        let layers = layers.into_iter().filter(|layer| !needed.layers.contains(*layer));
        let layers: HashSet<&str> = layers.map(DiffId::hex).collect();
        self.trash_layers(|hex, _| layers.contains(hex)).map(drop)
    }

    /// Deletes every blob and every layer that no image refers to, except the layers in `keep` (those of containers),
    /// and what dead writers left. Gives the number of bytes of the blobs, and of the files of
    /// the layers. Does nothing while a pull is running.
    ///
    /// # Errors
    /// Those of reading the store and of deleting.
    pub fn collect_garbage(&self, keep: &HashSet<DiffId>) -> Result<u64, StoreError> {
        self.sweep()?;
        let Some(_pin) = FileLock::try_exclusive(&self.prepared()?.join("pin.lock"))? else {
            return Ok(0);
        };
        let needed = self.needed()?;
        let mut garbage = Vec::new();
        self.blobs.for_each(|digest, size_bytes| {
            if !needed.blobs.contains(&digest) {
                garbage.push((digest, size_bytes));
            }
        })?;
        let mut freed_bytes = 0;
        for (digest, size_bytes) in &garbage {
            self.blobs.remove(digest)?;
            freed_bytes += size_bytes;
        }
        let keep: HashSet<&str> = needed.layers.iter().chain(keep).map(DiffId::hex).collect();
        for place in self.trash_layers(|hex, is_copy| is_copy || !keep.contains(hex))? {
            freed_bytes += Index::open(&place.join("index")).map_or(0, |index| index.file_bytes());
        }
        Ok(freed_bytes)
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

    /// The uncompressed lengths of all layers that some image in the store knows.
    ///
    /// # Errors
    /// `index.json` cannot be read.
    pub fn known_layer_sizes(&self) -> Result<HashMap<DiffId, u64>, StoreError> {
        let mut known = HashMap::new();
        for image in self.list()? {
            for (layer, size) in image.layers.into_iter().zip(image.layer_sizes.unwrap_or_default()) {
                known.insert(layer.diff_id, size);
            }
        }
        Ok(known)
    }

    fn index_path(&self) -> PathBuf {
        self.layout.images().join("index.json")
    }

    pub(super) fn read_index(&self) -> Result<IndexFile, StoreError> {
        self.read_index_file("index.json")
    }

    /// Reads a file of the form of `index.json`; one that is not there is empty.
    pub(super) fn read_index_file(&self, name: &str) -> Result<IndexFile, StoreError> {
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

    pub(super) fn change_index(&self, change: impl FnOnce(&mut IndexFile)) -> Result<(), StoreError> {
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
    fn manifest_of(&self, image: &str, entry: &Descriptor) -> Result<(Descriptor, Manifest), StoreError> {
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
        let names: Vec<Reference> =
            index.manifests.iter().filter(|other| other.digest == entry.digest).filter_map(name_of).collect();
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
        })
    }

    /// Everything that the images of the store refer to, those in the trash, and those of lists. An image that cannot be read keeps what it can be seen to need.
    fn needed(&self) -> Result<Needed, StoreError> {
        let index = self.read_index()?;
        let (trashed, listed) = (self.trashed_entries(), self.listed_entries());
        let mut needed = Needed::default();
        for entry in index.manifests.iter().chain(&trashed).chain(&listed) {
            needed.blobs.insert(entry.digest.clone());
            let named = [ANNOTATION_INDEX, ANNOTATION_ID].map(|key| entry.annotation(key).map(Digest::parse));
            needed.blobs.extend(named.into_iter().flatten().flatten());
            let Ok((descriptor, manifest)) = self.manifest_of("", entry) else { continue };
            needed.blobs.extend([descriptor.digest, manifest.config.digest.clone()]);
            needed.blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
            if let Ok(Some(raw)) = self.blobs.read(&manifest.config.digest, CONFIG_LIMIT_BYTES)
                && let Ok(config) = Config::parse("", raw)
            {
                needed.layers.extend(config.diff_ids);
            }
        }
        Ok(needed)
    }

    /// Moves the directories of layers to the trash. `is_garbage` sees the digits of the diffID, and whether it is a copy
    /// with shifted ids (`<diffID>-<mapping>`, but for [`Ownership::Single`]), which an older coracle made and nobody needs any more. Gives their new
    /// places.
    fn trash_layers(&self, is_garbage: impl Fn(&str, bool) -> bool) -> Result<Vec<PathBuf>, StoreError> {
        let dir = self.layout.layers();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Io { call: "read", path: dir, source }),
        };
        let mut moved = Vec::new();
        let trash = self.layout.trash();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let name = Ownership::hex_of(name);
            let (hex, is_copy) = name.split_once('-').map_or((name, false), |(hex, _)| (hex, true));
            if hex.len() >= 64 && is_lower_hex(hex) && is_garbage(hex, is_copy) {
                create_dir(&trash)?;
                let path = entry.path();
                let place = trash.join(random_hex(16));
                fs::rename(&path, &place).map_err(|source| StoreError::Io { call: "rename", path, source })?;
                moved.push(place);
            }
        }
        Ok(moved)
    }
}

#[derive(Default)]
struct Needed {
    blobs: HashSet<Digest>,
    layers: HashSet<DiffId>,
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
mod tests {
    use super::*;
    use crate::image::manifest::media_type;

    struct Fixture {
        _root: tempfile::TempDir,
        store: ImageStore,
    }

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let layout = Layout::new(root.path().join("data"), root.path().join("run"));
            Self { store: ImageStore::open(&layout), _root: root }
        }

        /// An image whose only difference to others is `text`; gives its manifest.
        fn image(&self, text: &str, names: &[&str]) -> Descriptor {
            self.store.prepared().unwrap();
            let diff_id = Digest::of(text.as_bytes());
            let config = format!(
                r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
            );
            let id = self.store.blobs.put(config.as_bytes()).unwrap();
            let layer = self.store.blobs.put(format!("layer {text}").as_bytes()).unwrap();
            let manifest = format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{id}","size":{}}},
                "layers":[{{"mediaType":"{}","digest":"{layer}","size":{}}}]}}"#,
                media_type::OCI_CONFIG,
                config.len(),
                media_type::OCI_LAYER,
                6 + text.len()
            );
            let digest = self.store.blobs.put(manifest.as_bytes()).unwrap();
            let descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.len() as u64);
            let names = names.iter().map(|name| reference(name).with_default_tag()).collect();
            let image =
                NewImage { manifest: descriptor.clone(), index: None, id, names, layer_sizes: Some(vec![1234]) };
            self.store.record(&image).unwrap();
            fs::create_dir_all(self.store.layout.layers().join(diff_id.hex()).join("diff")).unwrap();
            descriptor
        }

        fn resolve(&self, name: &str) -> Option<Digest> {
            self.store.resolve(name).unwrap().map(|image| image.manifest.digest)
        }
    }

    #[test]
    fn names_are_resolved_exactly_then_local_then_at_the_hub() {
        let fixture = Fixture::new();
        let hub = fixture.image("hub", &["nginx", "docker.io/team/app:1"]).digest;
        let built = fixture.image("built", &["localhost/tool", "localhost/nginx:mine"]).digest;
        let other = fixture.image("other", &["r.io/nginx"]).digest;
        for (name, expected) in [
            ("nginx", Some(&hub)),
            ("nginx:latest", Some(&hub)),
            ("library/nginx", Some(&hub)),
            ("docker.io/library/nginx:latest", Some(&hub)),
            ("team/app:1", Some(&hub)),
            ("team/app", None),
            ("tool", Some(&built)),
            ("localhost/tool", Some(&built)),
            ("docker.io/library/tool", None),
            ("nginx:mine", Some(&built)),
            ("r.io/nginx", Some(&other)),
            ("r.io/nginx:2", None),
            ("NGINX", None),
            ("", None),
            ("../../etc/passwd", None),
        ] {
            assert_eq!(fixture.resolve(name).as_ref(), expected, "{name}");
        }
        let by_digest = |name: &str, digest: &Digest| fixture.resolve(&format!("{name}@{digest}"));
        assert_eq!(by_digest("nginx", &hub).as_ref(), Some(&hub));
        assert_eq!(by_digest("nginx:ignored", &hub).as_ref(), Some(&hub));
        assert_eq!(by_digest("r.io/nginx", &hub), None, "the same bytes under a name that nobody pulled");
    }

    #[test]
    fn ids_are_resolved_by_any_unique_beginning() {
        let fixture = Fixture::new();
        let manifest = fixture.image("one", &[]).digest;
        let id = fixture.store.list().unwrap()[0].id.clone();
        for text in
            [id.to_string(), id.hex().to_owned(), id.hex()[..5].to_owned(), format!("sha256:{}", &id.hex()[..9])]
        {
            assert_eq!(fixture.resolve(&text).as_ref(), Some(&manifest), "{text}");
        }
        assert_eq!(fixture.resolve(&manifest.to_string()).as_ref(), Some(&manifest));
        assert_eq!(fixture.resolve("sha256:"), None);
        for n in 0..32 {
            fixture.image(&n.to_string(), &[]);
        }
        let first = |image: &Image| image.id.hex()[..1].to_owned();
        let images = fixture.store.list().unwrap();
        let shared = images.iter().map(first).find(|prefix| images.iter().filter(|i| first(i) == *prefix).count() > 1);
        let error = fixture.store.resolve(&shared.unwrap()).unwrap_err();
        assert!(matches!(error, StoreError::AmbiguousId { .. }), "{error}");
    }

    #[test]
    fn tags_move_and_the_last_one_taken_leaves_the_image_dangling() {
        let fixture = Fixture::new();
        fixture.image("one", &["a"]);
        fixture.image("two", &["b"]);
        let image = |name: &str| fixture.store.resolve(name).unwrap().unwrap();
        let one = image("a");
        fixture.store.tag(&one, &reference("b")).unwrap();
        assert_eq!(image("b").id, one.id);
        assert_eq!(image("a").names, [reference("a:latest"), reference("b:latest")]);
        assert_eq!(image("b").size, 1234);
        let dangling = |store: &ImageStore| store.list().unwrap().iter().filter(|i| i.names.is_empty()).count();
        assert_eq!(dangling(&fixture.store), 1);
        assert!(fixture.store.untag(&reference("a")).unwrap() && !fixture.store.untag(&reference("a")).unwrap());
        assert!(fixture.store.untag(&reference("b")).unwrap());
        assert_eq!(dangling(&fixture.store), 2);
        fixture.store.remove(&one).unwrap();
        assert_eq!(fixture.store.list().unwrap().len(), 1);
        assert_eq!(fs::read_dir(fixture.store.layout.trash()).unwrap().count(), 1, "the layer is in the trash");
    }

    #[test]
    fn one_broken_image_hides_no_other() {
        let fixture = Fixture::new();
        let broken = fixture.image("broken", &["broken"]);
        fixture.image("whole", &["whole"]);
        fs::write(fixture.store.blobs.path(&broken.digest), b"{").unwrap();
        let mut errors = Vec::new();
        assert_eq!(fixture.store.list_with(&mut errors).unwrap().len(), 1);
        assert_eq!(errors.len(), 1);
        assert!(fixture.resolve("whole").is_some());
        assert!(fixture.store.resolve("broken").unwrap_err().to_string().contains("invalid JSON"));
        fs::remove_file(fixture.store.blobs.path(&broken.digest)).unwrap();
        let error = fixture.store.resolve("broken").unwrap_err().to_string();
        assert!(error.starts_with("image docker.io/library/broken:latest: blob sha256:"), "{error}");
        fixture.store.untag(&reference("broken")).unwrap();
    }

    #[test]
    fn entries_of_other_tools_are_images_too() {
        let fixture = Fixture::new();
        let manifest = fixture.image("foreign", &["x"]);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"linux",
            "architecture":"{}"}}}}]}}"#,
            media_type::OCI_MANIFEST,
            manifest.digest,
            manifest.size,
            Platform::host().architecture
        );
        let digest = fixture.store.blobs.put(index.as_bytes()).unwrap();
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{},
            "annotations":{{"org.opencontainers.image.ref.name":"latest"}}}}]}}"#,
            media_type::OCI_INDEX,
            index.len()
        );
        fs::write(fixture.store.index_path(), text).unwrap();
        let image = fixture.store.resolve("latest").unwrap().unwrap();
        assert_eq!((image.manifest.digest, image.index), (manifest.digest, Some(digest)));
        assert_eq!(fixture.store.resolve(image.id.hex()).unwrap().unwrap().id, image.id);
        assert_eq!(fixture.store.collect_garbage(&HashSet::new()).unwrap(), 0, "all of it is needed");
    }

    #[test]
    fn garbage_is_what_nothing_refers_to_and_nobody_keeps() {
        let fixture = Fixture::new();
        fixture.image("one", &["one"]);
        fixture.store.blobs.put(b"garbage").unwrap();
        let layers = fixture.store.layout.layers();
        let (kept, lost) = (DiffId::new(Digest::of(b"kept")), DiffId::new(Digest::of(b"lost")));
        for name in
            [kept.hex(), lost.hex(), &format!("{}-mapping", lost.hex()), &format!("{}-mapping", kept.hex()), "other"]
        {
            fs::create_dir_all(layers.join(name)).unwrap();
        }
        let keep = HashSet::from([kept.clone()]);
        let pin = fixture.store.pin().unwrap();
        assert_eq!(fixture.store.collect_garbage(&keep).unwrap(), 0);
        drop(pin);
        assert_eq!(fixture.store.collect_garbage(&keep).unwrap(), 7);
        let mut left: Vec<_> = fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected = [Digest::of(b"one").hex().to_owned(), kept.hex().to_owned(), "other".to_owned()];
        expected.sort();
        assert_eq!(left, expected.map(std::ffi::OsString::from));
        assert!(fixture.resolve("one").is_some());
    }
}
