//! `images/index.json`: which images there are, and what they are called.
//!
//! ```text
//! {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
//!   {"mediaType": …, "digest": …, "size": …, "platform": {…}, "annotations": {
//!      "org.opencontainers.image.ref.name": "docker.io/library/nginx:latest",
//!      "dev.coracle.index": "sha256:…", "dev.coracle.id": "sha256:…",
//!      "dev.coracle.created": "2025-01-02T03:04:05Z", "dev.coracle.sizes": "77885440,41219584"}}]}
//! ```
//! One descriptor per name; an image without names has one without `ref.name`. Descriptors of other tools' making, with
//! none of our annotations, are images like all others.
//!
//! | writer | readers | lock | durability | version |
//! |---|---|---|---|---|
//! | pull, load, build, commit, tag, rmi | every command that names an image | writers `images/lock`, readers none | fsync, rename, directory fsync | the OCI layout's own; annotations that are not known are kept |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{Descriptor, media_type};
use crate::digest::Digest;
use crate::reference::Reference;

/// The full reference of the image.
pub const ANNOTATION_NAME: &str = "org.opencontainers.image.ref.name";
/// The digest of the index that the name resolved to, if there was one.
pub const ANNOTATION_INDEX: &str = "dev.coracle.index";
/// The image's ID: the digest of its configuration.
pub const ANNOTATION_ID: &str = "dev.coracle.id";
/// When the image came into the store, RFC 3339.
pub const ANNOTATION_CREATED: &str = "dev.coracle.created";
/// Lengths of the uncompressed layers in bytes, bottom first, comma separated.
pub const ANNOTATION_SIZES: &str = "dev.coracle.sizes";

/// The file, parsed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexFile {
    pub(crate) schema_version: u32,
    #[serde(default = "index_type")]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

fn index_type() -> String {
    media_type::OCI_INDEX.to_owned()
}

impl Default for IndexFile {
    fn default() -> Self {
        Self { schema_version: 2, media_type: index_type(), manifests: Vec::new(), annotations: None }
    }
}

/// The name of an entry in the store's terms; nothing for a dangling image, or one whose name no reference can be.
pub(crate) fn name_of(entry: &Descriptor) -> Option<Reference> {
    // Ours are full already; other tools write bare tags.
    Reference::parse(entry.annotation(ANNOTATION_NAME)?).ok().map(Reference::with_default_tag)
}

impl IndexFile {
    /// Gives `name` to the image of `entry`, or adds it nameless. Whoever had the name before keeps the rest of its
    /// names, and if there are none, dangles.
    pub(crate) fn insert(&mut self, mut entry: Descriptor, name: Option<&Reference>) {
        match name {
            Some(name) => {
                self.release(name);
                entry.annotations.get_or_insert_default().insert(ANNOTATION_NAME.to_owned(), name.to_string());
                self.manifests
                    .retain(|other| other.digest != entry.digest || other.annotation(ANNOTATION_NAME).is_some());
            }
            None if self.manifests.iter().any(|other| other.digest == entry.digest) => return,
            None => {
                if let Some(annotations) = &mut entry.annotations {
                    annotations.remove(ANNOTATION_NAME);
                }
            }
        }
        self.manifests.push(entry);
    }

    /// Takes `name` away from its image; says whether it had one. The image stays, dangling if it was its last name.
    pub(crate) fn release(&mut self, name: &Reference) -> bool {
        let Some(position) = self.manifests.iter().position(|entry| name_of(entry).as_ref() == Some(name)) else {
            return false;
        };
        let entry = self.manifests.remove(position);
        self.insert(entry, None);
        true
    }

    /// Removes an image with all its names.
    pub(crate) fn remove(&mut self, manifest: &Digest) {
        self.manifests.retain(|entry| entry.digest != *manifest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of(text.as_bytes()), 1)
    }

    fn reference(text: &str) -> Reference {
        Reference::parse(text).expect("valid")
    }

    /// `name=image` for each entry, `-` for no name.
    fn shape(index: &IndexFile) -> Vec<String> {
        let image = |entry: &Descriptor| {
            ["a", "b"].into_iter().find(|text| Digest::of(text.as_bytes()) == entry.digest).expect("known")
        };
        let name = |entry: &Descriptor| name_of(entry).map_or("-".to_owned(), |name| name.familiar());
        index.manifests.iter().map(|entry| format!("{}={}", name(entry), image(entry))).collect()
    }

    #[test]
    fn names_move_and_images_that_lose_their_last_one_dangle() {
        let mut index = IndexFile::default();
        index.insert(entry("a"), None);
        index.insert(entry("a"), None);
        assert_eq!(shape(&index), ["-=a"]);
        index.insert(entry("a"), Some(&reference("x:1")));
        assert_eq!(shape(&index), ["x:1=a"]);
        index.insert(entry("a"), Some(&reference("x:2")));
        index.insert(entry("b"), Some(&reference("x:1")));
        assert_eq!(shape(&index), ["x:2=a", "x:1=b"]);
        index.insert(entry("b"), Some(&reference("x:2")));
        assert_eq!(shape(&index), ["x:1=b", "-=a", "x:2=b"]);
        index.insert(entry("b"), Some(&reference("x:2")));
        assert_eq!(shape(&index), ["x:1=b", "-=a", "x:2=b"]);
        assert!(index.release(&reference("x:1")) && !index.release(&reference("x:1")));
        assert!(index.release(&reference("x:2")));
        assert_eq!(shape(&index), ["-=a", "-=b"]);
        index.remove(&Digest::of(b"a"));
        assert_eq!(shape(&index), ["-=b"]);
    }

    #[test]
    fn foreign_annotations_survive() {
        let text = r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"annotations":{"x":"y"}}],
            "annotations":{"z":"z"}}"#;
        let mut index: IndexFile = serde_json::from_str(text).expect("valid");
        let entry = index.manifests[0].clone();
        index.insert(entry, Some(&reference("n")));
        let text = serde_json::to_string(&index).expect("json");
        assert!(
            text.contains(r#""x":"y""#) && text.contains(r#""z":"z""#) && text.contains("docker.io/library/n"),
            "{text}"
        );
    }
}
