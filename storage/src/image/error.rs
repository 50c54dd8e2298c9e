//! What goes wrong with the image store.

use std::io;
use std::path::PathBuf;

use super::ImageError;
use crate::blob::BlobError;
use crate::digest::Digest;
use crate::state::atomic::WriteError;
use crate::state::layout::LayoutError;
use crate::state::lock::LockError;

/// An image store cannot be read or written, or has no one answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// What is to go may be needed.
    #[error("the store is in use: try again when nothing is pulled, built or pushed")]
    Busy,
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
