//! One layer of a pull: download ‖ hash ‖ inflate ‖ hash ‖ untar.

use std::fs::File;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::super::publish::{Publisher, Ready};
use super::super::stream::{PipeWriter, Pool, pipe};
use super::super::unpack::{Staged, Unpacked, is_unpacked, unpack};
use super::super::{BlobReader, TransportError};
use super::early::{Early, Prepared};
use super::{Pull, PullOptions, read_error};
use crate::blob::{BlobError, Claim, Ingest};
use crate::digest::DiffId;
use crate::image::config::Config;
use crate::image::manifest::Descriptor;
use crate::progress::{Event, Kind};

/// Progress that makes a connection that breaks again and again worth going on with.
const WORTHWHILE_BYTES: u64 = 1 << 20;

/// One layer to fetch, to unpack, or both.
pub(super) struct Job<'a> {
    /// Which of the image's layers, from the bottom.
    pub(super) position: usize,
    pub(super) blob: &'a Descriptor,
}

impl Pull<'_> {
    /// Does whatever one layer needs. Gives its uncompressed length if it had to be looked at.
    pub(super) fn layer(
        &self,
        job: &Job<'_>,
        layers: usize,
        known_config: &OnceLock<Option<Config>>,
        publisher: &Publisher,
        early: &Early,
    ) -> Result<Option<u64>, TransportError> {
        let (blob, digest) = (job.blob, &job.blob.digest);
        if let Some(Prepared { mut ingest, staged }) = early.take(job.position) {
            let diff_id = known_config.wait().as_ref().and_then(|config| config.diff_ids.get(job.position));
            let diff_id = diff_id.ok_or(TransportError::Stopped)?;
            self.progress.event(Event::Started { digest, total_bytes: blob.size, kind: Kind::Layer });
            let feed = |pipe: &PipeWriter| self.fetch(blob, None, &mut ingest, pipe, early);
            let (size_bytes, staged) = self.stream(blob, diff_id, Some(staged), feed)?;
            early.settle(job.position)?;
            publisher.publish(Ready::Blob(ingest.verify()?, staged))?;
            self.progress.event(Event::Done { digest });
            return Ok(Some(size_bytes));
        }
        if self.store.is_dropped(digest) {
            let config = known_config.wait().as_ref().filter(|config| config.diff_ids.len() == layers);
            let diff_id = config.and_then(|config| config.diff_ids.get(job.position)).ok_or(TransportError::Stopped)?;
            // A push makes the blob again.
            if is_unpacked(self.store, diff_id, &self.options.ids) {
                self.progress.event(Event::Exists { digest, kind: Kind::Layer });
                return Ok(None);
            }
        }
        let claim = self.store.blobs().claim(digest, blob.size)?;
        // The request is on its way while the configuration still is.
        let first = match &claim {
            Claim::Ours(_) => Some(self.source.blob(blob, 0)),
            Claim::Exists => None,
        };
        let config = known_config.wait().as_ref().filter(|config| config.diff_ids.len() == layers);
        let diff_id = config.and_then(|config| config.diff_ids.get(job.position)).ok_or(TransportError::Stopped)?;
        let target = (!is_unpacked(self.store, diff_id, &self.options.ids)).then_some(diff_id);
        let PullOptions { ids, is_lazy, .. } = self.options;
        let staged = || target.map(|target| Staged::new(self.store, digest, target, ids, *is_lazy)).transpose();
        match claim {
            Claim::Exists if target.is_none() => {
                self.progress.event(Event::Exists { digest, kind: Kind::Layer });
                Ok(None)
            }
            Claim::Exists => {
                let file = self.store.blobs().open(digest)?;
                match self.stream(blob, diff_id, staged()?, |pipe| self.feed_from_store(blob, file, pipe)) {
                    Ok((size_bytes, staged)) => {
                        if let Some(staged) = staged {
                            publisher.publish(Ready::Layer(staged))?;
                        }
                        Ok(Some(size_bytes))
                    }
                    // Not what it was any more: once more from its source.
                    Err(_) if !self.store.blobs().check(digest)? => {
                        self.store.blobs().remove(digest)?;
                        self.layer(job, layers, known_config, publisher, early)
                    }
                    Err(error) => Err(error),
                }
            }
            Claim::Ours(mut ingest) => {
                self.progress.event(Event::Started { digest, total_bytes: blob.size, kind: Kind::Layer });
                let (size_bytes, staged) =
                    self.stream(blob, diff_id, staged()?, |pipe| self.fetch(blob, first, &mut ingest, pipe, early))?;
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
        staged: Option<Staged>,
        feed: impl FnOnce(&PipeWriter) -> Result<(), TransportError>,
    ) -> Result<(u64, Option<Staged>), TransportError> {
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
    fn feed_from_store(&self, blob: &Descriptor, file: File, pipe: &PipeWriter) -> Result<(), TransportError> {
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
            if self.stop.is_set() || pipe.send(Arc::new(buffer)).is_err() {
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
        early: &Early,
    ) -> Result<(), TransportError> {
        let pool = Pool::new(self.options.is_lazy);
        let mut first = first;
        let mut failures = 0;
        let mut since_bytes = 0;
        loop {
            let opened = first.take().unwrap_or_else(|| self.source.blob(blob, ingest.written_bytes()));
            let error = match opened.and_then(|opened| self.fetch_once(blob, opened, ingest, pipe, (&pool, early))) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if ingest.written_bytes() >= since_bytes + WORTHWHILE_BYTES {
                failures = 0;
            }
            since_bytes = ingest.written_bytes();
            failures += 1;
            self.retry().wait(error, failures)?;
        }
    }

    fn fetch_once(
        &self,
        blob: &Descriptor,
        opened: BlobReader<'_>,
        ingest: &mut Ingest,
        pipe: &PipeWriter,
        (pool, early): (&Pool, &Early),
    ) -> Result<(), TransportError> {
        let BlobReader { offset, mut reader } = opened;
        let what = format!("blob {}", blob.digest);
        let mut skip = ingest.written_bytes().checked_sub(offset).ok_or_else(|| TransportError::Invalid {
            what: what.clone(),
            reason: "the source skipped some bytes".to_owned(),
        })?;
        let mut reported = Instant::now();
        loop {
            early.give_way();
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
            if self.stop.is_set() {
                return Err(TransportError::Stopped);
            }
            if is_end {
                return Ok(());
            }
        }
    }
}
