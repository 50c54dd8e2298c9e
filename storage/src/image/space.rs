//! How much room images take, and how much would come back without some of them: the one count behind `system df` and
//! the prune commands.
//!
//! An image takes the bytes of its documents and of its layers, twice: as they were sent, and unpacked. What several
//! images share counts once, and comes back when the last of them goes.

use std::collections::{HashMap, HashSet};
use std::fs;

use super::store::{Image, ImageStore, StoreError};
use crate::digest::{DiffId, Digest};
use crate::layer::index::Index;
use crate::state::layout::{Ownership, is_lower_hex};

/// The bytes of every blob and of every unpacked layer of a store.
#[derive(Debug, Default)]
pub struct Space {
    blobs: HashMap<Digest, u64>,
    /// By the digits of the diffID.
    layers: HashMap<String, u64>,
    /// Images that can be brought back.
    trashed: Vec<Image>,
}

impl ImageStore {
    /// Measures the store: one look at each blob and at each layer's index.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn space(&self) -> Result<Space, StoreError> {
        let mut space = Space::default();
        self.blobs().for_each(|digest, bytes| {
            space.blobs.insert(digest, bytes);
        })?;
        for entry in fs::read_dir(self.layout().layers()).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            // A tree for the single id is the image's as well as the other one.
            let own = Ownership::hex_of(&name);
            let (hex, rest) = own.split_once('-').map_or((own, None), |(hex, rest)| (hex, Some(rest)));
            // What leads to an additional store takes no room here.
            if hex.len() >= 64 && is_lower_hex(hex) && !entry.path().is_symlink() {
                let bytes = Index::open(&entry.path().join("index")).map_or(0, |index| index.file_bytes());
                // Copies with shifted ids are nobody's, which their name keeps them.
                let key = if rest.is_some() { name.clone() } else { hex.to_owned() };
                *space.layers.entry(key).or_default() += bytes;
            }
        }
        space.trashed = self.trashed_images();
        Ok(space)
    }
}

impl Space {
    /// The bytes of what these images and these layers need, each thing once.
    pub fn held_by<'a>(&self, images: impl IntoIterator<Item = &'a Image>, layers: &HashSet<DiffId>) -> u64 {
        let mut blobs: HashSet<&Digest> = HashSet::new();
        let mut trees: HashSet<&str> = layers.iter().map(DiffId::hex).collect();
        for image in images {
            blobs.extend([&image.id, &image.manifest.digest]);
            blobs.extend(&image.index);
            blobs.extend(image.layers.iter().map(|layer| &layer.blob.digest));
            trees.extend(image.layers.iter().map(|layer| layer.diff_id.hex()));
        }
        let blobs: u64 = blobs.into_iter().filter_map(|digest| self.blobs.get(digest)).sum();
        let trees: u64 = trees.into_iter().filter_map(|hex| self.layers.get(hex)).sum();
        blobs + trees
    }

    /// The bytes of everything but what only the trash holds. `images` are all images, `layers` those of containers.
    pub fn in_use(&self, images: &[Image], layers: &HashSet<DiffId>) -> u64 {
        self.total() - self.in_trash(images, layers)
    }

    /// The bytes that only images in the trash need.
    pub fn in_trash(&self, images: &[Image], layers: &HashSet<DiffId>) -> u64 {
        let all = self.held_by(images.iter().chain(&self.trashed), layers);
        all - self.held_by(images, layers)
    }

    /// The bytes that come back when of all images only those in `stay` stay, garbage included.
    pub fn reclaimable<'a>(
        &self,
        images: &[Image],
        stay: impl IntoIterator<Item = &'a Image>,
        layers: &HashSet<DiffId>,
    ) -> u64 {
        self.in_use(images, layers).saturating_sub(self.held_by(stay, layers))
    }

    fn total(&self) -> u64 {
        self.blobs.values().sum::<u64>() + self.layers.values().sum::<u64>()
    }
}
