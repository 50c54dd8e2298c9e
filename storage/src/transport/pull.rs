//! The pull: from any source into the store.
//!
//! ```text
//! manifest ─ index? choose ─ configuration ‖ layers, biggest first, a few at a time
//!   (lazily, with tables of contents: those first, see `early`)
//!   per layer:  network → SHA-256 + blob file ─ pipe → inflate ─┬→ SHA-256 → diffID
//!                                                               └→ untar → layers/.tmp-…
//! both digests right → syncfs → rename → record in index.json
//! ```
//! **Runs in:** the process that `pull` and `run` fork into the user's namespace; several threads. Killed at any moment
//! it leaves unlocked temporaries, which the next pull sweeps, and at worst blobs that nothing refers to.

mod early;

mod fetch;

mod known;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use early::Early;
use fetch::Job;
pub use known::Known;

use super::policy;
use super::publish::{self, Publisher, Ready};
use super::registry::{ClientOptions, RegistryError, RegistrySource};
use super::retry::Retry;
use super::stop::Stop;
use super::{ImageSource, PullError, RawManifest, Source, TransportError};
use crate::blob::{BlobError, Claim};
use crate::digest::Digest;
use crate::image::config::Config;
use crate::image::index::Platform;
use crate::image::manifest::{Descriptor, Document, Manifest};
use crate::image::store::NewImage;
use crate::image::{CONFIG_LIMIT_BYTES, INDEX_DEPTH_LIMIT, Image, ImageError, ImageStore, MANIFEST_LIMIT_BYTES};
use crate::layer::toc::Place;
use crate::layer::{self, IdPolicy};
use crate::progress::{Event, Progress};
use crate::state::trash;

/// How many blobs at once if the first ones are waited for.
const LAZY_JOBS: usize = 2;

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// `--platform`; this machine's if not given.
    pub platform: Option<Platform>,
    /// How to talk to registries.
    pub client: ClientOptions,
    /// Whom the files of layers belong to.
    pub ids: IdPolicy,
    /// How many blobs at once.
    pub jobs: usize,
    /// The first wait before another try; doubles each time.
    pub retry_delay: Duration,
    /// Whether others read layers before they are whole, see [`crate::union::lazy`]: the topmost layer first, and each entry
    /// told as it comes.
    pub is_lazy: bool,
    /// Whether the image must survive a power cut once the pull is done; off is for tests.
    pub is_durable: bool,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: None,
            client: ClientOptions::default(),
            ids: IdPolicy::identity(),
            jobs: 3,
            retry_delay: Duration::from_secs(1),
            is_lazy: false,
            is_durable: true,
        }
    }
}

/// Hears of an image as soon as it is known what it will be.
pub type OnKnown<'a> = &'a (dyn Fn(Known) + Sync);

