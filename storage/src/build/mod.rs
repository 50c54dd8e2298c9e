//! What a build makes and keeps: the trees of its steps, what is known of them, and the image at the end.
//!
//! ```text
//! sources ─ copy ─┐
//! RUN's upper dir ┴─ build/trees/<key>/diff ─ finish ─┬─ images/blobs (the tar, as it is)
//!                      (next steps' lower)            └─ layers/<diffID>
//! build/steps/<key>    a step's result by its cache key      build/files/    hashes of a context's files
//! build/mounts/<id>/   what RUN --mount=type=cache keeps      build/lock      shared by builds, exclusive to prune
//! ```
//! A step's tree gets its key as its name when the step is done, without a look at its files. Its digest is taken only
//! when an image needs it; then it moves to `layers/`.

pub mod cache;

pub mod content;

pub mod copy;

pub mod exchange;

pub mod flatten;

pub mod image;

pub mod stubs;

pub mod tree;

use nix::errno::Errno;

pub use cache::{BuildCache, Key, Step};

use crate::layer::Staging;

/// Why a step failed, or could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A kernel call.
    #[error("{call} '{path}': {}", source.desc().to_lowercase())]
    Call {
        /// Which call.
        call: &'static str,
        /// On what.
        path: String,
        /// Its errno.
        source: Errno,
    },
    /// A directory is where a file is to be, or the reverse.
    #[error("cannot copy to '{path}': it is {is}")]
    InTheWay {
        /// The target.
        path: String,
        /// What is there.
        is: &'static str,
    },
    /// A circle of links.
    #[error("'{0}': too many levels of symbolic links")]
    TooManyLinks(String),
    /// An owner that this user has no id for.
    #[error("chown '{path}' to {uid}:{gid}: not among the ids of this user")]
    NoSuchId {
        /// The file.
        path: String,
        /// The owner.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// A file of the store.
    #[error("{what}: {}", crate::sys::reason(source))]
    Io {
        /// Which file.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The stack below.
    #[error(transparent)]
    View(#[from] crate::layer::view::ViewError),
    /// An archive.
    #[error(transparent)]
    Tar(#[from] crate::layer::tar::TarError),
    /// A tree that cannot be archived.
    #[error(transparent)]
    Diff(#[from] crate::layer::diff::DiffError),
    /// A tree that cannot be published.
    #[error(transparent)]
    Stage(#[from] crate::layer::staging::StageError),
    /// What came from elsewhere.
    #[error(transparent)]
    Transport(#[from] crate::transport::TransportError),
    /// The image store.
    #[error(transparent)]
    Store(#[from] crate::image::StoreError),
    /// A blob.
    #[error(transparent)]
    Blob(#[from] crate::blob::BlobError),
    /// A lock.
    #[error(transparent)]
    Lock(#[from] crate::state::lock::LockError),
    /// A directory.
    #[error(transparent)]
    Layout(#[from] crate::state::layout::LayoutError),
    /// A file that could not be replaced.
    #[error(transparent)]
    Write(#[from] crate::state::atomic::WriteError),
    /// The trash.
    #[error(transparent)]
    Trash(#[from] crate::state::trash::TrashError),
}
