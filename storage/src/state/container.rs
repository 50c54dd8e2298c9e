//! `container.json`: who a container is and what it was asked to be; creating, finding, renaming, removing it.
//!
//! Writer: who creates the container, once; `rename` and `update` later. Readers: every command, without a lock. The
//! file is published by rename, and with it the container: a directory without it is garbage as soon as its lock is
//! free. Version: 1. Durability: the creator's choice, none for `run --rm`.
//!
//! ```text
//! lock <runtime>/<id>/lock → mkdir containers/<id> → names/<name> → config.json … → container.json (now it exists)
//! rename containers/<id> into trash/ (now it does not) → names/<name> → <runtime>/<id>
//! ```

mod creation;

mod find;

mod listing;

mod summary;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::atomic::{Durability, WriteError, write_atomic};
use super::layout::{ContainerId, Layout, LayoutError, create_dir};
use super::lock::{FileLock, LockError};
use super::name::{self, NameError, NamesLock};
use super::request::Request;
use super::status::StatusError;
use super::trash::TrashError;
use super::undo::{self, Kind, Removal};
use super::version::{self, ReadError};
use crate::digest::{DiffId, Digest};

pub use creation::Creation;
pub use find::{find, ids, list};
pub(crate) use find::{ids_in, name_of};
pub use listing::{Listed, listing};
pub use summary::Summary;

/// The newest format of `container.json` this coracle reads, and the one it writes.
pub const VERSION: u32 = 1;

const FILE: &str = "container.json";

/// What goes wrong with a container's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// Nothing is called that.
    #[error("no container with name or ID {0:?} found: no such container")]
    NotFound(String),
    /// An id prefix fits several containers.
    #[error("more than one container has an ID that begins with {0:?}: use more digits")]
    Ambiguous(String),
    /// Its name cannot be had.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Somebody else works on it.
    #[error("container {0} is being worked on by another process")]
    Busy(ContainerId),
    /// `container.json` cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `container.json` cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Its lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What it does cannot be known.
    #[error(transparent)]
    Status(StatusError),
    /// A directory cannot be made.
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
    /// A record that JSON cannot express.
    #[error("cannot serialise container {id}: {source}")]
    Serialise {
        /// The container.
        id: ContainerId,
        /// Why.
        source: serde_json::Error,
    },
}

/// The image a container was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The reference as it was typed.
    pub typed: String,
    /// The full reference, `docker.io/library/nginx:latest`; empty if the image was named by id and has no name.
    pub full: String,
    /// The digest of the image's configuration: its id.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// `os/arch[/variant]`.
    pub platform: String,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
}

/// What `container.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format.
    pub version: u32,
    /// Who it is.
    pub id: ContainerId,
    /// What it is called; changes by `rename` only.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The image; absent with `--rootfs`.
    #[serde(default)]
    pub image: Option<ImageRecord>,
    /// What mounted its root last, or is to be tried first: `overlay`, `overlay-fuse`, `fuse`. All of them use the same
    /// directories.
    #[serde(default)]
    pub driver: String,
    /// Set by `run`, which starts what it creates: without any trace of a run (a reboot wiped it) the container has
    /// ended, rather than never begun.
    #[serde(default)]
    pub started_at_once: bool,
    /// Volumes without a name of their own that go when the container is removed with `-v` or `--rm`.
    #[serde(default)]
    pub anonymous_volumes: Vec<String>,
    /// The addresses that it had last, by network: it gets them again if they are free.
    #[serde(default)]
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Everything it was asked to be.
    pub request: Request,
}

impl Record {
    /// The full name of its image, or what was typed if that has none; with `--rootfs` the directory.
    pub fn image_name(&self) -> &str {
        match &self.image {
            Some(image) if !image.full.is_empty() => &image.full,
            Some(image) => &image.typed,
            None => self.request.rootfs.as_deref().and_then(Path::to_str).unwrap_or_default(),
        }
    }

    /// Writes the record; the caller holds the container's lock or `names.lock`.
    fn write(&self, layout: &Layout, durability: Durability) -> Result<(), ContainerError> {
        self.write_in(&layout.container(&self.id), durability)
    }

