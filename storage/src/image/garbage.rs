//! What goes: images that are removed, and what no image refers to any more.
//!
//! First not referred to, then deleted; nothing is deleted while anybody pulls or pushes (`images/pin.lock`).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::CONFIG_LIMIT_BYTES;
use super::config::Config;
use super::record::{ANNOTATION_ID, ANNOTATION_INDEX};
use super::store::{Image, ImageStore, StoreError};
use crate::digest::{DiffId, Digest};
use crate::layer::index::Index;
use crate::state::layout::{Ownership, create_dir, is_lower_hex, random_hex};
use crate::state::lock::FileLock;

impl ImageStore {
    /// Removes an image with all its names, and what no other image needs: blobs are deleted, layers go to the trash.
    ///
    /// While a pull is running only the record goes; the rest waits for a later `remove` or [`Self::collect_garbage`].
    /// The caller has made sure that no container uses the image.
    ///
    /// # Errors
    /// Those of writing `index.json` and of deleting. If the disk is full ([`StoreError::is_full_disk`]), unpacked layers
    /// of the image are in the trash then: once that is empty, another try has room.
    pub fn remove(&self, image: &Image) -> Result<(), StoreError> {
        let pin = FileLock::try_exclusive(&self.layout().images().join("pin.lock"))?;
        if let Err(error) = self.change_index(|index| index.remove(&image.manifest.digest)) {
            if pin.is_some() && error.is_full_disk() {
                self.shed(image)?;
            }
            return Err(error);
        }
        self.remove_mount(image);
        let blobs = image.layers.iter().map(|layer| &layer.blob.digest);
        let blobs = blobs.chain([&image.id, &image.manifest.digest]).chain(&image.index);
        match pin {
            Some(_) => self.delete_unneeded(blobs, image.layers.iter().map(|layer| &layer.diff_id)),
            None => Ok(()),
        }
    }

    /// Removes the directory that the image was mounted on; if it is mounted in some namespace, the kernel unmounts it.
    pub(super) fn remove_mount(&self, image: &Image) {
        let place = self.layout().image_mount(&image.id);
        // Never more than the empty directories that `image mount` makes.
        for name in ["merged", "0", "1"] {
            let _ = fs::remove_dir(place.join(name));
        }
        let _ = fs::remove_dir(place);
    }

    /// Moves the unpacked layers of an image that is to be removed to the trash, as far as no other has them: without
    /// room for a new `index.json` they go first, because they can be made again from their blobs.
    fn shed(&self, image: &Image) -> Result<(), StoreError> {
        let mut layers: HashSet<&str> = image.layers.iter().map(|layer| layer.diff_id.hex()).collect();
        let others = self.list()?;
        for other in others.iter().filter(|other| other.manifest.digest != image.manifest.digest) {
            for layer in &other.layers {
                layers.remove(layer.diff_id.hex());
            }
        }
        self.trash_layers(|hex, _| layers.contains(hex)).map(drop)
    }

    /// Deletes what a pull brought that then failed, as far as no image needs it and nobody is pulling.
    ///
    /// # Errors
    /// Those of deleting.
    pub fn discard(&self, blobs: &[Digest], layers: &[DiffId]) -> Result<(), StoreError> {
        match FileLock::try_exclusive(&self.layout().images().join("pin.lock"))? {
            Some(_pin) => self.delete_unneeded(blobs, layers),
            None => Ok(()),
        }
    }

