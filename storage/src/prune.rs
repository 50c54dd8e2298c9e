//! What nothing refers to any more.
//!
//! [`sweep`] takes away what dead processes left behind: it needs no privilege, touches nothing that lives, and any
//! command may call it at any time. What it moves to the trash is unlinked by [`trash::empty`], in the user namespace.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::digest::{DiffId, Digest};
use crate::state::atomic::TEMPORARY_PREFIX;
use crate::state::container::{self, ContainerError, Record};
use crate::state::events::{self, Event};
use crate::state::layout::{ContainerId, Layout};
use crate::state::lock::{FileLock, LockError};
use crate::state::name::{NameError, NamesLock};
use crate::state::request::Mount;
use crate::state::status::{Observed, StatusError};
use crate::state::trash::{self, TrashError};
use crate::state::undo::Removal;
use crate::volume::{self, VolumeError};

/// Temporaries that no lock marks as alive are left alone for this long.
const GRACE: Duration = Duration::from_secs(600);

/// What a sweep could not take away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// A container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its status is not known.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Something that was to go to the trash.
    #[error(transparent)]
    Trash(#[from] TrashError),
}

/// What a sweep took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Containers whose creation was cut short.
    pub unfinished: usize,
    /// Containers made to vanish at their end, whose supervisor was killed before.
    pub ended: Vec<ContainerId>,
    /// Runtime directories without a container.
    pub runtime: usize,
    /// Names without a container.
    pub names: usize,
    /// Volumes whose creation was cut short.
    pub volumes: usize,
}

/// Takes away what dead processes left behind. Goes on after a failure and reports all.
pub fn sweep(layout: &Layout) -> (Swept, Vec<SweepError>) {
    let mut swept = Swept::default();
    let mut errors = Vec::new();
    let mut note = |result: Result<(), SweepError>| errors.extend(result.err());
    note(sweep_containers(layout, &mut swept));
    note(sweep_runtime(layout).map(|count| swept.runtime = count));
    if fs::symlink_metadata(layout.names()).is_ok() {
        let names = NamesLock::take(layout).and_then(|names| names.sweep(layout));
        note(names.map(|count| swept.names = count).map_err(SweepError::from));
    }
    note(sweep_temporaries(layout, &layout.volumes()).map(|count| swept.volumes = count));
    note(sweep_removals(layout));
    (swept, errors)
}

