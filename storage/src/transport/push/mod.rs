//! The push: from the store to a registry.
//!
//! ```text
//! per layer, biggest first, a few at a time:
//!   there already? ─ in another repository there? mount ─ upload: blob file, or plain tar → compress → digest
//! configuration ─ all there ─ manifest, byte for byte the one in the store if no layer has changed
//! ```
//! **Runs in:** the process that `push` forks into the user's namespace; several threads. Killed at any moment it leaves
//! uploads that registries forget, and blobs there that no manifest names.

mod plan;

mod upload;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub use super::commit::Format;
use super::registry::{ClientOptions, RegistryTarget};
use super::retry::Retry;
use super::stop::Stop;
use super::{PushError, TransportError};
use crate::digest::Digest;
use crate::image::manifest::{Descriptor, Document};
use crate::image::{Image, ImageStore, Layer, MANIFEST_LIMIT_BYTES};
use crate::layer::compress;
use crate::layer::compression::Compression;
use crate::layer::toc::CHUNKED_CHECKSUM;
use crate::progress::{Event, Kind, Progress};
use crate::reference::Reference;
use plan::{Sent, Treatment};
use upload::Counters;

/// How to push.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// How to talk to registries.
    pub client: ClientOptions,
    /// `--format`: the kind of manifest; the image's own if not given.
    pub format: Option<Format>,
    /// `--compression-format`: for layers that are not compressed, and with `force` for all.
    pub compression: Option<compress::Format>,
    /// `--compression-level`, one of the format's.
    pub level: Option<i32>,
    /// `--force-compression`: also layers that the registry has in another compression.
    pub force: bool,
    /// How many blobs at once.
    pub jobs: usize,
    /// The first wait before another try; doubles each time.
    pub retry_delay: Duration,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            client: ClientOptions::default(),
            format: None,
            compression: None,
            level: None,
            force: false,
            jobs: 4,
            retry_delay: Duration::from_secs(1),
        }
    }
}

