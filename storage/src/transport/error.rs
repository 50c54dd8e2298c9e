//! What goes wrong between a source and the store.

use std::io;

use super::registry::RegistryError;
use crate::blob::BlobError;
use crate::digest::{DiffId, Digest};
use crate::image::index::Platform;
use crate::image::{ImageError, StoreError};
use crate::layer::diff::DiffError;
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
    /// The image store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tree cannot be made a layer.
    #[error(transparent)]
    Diff(#[from] DiffError),
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
    /// The image that the source has is for another machine than was asked for.
    #[error("the image is for {got}, not for {wanted}")]
    Platform {
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is.
        got: Box<Platform>,
    },
    /// A layer cannot be decompressed or unpacked.
    #[error("layer {blob}: {reason}")]
    Unpack {
        /// The compressed layer's digest, or the layer's own name.
        blob: String,
        /// What is wrong with it.
        reason: String,
        /// Whether the file system is full.
        is_full_disk: bool,
    },
    /// `policy.json` does not allow the image.
    #[error("refused by {file}: {reason}")]
    Policy {
        /// The policy.
        file: String,
        /// Which requirement is not met.
        reason: String,
    },
    /// Stopped because something else of the same image failed.
    #[error("stopped")]
    Stopped,
    /// A file or a directory of a local source, or of the store.
    #[error("{what}: {}", crate::sys::reason(source))]
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
            Self::Store(StoreError::Write(error)) => is_full(error.source_error()),
            Self::Store(StoreError::Io { source, .. } | StoreError::Blob(BlobError::Io { source, .. })) => {
                is_full(source)
            }
            Self::Diff(DiffError::Io { source, .. }) => is_full(source),
            Self::Unpack { is_full_disk, .. } => *is_full_disk,
            _ => false,
        }
    }
}

/// A pull failed. `Display` is one complete line: `pull docker.io/library/x:latest: tag latest: manifest unknown`.
#[derive(Debug, thiserror::Error)]
#[error("pull {from}: {reason}")]
pub struct PullError {
    /// What was to be pulled.
    pub from: String,
    /// Why it is not there now.
    pub reason: TransportError,
}

/// A push failed. `Display` is one complete line: `push localhost:5000/x:latest: layer sha256:…: access denied`.
#[derive(Debug, thiserror::Error)]
#[error("push {to}: {reason}")]
pub struct PushError {
    /// Where it was to go.
    pub to: String,
    /// Why it is not there now.
    pub reason: TransportError,
}
