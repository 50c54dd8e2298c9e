//! Named volumes: `volumes/<name>/_data` and `volume.json`.
//!
//! Writer: who creates the volume, once. Readers: everybody, without a lock. Published by a rename that does not replace,
//! so that of two creators one finds the other's. Removed by renaming into the trash, under `volumes.lock`. Version: 1.
//! Durability: fdatasync; the content is the containers' business.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use jiff::Timestamp;

use serde::{Deserialize, Serialize};

use crate::state::atomic::{Durability, TEMPORARY_PREFIX, WriteError, write_atomic};
use crate::state::events::{self, Event, Kind};
use crate::state::layout::{Layout, LayoutError, create_dir, is_lower_hex, random_hex};
use crate::state::lock::{FileLock, LockError};
use crate::state::name;
use crate::state::trash::{self, TrashError};
use crate::state::undo::{self, Entry, Removal, UndoError, UndoLock};
use crate::state::version::{self, ReadError};
use crate::sys::rename::rename_noreplace;

mod copy_up;

mod backing;

mod files;

mod own;

pub use backing::{Backing, BadOption};
pub(crate) use copy_up::copy_data;
pub use copy_up::{CopyUpError, copy_up};
pub use files::{PutError, put_file};
pub use own::{OwnError, Owner, own, own_opened};

/// The newest format of `volume.json` this coracle reads, and the one it writes.
pub const VERSION: u32 = 1;

/// What goes wrong with a volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// Not in docker's grammar.
    #[error("invalid volume name {0:?}: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument")]
    InvalidName(String),
    /// There is one of that name.
    #[error("volume with name {0} already exists: volume already exists")]
    Exists(String),
    /// There is none.
    #[error("no volume with name {0:?} found: no such volume")]
    NotFound(String),
    /// A name prefix fits several.
    #[error("more than one volume has a name that begins with {0:?}")]
    Ambiguous(String),
    /// Containers use it.
    #[error("volume {name} is being used by the following container(s): {}: volume is being used", users.join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// The ids of its users.
        users: Vec<String>,
    },
    /// `volume.json` cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `volume.json` cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// `volumes.lock` cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `volumes/` cannot be made.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// It cannot be moved out of the way.
    #[error(transparent)]
    Trash(#[from] TrashError),
    /// Another kernel call failed.
    #[error("cannot {action} {}: {}", path.display(), crate::sys::reason(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What `volume.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The format.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The driver; there is only `local`.
    #[serde(default)]
    pub driver: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The driver's options as given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Nobody gave it a name: it goes with the container it was made for.
    #[serde(default)]
    pub anonymous: bool,
}

impl Volume {
    /// A volume without labels and options.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            name: name.into(),
            created: Timestamp::now(),
            driver: "local".to_owned(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            anonymous: false,
        }
    }

    /// A volume nobody gave a name: it gets 64 random digits.
    pub fn anonymous() -> Self {
        Self { anonymous: true, ..Self::named(random_hex(32)) }
    }

    /// Where its content is.
    pub fn mountpoint(&self, layout: &Layout) -> PathBuf {
        layout.volume(&self.name).join("_data")
    }
}

/// Checks a volume name; the grammar is that of containers.
///
/// # Errors
/// [`VolumeError::InvalidName`].
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    name::check(name).map_err(|_| VolumeError::InvalidName(name.to_owned()))
}