/// Uploads an image under a name.
///
/// Gives the descriptor of the manifest that the registry has now.
///
/// # Errors
/// [`PushError`], whose text is one line.
pub fn push(
    store: &ImageStore,
    image: &Image,
    to: &Reference,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Descriptor, PushError> {
    let failed = |reason: TransportError| PushError { to: to.clone().with_default_tag().to_string(), reason };
    let target = RegistryTarget::new(to, &options.client).map_err(|error| failed(error.into()))?;
    // The blobs stay until they are sent.
    let _pin = store.pin().map_err(|error| failed(error.into()))?;
    let sources = mount_sources(store, to.registry(), to.repository());
    let push = Push { store, target: &target, options, progress, sources, stop: Stop::default() };
    push.image(&image.manifest, &image.layers, &image.id, target.tag()).map_err(failed)
}

/// Uploads an index with those of its images that the store has; all of them must be here or in the repository.
///
/// # Errors
/// As [`push`].
pub fn push_index(
    store: &ImageStore,
    index: &Descriptor,
    to: &Reference,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Descriptor, PushError> {
    let failed = |reason: TransportError| PushError { to: to.clone().with_default_tag().to_string(), reason };
    let target = RegistryTarget::new(to, &options.client).map_err(|error| failed(error.into()))?;
    let _pin = store.pin().map_err(|error| failed(error.into()))?;
    let sources = mount_sources(store, to.registry(), to.repository());
    let push = Push { store, target: &target, options, progress, sources, stop: Stop::default() };
    push.index(index, target.tag()).map_err(failed)
}

/// The repositories of this registry that images of the store have come from or gone to, by blob.
fn mount_sources(store: &ImageStore, registry: &str, repository: &str) -> HashMap<Digest, Vec<String>> {
    let mut sources: HashMap<Digest, Vec<String>> = HashMap::new();
    // Without the list everything is uploaded, as it would be anyway.
    for image in store.list().unwrap_or_default() {
        let names = image.names.iter().filter(|name| name.registry() == registry && name.repository() != repository);
        for name in names {
            for blob in image.layers.iter().map(|layer| &layer.blob.digest).chain([&image.id]) {
                let known = sources.entry(blob.clone()).or_default();
                if !known.iter().any(|known| known == name.repository()) {
                    known.push(name.repository().to_owned());
                }
            }
        }
    }
    sources
}

struct Push<'a> {
    store: &'a ImageStore,
    target: &'a RegistryTarget,
    options: &'a PushOptions,
    progress: &'a dyn Progress,
    /// Repositories where a blob may be.
    sources: HashMap<Digest, Vec<String>>,
    /// Set when something failed and all other threads should give up.
    stop: Stop,
}

impl Push<'_> {
    fn retry(&self) -> Retry<'_> {
        let PushOptions { retry_delay, client, .. } = self.options;
        let given = client.retry_delay;
        Retry { limit: client.retries, first: *retry_delay, given, stop: &self.stop, progress: self.progress }
    }

    fn manifest_bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransportError> {
        let bytes = self.store.blobs().read_verified(&descriptor.digest, MANIFEST_LIMIT_BYTES)?;
        let what = || format!("manifest {}", descriptor.digest);
        bytes.ok_or_else(|| TransportError::NotFound { what: what(), hint: ": pull the image again".to_owned() })
    }

    /// Uploads one image: its blobs, then its manifest.
    fn image(
        &self,
        manifest: &Descriptor,
        layers: &[Layer],
        config: &Digest,
        tag: Option<&str>,
    ) -> Result<Descriptor, TransportError> {
        let bytes = self.manifest_bytes(manifest)?;
        let sent = self.blobs(layers, config)?;
        let kind = plan::kind(&manifest.media_type, &sent, self.options.format)?;
        let (bytes, media_type) = match plan::rewritten(&bytes, &manifest.media_type, &sent, kind)? {
            Some((bytes, media_type)) => (bytes, media_type.to_owned()),
            None => (bytes, manifest.media_type.clone()),
        };
        let mut pushed = Descriptor::new(&media_type, digest_like(&manifest.digest, &bytes), bytes.len() as u64);
        pushed.platform.clone_from(&manifest.platform);
        self.progress.event(Event::Started { digest: &pushed.digest, total_bytes: pushed.size, kind: Kind::Manifest });
        self.retry().retrying(|| Ok(self.target.put_manifest(tag, &pushed.digest, &media_type, &bytes)?))?;
        self.progress.event(Event::Done { digest: &pushed.digest });
        Ok(pushed)
    }

    /// Uploads what is missing of an image's blobs; gives the layers as the registry has them.
    fn blobs(&self, layers: &[Layer], config: &Digest) -> Result<Vec<Sent>, TransportError> {
        let mut seen = HashSet::new();
        let mut jobs: Vec<&Layer> = layers.iter().filter(|layer| seen.insert(&layer.blob.digest)).collect();
        jobs.sort_by_key(|layer| std::cmp::Reverse(layer.blob.size));
        let (next, failure, done) = (AtomicUsize::new(0), Mutex::new(None), Mutex::new(HashMap::new()));
        let counters = Counters::default();
        let finished = Stop::default();
        let fail = |error: TransportError| {
            self.stop.set();
            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
            // The first failure is the cause of those that follow.
            if failure.as_ref().is_none_or(|known| matches!(known, TransportError::Stopped)) {
                *failure = Some(error);
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| counters.report(self.progress, &finished));
            let workers: Vec<_> = (0..self.options.jobs.clamp(1, 16).min(jobs.len()))
                .map(|_| {
                    scope.spawn(|| {
                        while let Some(layer) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                            match self.layer(layer, &counters) {
                                Ok(sent) => {
                                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                                    done.insert(layer.blob.digest.clone(), sent);
                                }
                                Err(error) => return fail(error),
                            }
                        }
                    })
                })
                .collect();
            if let Err(error) = self.config(config) {
                fail(error);
            }
            for worker in workers {
                worker.join().expect("uploads do not panic");
            }
            finished.set();
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let sent = layers.iter().map(|layer| done.get(&layer.blob.digest).cloned());
        sent.collect::<Option<Vec<_>>>().ok_or(TransportError::Stopped)
    }

    fn layer(&self, layer: &Layer, counters: &Counters) -> Result<Sent, TransportError> {
        let blob = &layer.blob;
        if self.stop.is_set() {
            return Err(TransportError::Stopped);
        }
        let compression = self.compression_of(blob)?;
        let as_it_is = || Sent { blob: blob.clone(), compression };
        // What may not be distributed is named by where it is.
        if blob.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
            self.progress.event(Event::Exists { digest: &blob.digest, kind: Kind::Layer });
            return Ok(as_it_is());
        }
        let has_table = blob.annotation(CHUNKED_CHECKSUM).is_some();
        match plan::treatment(compression, has_table, self.options) {
            Treatment::Keep => self.blob(blob, Kind::Layer, counters).map(|()| as_it_is()),
            Treatment::Prefer(..) if self.has(&blob.digest)? => {
                self.progress.event(Event::Exists { digest: &blob.digest, kind: Kind::Layer });
                Ok(as_it_is())
            }
            Treatment::Prefer(format, level) | Treatment::Compress(format, level) => {
                self.compressed(layer, format, level, counters)
            }
        }
    }

    fn has(&self, digest: &Digest) -> Result<bool, TransportError> {
        self.retry().retrying(|| Ok(self.target.has_blob(digest)?))
    }

    /// By its bytes: media types are wrong now and then.
    fn compression_of(&self, blob: &Descriptor) -> Result<Compression, TransportError> {
        let failed = |source| TransportError::Io { what: format!("read blob {}", blob.digest), source };
        let mut begin = Vec::new();
        self.store.blobs().open(&blob.digest)?.take(6).read_to_end(&mut begin).map_err(failed)?;
        Compression::detect(&begin).map_err(|error| TransportError::Invalid {
            what: format!("layer {}", blob.digest),
            reason: error.to_string(),
        })
    }

    fn config(&self, config: &Digest) -> Result<(), TransportError> {
        let size = self.store.blobs().read(config, crate::image::CONFIG_LIMIT_BYTES)?.map_or(0, |raw| raw.len() as u64);
        self.blob(&Descriptor::new("", config.clone(), size), Kind::Config, &Counters::default())
    }

    /// Uploads the images of an index, then the index.
    fn index(&self, index: &Descriptor, tag: Option<&str>) -> Result<Descriptor, TransportError> {
        let bytes = self.manifest_bytes(index)?;
        let what = format!("manifest {}", index.digest);
        let Document::Index(parsed) = Document::parse(&what, Some(&index.media_type), &bytes)? else {
            return Err(TransportError::Invalid { what, reason: "it is no list of images".to_owned() });
        };
        let mut pushed = Vec::new();
        for entry in &parsed.manifests {
            if self.store.blobs().read(&entry.digest, MANIFEST_LIMIT_BYTES)?.is_none() {
                if self.retry().retrying(|| Ok(self.target.has_manifest(&entry.digest)?))? {
                    pushed.push(entry.clone());
                    continue;
                }
                let platform = entry.platform.as_ref().map(|platform| format!(" ({platform})")).unwrap_or_default();
                let what = format!("manifest {}{platform}", entry.digest);
                return Err(TransportError::NotFound { what, hint: " in the store: pull it first".to_owned() });
            }
            if entry.is_index() {
                pushed.push(self.index(entry, None)?);
                continue;
            }
            let child = self.child(entry)?;
            pushed.push(self.image(&child.manifest, &child.layers, &child.id, None)?);
        }
        let changed = plan::rewritten_index(&bytes, index, &parsed.manifests, &pushed, self.options.format)?;
        let (bytes, media_type) = changed.unwrap_or_else(|| (bytes, index.media_type.clone()));
        let own = Descriptor::new(&media_type, digest_like(&index.digest, &bytes), bytes.len() as u64);
        self.progress.event(Event::Started { digest: &own.digest, total_bytes: own.size, kind: Kind::Manifest });
        self.retry().retrying(|| Ok(self.target.put_manifest(tag, &own.digest, &media_type, &bytes)?))?;
        self.progress.event(Event::Done { digest: &own.digest });
        Ok(own)
    }

    /// An image that an index names.
    fn child(&self, entry: &Descriptor) -> Result<Image, TransportError> {
        let missing = || TransportError::NotFound {
            what: format!("image {}", entry.digest),
            hint: " in the store: pull it first".to_owned(),
        };
        self.store.image_of(entry)?.ok_or_else(missing)
    }
}

fn digest_like(like: &Digest, bytes: &[u8]) -> Digest {
    let mut hasher = like.hasher();
    hasher.update(bytes);
    hasher.finish()
}
