//! One blob of a push: skipped, mounted, or uploaded, going on where a connection was cut.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::blocking::Body;

use super::super::TransportError;
use super::super::registry::RegistryError;
use super::super::registry::target::Begun;
use super::super::stop::Stop;
use super::Push;
use super::plan::{self, Sent};
use crate::digest::{Algorithm, DiffId, Digest, Hasher};
use crate::image::Layer;
use crate::image::manifest::Descriptor;
use crate::layer::compress::{self, Compressing};
use crate::layer::compression::Decompressor;
use crate::progress::{Event, Kind, Progress};

/// Blobs up to this length are sent with the request that ends their upload.
const MONOLITHIC_BYTES: u64 = 256 << 10;

/// How many repositories are asked for a blob.
const MOUNT_TRIES: usize = 3;

/// Progress that makes a connection that breaks again and again worth going on with.
const WORTHWHILE_BYTES: u64 = 1 << 20;

/// How far the uploads that are running are.
#[derive(Default)]
pub(super) struct Counters(Mutex<HashMap<Digest, Arc<AtomicU64>>>);

impl Counters {
    fn add(&self, digest: &Digest) -> Arc<AtomicU64> {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(counters.entry(digest.clone()).or_default())
    }

    /// Reports them until the push is over.
    pub(super) fn report(&self, progress: &dyn Progress, finished: &Stop) {
        while !finished.wait(Duration::from_millis(100)) {
            for (digest, counter) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
                progress.event(Event::Advanced { digest, done_bytes: counter.load(Ordering::Relaxed) });
            }
        }
    }
}

/// A session that the registry has lost, or that cannot go on.
fn is_lost(error: &TransportError) -> bool {
    let TransportError::Registry(RegistryError::Status { status, .. }) = error else { return false };
    status.starts_with("404") || status.starts_with("416")
}

