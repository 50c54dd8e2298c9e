//! What goes wrong between a source and the store.

use std::io;

use super::registry::RegistryError;
use crate::blob::BlobError;
use crate::digest::{DiffId, Digest};
use crate::image::ImageError;
use crate::reference::ParseReferenceError;

/// An image could not be read from its source or written to the store. `Display` is one complete line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Not a reference.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
    /// A registry refused or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A document of the image is not acceptable.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A blob is not what its descriptor promises, or cannot be written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The bytes of a manifest are not those of the digest it was asked for by.
    #[error("manifest {expected}: wrong content: its digest is {got}")]
    ManifestDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// The uncompressed bytes of a layer are not what the configuration promises.
    #[error("layer {blob}: uncompressed it is {got}, not {expected} as the image configuration says")]
    DiffId {
        /// The compressed layer.
        blob: Digest,
        /// What the configuration says.
        expected: DiffId,
        /// What it is.
        got: DiffId,
    },
    /// A file or a directory of a local source, or of the store.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and with which file.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The source is not what its transport expects.
    #[error("{what}: {reason}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// In which way.
        reason: String,
    },
    /// The source does not have the image, or not the blob.
    #[error("{what}: not found{hint}")]
    NotFound {
        /// What is missing.
        what: String,
        /// Empty, or `: ` and what there is instead.
        hint: String,
    },
}

impl TransportError {
    /// Whether the same request may well succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether the store's file system is full.
    pub fn is_full_disk(&self) -> bool {
        let is_full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Blob(BlobError::Io { source, .. }) | Self::Io { source, .. } => is_full(source),
            _ => false,
        }
    }
}
