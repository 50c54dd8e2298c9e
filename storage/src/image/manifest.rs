//! Manifests and indexes: which blobs make an image, OCI and docker schema 2.
//!
//! Both formats are read as one; the bytes are never written back from these types, so that digests stay what they are.
//!
//! # Source
//! OCI image specification 1.1, `manifest.md`, `image-index.md`; docker "Image Manifest V2, Schema 2".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::index::Platform;
use super::{ImageError, MANIFEST_LIMIT_BYTES, parse_json};
use crate::digest::Digest;

/// Media types of the documents and layers that are read here.
pub mod media_type {
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, plain.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Everything a registry may answer with, best first.
    pub const MANIFESTS: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

    pub(super) const LAYERS: [&str; 10] = [
        OCI_LAYER,
        OCI_LAYER_GZIP,
        OCI_LAYER_ZSTD,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        DOCKER_LAYER,
        DOCKER_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
}

/// Where some bytes are and what they must be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    #[serde(default)]
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// Their length in bytes.
    pub size: u64,
    /// Other places to get them from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// For which machine, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Describes bytes without further detail.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: None,
            annotations: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// One annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether it points at an index rather than at a manifest.
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), media_type::OCI_INDEX | media_type::DOCKER_LIST)
    }
}

/// A manifest or an index, told apart.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
pub enum Document {
    /// Several images, one per platform.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// The images of one name, one per platform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// Manifests, and possibly more indexes.
    pub manifests: Vec<Descriptor>,
}

/// One image: its configuration and its layers, bottom first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// As declared, by the document or by whoever sent it.
    pub media_type: String,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// Annotations of the image.
    pub annotations: BTreeMap<String, String>,
}

/// All fields that any of the formats has, so that mixtures are seen.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    signatures: Option<serde::de::IgnoredAny>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Parses a manifest or an index. `declared` is the type its sender gave, `what` names it in errors.
    ///
    /// # Errors
    /// Schema 1, artifacts, unknown layer types, a document that is two things at once or not what was declared.
    pub fn parse(what: &str, declared: Option<&str>, bytes: &[u8]) -> Result<Self, ImageError> {
        let raw: RawDocument = parse_json(what, bytes, MANIFEST_LIMIT_BYTES)?;
        let what = || what.to_owned();
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() || raw.signatures.is_some() {
            return Err(ImageError::Schema1 { what: what() });
        }
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(ImageError::Ambiguous { what: what(), reason: "both a manifest and an index".to_owned() });
        }
        // Servers that do not know say text/plain or application/json; only a claim to be a manifest type counts.
        let declared = declared
            .map(|text| text.split(';').next().unwrap_or_default().trim())
            .filter(|text| text.starts_with("application/vnd.") && !text.ends_with("prettyjws"));
        if let (Some(inside), Some(outside)) = (raw.media_type.as_deref(), declared)
            && inside != outside
        {
            let reason = format!("sent as {outside:?}, calls itself {inside:?}");
            return Err(ImageError::Ambiguous { what: what(), reason });
        }
        let claim = raw.media_type.as_deref().or(declared);
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), _, _) => match claim {
                None | Some(media_type::OCI_INDEX | media_type::DOCKER_LIST) => Ok(Self::Index(Index { manifests })),
                Some(media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST) => {
                    Err(ImageError::Ambiguous { what: what(), reason: "an index that is called a manifest".to_owned() })
                }
                Some(other) => Err(ImageError::ManifestType { what: what(), media_type: other.to_owned() }),
            },
            (None, Some(config), Some(layers)) => match claim {
                None | Some(media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST) => {
                    let media_type = claim.unwrap_or(media_type::OCI_MANIFEST).to_owned();
                    check_image(what(), raw.artifact_type, &config, &layers)?;
                    let annotations = raw.annotations.unwrap_or_default();
                    Ok(Self::Manifest(Manifest { media_type, config, layers, annotations }))
                }
                Some(media_type::OCI_INDEX | media_type::DOCKER_LIST) => {
                    Err(ImageError::Ambiguous { what: what(), reason: "a manifest that is called an index".to_owned() })
                }
                Some(other) => Err(ImageError::ManifestType { what: what(), media_type: other.to_owned() }),
            },
            _ => {
                let media_type = claim.unwrap_or("unknown").to_owned();
                Err(ImageError::ManifestType { what: what(), media_type })
            }
        }
    }
}

