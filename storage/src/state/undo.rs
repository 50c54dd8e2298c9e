//! `undo/`: what was removed and can be brought back until its time is over. To people it is the trash; `trash/` itself
//! holds only what is about to be unlinked.
//!
//! ```text
//! undo/<ms>-<removal>-<entry>-c/   the container's directory as it was: record, upper, log, exit
//!                            -v/   the volume's directory as it was
//!                            -i/   entries.json: the descriptors that stood in images/index.json
//! ```
//! `<ms>` is when, milliseconds since 1970 in twelve hexadecimal digits, so that names sort by age; `<removal>` is the same
//! for everything that one command removed; `<entry>` is its id. All that is needed to bring something back stands in the
//! directory, and it comes and goes by one rename: nobody ever sees half of it. Blobs and layers of an image stay where
//! they are: an entry refers to them as `index.json` does, and so they are needed, whoever shares them.
//!
//! | writer | readers | lock | durability | version |
//! |---|---|---|---|---|
//! | whoever removes | `trash`, `undo`, the sweep | putting in takes none; taking out, to bring back or to unlink, holds `undo.lock` | as what was there before; `entries.json` fdatasync | that of the files in it |

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::container::{self, ContainerError, Record};
use super::layout::{ContainerId, Layout, create_dir, random_hex};
use super::lock::{FileLock, LockError};
use super::pod;
use super::request::Namespace;
use super::trash::{self, TrashError};

/// What cannot be brought back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UndoError {
    /// Nothing in the trash is called that.
    #[error("nothing in the trash with name or ID {0:?}")]
    NotFound(String),
    /// Another one has come in its place.
    #[error("cannot bring back {kind} {name}: another {kind} has that name")]
    NameTaken {
        /// Of what.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A file in its directory cannot be used.
    #[error("cannot read {}: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A volume.
    #[error(transparent)]
    Volume(#[from] Box<crate::volume::VolumeError>),
    /// An image.
    #[error(transparent)]
    Store(#[from] Box<crate::image::StoreError>),
    /// It cannot be thrown away.
    #[error(transparent)]
    Trash(#[from] TrashError),
    /// `undo.lock` cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A kernel call failed.
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

/// What something in the trash was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An image, or some of its names.
    Image,
    /// A volume.
    Volume,
    /// A container.
    Container,
}

impl Kind {
    /// As people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Container => "container",
        }
    }

    fn letter(self) -> &'static str {
        match self {
            Self::Image => "i",
            Self::Volume => "v",
            Self::Container => "c",
        }
    }
}

/// What one command removes: it comes back together.
#[derive(Clone, Debug)]
pub struct Removal {
    id: String,
}

impl Removal {
    /// That of this command.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { id: random_hex(4) }
    }
}

/// Something in the trash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// When it was removed.
    pub removed: Timestamp,
    /// The same for all that one command removed.
    pub removal: String,
    /// Its own id, twelve digits.
    pub id: String,
    /// What it was.
    pub kind: Kind,
    /// Its directory.
    pub path: PathBuf,
}

impl Entry {
    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let mut parts = name.split('-');
        let (milliseconds, removal, id, letter) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let removed = Timestamp::from_millisecond(i64::from_str_radix(milliseconds, 16).ok()?).ok()?;
        let kind = [Kind::Container, Kind::Volume, Kind::Image].into_iter().find(|kind| kind.letter() == letter)?;
        let (removal, id) = (removal.to_owned(), id.to_owned());
        (parts.next().is_none()).then_some(Self { removed, removal, id, kind, path })
    }

    /// The record of a container.
    ///
    /// # Errors
    /// [`UndoError::Broken`].
    pub fn container(&self) -> Result<Record, UndoError> {
        self.read("container.json")
    }

    /// The description of a volume.
    ///
    /// # Errors
    /// [`UndoError::Broken`].
    pub fn volume(&self) -> Result<crate::volume::Volume, UndoError> {
        self.read("volume.json")
    }

    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<T, UndoError> {
        let path = self.path.join(file);
        let parsed = fs::read(&path)
            .map_err(|error| crate::sys::reason(&error).to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        parsed.map_err(|why| UndoError::Broken { path, why })
    }
}

/// A place for something that is removed now.
pub(crate) fn place(layout: &Layout, removal: &Removal, kind: Kind) -> PathBuf {
    let milliseconds = Timestamp::now().as_millisecond();
    layout.undo().join(format!("{milliseconds:012x}-{}-{}-{}", removal.id, random_hex(6), kind.letter()))
}