/// Creates an empty volume.
///
/// # Errors
/// [`VolumeError::Exists`] and [`VolumeError::InvalidName`].
pub fn create(layout: &Layout, volume: &Volume) -> Result<(), VolumeError> {
    check_name(&volume.name)?;
    create_dir(&layout.volumes())?;
    // What a removal needs, it must find on a full disk.
    trash::prepare(layout)?;
    drop(FileLock::shared(&layout.data_dir().join("volumes.lock"))?);
    let target = layout.volume(&volume.name);
    let temporary = layout.volumes().join(format!("{TEMPORARY_PREFIX}{}", random_hex(8)));
    let data = temporary.join("_data");
    create_dir(&data)?;
    let published = fill(volume, &temporary, &data).and_then(|()| match rename_noreplace(&temporary, &target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(VolumeError::Exists(volume.name.clone())),
        Err(source) => Err(VolumeError::Io { action: "create", path: target, source }),
    });
    match &published {
        Ok(()) => note(layout, "create", &volume.name),
        // Best effort: a sweep takes what stays.
        Err(_) => drop(fs::remove_dir_all(&temporary)),
    }
    published
}

fn fill(volume: &Volume, temporary: &std::path::Path, data: &std::path::Path) -> Result<(), VolumeError> {
    // The root of a volume is what a directory in an image would be, whatever the umask.
    fs::set_permissions(data, fs::Permissions::from_mode(0o755)).map_err(|source| VolumeError::Io {
        action: "chmod",
        path: data.to_owned(),
        source,
    })?;
    let bytes = serde_json::to_vec(volume).unwrap_or_default();
    Ok(write_atomic(&temporary.join("volume.json"), &bytes, Durability::Data)?)
}

