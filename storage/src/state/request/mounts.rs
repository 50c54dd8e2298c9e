//! Mounts, volumes and devices of a [`Request`](super::Request).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
}

impl Mount {
    /// The absolute path in the container.
    pub fn target(&self) -> &PathBuf {
        match self {
            Self::Bind(mount) => &mount.target,
            Self::Volume(mount) => &mount.target,
            Self::Tmpfs(mount) => &mount.target,
        }
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
}

/// A volume of the store, seen in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// The volume's name; absent for an anonymous one, which is deleted with its container.
    pub name: Option<String>,
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
