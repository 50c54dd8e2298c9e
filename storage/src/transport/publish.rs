//! Giving blobs and layers their names, once they are on disk for good.
//!
//! What has its final name is believed by everybody for ever, also after a power cut; so it gets it only after a
//! `syncfs`. One sync serves everything that is ready: a pull of less than [`GATHER`] has exactly one, a longer one about
//! one per [`GATHER`], and other pulls that wait for a blob of this one never wait for the rest of it.

use std::fs::{self, File};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::unistd::syncfs;

use super::TransportError;
use super::unpack::Staged;
use crate::blob::Verified;
use crate::image::ImageStore;

/// How long finished work may wait for more of its kind.
const GATHER: Duration = Duration::from_secs(1);

/// Something that is complete and verified, under a temporary name.
pub(super) enum Ready {
    /// A blob, and the layer unpacked from it, if it was.
    Blob(Verified, Option<Staged>),
    /// A layer unpacked from a blob that was there.
    Layer(Staged),
}

/// Where finished work is handed in.
#[derive(Clone)]
pub(super) struct Publisher(Sender<Ready>);

impl Publisher {
    /// The publisher, and the queue to give to [`run`] in a thread of its own.
    pub(super) fn new() -> (Self, Receiver<Ready>) {
        let (sender, receiver) = channel();
        (Self(sender), receiver)
    }

    pub(super) fn publish(&self, ready: Ready) -> Result<(), TransportError> {
        // The other end goes away only when publishing failed; that error is the one to be told.
        self.0.send(ready).map_err(|_| TransportError::Stopped)
    }
}

/// Publishes until all publishers are gone. `is_durable` is off in tests only.
pub(super) fn run(store: &ImageStore, queue: &Receiver<Ready>, is_durable: bool) -> Result<(), TransportError> {
    let mut pending = Vec::new();
    loop {
        match queue.recv() {
            Ok(ready) => pending.push(ready),
            Err(_) => return Ok(()),
        }
        let deadline = Instant::now() + GATHER;
        let is_over = loop {
            match queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ready) => pending.push(ready),
                Err(RecvTimeoutError::Timeout) => break false,
                Err(RecvTimeoutError::Disconnected) => break true,
            }
        };
        if is_durable {
            sync(store)?;
        }
        for ready in pending.drain(..) {
            match ready {
                Ready::Blob(blob, layer) => {
                    layer.map(Staged::publish).transpose()?;
                    blob.publish()?;
                }
                Ready::Layer(layer) => layer.publish()?,
            }
        }
        if is_over {
            return Ok(());
        }
    }
}

fn sync(store: &ImageStore) -> Result<(), TransportError> {
    let blobs = store.blobs().dir().to_owned();
    let layers = store.layout().layers();
    for (position, dir) in [&blobs, &layers].into_iter().enumerate() {
        let failed = |source| TransportError::Io { what: format!("syncfs {}", dir.display()), source };
        // Almost always one file system.
        if position > 0 && (!dir.exists() || is_same_file_system(&blobs, dir)) {
            continue;
        }
        let dir = File::open(dir).map_err(failed)?;
        syncfs(&dir).map_err(|errno| failed(errno.into()))?;
    }
    Ok(())
}

fn is_same_file_system(one: &std::path::Path, other: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(one) == device(other)
}
