//! What an image will be, before it is there.

use serde::{Deserialize, Serialize};

use super::Found;
use crate::digest::Digest;
use crate::image::config::Config;
use crate::image::manifest::Descriptor;
use crate::image::{Image, ImageError, Layer};
use crate::reference::Reference;

/// An image whose documents have been verified and whose layers may still be on their way. Passed between processes of one
/// pull, and written nowhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Known {
    manifest: Descriptor,
    index: Option<Digest>,
    id: Digest,
    names: Vec<String>,
    layers: Vec<Descriptor>,
    raw_config: Vec<u8>,
}

impl Known {
    pub(super) fn new(found: &Found, config: &Config, names: Vec<Reference>) -> Self {
        Self {
            manifest: Descriptor { platform: Some(config.platform.clone()), ..found.descriptor.clone() },
            index: found.index.clone(),
            id: found.manifest.config.digest.clone(),
            names: names.iter().map(Reference::to_string).collect(),
            layers: found.manifest.layers.clone(),
            raw_config: config.raw.clone(),
        }
    }

    /// The image's id.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// Its layers, bottom first.
    pub fn layers(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter()
    }

    /// The image, as the store will have it.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn into_image(self) -> Result<Image, ImageError> {
        let config = Config::parse(&format!("configuration {}", self.id), self.raw_config)?;
        config.check_layers("configuration", self.layers.len())?;
        let size = self.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
        let layers = self.layers.into_iter().zip(config.diff_ids);
        Ok(Image {
            id: self.id,
            manifest: self.manifest,
            index: self.index,
            names: self.names.iter().filter_map(|name| Reference::parse(name).ok()).collect(),
            platform: config.platform,
            size,
            created: config.spec.created().clone(),
            stored: None,
            config: config.spec,
            raw_config: config.raw,
            layers: layers.map(|(blob, diff_id)| Layer { blob, diff_id }).collect(),
            layer_sizes: None,
            read_only: None,
        })
    }
}