    fn write_in(&self, directory: &Path, durability: Durability) -> Result<(), ContainerError> {
        let bytes =
            serde_json::to_vec(self).map_err(|source| ContainerError::Serialise { id: self.id.clone(), source })?;
        Ok(write_atomic(&directory.join(FILE), &bytes, durability)?)
    }
}

/// Removes a container for good and frees its name. The caller holds its lock; the trash is emptied by who can.
///
/// # Errors
/// [`ContainerError`]; the container exists until the first step, a rename, has worked.
pub fn remove(layout: &Layout, id: &ContainerId) -> Result<(), ContainerError> {
    remove_to(layout, id, None)
}

/// As [`remove`]; with a removal so that it can be brought back.
///
/// # Errors
/// As [`remove`].
pub fn remove_to(layout: &Layout, id: &ContainerId, removal: Option<&Removal>) -> Result<(), ContainerError> {
    let name = name_of(layout, id);
    discard(layout, id, name.as_deref(), removal)
}

fn discard(
    layout: &Layout,
    id: &ContainerId,
    name: Option<&str>,
    removal: Option<&Removal>,
) -> Result<(), ContainerError> {
    undo::put(layout, &layout.container(id), removal, Kind::Container)?;
    // Goes on after a failure: what is left of a container that is gone is only harder to find.
    let released = match name {
        Some(name) => NamesLock::take(layout).and_then(|names| names.release(layout, name, id)),
        None => Ok(()),
    };
    remove_runtime(layout, id)?;
    Ok(released?)
}

/// Brings back a container whose directory was moved to `from`; `renamed` if its record has another name than the one
/// there.
pub(super) fn bring_back(
    layout: &Layout,
    record: &Record,
    from: &Path,
    renamed: bool,
) -> Result<Record, ContainerError> {
    // Held until its directory is there: until then its name is that of a container that is being created.
    let _lock = lock_new(layout, &record.id)?;
    let undone = |error| {
        let _ = remove_runtime(layout, &record.id);
        error
    };
    name::claim(layout, &record.name, &record.id).map_err(ContainerError::from).map_err(undone)?;
    let target = layout.container(&record.id);
    let written = match renamed {
        true => record.write_in(from, Durability::Data),
        false => Ok(()),
    };
    let moved = written.and_then(|()| {
        create_dir(&layout.containers())?;
        let failed = |source| ContainerError::Io { action: "bring back", path: target.clone(), source };
        fs::rename(from, &target).map_err(failed)
    });
    match moved {
        Ok(()) => Ok(record.clone()),
        Err(error) => {
            let _ = NamesLock::take(layout).and_then(|names| names.release(layout, &record.name, &record.id));
            Err(undone(error))
        }
    }
}

/// Deletes the runtime directory of a container; the caller holds its lock, which goes with it.
///
/// # Errors
/// [`ContainerError::Io`].
pub fn remove_runtime(layout: &Layout, id: &ContainerId) -> Result<(), ContainerError> {
    let path = layout.runtime_container(id);
    match remove_but_lock(&path).and_then(|()| fs::remove_dir_all(&path)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ContainerError::Io { action: "remove", path, source }),
    }
}

