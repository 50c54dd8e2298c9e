//! The volumes of a pod, and where its containers have them.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use storage::state::request::{
    BindMount, Device, ImageMount, Mount, Propagation, Request, SecretKind, SecretUse, TmpfsMount, VolumeMount,
};

use super::World;
use crate::cli::parse::{mount_flags, volume};
use crate::commands::kube::model::{self, ConfigMap, Container, FilesFrom};
use crate::commands::kube::read::NamedPod;
use crate::error::CommandError;

/// Permission bits of files that nobody gave any.
const MODE: u32 = 0o644;

/// Files that are put into a volume before a container has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands::kube) struct Files {
    /// The volume, which is made if there is none.
    pub(in crate::commands::kube) volume: String,
    /// Path in the volume, permission bits, content.
    pub(in crate::commands::kube) items: Vec<(PathBuf, u32, Vec<u8>)>,
}

/// A path of the host that a pod needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands::kube) struct HostPath {
    /// It is absolute.
    pub(in crate::commands::kube) path: PathBuf,
    /// What it has to be.
    pub(in crate::commands::kube) kind: HostPathKind,
}

/// What a path of the host has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands::kube) enum HostPathKind {
    /// Something.
    Any,
    /// A directory, which is made if there is nothing.
    DirectoryOrCreate,
    /// A file, which is made if there is nothing.
    FileOrCreate,
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A socket.
    Socket,
    /// A device with characters.
    CharDevice,
    /// A device with blocks.
    BlockDevice,
}

impl HostPathKind {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "" => Self::Any,
            "DirectoryOrCreate" => Self::DirectoryOrCreate,
            "FileOrCreate" => Self::FileOrCreate,
            "Directory" => Self::Directory,
            "File" => Self::File,
            "Socket" => Self::Socket,
            "CharDevice" => Self::CharDevice,
            "BlockDevice" => Self::BlockDevice,
            _ => return None,
        })
    }
}

/// One volume of the pod.
#[derive(Clone, Debug, PartialEq)]
enum Volume {
    Host(HostPath),
    /// A volume of the store.
    Named {
        name: String,
        read_only: bool,
    },
    /// A volume of the store that goes with the pod.
    Empty {
        name: String,
    },
    /// In memory, each container its own.
    Memory {
        size: Option<u64>,
    },
    ConfigMap(Files),
    /// Path, permission bits, key.
    Secret {
        name: String,
        items: Vec<(PathBuf, u32, String)>,
    },
    Image(String),
    /// What it would hold is not there, and need not be.
    Absent,
}

/// The volumes of a pod by the names that its containers use.
#[derive(Debug, Default)]
pub(super) struct Volumes(BTreeMap<String, Volume>);

impl Volumes {
    pub(super) fn of(named: &NamedPod, world: &World<'_>) -> Result<Self, CommandError> {
        let mut volumes = BTreeMap::new();
        for one in &named.spec.volumes {
            let made = volume_of(one, named, world).map_err(|error| match error {
                Failure::Why(why) => CommandError::user(format!("failed to create volume {:?}: {why}", one.name)),
                Failure::Error(error) => error.while_doing(format!("failed to create volume {:?}", one.name)),
            })?;
            if volumes.insert(one.name.clone(), made).is_some() {
                return Err(CommandError::user(format_args!(
                    "the pod {:?} is invalid; duplicate volume name {:?} detected",
                    named.name, one.name
                )));
            }
        }
        Ok(Self(volumes))
    }

    /// What has to be there before the first container.
    pub(super) fn needed(self) -> (Vec<Files>, Vec<HostPath>) {
        let (mut files, mut paths) = (Vec::new(), Vec::new());
        for volume in self.0.into_values() {
            match volume {
                Volume::ConfigMap(one) => files.push(one),
                Volume::Host(path) => paths.push(path),
                _ => {}
            }
        }
        (files, paths)
    }

    /// Gives a container what it mounts.
    pub(super) fn mount(&self, container: &Container, request: &mut Request) -> Result<(), CommandError> {
        let mut seen: Vec<PathBuf> = Vec::new();
        for mount in &container.volume_mounts {
            let Some(volume) = self.0.get(&mount.name) else {
                return Err(CommandError::user(format_args!(
                    "volume mount {} specified for container but not configured in volumes",
                    mount.name
                )));
            };
            let bad = |why: String| {
                CommandError::user(format!("container {:?}: volumeMounts {:?}: {why}", container.name, mount.name))
            };
            let place = Place::of(mount).map_err(bad)?;
            if seen.contains(&place.target) {
                return Err(bad(format!("{}: duplicate mount destination", place.target.display())));
            }
            seen.push(place.target.clone());
            place.put(volume, request).map_err(bad)?;
        }
        Ok(())
    }
}

