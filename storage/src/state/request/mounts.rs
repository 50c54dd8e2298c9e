//! Mounts, volumes and devices of a [`Request`](super::Request).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::DiffId;

/// One mount asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Mount {
    /// A file or directory of the host.
    Bind(BindMount),
    /// A named or anonymous volume.
    Volume(VolumeMount),
    /// A temporary file system.
    Tmpfs(TmpfsMount),
    /// The tree of an image.
    Image(ImageMount),
    /// Terminals of its own.
    Devpts(DevptsMount),
}

impl Mount {
    /// The absolute path in the container.
    pub fn target(&self) -> &PathBuf {
        match self {
            Self::Bind(mount) => &mount.target,
            Self::Volume(mount) => &mount.target,
            Self::Tmpfs(mount) => &mount.target,
            Self::Image(mount) => &mount.target,
            Self::Devpts(mount) => &mount.target,
        }
    }

    /// Whether what it shows is there when the container does not run: a file of the host or a volume.
    pub fn is_kept(&self) -> bool {
        matches!(self, Self::Bind(_) | Self::Volume(_))
    }

    /// The image declares it; whatever is asked for at its target replaces it.
    pub fn is_from_image(&self) -> bool {
        matches!(self, Self::Volume(volume) if volume.from_image)
    }
}

/// A file or directory of the host, seen in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindMount {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// The mount is read-only.
    pub read_only: bool,
    /// Mounts below the source are left out.
    pub non_recursive: bool,
    /// A source that does not exist is made a directory (`-v`); otherwise it is an error (`--mount`).
    pub create_source: bool,
    /// How mounts made later travel; private when absent.
    pub propagation: Option<Propagation>,
    /// Mount flags beyond these: `nosuid`, `exec`, `nodev` and their kin.
    pub options: Vec<String>,
    /// Everything in it is given to the container's user.
    pub chown: bool,
    /// The container writes beside the source, not into it.
    pub overlay: Option<Overlay>,
}

/// What a container writes into an overlay volume (`:O`): into directories of its own, which begin empty at each start,
/// unless others are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overlay {
    /// `upperdir=`, kept.
    pub upper: Option<PathBuf>,
    /// `workdir=`, on the same file system.
    pub work: Option<PathBuf>,
}

/// A volume of the store, seen in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// The volume's name. An anonymous one, which is deleted with its container, has one from the moment on at which its
    /// container's record is made.
    pub name: Option<String>,
    /// Nobody gave it a name.
    pub anonymous: bool,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// The mount is read-only.
    pub read_only: bool,
    /// An empty volume is not filled from the image.
    pub nocopy: bool,
    /// Only this directory of the volume, relative to it.
    pub subpath: Option<PathBuf>,
    /// How mounts made later travel; private when absent.
    pub propagation: Option<Propagation>,
    /// Mount flags beyond these.
    pub options: Vec<String>,
    /// The image declares this volume; an explicit mount at the same target replaces it.
    pub from_image: bool,
    /// Everything in it is given to the container's user.
    pub chown: bool,
    /// The container writes beside the volume, not into it.
    pub overlay: Option<Overlay>,
}

/// A temporary file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsMount {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// The mount is read-only.
    pub read_only: bool,
    /// Content of the image below the target is not copied into it.
    pub nocopy: bool,
    /// `size=`, as the kernel reads it: bytes, a k/m/g suffix or a percentage.
    pub size: Option<String>,
    /// `mode=`: permission bits of its root directory.
    pub mode: Option<u32>,
    /// Mount flags and further data: `noexec`, `uid=…`, `nr_inodes=…`.
    pub options: Vec<String>,
    /// Its root directory is given to the container's user.
    pub chown: bool,
    /// It is a ramfs: never swapped out, and without a limit on its size.
    pub ramfs: bool,
}

/// The tree of an image, seen in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMount {
    /// The image as it was named.
    pub image: String,
    /// Its id, from the moment on at which the container's record is made.
    pub id: String,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// The container may write, into a directory of its own that begins empty at each start.
    pub writable: bool,
    /// Only this directory of the image, relative to its root.
    pub subpath: Option<PathBuf>,
}

/// A devpts of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DevptsMount {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// `uid=`, `gid=`, `mode=`, `max=`.
    pub options: Vec<String>,
}

/// How mounts made later travel between the two sides of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Propagation {
    Private,
    Rprivate,
    Slave,
    Rslave,
    Shared,
    Rshared,
    Unbindable,
    Runbindable,
}

impl Propagation {
    /// The name mount(8) and the OCI specification use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Rprivate => "rprivate",
            Self::Slave => "slave",
            Self::Rslave => "rslave",
            Self::Shared => "shared",
            Self::Rshared => "rshared",
            Self::Unbindable => "unbindable",
            Self::Runbindable => "runbindable",
        }
    }
}

/// A secret that the container gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUse {
    /// The secret's name; what it holds is looked up at each start.
    pub name: String,
    /// Only what the secret, an object of Kubernetes in JSON, has under this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How the container sees it.
    #[serde(flatten)]
    pub kind: SecretKind,
}

/// How a container sees a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SecretKind {
    /// As a file in memory.
    Mount {
        /// Absolute path in the container.
        target: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// As an environment variable.
    Env {
        /// The variable.
        variable: String,
    },
}

/// A container whose volumes are taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumesFrom {
    /// Its name or id.
    pub container: String,
    /// All of them read-only.
    pub read_only: bool,
}

/// A device of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Absolute path on the host: a device or a directory of devices.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}
