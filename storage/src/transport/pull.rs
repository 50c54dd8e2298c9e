//! The pull: from any source into the store.
//!
//! ```text
//! manifest ─ index? choose ─ configuration ‖ layers, biggest first, a few at a time
//!   per layer:  network → SHA-256 + blob file ─ pipe → inflate ─┬→ SHA-256 → diffID
//!                                                               └→ untar → layers/.tmp-…
//! both digests right → syncfs → rename → record in index.json
//! ```
//! **Runs in:** the process that `pull` and `run` fork into the user's namespace; several threads. Killed at any moment
//! it leaves unlocked temporaries, which the next pull sweeps, and at worst blobs that nothing refers to.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::publish::{self, Publisher, Ready};
use super::registry::{ClientOptions, RegistryError, RegistrySource};
use super::stream::{PipeWriter, Pool, pipe};
use super::unpack::{Staged, Unpacked, is_unpacked, unpack};
use super::{BlobReader, ImageSource, PullError, RawManifest, Source, TransportError};
use crate::blob::{BlobError, Claim, Ingest};
use crate::digest::{DiffId, Digest};
use crate::image::config::Config;
use crate::image::index::Platform;
use crate::image::manifest::{Descriptor, Document, Manifest};
use crate::image::store::NewImage;
use crate::image::{CONFIG_LIMIT_BYTES, INDEX_DEPTH_LIMIT, Image, ImageError, ImageStore, MANIFEST_LIMIT_BYTES};
use crate::layer::{self, IdPolicy};
use crate::progress::{Event, Kind, Progress};

/// The longest that a server's wish to be left alone is obeyed.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(60);

/// Progress that makes a connection that breaks again and again worth going on with.
const WORTHWHILE_BYTES: u64 = 1 << 20;

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
            is_durable: true,
        }
    }
}

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
            .map_err(|reason| PullError { from: "local image".to_owned(), reason })?,
    };
    pull_from(store, opened.as_ref(), options, progress).map_err(|reason| PullError { from: opened.describe(), reason })
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
    let _pin = store.pin()?;
    store.blobs().sweep()?;
    // What cannot be swept now does not keep anybody from pulling.
    let _ = layer::sweep(&store.layout().layers());
    let pull = Pull {
        store,
        source,
        options,
        progress,
        wanted: options.platform.clone().unwrap_or_else(Platform::host),
        is_stopped: AtomicBool::new(false),
    };
    let found = pull.find_manifest()?;
    let new = pull.transfer(&found)?;
    store.record(&new)?;
    let image = store.resolve(&found.descriptor.digest.to_string())?;
    image.ok_or_else(|| TransportError::NotFound { what: "the image just pulled".to_owned(), hint: String::new() })
}

struct Pull<'a> {
    store: &'a ImageStore,
    source: &'a dyn ImageSource,
    options: &'a PullOptions,
    progress: &'a dyn Progress,
    wanted: Platform,
    /// Set when something failed and all other threads should give up.
    is_stopped: AtomicBool,
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

/// One layer to fetch, to unpack, or both.
struct Job<'a> {
    position: usize,
    blob: &'a Descriptor,
}