fn sweep_containers(layout: &Layout, swept: &mut Swept) -> Result<(), SweepError> {
    for id in container::ids(layout)? {
        // A record that cannot be read is no reason to delete a container.
        let Ok(record) = container::load(layout, &id) else { continue };
        match record {
            None if sweep_unfinished(layout, &id)? => swept.unfinished += 1,
            None => {}
            Some(record) if record.request.remove => {
                let observed = crate::state::status::observe(layout, &record)?;
                if finish(layout, &record, &observed)? {
                    swept.ended.push(id);
                }
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Takes away a container directory without a record, if nobody is about to write one.
///
/// # Errors
/// [`SweepError`].
pub fn sweep_unfinished(layout: &Layout, id: &ContainerId) -> Result<bool, SweepError> {
    // A creator holds the lock before the directory appears, and ids are never used twice: once free, free for ever.
    // The record is looked for again after the lock, because it is published before the lock is let go.
    if FileLock::is_held(&layout.container_lock(id))? || container::load(layout, id)?.is_some() {
        return Ok(false);
    }
    trash::put(layout, &layout.container(id))?;
    container::remove_runtime(layout, id)?;
    Ok(true)
}

/// Removes a container that was to be removed at its end, if it has ended without its supervisor's doing so.
///
/// # Errors
/// [`SweepError`].
pub fn finish(layout: &Layout, record: &Record, observed: &Observed) -> Result<bool, SweepError> {
    if !record.request.remove || observed.state.exit().is_none() || observed.supervisor.is_some() {
        return Ok(false);
    }
    let Ok(_lock) = container::lock(layout, &record.id) else { return Ok(false) };
    container::remove(layout, &record.id)?;
    events::note(layout, &[Event::container(record, "remove")]);
    remove_anonymous_volumes(layout, record)?;
    Ok(true)
}

/// Removes the volumes that were made for this container alone and that no other container uses.
///
/// # Errors
/// [`SweepError::Volume`].
pub fn remove_anonymous_volumes(layout: &Layout, record: &Record) -> Result<(), SweepError> {
    remove_anonymous_volumes_to(layout, record, None)
}

/// As [`remove_anonymous_volumes`]; with a removal so that they can be brought back.
///
/// # Errors
/// As [`remove_anonymous_volumes`].
pub fn remove_anonymous_volumes_to(
    layout: &Layout,
    record: &Record,
    removal: Option<&Removal>,
) -> Result<(), SweepError> {
    if record.anonymous_volumes.is_empty() {
        return Ok(());
    }
    let (records, _) = container::list(layout)?;
    for name in &record.anonymous_volumes {
        let users = |_: &volume::Volume| {
            records.iter().filter(|other| other.id != record.id && uses_volume(other, name)).map(id_of).collect()
        };
        match volume::remove_to(layout, name, removal, users) {
            Ok(_) | Err(VolumeError::NotFound(_) | VolumeError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn id_of(record: &Record) -> String {
    record.id.to_string()
}

/// Whether a container mounts the volume `name`.
pub fn uses_volume(record: &Record, name: &str) -> bool {
    record.anonymous_volumes.iter().any(|volume| volume == name)
        || record
            .request
            .mounts
            .iter()
            .any(|mount| matches!(mount, Mount::Volume(mount) if mount.name.as_deref() == Some(name)))
}

/// Whether a container was made from an image, or mounts it.
pub fn uses_image(record: &Record, id: &Digest) -> bool {
    let mounts = record.request.mounts.iter();
    record.image.as_ref().is_some_and(|image| image.id == *id)
        || mounts.into_iter().any(|mount| matches!(mount, Mount::Image(mount) if mount.id == id.hex()))
}

/// The layers that a container needs.
pub fn layers_of(record: &Record) -> impl Iterator<Item = &DiffId> {
    let mounted = record.request.mounts.iter().filter_map(|mount| match mount {
        Mount::Image(mount) => Some(&mount.layers),
        _ => None,
    });
    record.image.iter().map(|image| &image.layers).chain(mounted).flatten()
}

/// The ids of the containers that use the volume `name`.
///
/// # Errors
/// [`ContainerError::Io`].
pub fn volume_users(layout: &Layout, name: &str) -> Result<Vec<ContainerId>, ContainerError> {
    let (records, _) = container::list(layout)?;
    Ok(records.into_iter().filter(|record| uses_volume(record, name)).map(|record| record.id).collect())
}

/// Removes the runtime directories of containers that are gone, and tells how many there were.
///
/// # Errors
/// [`SweepError`].
pub fn sweep_runtime(layout: &Layout) -> Result<usize, SweepError> {
    let mut swept = 0;
    for id in container::ids_in(layout.runtime_dir())? {
        if fs::symlink_metadata(layout.container(&id)).is_ok() {
            continue;
        }
        let lock = layout.container_lock(&id);
        if fs::symlink_metadata(&lock).is_err() {
            // Made an instant ago, or the last of one that was being removed. Only an empty one goes; who is about to
            // lock it makes it again.
            if fs::remove_dir(layout.runtime_container(&id)).is_ok() {
                swept += 1;
            }
            continue;
        }
        // Holding the lock, so that a creator that is about to take it starts over.
        let _lock = match FileLock::try_exclusive(&lock) {
            Ok(Some(lock)) => lock,
            Ok(None) => continue,
            // Somebody else has just removed it.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        if fs::symlink_metadata(layout.container(&id)).is_err() {
            container::remove_runtime(layout, &id)?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Takes away the entries of the trash that a killed removal had begun: those whose maker holds no lock.
fn sweep_removals(layout: &Layout) -> Result<(), SweepError> {
    for entry in fs::read_dir(layout.undo()).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX)) {
            continue;
        }
        match FileLock::try_exclusive(&entry.path().join(crate::image::undo::LOCK)) {
            Ok(None) => {}
            Ok(Some(_lock)) => trash::put(layout, &entry.path())?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn sweep_temporaries(layout: &Layout, directory: &Path) -> Result<usize, SweepError> {
    let failed = |source: io::Error| ContainerError::Io { action: "list", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed(error).into()),
    };
    let mut count = 0;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let temporary = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        if temporary && is_older_than(&entry.path(), GRACE) {
            trash::put(layout, &entry.path())?;
            count += 1;
        }
    }
    Ok(count)
}

fn is_older_than(path: &Path, age: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|passed| passed > age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::container::Creation;
    use crate::state::container::tests::{create, layout};
    use crate::state::layout::create_dir;
    use crate::state::status::{Exit, State, StateFile};

    #[test]
    fn dead_things_are_swept_and_living_ones_are_not() {
        let (_root, layout) = layout();
        let living = create(&layout, "1", "living");
        let creating = Creation::begin(&layout, ContainerId::random()).unwrap();
        let dead = ContainerId::random();
        create_dir(&layout.container(&dead)).unwrap();
        let vanished = ContainerId::random();
        create_dir(&layout.runtime_container(&vanished)).unwrap();
        drop(FileLock::exclusive(&layout.container_lock(&vanished)).unwrap());
        let unlocked_yet = ContainerId::random();
        create_dir(&layout.runtime_container(&unlocked_yet)).unwrap();
        std::os::unix::fs::symlink(dead.as_str(), layout.name("dangling")).unwrap();

        let (swept, errors) = sweep(&layout);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(swept, Swept { unfinished: 1, runtime: 2, names: 1, ..Swept::default() });
        assert!(!layout.container(&dead).exists() && !layout.runtime_container(&vanished).exists());
        assert!(layout.container(creating.id()).exists() && !layout.runtime_container(&unlocked_yet).exists());
        assert_eq!(container::find(&layout, "living").unwrap(), living);
        assert_eq!(sweep(&layout).0, Swept::default());
    }

    #[test]
    fn a_container_that_was_to_vanish_does_so_after_its_supervisor_was_killed() {
        let (_root, layout) = layout();
        let mut volume = volume::Volume::anonymous();
        volume::create(&layout, &volume).unwrap();
        let id = ContainerId::random();
        let mut creation = Creation::begin(&layout, id.clone()).unwrap();
        creation.claim_name("short").unwrap();
        let mut record = crate::state::container::tests::record(&id, "short");
        record.request.remove = true;
        record.started_at_once = true;
        record.anonymous_volumes.push(volume.name.clone());
        let lock = creation.publish(&record, crate::state::atomic::Durability::None).unwrap();
        let mut state = StateFile::new(1);
        state.state = State::Stopped { exit: Exit::default() };
        state.write(&layout, &id).unwrap();
        assert_eq!(sweep(&layout).0, Swept::default(), "its supervisor is about to");
        drop(lock);
        assert_eq!(sweep(&layout).0.ended, [id]);
        assert!(container::find(&layout, "short").is_err());
        volume.labels.clear();
        assert!(matches!(volume::find(&layout, &volume.name), Err(VolumeError::NotFound(_))));
    }
}