/// Moves a directory away, by one rename: where it can be brought back from if there is a removal, else to be unlinked.
/// What is not there needs no moving.
///
/// # Errors
/// [`TrashError::Put`].
pub(crate) fn put(layout: &Layout, path: &Path, removal: Option<&Removal>, kind: Kind) -> Result<(), TrashError> {
    let Some(removal) = removal else { return trash::put(layout, path) };
    let target = place(layout, removal, kind);
    match fs::rename(path, &target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create_dir(&layout.undo()) {
            Ok(()) => match fs::rename(path, &target) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => trash::put(layout, path),
                _ => Ok(()),
            },
            Err(_) => trash::put(layout, path),
        },
        // No room for one more name: then it goes for good.
        Err(_) => trash::put(layout, path),
    }
}

/// Everything in the trash, the oldest first.
pub fn list(layout: &Layout) -> Vec<Entry> {
    let entries = fs::read_dir(layout.undo()).into_iter().flatten().flatten();
    let mut entries: Vec<Entry> = entries.filter_map(|entry| Entry::parse(entry.path())).collect();
    entries.sort();
    entries
}

/// Held while something is taken out of the trash.
#[derive(Debug)]
pub struct UndoLock(#[allow(dead_code)] FileLock);

impl UndoLock {
    /// Waits for the lock.
    ///
    /// # Errors
    /// [`UndoError::Lock`].
    pub fn take(layout: &Layout) -> Result<Self, UndoError> {
        Ok(Self(FileLock::exclusive(&layout.data_dir().join("undo.lock"))?))
    }

    /// Takes the lock if nobody has it.
    ///
    /// # Errors
    /// [`UndoError::Lock`].
    pub fn try_take(layout: &Layout) -> Result<Option<Self>, UndoError> {
        Ok(FileLock::try_exclusive(&layout.data_dir().join("undo.lock"))?.map(Self))
    }

    /// Throws something away: it is unlinked with the rest of `trash/`. What an image leaves is garbage then.
    ///
    /// # Errors
    /// [`UndoError::Trash`].
    pub fn throw_away(&self, layout: &Layout, entry: &Entry) -> Result<(), UndoError> {
        Ok(trash::put(layout, &entry.path)?)
    }

    /// Throws away what has been in the trash for longer than `window`; tells what that was.
    ///
    /// # Errors
    /// [`UndoError::Trash`].
    pub fn expire(&self, layout: &Layout, window: Duration) -> Result<BTreeSet<Kind>, UndoError> {
        let mut gone = BTreeSet::new();
        let now = Timestamp::now();
        for entry in list(layout) {
            // A clock that was set back makes nothing older.
            let age = Duration::try_from(now.duration_since(entry.removed)).unwrap_or_default();
            if age < window {
                break;
            }
            self.throw_away(layout, &entry)?;
            gone.insert(entry.kind);
        }
        Ok(gone)
    }

    /// Brings a container back, under another name if one is given.
    ///
    /// # Errors
    /// [`UndoError`]; [`container::ContainerError::Name`] when its name is taken.
    pub fn restore_container(&self, layout: &Layout, entry: &Entry, name: Option<&str>) -> Result<Record, UndoError> {
        let mut record = entry.container()?;
        if let Some(name) = name {
            name.clone_into(&mut record.name);
        }
        let is_lone = leave_lost_pod(layout, &mut record);
        Ok(container::bring_back(layout, &record, &entry.path, name.is_some() || is_lone)?)
    }
}

/// A container whose pod is gone is one of its own: it claims neither the pod nor namespaces that nobody holds. Tells
/// whether it had one.
fn leave_lost_pod(layout: &Layout, record: &mut Record) -> bool {
    let request = &mut record.request;
    let Some(pod) = &request.pod else { return false };
    if ContainerId::parse(pod).is_ok_and(|id| matches!(pod::load(layout, &id), Ok(Some(_)) | Err(_))) {
        return false;
    }
    request.pod = None;
    request.pod_name.clear();
    request.init_container = None;
    let is_lost = |holder: &str| container::find(layout, holder).is_err();
    if request.network.mode.strip_prefix("container:").is_some_and(is_lost) {
        request.network.mode.clear();
    }
    for namespace in [&mut request.ipc, &mut request.pid, &mut request.uts] {
        if matches!(namespace, Namespace::Container(holder) if is_lost(holder)) {
            *namespace = Namespace::Private;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::container::tests::{create, layout};
    use crate::state::name::{self, NameError};

    fn remove(layout: &Layout, record: &Record, removal: &Removal) {
        container::remove_to(layout, &record.id, Some(removal)).unwrap();
    }

    #[test]
    fn a_container_comes_back_as_it_was() {
        let (_root, layout) = layout();
        let record = create(&layout, "1", "web");
        fs::create_dir_all(layout.container(&record.id).join("upper/etc")).unwrap();
        fs::write(layout.container(&record.id).join("upper/etc/file"), "x").unwrap();
        remove(&layout, &record, &Removal::new());
        assert!(container::find(&layout, "web").is_err() && name::lookup(&layout, "web").is_none());
        assert!(trash::is_empty(&layout));
        let [entry] = list(&layout).try_into().unwrap();
        assert_eq!((entry.kind, entry.container().unwrap()), (Kind::Container, record.clone()));
        let lock = UndoLock::take(&layout).unwrap();
        lock.restore_container(&layout, &entry, None).unwrap();
        assert_eq!(container::find(&layout, "web").unwrap(), record);
        assert_eq!(fs::read(layout.container(&record.id).join("upper/etc/file")).unwrap(), b"x");
        assert!(list(&layout).is_empty());
        assert!(!FileLock::is_held(&layout.container_lock(&record.id)).unwrap());
    }

    #[test]
    fn a_name_that_is_taken_keeps_a_container_in_the_trash_but_another_name_does_not() {
        let (_root, layout) = layout();
        let record = create(&layout, "1", "web");
        remove(&layout, &record, &Removal::new());
        create(&layout, "2", "web");
        let [entry] = list(&layout).try_into().unwrap();
        let lock = UndoLock::take(&layout).unwrap();
        let refused = lock.restore_container(&layout, &entry, None).unwrap_err();
        assert!(matches!(refused, UndoError::Container(ContainerError::Name(NameError::InUse { .. }))), "{refused}");
        assert_eq!(list(&layout), std::slice::from_ref(&entry));
        let back = lock.restore_container(&layout, &entry, Some("old")).unwrap();
        assert_eq!((back.name.as_str(), container::find(&layout, "old").unwrap().id), ("old", record.id));
    }

    #[test]
    fn a_container_claims_no_pod_that_is_gone() {
        let (_root, layout) = layout();
        let record = create(&layout, "1", "web");
        let holder = "f".repeat(64);
        container::update(&layout, &record.id, |request| {
            (request.pod, request.pod_name) = (Some("e".repeat(64)), "p".to_owned());
            request.network.mode = format!("container:{holder}");
            (request.ipc, request.uts) = (Namespace::Container(holder.clone()), Namespace::Host);
        })
        .unwrap();
        let record = container::find(&layout, "web").unwrap();
        remove(&layout, &record, &Removal::new());
        let [entry] = list(&layout).try_into().unwrap();
        UndoLock::take(&layout).unwrap().restore_container(&layout, &entry, None).unwrap();
        let request = container::find(&layout, "web").unwrap().request;
        assert_eq!((request.pod, request.pod_name.as_str(), request.network.mode.as_str()), (None, "", ""));
        assert_eq!((request.ipc, request.uts), (Namespace::Private, Namespace::Host));
    }

    #[test]
    fn what_is_old_expires_and_the_rest_stays() {
        let (_root, layout) = layout();
        let (old, new) = (create(&layout, "1", "old"), create(&layout, "2", "new"));
        remove(&layout, &old, &Removal::new());
        remove(&layout, &new, &Removal::new());
        // Both may have been removed in one millisecond.
        let entry = list(&layout).into_iter().find(|entry| entry.container().unwrap().name == "old").unwrap();
        let hour_ago = Timestamp::now().as_millisecond() - 3_600_000;
        let name = entry.path.file_name().unwrap().to_str().unwrap();
        fs::rename(&entry.path, layout.undo().join(format!("{hour_ago:012x}{}", &name[12..]))).unwrap();
        let lock = UndoLock::take(&layout).unwrap();
        assert!(UndoLock::try_take(&layout).unwrap().is_none());
        assert_eq!(lock.expire(&layout, Duration::from_secs(1800)).unwrap(), BTreeSet::from([Kind::Container]));
        let [left] = list(&layout).try_into().unwrap();
        assert_eq!(left.container().unwrap().name, "new");
        assert!(!trash::is_empty(&layout));
    }
}
