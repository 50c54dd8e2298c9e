//! Content-addressed blobs, in the `blobs/` of an OCI image layout.
//!
//! ```text
//! images/blobs/sha256/<hex>         whole, verified, never changed
//! images/blobs/.tmp-sha256-<hex>    on its way; locked by whoever writes it
//! ```

pub mod ingest;

pub mod spool;

pub mod store;

use std::io;
use std::path::PathBuf;

pub use ingest::{Ingest, Verified};
pub use store::{BlobStore, Claim};

use crate::digest::Digest;

/// A blob is not what its descriptor says, or cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The bytes are others.
    #[error("blob {expected}: wrong content: its digest is {got}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// Fewer bytes than promised.
    #[error("blob {digest}: truncated: {got_bytes} of {size_bytes} bytes")]
    Short {
        /// Which blob.
        digest: Digest,
        /// Length by its descriptor.
        size_bytes: u64,
        /// Length that came.
        got_bytes: u64,
    },
    /// More bytes than promised.
    #[error("blob {digest}: longer than the {size_bytes} bytes that the manifest says")]
    Long {
        /// Which blob.
        digest: Digest,
        /// Length by its descriptor.
        size_bytes: u64,
    },
    /// A document longer than is read into memory.
    #[error("blob {digest}: {size_bytes} bytes are more than the {limit_bytes} that coracle reads")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A system call.
    #[error("{call} {}: {}", path.display(), crate::sys::reason(source))]
    Io {
        /// Which call.
        call: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was dropped, and what it was to be made of is not what it was.
    #[error("blob {digest}: it was dropped and cannot be made again: {reason}: pull its image again")]
    Remake {
        /// Which blob.
        digest: Digest,
        /// Why.
        reason: Box<crate::image::dropped::RecipeError>,
    },
    /// The lock of a blob that is on its way.
    #[error(transparent)]
    Lock(#[from] crate::state::lock::LockError),
}

impl BlobError {
    fn io(call: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { call, path, source }
    }
}
