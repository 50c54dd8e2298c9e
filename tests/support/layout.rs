//! An OCI image layout written by hand: blobs, manifests, an index for several platforms.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::image::{Image, Packing, pack, sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Which family of media types an image is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    Oci,
    Docker2,
}

/// Blobs by digest, and names for some of them.
#[derive(Clone, Default)]
pub(crate) struct Blobs {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// Tag → descriptor.
    pub(crate) tags: BTreeMap<String, Value>,
}

impl Blobs {
    /// Stores bytes and returns their descriptor.
    pub(crate) fn put(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// Adds an image under a tag and returns the descriptor of its manifest.
    pub(crate) fn add(&mut self, tag: &str, image: &Image, packing: Packing, schema: Schema) -> Value {
        let mut descriptor = self.add_manifest(image, packing, schema);
        descriptor["platform"] = json!({"os": "linux", "architecture": image.architecture});
        self.tags.insert(tag.to_owned(), descriptor.clone());
        descriptor
    }

    /// Adds an index of images for several platforms.
    pub(crate) fn add_index(&mut self, tag: &str, images: &[Image]) -> Value {
        let manifests = images.iter().map(|image| {
            let mut descriptor = self.add_manifest(image, Packing::Gzip, Schema::Oci);
            descriptor["platform"] = json!({"os": "linux", "architecture": image.architecture});
            descriptor
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests.collect::<Vec<_>>()});
        let descriptor = self.put(INDEX, index.to_string().into_bytes());
        self.tags.insert(tag.to_owned(), descriptor.clone());
        descriptor
    }

    fn add_manifest(&mut self, image: &Image, packing: Packing, schema: Schema) -> Value {
        let (manifest_type, config_type, layer_type) = match (schema, packing) {
            (Schema::Oci, packing) => (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                match packing {
                    Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
                    Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
                    Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
                },
            ),
            (Schema::Docker2, packing) => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                match packing {
                    Packing::Plain => "application/vnd.docker.image.rootfs.diff.tar",
                    Packing::Gzip => "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    Packing::Zstd => "application/vnd.docker.image.rootfs.diff.tar.zstd",
                },
            ),
        };
        let layers: Vec<_> = image.layers.iter().map(|layer| self.put(layer_type, pack(layer, packing))).collect();
        let config = self.put(config_type, image.config_blob());
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        self.put(manifest_type, manifest.to_string().into_bytes())
    }

    /// Writes the layout directory.
    pub(crate) fn write(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("the test's own directory");
        for (digest, bytes) in &self.blobs {
            let name = digest.trim_start_matches("sha256:");
            fs::write(blobs.join(name), bytes).expect("the test's own directory");
        }
        let manifests = self.tags.iter().map(|(tag, descriptor)| {
            let mut descriptor = descriptor.clone();
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
            descriptor
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests.collect::<Vec<_>>()});
        fs::write(dir.join("index.json"), index.to_string()).expect("the test's own directory");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the test's own directory");
    }
}