/// Why there is no volume.
enum Failure {
    Why(String),
    Error(CommandError),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Why(why)
    }
}

fn volume_of(one: &model::Volume, named: &NamedPod, world: &World<'_>) -> Result<Volume, Failure> {
    if let Some(host) = &one.host_path {
        let kind = HostPathKind::parse(&host.kind).ok_or_else(|| format!("invalid HostPath type {}", host.kind))?;
        if !host.path.starts_with('/') || host.path.contains('\0') {
            return Err(Failure::Why(format!("hostPath {:?}: must be an absolute path", host.path)));
        }
        return Ok(Volume::Host(HostPath { path: mount_flags::clean(Path::new(&host.path)), kind }));
    }
    if let Some(claim) = &one.persistent_volume_claim {
        let name = volume::volume_name(&claim.claim_name)?;
        return Ok(Volume::Named { name, read_only: claim.read_only });
    }
    if let Some(from) = &one.config_map {
        return config_map(from, world.config_maps).map_err(Failure::Why);
    }
    if let Some(from) = &one.secret {
        let keys = (world.secret)(&from.secret_name).map_err(Failure::Error)?;
        let Some(keys) = keys else {
            let missing = || format!("no secret with name or id {:?}: no such secret", from.secret_name);
            return if from.optional { Ok(Volume::Absent) } else { Err(Failure::Why(missing())) };
        };
        let items = chosen(from, keys.keys())?.into_iter().map(|(path, mode, key)| (path, mode, key.clone()));
        return Ok(Volume::Secret { name: from.secret_name.clone(), items: items.collect() });
    }
    if let Some(empty) = &one.empty_dir {
        return match empty.medium.as_str() {
            "Memory" => {
                let size = empty.size_limit.as_ref();
                let bytes =
                    size.map(|size| size.whole().ok_or_else(|| format!("sizeLimit {:?} is no quantity", size.0)));
                Ok(Volume::Memory { size: bytes.transpose()?.filter(|bytes| *bytes > 0) })
            }
            // Other pods have volumes of this name, too.
            "" => Ok(Volume::Empty { name: volume::volume_name(&format!("{}-{}", named.name, one.name))? }),
            other => Err(Failure::Why(format!("emptyDir.medium {other:?}: must be Memory, or absent"))),
        };
    }
    if let Some(image) = &one.image {
        return Ok(Volume::Image(image.reference.clone()));
    }
    Err(Failure::Why(
        "HostPath, ConfigMap, EmptyDir, Secret, Image and PersistentVolumeClaim are currently the only supported \
         VolumeSource"
            .to_owned(),
    ))
}

fn config_map(from: &FilesFrom, all: &BTreeMap<String, ConfigMap>) -> Result<Volume, String> {
    let Some(map) = all.get(&from.name) else {
        return if from.optional { Ok(Volume::Absent) } else { Err(format!("no such ConfigMap {:?}", from.name)) };
    };
    if let Some(key) = map.data.keys().find(|key| map.binary_data.contains_key(*key)) {
        return Err(format!(
            "the ConfigMap {:?} is invalid: duplicate key {key:?} present in data and binaryData",
            from.name
        ));
    }
    let mut values: BTreeMap<&String, Vec<u8>> =
        map.data.iter().map(|(key, text)| (key, text.clone().into_bytes())).collect();
    for (key, text) in &map.binary_data {
        values.insert(key, binary(text).ok_or_else(|| format!("binaryData {key:?} of {:?}: not base64", from.name))?);
    }
    let items = chosen(from, values.keys().copied())?;
    let items = items.into_iter().map(|(path, mode, key)| (path, mode, values.get(key).cloned().unwrap_or_default()));
    Ok(Volume::ConfigMap(Files { volume: volume::volume_name(&from.name)?, items: items.collect() }))
}

/// Base64, in one line or in several.
pub(in crate::commands::kube) fn binary(text: &str) -> Option<Vec<u8>> {
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}