fn check_image(
    what: String,
    artifact_type: Option<String>,
    config: &Descriptor,
    layers: &[Descriptor],
) -> Result<(), ImageError> {
    if !matches!(config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
        let artifact_type = artifact_type.unwrap_or_else(|| config.media_type.clone());
        return Err(ImageError::Artifact { what, artifact_type });
    }
    match layers.iter().find(|layer| !media_type::LAYERS.contains(&layer.media_type.as_str())) {
        Some(layer) => Err(ImageError::LayerType {
            what,
            digest: layer.digest.clone(),
            media_type: layer.media_type.chars().take(160).collect(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":7}}"#)
    }

    fn manifest(own_type: &str, config: &str, layer: &str) -> String {
        let (config, layer) = (descriptor(config), descriptor(layer));
        format!(r#"{{"schemaVersion":2,"mediaType":"{own_type}","config":{config},"layers":[{layer}]}}"#)
    }

    #[test]
    fn oci_and_docker_manifests_are_read_alike() {
        use media_type::*;
        for (own, config, layer) in [
            (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER),
            (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_ZSTD),
            (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP),
        ] {
            let text = manifest(own, config, layer);
            let Ok(Document::Manifest(manifest)) = Document::parse("m", Some(own), text.as_bytes()) else {
                panic!("{text}");
            };
            assert_eq!((manifest.media_type.as_str(), manifest.layers.len(), manifest.config.size), (own, 1, 7));
        }
        let bare = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, descriptor(OCI_CONFIG));
        assert!(matches!(Document::parse("m", Some("application/json"), bare.as_bytes()), Ok(Document::Manifest(_))));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}],"x-unknown":[[]]}}"#, descriptor(OCI_MANIFEST));
        assert!(matches!(Document::parse("m", None, index.as_bytes()), Ok(Document::Index(_))));
    }

    #[test]
    fn what_could_be_two_things_or_nothing_is_refused() {
        use media_type::*;
        let (config, layer) = (descriptor(OCI_CONFIG), descriptor(OCI_LAYER));
        let child = descriptor(OCI_MANIFEST);
        let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
        for (declared, text, message) in [
            (None, "{}".to_owned(), "m: unsupported manifest type \"unknown\""),
            (None, r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.to_owned(), "schema 1"),
            (None, r#"{"fsLayers":[{"blobSum":"x"}]}"#.to_owned(), "schema 1"),
            (
                None,
                format!(r#"{{"config":{config},"layers":[{layer}],"manifests":[{child}]}}"#),
                "both a manifest and an",
            ),
            (None, format!(r#"{{"config":{config},"manifests":[]}}"#), "both a manifest and an index"),
            (Some(OCI_INDEX), manifest(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER), "sent as"),
            (Some(OCI_INDEX), format!(r#"{{"config":{config},"layers":[]}}"#), "a manifest that is called an index"),
            (Some(OCI_MANIFEST), format!(r#"{{"manifests":[{child}]}}"#), "an index that is called a manifest"),
            (None, manifest(OCI_MANIFEST, "application/vnd.oci.empty.v1+json", OCI_LAYER), "not a container image"),
            (None, manifest(OCI_MANIFEST, OCI_CONFIG, "application/x-qcow2"), "unsupported layer type"),
            (None, manifest(OCI_MANIFEST, OCI_CONFIG, &format!("{OCI_LAYER}+encrypted")), "unsupported layer type"),
            (None, manifest("application/vnd.x", OCI_CONFIG, OCI_LAYER), "unsupported manifest type"),
            (None, manifest(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER).replace(":7", ":-7"), "invalid JSON"),
            (None, manifest(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER).replace(HEX, "../../x"), "invalid digest"),
            (None, format!(r#"{{"config":{config},"config":{config},"layers":[]}}"#), "duplicate field"),
            (None, deep, "invalid JSON"),
            (None, " ".repeat(5 << 20), "more than the 4194304"),
        ] {
            let error = Document::parse("m", declared, text.as_bytes()).expect_err(message).to_string();
            assert!(error.contains(message) && !error.contains('\n') && error.len() < 500, "{error} <> {message}");
        }
    }
}