impl Push<'_> {
    /// Sees to it that the registry has a blob of the store, as it is.
    pub(super) fn blob(&self, blob: &Descriptor, kind: Kind, counters: &Counters) -> Result<(), TransportError> {
        let digest = &blob.digest;
        if self.has(digest)? {
            self.progress.event(Event::Exists { digest, kind });
            return Ok(());
        }
        self.progress.event(Event::Started { digest, total_bytes: blob.size, kind });
        let counter = counters.add(digest);
        match self.retry().retrying(|| self.mounted(digest))? {
            Some(from) => self.progress.event(Event::Mounted { digest, from }),
            None => {
                self.upload(blob, &counter)?;
                self.progress.event(Event::Done { digest });
            }
        }
        Ok(())
    }

    /// Tries to have the blob taken from another repository of the registry; says from which.
    fn mounted(&self, digest: &Digest) -> Result<Option<&str>, TransportError> {
        for from in self.sources.get(digest).into_iter().flatten().take(MOUNT_TRIES) {
            match self.target.begin(digest, Some(from)) {
                Ok(Begun::Mounted) => return Ok(Some(from)),
                Ok(Begun::At(upload)) => self.target.abandon(digest, &upload),
                Err(error) if error.is_transient() => return Err(error.into()),
                // No access to that repository, or no such request: no reason not to upload.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn begin(&self, digest: &Digest) -> Result<reqwest::Url, TransportError> {
        self.retry().retrying(|| match self.target.begin(digest, None)? {
            Begun::At(upload) => Ok(upload),
            Begun::Mounted => {
                let reason = "the server mounts what was not to be mounted".to_owned();
                Err(RegistryError::Protocol { what: format!("upload of blob {digest}"), reason }.into())
            }
        })
    }

    fn upload(&self, blob: &Descriptor, counter: &Arc<AtomicU64>) -> Result<(), TransportError> {
        if blob.size <= MONOLITHIC_BYTES {
            return self.upload_whole(blob);
        }
        let digest = &blob.digest;
        let mut failures = 0;
        'session: loop {
            let mut upload = self.begin(digest)?;
            let mut offset = 0;
            loop {
                counter.store(offset, Ordering::Relaxed);
                let body = || self.file_body(blob, offset, counter);
                let patched = match offset < blob.size {
                    true => self.target.patch(digest, &upload, offset, blob.size - offset, &body),
                    false => Ok(upload.clone()),
                };
                let finished = patched.and_then(|next| self.target.finish(digest, &next, &[]));
                let Err(error) = finished else { return Ok(()) };
                let error = TransportError::from(error);
                failures += 1;
                if is_lost(&error) && failures <= self.options.client.retries {
                    continue 'session;
                }
                self.retry().wait(error, failures)?;
                // What has arrived need not be sent again, if the server keeps it.
                match self.target.status(digest, &upload) {
                    Ok(Some((next, arrived))) if arrived > 0 && arrived <= blob.size => {
                        if arrived >= offset + WORTHWHILE_BYTES {
                            failures = 0;
                        }
                        (upload, offset) = (next, arrived);
                    }
                    _ => {
                        // It may have come to its end without our hearing of it.
                        if self.has(digest)? {
                            return Ok(());
                        }
                        continue 'session;
                    }
                }
            }
        }
    }

    /// Sends a small blob with the request that ends its upload.
    fn upload_whole(&self, blob: &Descriptor) -> Result<(), TransportError> {
        let digest = &blob.digest;
        let bytes = self.store.blobs().read(digest, MONOLITHIC_BYTES)?.unwrap_or_default();
        self.retry().retrying(|| {
            let upload = self.begin(digest)?;
            Ok(self.target.finish(digest, &upload, &bytes)?)
        })
    }

    fn file_body(&self, blob: &Descriptor, offset: u64, counter: &Arc<AtomicU64>) -> Result<Body, RegistryError> {
        let failed = |reason: String| RegistryError::Setup { what: format!("blob {}", blob.digest), reason };
        let mut file = self.store.blobs().open(&blob.digest).map_err(|error| failed(error.to_string()))?;
        file.seek(SeekFrom::Start(offset)).map_err(|error| failed(crate::sys::reason(&error)))?;
        counter.store(offset, Ordering::Relaxed);
        let body = Counted { inner: file, counter: Arc::clone(counter) };
        Ok(Body::sized(body, blob.size.saturating_sub(offset)))
    }

    /// Uploads a layer compressed in another way than in the store, while it is being compressed.
    ///
    /// A stream that broke begins again: its bytes are the same, but nobody has kept them.
    pub(super) fn compressed(
        &self,
        layer: &Layer,
        format: compress::Format,
        level: i32,
        counters: &Counters,
    ) -> Result<Sent, TransportError> {
        let (digest, size) = (&layer.blob.digest, layer.blob.size);
        self.progress.event(Event::Started { digest, total_bytes: size, kind: Kind::Layer });
        let counter = counters.add(digest);
        let made = self.retry().retrying(|| {
            let upload = self.begin(digest)?;
            let state = Arc::new(Mutex::new(Stream::default()));
            let body = || {
                counter.store(0, Ordering::Relaxed);
                self.stream_body(layer, format, level, &counter, &state)
            };
            // A tar can be many times as long as what it was packed into.
            let sent = self.target.patch(digest, &upload, 0, size.saturating_mul(4), &body);
            let stream = std::mem::take(&mut *state.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(error) = stream.failure {
                self.target.abandon(digest, &upload);
                return Err(error);
            }
            let next = sent?;
            let Some((made, len_bytes)) = stream.made else { return Err(TransportError::Stopped) };
            let annotations = Some(stream.annotations).filter(|annotations| !annotations.is_empty());
            match self.target.has_blob(&made) {
                // Sent in vain, but nothing need be stored twice.
                Ok(true) => self.target.abandon(&made, &next),
                _ => self.target.finish(&made, &next, &[])?,
            }
            Ok(Descriptor { annotations, ..Descriptor::new("", made, len_bytes) })
        })?;
        self.progress.event(Event::Done { digest });
        Ok(Sent { blob: made, compression: plan::compression_of(format) })
    }

    fn stream_body(
        &self,
        layer: &Layer,
        format: compress::Format,
        level: i32,
        counter: &Arc<AtomicU64>,
        state: &Arc<Mutex<Stream>>,
    ) -> Result<Body, RegistryError> {
        let failed = |reason: String| RegistryError::Setup { what: format!("layer {}", layer.blob.digest), reason };
        let file = self.store.blobs().open(&layer.blob.digest).map_err(|error| failed(error.to_string()))?;
        let io = |error: io::Error| failed(crate::sys::reason(&error));
        let tar = Decompressor::new(Counted { inner: file, counter: Arc::clone(counter) }).map_err(io)?;
        let tar = Checked {
            inner: tar,
            hasher: Some(layer.diff_id.as_digest().hasher()),
            layer: layer.clone(),
            state: Arc::clone(state),
        };
        let inner = compress::compress(tar, format, level).map_err(io)?;
        *state.lock().unwrap_or_else(PoisonError::into_inner) = Stream::default();
        let hasher = Some(Hasher::new(Algorithm::Sha256));
        Ok(Body::new(Made { inner, hasher, len_bytes: 0, state: Arc::clone(state) }))
    }
}

/// What is known of a stream that another thread reads.
#[derive(Default)]
struct Stream {
    /// Digest and length, once it has come to its end.
    made: Option<(Digest, u64)>,
    /// What its descriptor is to say of it.
    annotations: BTreeMap<String, String>,
    /// Why it did not.
    failure: Option<TransportError>,
}

struct Counted {
    inner: File,
    counter: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.counter.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// A layer's tar, which must be what the configuration says.
struct Checked<R> {
    inner: R,
    hasher: Option<Hasher>,
    layer: Layer,
    state: Arc<Mutex<Stream>>,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fail = |failure| {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(failure);
            Err(io::Error::other("the layer is damaged"))
        };
        let len = match self.inner.read(buffer) {
            Ok(len) => len,
            Err(source) => {
                return fail(TransportError::Io { what: format!("read layer {}", self.layer.blob.digest), source });
            }
        };
        if len > 0 || buffer.is_empty() {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..len]);
            }
            return Ok(len);
        }
        let Some(hasher) = self.hasher.take() else { return Ok(0) };
        let (got, expected) = (DiffId::new(hasher.finish()), self.layer.diff_id.clone());
        match got == expected {
            true => Ok(0),
            false => fail(TransportError::DiffId { blob: self.layer.blob.digest.clone(), expected, got }),
        }
    }
}

/// The compressed bytes, whose digest is known when they are sent.
struct Made {
    inner: Compressing,
    hasher: Option<Hasher>,
    len_bytes: u64,
    state: Arc<Mutex<Stream>>,
}

impl Read for Made {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.len_bytes += len as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..len]);
        }
        if len == 0
            && !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
        {
            let made = Some((hasher.finish(), self.len_bytes));
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.made, state.annotations) = (made, self.inner.annotations().clone());
        }
        Ok(len)
    }
}