/// Which keys become files, where, and with which permission bits.
fn chosen<'a>(
    from: &FilesFrom,
    keys: impl Iterator<Item = &'a String> + Clone,
) -> Result<Vec<(PathBuf, u32, &'a String)>, String> {
    let bits = |mode: Option<i64>| match mode.map(u32::try_from) {
        None => Ok(MODE),
        Some(Ok(mode)) if mode <= 0o777 => Ok(mode),
        Some(_) => Err("invalid mode: must be between 0000 and 0777".to_owned()),
    };
    if from.items.is_empty() {
        return keys.map(|key| Ok((beneath(key)?, bits(from.default_mode)?, key))).collect();
    }
    let mut items = Vec::new();
    for item in &from.items {
        if let Some(key) = keys.clone().find(|key| **key == item.key) {
            items.push((beneath(&item.path)?, bits(item.mode.or(from.default_mode))?, key));
        }
    }
    Ok(items)
}

/// A relative path that stays where it is put.
fn beneath(path: &str) -> Result<PathBuf, String> {
    let is_name = |part: Component<'_>| matches!(part, Component::Normal(_));
    let stays = !path.is_empty() && !path.contains('\0') && Path::new(path).components().all(is_name);
    if stays { Ok(PathBuf::from(path)) } else { Err(format!("{path:?}: must be a relative path without ..")) }
}

/// Where and how a container has a volume.
struct Place {
    target: PathBuf,
    read_only: bool,
    chown: bool,
    subpath: Option<PathBuf>,
    propagation: Option<Propagation>,
}

impl Place {
    fn of(mount: &model::VolumeMount) -> Result<Self, String> {
        let (path, options) = mount.mount_path.split_once(':').unwrap_or((&mount.mount_path, ""));
        let mut place = Self {
            target: mount_flags::target(path)?,
            read_only: mount.read_only,
            chown: false,
            subpath: None,
            propagation: match mount.mount_propagation.as_str() {
                "" | "None" => None,
                "HostToContainer" => Some(Propagation::Rslave),
                "Bidirectional" => Some(Propagation::Rshared),
                other => return Err(format!("unknown propagation mode {other:?}")),
            },
        };
        // podman's own way to say more.
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => place.read_only = true,
                "U" => place.chown = true,
                "rw" | "z" | "Z" => {}
                other => return Err(format!("mountPath: unknown option {other:?}")),
            }
        }
        if !mount.sub_path.is_empty() {
            place.subpath = Some(beneath(&mount.sub_path)?);
        }
        Ok(place)
    }

    fn put(self, volume: &Volume, request: &mut Request) -> Result<(), String> {
        let Self { target, read_only, chown, subpath, propagation } = self;
        // An emptyDir is empty, whatever the image has there.
        let of_store = |name: &String, read_only, anonymous| {
            Mount::Volume(VolumeMount {
                name: Some(name.clone()),
                target: target.clone(),
                subpath: subpath.clone(),
                nocopy: anonymous,
                read_only,
                propagation,
                chown,
                anonymous,
                ..VolumeMount::default()
            })
        };
        match volume {
            Volume::Absent => {}
            Volume::Named { name, read_only: always } => {
                request.mounts.push(of_store(name, read_only || *always, false));
            }
            Volume::Empty { name } => request.mounts.push(of_store(name, read_only, true)),
            Volume::ConfigMap(files) => request.mounts.push(of_store(&files.volume, read_only, false)),
            Volume::Host(path) if matches!(path.kind, HostPathKind::CharDevice | HostPathKind::BlockDevice) => {
                let permissions = if read_only { "r" } else { "rwm" }.to_owned();
                request.devices.push(Device { source: path.path.clone(), target, permissions });
            }
            Volume::Host(path) => {
                let source = subpath.map_or_else(|| path.path.clone(), |subpath| path.path.join(subpath));
                request.mounts.push(Mount::Bind(BindMount {
                    source,
                    target,
                    read_only,
                    propagation,
                    chown,
                    ..BindMount::default()
                }));
            }
            Volume::Memory { size } => request.mounts.push(Mount::Tmpfs(TmpfsMount {
                target,
                read_only,
                size: size.map(|bytes| bytes.to_string()),
                chown,
                ..TmpfsMount::default()
            })),
            Volume::Image(image) => {
                let image = image.clone();
                request.mounts.push(Mount::Image(ImageMount { image, target, subpath, ..ImageMount::default() }));
            }
            Volume::Secret { name, items } => {
                for (path, mode, key) in items {
                    let target = match &subpath {
                        None => target.join(path),
                        Some(only) if only == path => target.clone(),
                        Some(only) => match path.strip_prefix(only) {
                            Ok(rest) => target.join(rest),
                            Err(_) => continue,
                        },
                    };
                    let kind = SecretKind::Mount { target, uid: 0, gid: 0, mode: *mode };
                    request.secrets.push(SecretUse { name: name.clone(), key: Some(key.clone()), kind });
                }
            }
        }
        Ok(())
    }
}