/// Deletes everything in a runtime directory but the lock, by which a sweep knows a directory that was left half
/// removed.
fn remove_but_lock(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == "lock" {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Gives a container another name.
///
/// # Errors
/// [`NameError::InUse`], or the record cannot be written; the old name stays then.
pub fn rename(layout: &Layout, id: &ContainerId, new: &str) -> Result<Record, ContainerError> {
    let names = NamesLock::take(layout)?;
    let mut record = load(layout, id)?.ok_or_else(|| ContainerError::NotFound(id.to_string()))?;
    if record.name == new {
        let holder = id.clone();
        return Err(NameError::InUse { name: new.to_owned(), holder }.into());
    }
    names.claim(layout, new, id)?;
    let old = std::mem::replace(&mut record.name, new.to_owned());
    if let Err(error) = record.write(layout, Durability::Full) {
        names.release(layout, new, id)?;
        return Err(error);
    }
    names.release(layout, &old, id)?;
    Ok(record)
}

/// Changes what a container was asked to be; returns the new record. A supervisor has to be told.
///
/// # Errors
/// [`ContainerError`]; the record stays as it was then.
pub fn update(layout: &Layout, id: &ContainerId, change: impl FnOnce(&mut Request)) -> Result<Record, ContainerError> {
    // Against `rename`, which reads and writes the record too.
    let _names = NamesLock::take(layout)?;
    let mut record = load(layout, id)?.ok_or_else(|| ContainerError::NotFound(id.to_string()))?;
    change(&mut record.request);
    record.write(layout, Durability::Full)?;
    Ok(record)
}

/// Notes what has mounted a container's root.
///
/// # Errors
/// [`ContainerError`]; the record stays as it was then.
pub fn set_driver(layout: &Layout, id: &ContainerId, driver: &str) -> Result<(), ContainerError> {
    // Against `rename`, which reads and writes the record too.
    let _names = NamesLock::take(layout)?;
    let mut record = load(layout, id)?.ok_or_else(|| ContainerError::NotFound(id.to_string()))?;
    record.driver = driver.to_owned();
    record.write(layout, Durability::None)
}

/// Notes which addresses a container has.
///
/// # Errors
/// [`ContainerError`]; the record stays as it was then.
pub fn set_addresses(
    layout: &Layout,
    id: &ContainerId,
    addresses: BTreeMap<String, Vec<IpAddr>>,
) -> Result<(), ContainerError> {
    // Against `rename`, which reads and writes the record too.
    let _names = NamesLock::take(layout)?;
    let mut record = load(layout, id)?.ok_or_else(|| ContainerError::NotFound(id.to_string()))?;
    record.addresses = addresses;
    record.write(layout, Durability::None)
}

/// Reads the record of one container; `None` if it is not there or not published yet.
///
/// # Errors
/// [`ContainerError::Read`].
pub fn load(layout: &Layout, id: &ContainerId) -> Result<Option<Record>, ContainerError> {
    Ok(version::read(&layout.container(id).join(FILE), VERSION)?)
}

/// Takes a lock whose directory a sweep may take away before the lock is held.
fn lock_new(layout: &Layout, id: &ContainerId) -> Result<FileLock, ContainerError> {
    let mut attempts = 0;
    loop {
        create_dir(&layout.runtime_container(id))?;
        match FileLock::exclusive(&layout.container_lock(id)) {
            Ok(lock) => return Ok(lock),
            Err(error) if error.is_not_found() && attempts < 8 => attempts += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the lock of a container that does not run, so that it can be started or removed.
///
/// # Errors
/// [`ContainerError::Busy`] when somebody holds it.
pub fn lock(layout: &Layout, id: &ContainerId) -> Result<FileLock, ContainerError> {
    let mut attempts = 0;
    loop {
        create_dir(&layout.runtime_container(id))?;
        match FileLock::try_exclusive(&layout.container_lock(id)) {
            Ok(lock) => return lock.ok_or_else(|| ContainerError::Busy(id.clone())),
            // A sweep took the directory for one that was left empty.
            Err(error) if error.is_not_found() && attempts < 8 => attempts += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(id: &ContainerId, name: &str) -> Record {
        Record {
            version: VERSION,
            id: id.clone(),
            name: name.to_owned(),
            created: Timestamp::now(),
            image: None,
            driver: "overlay".to_owned(),
            started_at_once: false,
            anonymous_volumes: Vec::new(),
            addresses: BTreeMap::new(),
            request: Request::default(),
        }
    }

    pub(crate) fn layout() -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        (root, layout)
    }

    pub(crate) fn create(layout: &Layout, id: &str, name: &str) -> Record {
        let id = ContainerId::parse(&format!("{id:0<64}")).unwrap();
        let mut creation = Creation::begin(layout, id.clone()).unwrap();
        creation.claim_name(name).unwrap();
        let record = record(&id, name);
        creation.publish(&record, Durability::None).unwrap();
        record
    }

    #[test]
    fn a_container_is_found_by_id_name_and_unique_prefix() {
        let (_root, layout) = layout();
        let one = create(&layout, "abc1", "one");
        let two = create(&layout, "abc2", "two");
        let named_like_a_prefix = create(&layout, "ffff", "abc2");
        for (text, expected) in [
            (one.id.as_str(), &one),
            ("one", &one),
            ("abc1", &one),
            ("two", &two),
            ("abc20", &two),
            ("abc2", &named_like_a_prefix),
            ("f", &named_like_a_prefix),
        ] {
            assert_eq!(find(&layout, text).unwrap(), *expected, "{text}");
        }
        assert!(matches!(find(&layout, "abc"), Err(ContainerError::Ambiguous(_))));
        for missing in ["", "three", "../containers", "abd", &"a".repeat(65), &"a".repeat(64), "ABC1"] {
            assert!(matches!(find(&layout, missing), Err(ContainerError::NotFound(_))), "{missing}");
        }
        let (records, errors) = list(&layout).unwrap();
        assert_eq!(records, [one, two, named_like_a_prefix]);
        assert!(errors.is_empty());
    }

    #[test]
    fn a_creation_that_is_dropped_leaves_nothing() {
        let (_root, layout) = layout();
        let mut creation = Creation::begin(&layout, ContainerId::random()).unwrap();
        creation.claim_name("gone").unwrap();
        fs::write(creation.directory().join("config.json"), "{}").unwrap();
        let id = creation.id().clone();
        assert!(find(&layout, "gone").is_err(), "not published yet");
        drop(creation);
        assert_eq!(name::lookup(&layout, "gone"), None);
        assert!(!layout.container(&id).exists() && !layout.runtime_container(&id).exists());
    }

    #[test]
    fn rename_moves_the_name_and_keeps_others_out() {
        let (_root, layout) = layout();
        let one = create(&layout, "1", "one");
        let two = create(&layout, "2", "two");
        assert!(matches!(
            rename(&layout, &one.id, "two"),
            Err(ContainerError::Name(NameError::InUse { holder, .. })) if holder == two.id
        ));
        assert!(matches!(rename(&layout, &one.id, "a/b"), Err(ContainerError::Name(NameError::Invalid(_)))));
        assert_eq!(rename(&layout, &one.id, "uno").unwrap().name, "uno");
        assert!(find(&layout, "one").is_err());
        assert_eq!(find(&layout, "uno").unwrap().id, one.id);
        assert_eq!(create(&layout, "3", "one").name, "one");
    }

    #[test]
    fn a_removed_container_frees_its_name_and_lies_in_the_trash() {
        let (_root, layout) = layout();
        let one = create(&layout, "1", "one");
        let held = lock(&layout, &one.id).unwrap();
        assert!(matches!(lock(&layout, &one.id), Err(ContainerError::Busy(_))));
        remove(&layout, &one.id).unwrap();
        drop(held);
        assert!(find(&layout, "one").is_err() && find(&layout, one.id.as_str()).is_err());
        assert_eq!(fs::read_dir(layout.trash()).unwrap().count(), 1);
        create(&layout, "1", "one");
    }

    #[test]
    fn one_unreadable_record_does_not_hide_the_others() {
        let (_root, layout) = layout();
        let one = create(&layout, "1", "one");
        let two = create(&layout, "2", "two");
        fs::write(layout.container(&one.id).join(FILE), r#"{"version":99}"#).unwrap();
        let (records, errors) = list(&layout).unwrap();
        assert_eq!(records, [two]);
        assert!(errors[0].to_string().contains("version 99"), "{}", errors[0]);
    }

    #[test]
    fn a_name_left_over_by_a_rename_cut_short_belongs_to_nobody() {
        let (_root, layout) = layout();
        let one = create(&layout, "1", "one");
        std::os::unix::fs::symlink(one.id.as_str(), layout.name("half")).unwrap();
        assert!(find(&layout, "half").is_err());
        let other = create(&layout, "2", "half");
        assert_eq!(find(&layout, "half").unwrap().id, other.id);
        assert_eq!(find(&layout, "one").unwrap().id, one.id);
    }
}
