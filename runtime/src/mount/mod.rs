//! Mounts as data, then applied: the root file system, what the bundle's `mounts` ask for, masks.

pub mod target;

pub mod options;

pub mod rootfs;

pub mod stage;

pub mod table;

pub mod fuse;

mod overlay;

pub mod apply;

pub mod dev;

pub mod secrets;

pub mod masks;

pub mod probe;

pub use crate::sys::mount::{Attributes, attach, attr, clone_tree, open_in_root, set_attributes};

use crate::sys::SysError;

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// A mount of the bundle failed.
    #[error("mount {source_name} on {target}: {source}")]
    Mount {
        /// What was to be mounted.
        source_name: String,
        /// Where, as the container sees it.
        target: String,
        /// Why.
        source: SysError,
    },
    /// A directory on a file, or a file on a directory.
    #[error("mount {source_name} on {target}: {source_name} is {given}, but {target} in the container is {found}")]
    Mismatch {
        /// What was to be mounted.
        source_name: String,
        /// Where, as the container sees it.
        target: String,
        /// What the source is.
        given: &'static str,
        /// What the target is.
        found: &'static str,
    },
    /// The image has something else where an ordinary directory is needed.
    #[error("the image's {path} is {found}, not a directory: it cannot be mounted on")]
    NotADirectory {
        /// `/proc`, `/sys` or `/dev`.
        path: String,
        /// What it is.
        found: &'static str,
    },
    /// An option that no mount has.
    #[error("mount on {target}: unknown option \"{option}\"")]
    Option {
        /// Where, as the container sees it.
        target: String,
        /// The option.
        option: String,
    },
    /// The root file system could not be put together.
    #[error("root file system: {0}")]
    Rootfs(#[source] SysError),
    /// Every driver that may mount it was refused.
    #[error("root file system: {0}")]
    NoDriver(rootfs::Refusals),
    /// The set-user-ID program that mounts for ordinary users refused; it has said why.
    #[error("{program}: {status}")]
    Helper {
        /// `fusermount3`.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// A kernel call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
}