impl Pull<'_> {
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
            expected = match self.retrying(|| self.source.top_digest()) {
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
        let raw = self.retrying(|| self.source.manifest(None))?;
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
        let raw = self.retrying(|| self.source.manifest(Some(entry)))?;
        check_document(entry, &raw.bytes)?;
        Ok(RawManifest { media_type, bytes: raw.bytes })
    }

    /// Fetches and unpacks what is missing, publishes it, and says what to record.
    fn transfer(&self, found: &Found) -> Result<NewImage, TransportError> {
        let layers = &found.manifest.layers;
        let mut seen = HashSet::new();
        let mut jobs: Vec<Job<'_>> = layers
            .iter()
            .enumerate()
            .map(|(position, blob)| Job { position, blob })
            .filter(|job| seen.insert(&job.blob.digest))
            .collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.blob.size));
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        // Set by this thread; nothing in it means that there will be none.
        let config: OnceLock<Option<Config>> = OnceLock::new();
        let sizes: Mutex<HashMap<usize, u64>> = Mutex::default();
        let fail = |error: TransportError| {
            self.is_stopped.store(true, Ordering::Relaxed);
            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
            // The first failure is the cause of those that follow.
            if failure.as_ref().is_none_or(|known| matches!(known, TransportError::Stopped)) {
                *failure = Some(error);
            }
        };
        thread::scope(|scope| {
            let (publisher, queue) = Publisher::new();
            scope.spawn(|| {
                // Moved in, so that it is gone when publishing fails.
                let queue = queue;
                publish::run(self.store, &queue, self.options.is_durable).unwrap_or_else(&fail);
            });
            for _ in 0..self.options.jobs.clamp(1, 16).min(jobs.len()) {
                let publisher = publisher.clone();
                let (jobs, next, config, sizes, fail) = (&jobs, &next, &config, &sizes, &fail);
                scope.spawn(move || {
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match self.layer(job, layers.len(), config, &publisher) {
                            Ok(Some(size_bytes)) => {
                                sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(job.position, size_bytes);
                            }
                            Ok(None) => {}
                            Err(error) => return fail(error),
                        }
                    }
                });
            }
            let outcome = self.documents(found, &publisher);
            let _ = config.set(outcome.map_err(&fail).ok());
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let config = config.into_inner().flatten().ok_or(TransportError::Stopped)?;
        let mut descriptor = found.descriptor.clone();
        descriptor.platform = Some(config.platform.clone());
        Ok(NewImage {
            manifest: descriptor,
            index: found.index.clone(),
            id: found.manifest.config.digest.clone(),
            names: self.source.names(),
            layer_sizes: self.layer_sizes(
                layers,
                &config,
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
        let raw = match self.store.blobs().read_verified(&descriptor.digest, CONFIG_LIMIT_BYTES)? {
            Some(raw) if raw.len() as u64 == descriptor.size => raw,
            _ => {
                let raw = self.retrying(|| {
                    let mut raw = Vec::new();
                    let blob = self.source.blob(descriptor, 0)?;
                    let mut bytes = blob.reader.take(descriptor.size + 1);
                    bytes.read_to_end(&mut raw).map_err(|error| read_error(&what, error))?;
                    check_document(descriptor, &raw)?;
                    Ok(raw)
                })?;
                self.put(&descriptor.digest, &raw, publisher)?;
                raw
            }
        };
        for (digest, bytes) in &found.documents {
            self.put(digest, bytes, publisher)?;
        }
        let config = Config::parse(&what, raw)?;
        config.check_layers(&what, found.manifest.layers.len())?;
        if config.platform.rank_for(&self.wanted).is_none() {
            let (wanted, got) = (self.wanted.clone(), config.platform.clone());
            if self.options.platform.is_some() || got.os != wanted.os {
                return Err(TransportError::Platform { wanted, got });
            }
            self.progress.event(Event::Message(&format!("the image is for {got}, this machine is {wanted}")));
        }
        Ok(config)
    }

    fn put(&self, digest: &Digest, bytes: &[u8], publisher: &Publisher) -> Result<(), TransportError> {
        if let Claim::Ours(mut ingest) = self.store.blobs().claim(digest, bytes.len() as u64)? {
            ingest.write(bytes)?;
            publisher.publish(Ready::Blob(ingest.verify()?, None))?;
        }
        Ok(())
    }

    /// Does whatever one layer needs. Gives its uncompressed length if it had to be looked at.
    fn layer(
        &self,
        job: &Job<'_>,
        layers: usize,
        config: &OnceLock<Option<Config>>,
        publisher: &Publisher,
    ) -> Result<Option<u64>, TransportError> {
        let (blob, digest) = (job.blob, &job.blob.digest);
        let claim = self.store.blobs().claim(digest, blob.size)?;
        // The request is on its way while the configuration still is.
        let first = match &claim {
            Claim::Ours(_) => Some(self.source.blob(blob, 0)),
            Claim::Exists => None,
        };
        let config = config.wait().as_ref().filter(|config| config.diff_ids.len() == layers);
        let diff_id = config.and_then(|config| config.diff_ids.get(job.position)).ok_or(TransportError::Stopped)?;
        let target = (!is_unpacked(self.store, diff_id, &self.options.ids)).then_some(diff_id);
        match claim {
            Claim::Exists if target.is_none() => {
                self.progress.event(Event::Exists { digest, kind: Kind::Layer });
                Ok(None)
            }
            Claim::Exists => {
                let file = self.store.blobs().open(digest)?;
                let (size_bytes, staged) =
                    self.stream(blob, diff_id, target, |pipe| self.feed_from_store(blob, file, pipe))?;
                if let Some(staged) = staged {
                    publisher.publish(Ready::Layer(staged))?;
                }
                Ok(Some(size_bytes))
            }
            Claim::Ours(mut ingest) => {
                self.progress.event(Event::Started { digest, total_bytes: blob.size, kind: Kind::Layer });
                let (size_bytes, staged) =
                    self.stream(blob, diff_id, target, |pipe| self.fetch(blob, first, &mut ingest, pipe))?;
                publisher.publish(Ready::Blob(ingest.verify()?, staged))?;
                self.progress.event(Event::Done { digest });
                Ok(Some(size_bytes))
            }
        }
    }

    /// Runs `feed` against the unpacking of what it feeds, and checks the diffID.
    fn stream(
        &self,
        blob: &Descriptor,
        diff_id: &DiffId,
        target: Option<&DiffId>,
        feed: impl FnOnce(&PipeWriter) -> Result<(), TransportError>,
    ) -> Result<(u64, Option<Staged>), TransportError> {
        let staged =
            target.map(|target| Staged::new(self.store, &blob.digest, target, &self.options.ids)).transpose()?;
        let (writer, reader) = pipe();
        let algorithm = diff_id.as_digest().algorithm();
        let (fed, unpacked) = thread::scope(|scope| {
            let (staged, ids) = (staged.as_ref(), &self.options.ids);
            let unpacking = scope.spawn(move || unpack(&blob.digest, reader, algorithm, staged, ids));
            let fed = feed(&writer);
            match &fed {
                Ok(()) => {
                    self.progress.event(Event::Unpacking { digest: &blob.digest });
                    writer.end();
                }
                Err(_) => drop(writer),
            }
            (fed, unpacking.join().expect("unpacking does not panic"))
        });
        let Unpacked { diff_id: got, size_bytes } = match (fed, unpacked) {
            (Ok(()), Ok(unpacked)) => unpacked,
            // The feed stops when unpacking fails: that is the cause then.
            (Err(TransportError::Stopped) | Ok(()), Err(error)) => return Err(error),
            (Err(error), _) => return Err(error),
        };
        match got == *diff_id {
            true => Ok((size_bytes, staged)),
            false => Err(TransportError::DiffId { blob: blob.digest.clone(), expected: diff_id.clone(), got }),
        }
    }

    /// Feeds a blob that is in the store, and checks on the way that it still is what it was.
    fn feed_from_store(&self, blob: &Descriptor, file: std::fs::File, pipe: &PipeWriter) -> Result<(), TransportError> {
        let pool = Pool::default();
        let mut hasher = blob.digest.hasher();
        let mut file = file;
        loop {
            let (buffer, result) = pool.fill(&mut file);
            result.map_err(|error| read_error(&format!("blob {}", blob.digest), error))?;
            if buffer.is_empty() {
                break;
            }
            hasher.update(&buffer);
            if self.is_stopped.load(Ordering::Relaxed) || pipe.send(Arc::new(buffer)).is_err() {
                return Err(TransportError::Stopped);
            }
        }
        let got = hasher.finish();
        match got == blob.digest {
            true => Ok(()),
            false => Err(BlobError::Digest { expected: blob.digest.clone(), got }.into()),
        }
    }

    /// Downloads a blob into its file and into the pipe, going on where a connection was cut.
    fn fetch<'s>(
        &'s self,
        blob: &Descriptor,
        first: Option<Result<BlobReader<'s>, TransportError>>,
        ingest: &mut Ingest,
        pipe: &PipeWriter,
    ) -> Result<(), TransportError> {
        let pool = Pool::default();
        let mut first = first;
        let mut failures = 0;
        let mut since_bytes = 0;
        loop {
            let opened = first.take().unwrap_or_else(|| self.source.blob(blob, ingest.written_bytes()));
            let error = match opened.and_then(|opened| self.fetch_once(blob, opened, ingest, pipe, &pool)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if ingest.written_bytes() >= since_bytes + WORTHWHILE_BYTES {
                failures = 0;
            }
            since_bytes = ingest.written_bytes();
            failures += 1;
            self.wait_before_retry(error, failures)?;
        }
    }

    fn fetch_once(
        &self,
        blob: &Descriptor,
        opened: BlobReader<'_>,
        ingest: &mut Ingest,
        pipe: &PipeWriter,
        pool: &Pool,
    ) -> Result<(), TransportError> {
        let BlobReader { offset, mut reader } = opened;
        let what = format!("blob {}", blob.digest);
        let mut skip = ingest.written_bytes().checked_sub(offset).ok_or_else(|| TransportError::Invalid {
            what: what.clone(),
            reason: "the source skipped some bytes".to_owned(),
        })?;
        let mut reported = Instant::now();
        loop {
            let (buffer, result) = pool.fill(&mut reader);
            // A server that cannot resume sends everything again; what was there is not looked at twice, and the
            // digest of the whole tells if it sent something else this time.
            let skipped = skip.min(buffer.len() as u64);
            skip -= skipped;
            let is_end = buffer.is_empty();
            if skipped < buffer.len() as u64 {
                let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
                match skipped {
                    0 => {
                        ingest.write(&buffer)?;
                        pipe.send(Arc::new(buffer)).map_err(|_| TransportError::Stopped)?;
                    }
                    _ => {
                        let (rest, _) = pool.fill(&mut &buffer[skipped..]);
                        ingest.write(&rest)?;
                        pipe.send(Arc::new(rest)).map_err(|_| TransportError::Stopped)?;
                    }
                }
                if reported.elapsed() > Duration::from_millis(50) {
                    reported = Instant::now();
                    self.progress.event(Event::Advanced { digest: &blob.digest, done_bytes: ingest.written_bytes() });
                }
            }
            result.map_err(|error| read_error(&what, error))?;
            if self.is_stopped.load(Ordering::Relaxed) {
                return Err(TransportError::Stopped);
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// Repeats a request while its failures are transient.
    fn retrying<T>(&self, mut request: impl FnMut() -> Result<T, TransportError>) -> Result<T, TransportError> {
        let mut failures = 0;
        loop {
            match request() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    failures += 1;
                    self.wait_before_retry(error, failures)?;
                }
            }
        }
    }

    /// Waits after the `failures`th failure in a row, or gives the error back if that was the last.
    fn wait_before_retry(&self, error: TransportError, failures: u32) -> Result<(), TransportError> {
        let limit = self.source.retries();
        if !error.is_transient() || failures > limit || self.is_stopped.load(Ordering::Relaxed) {
            return Err(error);
        }
        let delay = match &error {
            TransportError::Registry(RegistryError::RateLimited { retry_after: Some(wish), .. }) => {
                (*wish).min(RETRY_AFTER_LIMIT)
            }
            _ => {
                // Clients that failed together should not come back together.
                let nanos =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
                let delay = self.options.retry_delay * (1 << (failures - 1).min(6));
                delay.mul_f64(0.75 + f64::from(nanos % 1000) / 2000.0)
            }
        };
        let text = format!("{error}: trying again in {:.1} s ({failures}/{limit})", delay.as_secs_f64());
        self.progress.event(Event::Message(&text));
        // In pieces, so that a failure elsewhere ends the wait.
        let deadline = Instant::now() + delay;
        while Instant::now() < deadline {
            if self.is_stopped.load(Ordering::Relaxed) {
                return Err(TransportError::Stopped);
            }
            thread::sleep(deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
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
