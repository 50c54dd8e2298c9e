//! Images: manifests, configurations, names.

pub mod manifest;

pub mod index;

pub mod config;

pub mod record;

mod error;

pub mod store;

mod garbage;

pub mod undo;

pub mod list;

pub mod space;

pub mod dropped;

pub use store::{Image, ImageStore, Layer, StoreError};

use crate::digest::Digest;

/// A document of an image is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Larger than any honest document of its kind.
    #[error("{what}: {len_bytes} bytes are more than the {limit_bytes} that coracle reads")]
    TooLarge {
        /// Which document.
        what: String,
        /// Its length.
        len_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Not the JSON that it should be.
    #[error("{what}: invalid JSON: {source}")]
    Json {
        /// Which document.
        what: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// Docker's manifest format of before 2016.
    #[error(
        "{what}: docker image manifest version 2, schema 1 is not supported any more: rebuild or convert the image"
    )]
    Schema1 {
        /// Which document.
        what: String,
    },
    /// Manifest and index in one: two readers would see two images.
    #[error("{what}: ambiguous manifest: {reason}")]
    Ambiguous {
        /// Which document.
        what: String,
        /// What contradicts what.
        reason: String,
    },
    /// Neither manifest nor index.
    #[error("{what}: unsupported manifest type {media_type:?}")]
    ManifestType {
        /// Which document.
        what: String,
        /// What it calls itself.
        media_type: String,
    },
    /// Stored like an image, but something else: a chart, a signature, a model.
    #[error("{what}: not a container image but an artifact of type {artifact_type:?}")]
    Artifact {
        /// Which document.
        what: String,
        /// What it calls itself.
        artifact_type: String,
    },
    /// A layer that no reader here understands.
    #[error("{what}: unsupported layer type {media_type:?} of {digest}")]
    LayerType {
        /// Which document.
        what: String,
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// Configuration and manifest disagree about the stack.
    #[error("{what}: the manifest has {layers} layers, the configuration {diff_ids}")]
    LayerCount {
        /// Which image.
        what: String,
        /// Layers in the manifest.
        layers: usize,
        /// Entries of `rootfs.diff_ids`.
        diff_ids: usize,
    },
    /// The configuration is for something else than layers of files.
    #[error("{what}: unsupported rootfs type {kind:?}")]
    RootFsType {
        /// Which document.
        what: String,
        /// Its `rootfs.type`.
        kind: String,
    },
    /// An index without a fitting image.
    #[error("{what}: no image for platform {wanted}; there is {available}")]
    NoPlatform {
        /// Which index.
        what: String,
        /// What was asked for.
        wanted: Box<index::Platform>,
        /// What it has, comma separated.
        available: String,
    },
    /// Indexes of indexes beyond reason.
    #[error("{what}: more than {limit} image indexes inside each other")]
    IndexDepth {
        /// Which index.
        what: String,
        /// The limit.
        limit: usize,
    },
    /// Not a platform.
    #[error("invalid platform {input:?}: expected os/arch[/variant]")]
    ParsePlatform {
        /// What was to be parsed.
        input: String,
    },
}

/// The longest manifest or index that is read.
pub const MANIFEST_LIMIT_BYTES: u64 = 4 << 20;

/// The longest image configuration that is read.
pub const CONFIG_LIMIT_BYTES: u64 = 16 << 20;

/// How many indexes may stand inside each other.
pub const INDEX_DEPTH_LIMIT: usize = 4;

/// Parses one JSON document of at most `limit_bytes`; depth is bounded by serde_json (128).
fn parse_json<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8], limit_bytes: u64) -> Result<T, ImageError> {
    let len_bytes = bytes.len() as u64;
    if len_bytes > limit_bytes {
        return Err(ImageError::TooLarge { what: what.to_owned(), len_bytes, limit_bytes });
    }
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json { what: what.to_owned(), source })
}