/// Finds the volume or creates it; tells whether it was created.
///
/// # Errors
/// As [`create`], but never [`VolumeError::Exists`].
pub fn ensure(layout: &Layout, name: &str) -> Result<(Volume, bool), VolumeError> {
    check_name(name)?;
    for _ in 0..8 {
        if let Some(volume) = load(layout, name)? {
            return Ok((volume, false));
        }
        let volume = Volume::named(name);
        match create(layout, &volume) {
            Ok(()) => return Ok((volume, true)),
            Err(VolumeError::Exists(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VolumeError::Exists(name.to_owned()))
}

/// Reads one volume by its full name.
///
/// # Errors
/// [`VolumeError::Read`].
pub fn load(layout: &Layout, name: &str) -> Result<Option<Volume>, VolumeError> {
    check_name(name)?;
    Ok(version::read(&layout.volume(name).join("volume.json"), VERSION)?)
}

/// Finds a volume by its name or, for the long names of anonymous ones, by a prefix that fits no other.
///
/// # Errors
/// [`VolumeError::NotFound`] and [`VolumeError::Ambiguous`].
pub fn find(layout: &Layout, text: &str) -> Result<Volume, VolumeError> {
    let not_found = || VolumeError::NotFound(text.to_owned());
    if check_name(text).is_err() {
        return Err(not_found());
    }
    if let Some(volume) = load(layout, text)? {
        return Ok(volume);
    }
    let mut found = None;
    if is_lower_hex(text) {
        for volume in list(layout)?.0.into_iter().filter(|volume| volume.anonymous && volume.name.starts_with(text)) {
            if found.replace(volume).is_some() {
                return Err(VolumeError::Ambiguous(text.to_owned()));
            }
        }
    }
    found.ok_or_else(not_found)
}

/// Every volume by name. One that cannot be read is reported beside the others.
///
/// # Errors
/// [`VolumeError::Io`] when the directory itself cannot be read.
pub fn list(layout: &Layout) -> Result<(Vec<Volume>, Vec<VolumeError>), VolumeError> {
    let path = layout.volumes();
    let failed = |source| VolumeError::Io { action: "list", path: path.clone(), source };
    let (mut volumes, mut errors) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((volumes, errors)),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let file_name = entry.map_err(failed)?.file_name();
        let Some(name) = file_name.to_str().filter(|name| check_name(name).is_ok()) else { continue };
        match load(layout, name) {
            Ok(Some(volume)) => volumes.push(volume),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((volumes, errors))
}

/// Removes a volume for good. `users` tells, under the lock, which containers still use it.
///
/// # Errors
/// [`VolumeError::InUse`] and [`VolumeError::NotFound`].
pub fn remove(layout: &Layout, name: &str, users: impl FnOnce(&Volume) -> Vec<String>) -> Result<Volume, VolumeError> {
    remove_to(layout, name, None, users)
}

/// As [`remove`]; with a removal so that it can be brought back.
///
/// # Errors
/// As [`remove`].
pub fn remove_to(
    layout: &Layout,
    name: &str,
    removal: Option<&Removal>,
    users: impl FnOnce(&Volume) -> Vec<String>,
) -> Result<Volume, VolumeError> {
    let _lock = FileLock::exclusive(&layout.data_dir().join("volumes.lock"))?;
    let volume = load(layout, name)?.ok_or_else(|| VolumeError::NotFound(name.to_owned()))?;
    let users = users(&volume);
    if !users.is_empty() {
        return Err(VolumeError::InUse { name: name.to_owned(), users });
    }
    undo::put(layout, &layout.volume(name), removal, undo::Kind::Volume)?;
    note(layout, "remove", name);
    Ok(volume)
}

/// Brings a volume back, under another name if one is given.
///
/// # Errors
/// [`UndoError::NameTaken`].
pub fn restore(layout: &Layout, _lock: &UndoLock, entry: &Entry, name: Option<&str>) -> Result<Volume, UndoError> {
    let failed = |error: VolumeError| UndoError::from(Box::new(error));
    let mut volume = entry.volume()?;
    if let Some(name) = name {
        check_name(name).map_err(failed)?;
        name.clone_into(&mut volume.name);
        let bytes = serde_json::to_vec(&volume).unwrap_or_default();
        let written = write_atomic(&entry.path.join("volume.json"), &bytes, Durability::Data);
        written.map_err(|error| failed(error.into()))?;
    }
    create_dir(&layout.volumes()).map_err(|error| failed(error.into()))?;
    match rename_noreplace(&entry.path, &layout.volume(&volume.name)) {
        Ok(()) => Ok(volume),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(UndoError::NameTaken { kind: "volume", name: volume.name })
        }
        Err(source) => Err(UndoError::Io { action: "bring back", path: entry.path.clone(), source }),
    }
}

fn note(layout: &Layout, action: &str, name: &str) {
    events::note(layout, &[Event::new(Kind::Volume, action, "", name)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        (root, layout)
    }

    #[test]
    fn a_volume_is_created_once_found_and_removed() {
        let (_root, layout) = layout();
        let mut volume = Volume::named("data");
        volume.labels.insert("k".to_owned(), "v".to_owned());
        create(&layout, &volume).unwrap();
        assert!(matches!(create(&layout, &volume), Err(VolumeError::Exists(_))));
        assert_eq!(find(&layout, "data").unwrap(), volume);
        assert_eq!(fs::metadata(volume.mountpoint(&layout)).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(!ensure(&layout, "data").unwrap().1);
        assert!(ensure(&layout, "more").unwrap().1);
        let anonymous = Volume::anonymous();
        create(&layout, &anonymous).unwrap();
        assert_eq!(find(&layout, &anonymous.name[..10]).unwrap(), anonymous);
        assert_eq!(list(&layout).unwrap().0.len(), 3);
        let error = remove(&layout, "data", |_| vec!["abc".to_owned()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "volume data is being used by the following container(s): abc: volume is being used"
        );
        remove(&layout, "data", |_| Vec::new()).unwrap();
        assert!(matches!(find(&layout, "data"), Err(VolumeError::NotFound(_))));
        assert!(matches!(remove(&layout, "data", |_| Vec::new()), Err(VolumeError::NotFound(_))));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let (_root, layout) = layout();
        for bad in ["", "..", "a/b", ".lock", "-v", "a\n"] {
            assert!(matches!(create(&layout, &Volume::named(bad)), Err(VolumeError::InvalidName(_))), "{bad:?}");
            assert!(matches!(find(&layout, bad), Err(VolumeError::NotFound(_))), "{bad:?}");
        }
    }
}