/// Brings an image into the store, unpacked, and gives it its name.
///
/// # Errors
/// [`PullError`], whose text is one line; nothing half-done has a final name then.
pub fn pull(
    store: &ImageStore,
    source: &Source,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image, PullError> {
    let opened: Box<dyn ImageSource> = match source {
        Source::Registry(reference) => Box::new(RegistrySource::new(reference, &options.client)),
        local => super::load::open(local, &store.layout().images())
            .map_err(|reason| PullError { from: super::load::describe(local), reason })?,
    };
    pull_from(store, opened.as_ref(), options, progress).map_err(|reason| PullError { from: opened.describe(), reason })
}

/// As [`pull`], for who wants to begin with the image before it is there: `on_known` is called when its manifest and its
/// configuration have been verified and policies allow it. Layers are told as they come.
///
/// # Errors
/// As [`pull`], also after `on_known`.
pub fn pull_lazily(
    store: &ImageStore,
    source: &Source,
    options: &PullOptions,
    progress: &dyn Progress,
    on_known: OnKnown<'_>,
) -> Result<Image, PullError> {
    let options = PullOptions { is_lazy: true, jobs: LAZY_JOBS, ..options.clone() };
    let opened: Box<dyn ImageSource> = match source {
        Source::Registry(reference) => Box::new(RegistrySource::new(reference, &options.client)),
        local => super::load::open(local, &store.layout().images())
            .map_err(|reason| PullError { from: super::load::describe(local), reason })?,
    };
    pull_known(store, opened.as_ref(), &options, progress, Some(on_known))
        .map_err(|reason| PullError { from: opened.describe(), reason })
}

/// As [`pull`], from a source that is open already.
///
/// # Errors
/// As [`pull`], without the source's name before the text.
pub fn pull_from(
    store: &ImageStore,
    source: &dyn ImageSource,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image, TransportError> {
    pull_known(store, source, options, progress, None)
}

fn pull_known(
    store: &ImageStore,
    source: &dyn ImageSource,
    options: &PullOptions,
    progress: &dyn Progress,
    on_known: Option<OnKnown<'_>>,
) -> Result<Image, TransportError> {
    let pin = store.pin()?;
    store.sweep()?;
    // What cannot be swept now does not keep anybody from pulling.
    let _ = layer::sweep(&store.layout().layers());
    let pull = Pull {
        store,
        source,
        options,
        progress,
        wanted: options.platform.clone().unwrap_or_else(Platform::host),
        stop: Stop::default(),
        on_known,
    };
    let found = pull.find_manifest()?;
    // A signature of the index vouches for what the index names.
    let digests: Vec<Digest> = [found.descriptor.digest.clone()].into_iter().chain(found.index.clone()).collect();
    policy::check(source, &digests)?;
    let config = OnceLock::new();
    let recorded = pull.transfer(&found, &config).and_then(|new| Ok(store.record(&new)?));
    if let Err(error) = recorded {
        // What did arrive makes the next try cheaper, but not on a full disk.
        if error.is_full_disk() {
            drop(pin);
            let _ = store.discard(&found.blobs(), config.get().and_then(Option::as_ref).map_or(&[], |c| &c.diff_ids));
            let _ = trash::empty(store.layout());
        }
        return Err(error);
    }
    let image = store.resolve(&found.descriptor.digest.to_string())?;
    image.ok_or_else(|| TransportError::NotFound { what: "the image just pulled".to_owned(), hint: String::new() })
}

/// Brings the layers of an image into the store, unpacked; the image itself is not recorded, so that its layers are
/// garbage unless an image gets them. The caller holds the store's pin until then.
///
/// # Errors
/// As [`pull_from`].
pub(crate) fn fetch_layers(
    store: &ImageStore,
    source: &dyn ImageSource,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<(), TransportError> {
    let (wanted, stop) = (Platform::host(), Stop::default());
    let pull = Pull { store, source, options, progress, wanted, stop, on_known: None };
    let found = pull.find_manifest()?;
    pull.transfer(&found, &OnceLock::new()).map(drop)
}

struct Pull<'a> {
    store: &'a ImageStore,
    source: &'a dyn ImageSource,
    options: &'a PullOptions,
    progress: &'a dyn Progress,
    wanted: Platform,
    /// Set when something failed and all other threads should give up.
    stop: Stop,
    on_known: Option<OnKnown<'a>>,
}

/// The manifest to pull, and the documents that led to it.
struct Found {
    descriptor: Descriptor,
    manifest: Manifest,
    /// The outermost index.
    index: Option<Digest>,
    /// Everything between the name and the manifest, to be stored.
    documents: Vec<(Digest, Vec<u8>)>,
}

impl Found {
    /// Every blob of the image.
    fn blobs(&self) -> Vec<Digest> {
        let layers = self.manifest.layers.iter().chain([&self.manifest.config]).map(|blob| &blob.digest);
        layers.chain(self.documents.iter().map(|(digest, _)| digest)).cloned().collect()
    }
}

impl Pull<'_> {
    fn retry(&self) -> Retry<'_> {
        let PullOptions { retry_delay, client, .. } = self.options;
        let (limit, given) = (self.source.retries(), client.retry_delay);
        Retry { limit, first: *retry_delay, given, stop: &self.stop, progress: self.progress }
    }

    fn find_manifest(&self) -> Result<Found, TransportError> {
        let (mut digest, mut raw) = self.top()?;
        let mut descriptor = Descriptor::new("", digest.clone(), raw.bytes.len() as u64);
        let mut index_digest = None;
        let mut documents = Vec::new();
        for _ in 0..=INDEX_DEPTH_LIMIT {
            let what = format!("manifest {digest}");
            let document = Document::parse(&what, raw.media_type.as_deref(), &raw.bytes)?;
            documents.push((digest.clone(), raw.bytes));
            let index = match document {
                Document::Manifest(manifest) => {
                    descriptor.media_type.clone_from(&manifest.media_type);
                    return Ok(Found { descriptor, manifest, index: index_digest, documents });
                }
                Document::Index(index) => index,
            };
            let entry = index.choose(&what, &self.wanted)?;
            index_digest.get_or_insert(digest);
            digest = entry.digest.clone();
            raw = self.manifest_of(entry)?;
            descriptor = entry.clone();
            // Ours say what the image is; the index's annotations are about the index.
            descriptor.annotations = None;
        }
        Err(ImageError::IndexDepth { what: format!("manifest {digest}"), limit: INDEX_DEPTH_LIMIT }.into())
    }

    /// What the name stands for. If the store knows the name, asking for the digest alone may be all there is to do.
    fn top(&self) -> Result<(Digest, RawManifest), TransportError> {
        let names = self.source.names();
        let is_known = names.iter().any(|name| name.digest().is_some() || self.store.has_name(name));
        let mut expected = None;
        if is_known {
            expected = match self.retry().retrying(|| self.source.top_digest()) {
                Ok(digest) => digest,
                // Some servers do not answer HEAD.
                Err(TransportError::Registry(RegistryError::Status { .. })) => None,
                Err(error) => return Err(error),
            };
            if let Some(digest) = &expected
                && let Some(bytes) = self.store.blobs().read_verified(digest, MANIFEST_LIMIT_BYTES)?
            {
                return Ok((digest.clone(), RawManifest { media_type: None, bytes }));
            }
        }
        let raw = self.retry().retrying(|| self.source.manifest(None))?;
        let by_digest = names.iter().find_map(|name| name.digest()).and(expected);
        let digest = match by_digest {
            Some(expected) => {
                let got = digest_of(&expected, &raw.bytes);
                if got != expected {
                    return Err(TransportError::ManifestDigest { expected, got });
                }
                expected
            }
            None => Digest::of(&raw.bytes),
        };
        Ok((digest, raw))
    }

    /// A manifest that an index names, from the store or from the source.
    fn manifest_of(&self, entry: &Descriptor) -> Result<RawManifest, TransportError> {
        let media_type = Some(entry.media_type.clone()).filter(|text| !text.is_empty());
        if let Some(bytes) = self.store.blobs().read_verified(&entry.digest, MANIFEST_LIMIT_BYTES)? {
            return Ok(RawManifest { media_type, bytes });
        }
        if entry.size > MANIFEST_LIMIT_BYTES {
            let what = format!("manifest {}", entry.digest);
            let (len_bytes, limit_bytes) = (entry.size, MANIFEST_LIMIT_BYTES);
            return Err(ImageError::TooLarge { what, len_bytes, limit_bytes }.into());
        }
        let raw = self.retry().retrying(|| self.source.manifest(Some(entry)))?;
        check_document(entry, &raw.bytes)?;
        Ok(RawManifest { media_type, bytes: raw.bytes })
    }

    /// Fetches and unpacks what is missing, publishes it, and says what to record.
    ///
    /// `config` is set by this thread; nothing in it means that there will be none.
    fn transfer(&self, found: &Found, config: &OnceLock<Option<Config>>) -> Result<NewImage, TransportError> {
        let layers = &found.manifest.layers;
        let mut seen = HashSet::new();
        let mut jobs: Vec<Job<'_>> = layers
            .iter()
            .enumerate()
            .map(|(position, blob)| Job { position, blob })
            .filter(|job| seen.insert(&job.blob.digest))
            .collect();
        // With tables of contents, configuration and tables come first: then all names are known at once.
        let has_tables = self.options.is_lazy && layers.iter().any(|layer| !matches!(Place::of(layer), Ok(None)));
        if self.options.is_lazy {
            jobs.reverse();
        } else {
            jobs.sort_by_key(|job| std::cmp::Reverse(job.blob.size));
        }
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let early = OnceLock::new();
        let sizes: Mutex<HashMap<usize, u64>> = Mutex::default();
        let fail = |error: TransportError| {
            self.stop.set();
            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
            // The first failure is the cause of those that follow.
            if failure.as_ref().is_none_or(|known| matches!(known, TransportError::Stopped)) {
                *failure = Some(error);
            }
        };
        let fail = &fail;
        thread::scope(|scope| {
            let (publisher, queue) = Publisher::new();
            scope.spawn(|| {
                // Moved in, so that it is gone when publishing fails.
                let queue = queue;
                publish::run(self.store, &queue, self.options.is_durable).unwrap_or_else(fail);
            });
            let known = has_tables.then(|| {
                let documents = self.documents(found, &publisher)?;
                let prepared = self.prepare(layers, &documents)?;
                Ok((documents, prepared))
            });
            let (known, prepared) = match known {
                None => (None, Early::default()),
                Some(Ok((documents, prepared))) => (Some(Ok(documents)), prepared),
                Some(Err(error)) => (Some(Err(error)), Early::default()),
            };
            // For as long as the pull: those that answer questions may be asked until the last layer is here.
            let prepared = early.get_or_init(|| prepared);
            // What is claimed must not wait for what others have claimed.
            jobs.sort_by_key(|job| !prepared.is_prepared(job.position));
            let ending = early::ending();
            let (end, still_wanted) = ending.map_or((None, None), |(end, writer)| (Some(end), Some(writer)));
            if let Some(end) = end.filter(|_| has_tables) {
                scope.spawn(move || self.serve_early(prepared, &end, fail));
            }
            let mut workers = Vec::new();
            for _ in 0..self.options.jobs.clamp(1, 16).min(jobs.len()) {
                let publisher = publisher.clone();
                let (jobs, next, sizes) = (&jobs, &next, &sizes);
                let work = scope.spawn(move || {
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match self.layer(job, layers.len(), config, &publisher, prepared) {
                            Ok(Some(size_bytes)) => {
                                sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(job.position, size_bytes);
                            }
                            Ok(None) => {}
                            Err(error) => return fail(error),
                        }
                    }
                });
                workers.push(work);
            }
            let outcome = known.unwrap_or_else(|| self.documents(found, &publisher));
            if let (Some(on_known), Ok(config)) = (self.on_known, &outcome) {
                on_known(Known::new(found, config, self.source.names()));
            }
            let _ = config.set(outcome.map_err(fail).ok());
            for worker in workers {
                worker.join().expect("workers do not panic");
            }
            drop(still_wanted);
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let config = config.get().and_then(Option::as_ref).ok_or(TransportError::Stopped)?;
        let mut descriptor = found.descriptor.clone();
        descriptor.platform = Some(config.platform.clone());
        Ok(NewImage {
            manifest: descriptor,
            index: found.index.clone(),
            id: found.manifest.config.digest.clone(),
            names: self.source.names(),
            layer_sizes: self.layer_sizes(
                layers,
                config,
                sizes.into_inner().unwrap_or_else(PoisonError::into_inner),
            )?,
        })
    }

    /// Lengths of all layers: those just measured, and others from images that share them.
    fn layer_sizes(
        &self,
        layers: &[Descriptor],
        config: &Config,
        measured: HashMap<usize, u64>,
    ) -> Result<Option<Vec<u64>>, TransportError> {
        let known = match measured.len() == layers.len() {
            true => HashMap::new(),
            false => self.store.known_layer_sizes()?,
        };
        let by_digest: HashMap<&Digest, u64> =
            measured.iter().map(|(position, size)| (&layers[*position].digest, *size)).collect();
        let sizes = layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(blob, diff_id)| by_digest.get(&blob.digest).or_else(|| known.get(diff_id)).copied());
        Ok(sizes.collect())
    }

    /// Stores manifests and configuration; gives the configuration.
    fn documents(&self, found: &Found, publisher: &Publisher) -> Result<Config, TransportError> {
        let descriptor = &found.manifest.config;
        let what = format!("configuration {}", descriptor.digest);
        if descriptor.size > CONFIG_LIMIT_BYTES {
            let (len_bytes, limit_bytes) = (descriptor.size, CONFIG_LIMIT_BYTES);
            return Err(ImageError::TooLarge { what, len_bytes, limit_bytes }.into());
        }
        let raw = self.config(descriptor, &what, publisher)?;
        for (digest, bytes) in &found.documents {
            self.put(digest, bytes, publisher)?;
        }
        let config = Config::parse(&what, raw)?;
        config.check_layers(&what, found.manifest.layers.len())?;
        if config.platform.rank_for(&self.wanted).is_none() {
            let (wanted, got) = (Box::new(self.wanted.clone()), Box::new(config.platform.clone()));
            if self.options.platform.is_some() || got.os != wanted.os {
                return Err(TransportError::Platform { wanted, got });
            }
            self.progress.event(Event::Message(&format!("the image is for {got}, this machine is {wanted}")));
        }
        Ok(config)
    }

    /// The bytes of the configuration; among pulls of the same image one fetches them and the others wait.
    fn config(&self, descriptor: &Descriptor, what: &str, publisher: &Publisher) -> Result<Vec<u8>, TransportError> {
        let blobs = self.store.blobs();
        loop {
            match blobs.claim(&descriptor.digest, descriptor.size)? {
                Claim::Exists => match blobs.read_verified(&descriptor.digest, CONFIG_LIMIT_BYTES)? {
                    Some(raw) => return Ok(raw),
                    // Not what it was any more: once more from its source.
                    None => blobs.remove(&descriptor.digest)?,
                },
                Claim::Ours(mut ingest) => {
                    let raw = self.retry().retrying(|| {
                        let mut raw = Vec::new();
                        let blob = self.source.blob(descriptor, 0)?;
                        let mut bytes = blob.reader.take(descriptor.size + 1);
                        bytes.read_to_end(&mut raw).map_err(|error| read_error(what, error))?;
                        check_document(descriptor, &raw)?;
                        Ok(raw)
                    })?;
                    ingest.write(&raw)?;
                    publisher.publish(Ready::Blob(ingest.verify()?, None))?;
                    return Ok(raw);
                }
            }
        }
    }

    fn put(&self, digest: &Digest, bytes: &[u8], publisher: &Publisher) -> Result<(), TransportError> {
        if let Claim::Ours(mut ingest) = self.store.blobs().claim(digest, bytes.len() as u64)? {
            ingest.write(bytes)?;
            publisher.publish(Ready::Blob(ingest.verify()?, None))?;
        }
        Ok(())
    }
}