    /// The caller holds the pin exclusively.
    fn delete_unneeded<'a>(
        &self,
        blobs: impl IntoIterator<Item = &'a Digest>,
        layers: impl IntoIterator<Item = &'a DiffId>,
    ) -> Result<(), StoreError> {
        let needed = self.needed()?;
        for digest in blobs.into_iter().filter(|digest| !needed.blobs.contains(*digest)) {
            self.blobs().remove(digest)?;
        }
        self.sweep_recipes(&needed.blobs);
        let layers = layers.into_iter().filter(|layer| !needed.layers.contains(*layer));
        let layers: HashSet<&str> = layers.map(DiffId::hex).collect();
        self.trash_layers(|hex, _| layers.contains(hex)).map(drop)
    }

    /// Deletes every blob and every layer that no image refers to, except the layers in `keep` (those of containers),
    /// and what dead writers left. Gives the number of bytes of the blobs, and of the files of
    /// the layers. Does nothing while a pull is running.
    ///
    /// # Errors
    /// Those of reading the store and of deleting.
    pub fn collect_garbage(&self, keep: &HashSet<DiffId>) -> Result<u64, StoreError> {
        self.sweep()?;
        let Some(_pin) = FileLock::try_exclusive(&self.prepared()?.join("pin.lock"))? else {
            return Ok(0);
        };
        let needed = self.needed()?;
        let mut garbage = Vec::new();
        self.blobs().for_each(|digest, size_bytes| {
            if !needed.blobs.contains(&digest) {
                garbage.push((digest, size_bytes));
            }
        })?;
        self.sweep_recipes(&needed.blobs);
        let mut freed_bytes = 0;
        for (digest, size_bytes) in &garbage {
            self.blobs().remove(digest)?;
            freed_bytes += size_bytes;
        }
        let keep: HashSet<&str> = needed.layers.iter().chain(keep).map(DiffId::hex).collect();
        let moved = self.trash_layers(|hex, is_copy| is_copy || !keep.contains(hex))?;
        // What only led to an additional store took no room.
        for place in moved.iter().filter(|place| !place.is_symlink()) {
            freed_bytes += Index::open(&place.join("index")).map_or(0, |index| index.file_bytes());
        }
        Ok(freed_bytes)
    }

    /// Everything that the images of the store refer to, those in the trash, and those of lists. An image that cannot be read keeps what it can be seen to need.
    pub(crate) fn needed(&self) -> Result<Needed, StoreError> {
        let index = self.read_index()?;
        let (trashed, listed) = (self.trashed_entries(), self.listed_entries());
        let mut needed = Needed::default();
        for entry in index.manifests.iter().chain(&trashed).chain(&listed) {
            needed.blobs.insert(entry.digest.clone());
            let named = [ANNOTATION_INDEX, ANNOTATION_ID].map(|key| entry.annotation(key).map(Digest::parse));
            needed.blobs.extend(named.into_iter().flatten().flatten());
            let Ok((descriptor, manifest)) = self.manifest_of("", entry) else { continue };
            needed.blobs.extend([descriptor.digest, manifest.config.digest.clone()]);
            needed.blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
            if let Ok(Some(raw)) = self.blobs().read(&manifest.config.digest, CONFIG_LIMIT_BYTES)
                && let Ok(config) = Config::parse("", raw)
            {
                needed.layers.extend(config.diff_ids);
            }
        }
        Ok(needed)
    }

    /// Moves the directories of layers to the trash. `is_garbage` sees the digits of the diffID, and whether it is a copy
    /// with shifted ids (`<diffID>-<mapping>`, but for [`Ownership::Single`]), which an older coracle made and nobody needs any more. Gives their new
    /// places.
    fn trash_layers(&self, is_garbage: impl Fn(&str, bool) -> bool) -> Result<Vec<PathBuf>, StoreError> {
        let dir = self.layout().layers();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Io { call: "read", path: dir, source }),
        };
        let mut moved = Vec::new();
        let trash = self.layout().trash();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let name = Ownership::hex_of(name);
            let (hex, is_copy) = name.split_once('-').map_or((name, false), |(hex, _)| (hex, true));
            if hex.len() >= 64 && is_lower_hex(hex) && is_garbage(hex, is_copy) {
                create_dir(&trash)?;
                let path = entry.path();
                let place = trash.join(random_hex(16));
                fs::rename(&path, &place).map_err(|source| StoreError::Io { call: "rename", path, source })?;
                moved.push(place);
            }
        }
        Ok(moved)
    }
}

#[derive(Default)]
pub(crate) struct Needed {
    pub(crate) blobs: HashSet<Digest>,
    pub(crate) layers: HashSet<DiffId>,
}
