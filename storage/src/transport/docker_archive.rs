//! The archives of `docker save`: `manifest.json` names, for each image, a configuration and the layers.
//!
//! ```text
//! manifest.json  [{"Config": "<id>.json", "RepoTags": ["nginx:latest"], "Layers": ["<id>/layer.tar", …]}]
//! ```
//! There is no manifest of the image in it: one is made, whose layers are the members as they are. Their digests are
//! those of the configuration where they are not compressed (and are checked as they are read), else computed.

use super::archive::Files;
use super::policy::Origin;
use super::{BlobReader, ImageSource, RawManifest, TransportError};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::image::config::Config;
use crate::image::manifest::{Descriptor, media_type};
use crate::image::{CONFIG_LIMIT_BYTES, MANIFEST_LIMIT_BYTES};
use crate::layer::compression::Compression;
use crate::reference::Reference;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// One entry of the archive's `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers: Vec<String>,
}

/// One image of an archive.
#[derive(Debug)]
pub struct DockerArchive {
    described: String,
    files: Arc<Files>,
    names: Vec<Reference>,
    manifest: Vec<u8>,
    /// Configuration and layers by digest, as members.
    members: HashMap<Digest, String>,
}

/// The manifest that is made for an image that has none.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MadeManifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

/// Writes an OCI manifest.
pub(super) fn make_manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<Vec<u8>, TransportError> {
    let manifest = MadeManifest { schema_version: 2, media_type: media_type::OCI_MANIFEST, config, layers };
    serde_json::to_vec(&manifest)
        .map_err(|error| TransportError::Invalid { what: "manifest".to_owned(), reason: error.to_string() })
}

impl DockerArchive {
    /// All images of an archive, in its order.
    pub(super) fn all(files: Files, described: &str) -> Result<Vec<Self>, TransportError> {
        let items = items(&files, described)?;
        let files = Arc::new(files);
        items.iter().map(|item| Self::new(files.clone(), described, item)).collect()
    }

    /// The image of an archive with this tag, or of this number (`@0`), or the only one.
    pub(super) fn one(files: Files, described: &str, reference: Option<&str>) -> Result<Self, TransportError> {
        let items = items(&files, described)?;
        let wanted = reference.and_then(|text| Reference::parse(text).ok()).map(Reference::with_default_tag);
        let number = reference.and_then(|text| text.strip_prefix('@')).and_then(|text| text.parse::<usize>().ok());
        let answers = |at: usize, item: &Item| match (reference, number) {
            (None, _) => true,
            (Some(_), Some(number)) => at == number,
            (Some(_), None) => wanted.as_ref().is_some_and(|wanted| names(item).contains(wanted)),
        };
        let mut found = items.iter().enumerate().filter(|(at, item)| answers(*at, item)).map(|(_, item)| item);
        match (found.next(), found.next()) {
            (Some(item), None) => Self::new(Arc::new(files), described, item),
            _ => {
                let tags: Vec<String> = items.iter().flat_map(names).take(10).map(|name| name.familiar()).collect();
                let what = match reference {
                    Some(text) => format!("{described}: {}", text.escape_debug()),
                    None => described.to_owned(),
                };
                let hint = format!(": it has {} images, choose one: {}", items.len(), tags.join(", "));
                Err(TransportError::NotFound { what, hint })
            }
        }
    }

    fn new(files: Arc<Files>, described: &str, item: &Item) -> Result<Self, TransportError> {
        let missing = |name: &str| TransportError::NotFound {
            what: format!("{described}: {}", name.escape_debug()),
            hint: ": the archive names it and does not have it".to_owned(),
        };
        let raw = files.read(&item.config, CONFIG_LIMIT_BYTES)?.ok_or_else(|| missing(&item.config))?;
        let digest = Digest::of(&raw);
        let config_descriptor = Descriptor::new(media_type::OCI_CONFIG, digest.clone(), raw.len() as u64);
        let what = format!("{described}: {}", item.config.escape_debug());
        let config = Config::parse(&what, raw)?;
        config.check_layers(&what, item.layers.len())?;
        let mut members = HashMap::from([(digest, item.config.clone())]);
        let mut layers = Vec::with_capacity(item.layers.len());
        for (name, diff_id) in item.layers.iter().zip(&config.diff_ids) {
            let failed = |source| TransportError::Io { what: format!("read {}", name.escape_debug()), source };
            let piece = files.piece(name).map_err(failed)?.ok_or_else(|| missing(name))?;
            let compression = Compression::detect(&piece.begin().map_err(failed)?);
            let compression = compression.map_err(|error| TransportError::Invalid {
                what: format!("{described}: {}", name.escape_debug()),
                reason: error.to_string(),
            })?;
            let len_bytes = piece.len_bytes;
            let (digest, media_type) = match compression {
                Compression::None => (diff_id.as_digest().clone(), media_type::OCI_LAYER),
                Compression::Gzip | Compression::Zstd => {
                    let read = Hasher::of_reader(Algorithm::Sha256, piece.reader(0)).map_err(failed)?;
                    let is_gzip = compression == Compression::Gzip;
                    (read.0, if is_gzip { media_type::OCI_LAYER_GZIP } else { media_type::OCI_LAYER_ZSTD })
                }
            };
            layers.push(Descriptor::new(media_type, digest.clone(), len_bytes));
            members.insert(digest, name.clone());
        }
        let manifest = make_manifest(&config_descriptor, &layers)?;
        Ok(Self { described: described.to_owned(), files, names: names(item), manifest, members })
    }
}

fn items(files: &Files, described: &str) -> Result<Vec<Item>, TransportError> {
    let what = format!("{described}: manifest.json");
    let bytes = files.read("manifest.json", MANIFEST_LIMIT_BYTES)?.ok_or_else(|| TransportError::NotFound {
        what: what.clone(),
        hint: ": not an archive of docker save (1.10 or later)".to_owned(),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| TransportError::Invalid { what, reason: error.to_string() })
}

fn names(item: &Item) -> Vec<Reference> {
    let tags = item.repo_tags.iter().flatten();
    tags.filter_map(|tag| Reference::parse(tag).ok()).map(Reference::with_default_tag).collect()
}

impl ImageSource for DockerArchive {
    fn describe(&self) -> String {
        self.described.clone()
    }

    fn origin(&self) -> Option<Origin> {
        Some(Origin::of_file("docker-archive", &self.described))
    }

    fn names(&self) -> Vec<Reference> {
        self.names.clone()
    }

    fn manifest(&self, which: Option<&Descriptor>) -> Result<RawManifest, TransportError> {
        match which {
            None => {
                Ok(RawManifest { media_type: Some(media_type::OCI_MANIFEST.to_owned()), bytes: self.manifest.clone() })
            }
            Some(other) => Err(TransportError::NotFound { what: other.digest.to_string(), hint: String::new() }),
        }
    }

    fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobReader<'_>, TransportError> {
        let not_found = || TransportError::NotFound { what: blob.digest.to_string(), hint: String::new() };
        self.files.blob(self.members.get(&blob.digest).ok_or_else(not_found)?, offset)
    }
}