/// The transport's own error, if a reader wrapped one.
fn read_error(what: &str, error: std::io::Error) -> TransportError {
    match error.downcast::<RegistryError>() {
        Ok(error) => error.into(),
        Err(source) => TransportError::Io { what: format!("read {what}"), source },
    }
}

fn digest_of(like: &Digest, bytes: &[u8]) -> Digest {
    let mut hasher = like.hasher();
    hasher.update(bytes);
    hasher.finish()
}

/// Checks size and digest of a document that is in memory.
fn check_document(descriptor: &Descriptor, bytes: &[u8]) -> Result<(), TransportError> {
    let (digest, size_bytes, got_bytes) = (descriptor.digest.clone(), descriptor.size, bytes.len() as u64);
    let got = digest_of(&digest, bytes);
    // A proxy's error page instead of the document has the wrong length as well, but the digest is the better message.
    match got_bytes.cmp(&size_bytes) {
        std::cmp::Ordering::Less => Err(BlobError::Short { digest, size_bytes, got_bytes }.into()),
        std::cmp::Ordering::Greater => Err(BlobError::Long { digest, size_bytes }.into()),
        std::cmp::Ordering::Equal if got != digest => Err(BlobError::Digest { expected: digest, got }.into()),
        std::cmp::Ordering::Equal => Ok(()),
    }
}
