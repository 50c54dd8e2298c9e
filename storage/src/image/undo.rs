//! Images in the trash: descriptors in `undo/…-i/entries.json`, which keep blobs and layers as those of `index.json` do.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::manifest::Descriptor;
use super::record::{ANNOTATION_NAME, IndexFile, name_of};
use super::store::{Image, ImageStore, StoreError};
use crate::reference::Reference;
use crate::state::atomic::{Durability, TEMPORARY_PREFIX, write_atomic};
use crate::state::layout::{create_dir, random_hex};
use crate::state::lock::FileLock;
use crate::state::undo::{self, Entry, Kind, Removal, UndoError, UndoLock};

const FILE: &str = "entries.json";

/// In a directory that is being made.
pub(crate) const LOCK: &str = "lock";

/// An image in the trash, with the names it lost.
#[derive(Debug)]
pub struct Trashed {
    /// Its descriptors.
    entries: Vec<Descriptor>,
    /// The image, if its documents can still be read.
    pub image: Option<Image>,
}

impl Trashed {
    /// The names it would get back.
    pub fn names(&self) -> Vec<Reference> {
        self.entries.iter().filter_map(name_of).collect()
    }
}

impl ImageStore {
    /// Removes an image with all its names so that it can be brought back. Without room for that it goes for good, as with
    /// [`ImageStore::remove`].
    ///
    /// # Errors
    /// As [`ImageStore::remove`].
    pub fn remove_to(&self, image: &Image, removal: Option<&Removal>) -> Result<(), StoreError> {
        let Some(removal) = removal else { return self.remove(image) };
        let index = self.read_index()?;
        let entries = index.manifests.into_iter().filter(|entry| entry.digest == image.manifest.digest);
        match self.put(removal, &entries.collect::<Vec<_>>()) {
            Ok(()) => {
                self.change_index(|index| index.remove(&image.manifest.digest))?;
                self.remove_mount(image);
                Ok(())
            }
            Err(_) => self.remove(image),
        }
    }

    /// Takes a name away so that it can be brought back; says whether there was one.
    ///
    /// # Errors
    /// As [`ImageStore::untag`].
    pub fn untag_to(&self, name: &Reference, removal: Option<&Removal>) -> Result<bool, StoreError> {
        if let Some(removal) = removal {
            let name = name.clone().with_default_tag();
            let index = self.read_index()?;
            let entries: Vec<_> =
                index.manifests.into_iter().filter(|entry| name_of(entry).as_ref() == Some(&name)).collect();
            // Without room only the way back is lost.
            let _ = self.put(removal, &entries);
        }
        self.untag(name)
    }

    /// Writes an entry; it is there by one rename, before the image is gone.
    fn put(&self, removal: &Removal, entries: &[Descriptor]) -> Result<(), StoreError> {
        let layout = self.layout();
        create_dir(&layout.undo())?;
        let (temporary, lock) = self.temporary()?;
        let bytes = serde_json::to_vec(entries).unwrap_or_default();
        let place = undo::place(layout, removal, Kind::Image);
        let put =
            write_atomic(&temporary.join(FILE), &bytes, Durability::Data).map_err(StoreError::from).and_then(|()| {
                fs::rename(&temporary, &place).map_err(|source| StoreError::Io {
                    call: "rename",
                    path: place.clone(),
                    source,
                })
            });
        match put {
            Err(_) => drop(fs::remove_dir_all(&temporary)),
            Ok(()) => drop(fs::remove_file(place.join(LOCK))),
        }
        drop(lock);
        put
    }

    /// A directory whose lock tells a sweep that its maker lives.
    fn temporary(&self) -> Result<(PathBuf, FileLock), StoreError> {
        let undo = self.layout().undo();
        let mut attempts = 0;
        loop {
            let temporary = undo.join(format!("{TEMPORARY_PREFIX}{}", random_hex(8)));
            create_dir(&temporary)?;
            attempts += 1;
            // A sweep may have taken it for a dead one in between.
            match FileLock::try_exclusive(&temporary.join(LOCK)) {
                Ok(Some(lock)) => return Ok((temporary, lock)),
                Ok(None) if attempts < 8 => {}
                Err(error) if error.is_not_found() && attempts < 8 => {}
                Ok(None) => {
                    let source = io::Error::from(io::ErrorKind::ResourceBusy);
                    return Err(StoreError::Io { call: "lock", path: temporary, source });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What an entry of the trash holds.
    ///
    /// # Errors
    /// [`UndoError::Broken`].
    pub fn trashed(&self, entry: &Entry) -> Result<Trashed, UndoError> {
        let entries: Vec<Descriptor> = entry.read(FILE)?;
        let index = IndexFile { manifests: entries.clone(), ..IndexFile::default() };
        let image = entries.first().and_then(|entry| self.load(&index, entry).ok());
        Ok(Trashed { entries, image })
    }

    /// The descriptors of all images in the trash. An entry that cannot be read keeps nothing.
    pub(super) fn trashed_entries(&self) -> Vec<Descriptor> {
        let entries = undo::list(self.layout()).into_iter().filter(|entry| entry.kind == Kind::Image);
        entries.filter_map(|entry| entry.read::<Vec<Descriptor>>(FILE).ok()).flatten().collect()
    }

    /// The images in the trash that can be brought back.
    pub(super) fn trashed_images(&self) -> Vec<Image> {
        let entries = undo::list(self.layout()).into_iter().filter(|entry| entry.kind == Kind::Image);
        entries.filter_map(|entry| self.trashed(&entry).ok()?.image).collect()
    }

    /// Brings an image back with its names, of which none may have been given to another image since.
    ///
    /// # Errors
    /// [`UndoError::NameTaken`]; those of writing `index.json`.
    pub fn restore(&self, _lock: &UndoLock, entry: &Entry) -> Result<Trashed, UndoError> {
        let store = |error: StoreError| UndoError::from(Box::new(error));
        let trashed = self.trashed(entry)?;
        if trashed.image.is_none() {
            let why = "its blobs are gone: pull it again".to_owned();
            return Err(UndoError::Broken { path: entry.path.clone(), why });
        }
        let _pin = self.pin().map_err(store)?;
        let mut taken = None;
        self.change_index(|index| {
            let other = |name: &Reference, entry: &Descriptor| {
                let has = |other: &&Descriptor| other.digest != entry.digest && name_of(other).as_ref() == Some(name);
                index.manifests.iter().any(|other| has(&other))
            };
            let named = trashed.entries.iter().filter_map(|entry| Some((name_of(entry)?, entry)));
            taken = named.into_iter().find(|(name, entry)| other(name, entry)).map(|(name, _)| name.to_string());
            if taken.is_some() {
                return;
            }
            for entry in &trashed.entries {
                match name_of(entry) {
                    Some(name) => index.insert(entry.clone(), Some(&name)),
                    // A name that no reference can be is kept as it is.
                    None if entry.annotation(ANNOTATION_NAME).is_some() => index.manifests.push(entry.clone()),
                    None => index.insert(entry.clone(), None),
                }
            }
        })
        .map_err(store)?;
        match taken {
            Some(name) => Err(UndoError::NameTaken { kind: "image", name }),
            None => {
                // What stays is an entry for an image that is there: it does no harm, and expires.
                // By one rename, so that there is never half an entry.
                let _ = crate::state::trash::put(self.layout(), &entry.path);
                Ok(trashed)
            }
        }
    }
}
