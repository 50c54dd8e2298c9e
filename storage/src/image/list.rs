//! Manifest lists: indexes that are made here, to be pushed when all their images are in them.
//!
//! ```text
//! images/lists.json   {"schemaVersion": 2, "manifests": [
//!   {"mediaType": …, "digest": <of the index as it would be pushed>, "size": …, "annotations": {
//!      "org.opencontainers.image.ref.name": "localhost/list:latest", "dev.coracle.id": "sha256:…",
//!      "dev.coracle.created": "2025-01-02T03:04:05Z"}}]}
//! images/blobs/sha256/<digest>  the index
//! ```
//! | writer | readers | lock | durability | version |
//! |---|---|---|---|---|
//! | `manifest` commands | they, and whoever collects garbage: a list keeps what it names | `images/lock` | fdatasync, rename | the OCI layout's own; an older coracle does not see lists and may collect what only they keep |
//!
//! An edit writes another index and leads the name to it; the list keeps its ID.

use serde_json::{Map, Value, json};

use super::index::Platform;
use super::manifest::{Descriptor, Document, media_type};
use super::record::{ANNOTATION_CREATED, ANNOTATION_ID, ANNOTATION_NAME, IndexFile, name_of};
use super::store::{Image, ImageStore, StoreError};
use super::{INDEX_DEPTH_LIMIT, MANIFEST_LIMIT_BYTES};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::state::atomic::{Durability, write_atomic};
use crate::state::layout::{is_lower_hex, random_hex};
use crate::state::lock::FileLock;

const FILE: &str = "lists.json";

/// A manifest list.
#[derive(Clone, Debug)]
pub struct List {
    /// The name.
    pub name: Reference,
    /// Stays when the list is edited.
    pub id: Digest,
    /// The index as it is now.
    pub index: Descriptor,
    /// The index, parsed.
    pub document: Map<String, Value>,
}

/// What an entry of a list is said to be.
#[derive(Clone, Debug, Default)]
pub struct Detail {
    /// Fields of its platform that are other than the image says: `architecture`, `os`, `variant`, `os.version`.
    pub platform: Vec<(&'static str, String)>,
    /// `os.features` or `features`.
    pub features: Vec<(&'static str, Vec<String>)>,
    /// Annotations.
    pub annotations: Vec<(String, String)>,
}

impl Detail {
    fn apply(&self, entry: &mut Map<String, Value>) {
        let platform = object(entry, "platform");
        for (name, value) in &self.platform {
            platform.insert((*name).to_owned(), json!(value));
        }
        for (name, values) in &self.features {
            platform.insert((*name).to_owned(), json!(values));
        }
        if !self.annotations.is_empty() {
            annotate(entry, &self.annotations);
        }
    }
}

fn object<'m>(map: &'m mut Map<String, Value>, name: &str) -> &'m mut Map<String, Value> {
    let value = map.entry(name).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it is an object by now")
}

fn annotate(map: &mut Map<String, Value>, annotations: &[(String, String)]) {
    let known = object(map, "annotations");
    for (name, value) in annotations {
        known.insert(name.clone(), json!(value));
    }
}

impl List {
    /// The digests and sizes of what it names.
    pub fn entries(&self) -> Vec<Descriptor> {
        let entries = self.document.get("manifests").and_then(Value::as_array).into_iter().flatten();
        entries.filter_map(|entry| serde_json::from_value(entry.clone()).ok()).collect()
    }

    fn places(&mut self) -> &mut Vec<Value> {
        let value = self.document.entry("manifests").or_insert_with(|| json!([]));
        if !value.is_array() {
            *value = json!([]);
        }
        value.as_array_mut().expect("it is an array by now")
    }

    /// Adds an image, or replaces what is known of it.
    pub fn add(&mut self, manifest: &Descriptor, platform: Option<&Platform>, detail: &Detail) {
        let mut entry = Map::new();
        entry.insert("mediaType".to_owned(), json!(manifest.media_type));
        entry.insert("size".to_owned(), json!(manifest.size));
        entry.insert("digest".to_owned(), json!(manifest.digest));
        if let Some(platform) = platform {
            entry.insert("platform".to_owned(), json!(platform));
        }
        detail.apply(&mut entry);
        let places = self.places();
        places.retain(|known| known["digest"] != manifest.digest.to_string());
        places.push(Value::Object(entry));
    }

    /// Changes what is said of an entry; says whether there is such an entry.
    pub fn change(&mut self, digest: &Digest, detail: &Detail) -> bool {
        let digest = digest.to_string();
        match self.places().iter_mut().find(|entry| entry["digest"] == digest).and_then(Value::as_object_mut) {
            Some(entry) => {
                detail.apply(entry);
                true
            }
            None => false,
        }
    }

    /// Annotates the list itself.
    pub fn annotate(&mut self, annotations: &[(String, String)]) {
        annotate(&mut self.document, annotations);
    }

    /// Takes an entry out; says whether there was one.
    pub fn remove(&mut self, digest: &Digest) -> bool {
        let (digest, places) = (digest.to_string(), self.places());
        let before = places.len();
        places.retain(|entry| entry["digest"] != digest);
        places.len() < before
    }
}

impl ImageStore {
    /// A new list without entries, which is not stored yet.
    pub fn new_list(&self, name: &Reference) -> List {
        let document = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": []});
        let Value::Object(document) = document else { unreachable!("it is an object") };
        List {
            name: name.clone().with_default_tag(),
            id: Digest::of(random_hex(32).as_bytes()),
            index: Descriptor::new(media_type::OCI_INDEX, Digest::of(b""), 0),
            document,
        }
    }

    /// Finds a list by its name or a beginning of its ID.
    ///
    /// # Errors
    /// The file or the index cannot be read.
    pub fn find_list(&self, text: &str) -> Result<Option<List>, StoreError> {
        let file = self.read_lists()?;
        let names: Vec<Reference> = [format!("localhost/{text}"), text.to_owned()]
            .iter()
            .filter_map(|name| Some(Reference::parse(name).ok()?.with_default_tag()))
            .collect();
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let has_id = |entry: &&Descriptor| {
            let id = entry.annotation(ANNOTATION_ID).and_then(|id| id.strip_prefix("sha256:")).unwrap_or_default();
            is_lower_hex(prefix) && prefix.len() >= 3 && id.starts_with(prefix)
        };
        let by_name = names.iter().find_map(|name| file.manifests.iter().find(|e| name_of(e).as_ref() == Some(name)));
        match by_name.or_else(|| file.manifests.iter().find(has_id)) {
            Some(entry) => self.list_of(entry),
            None => Ok(None),
        }
    }

    /// The image for `wanted` of the list that `text` names, if it is here.
    ///
    /// # Errors
    /// The list or a document of the image cannot be read.
    pub fn listed_image(&self, text: &str, wanted: &Platform) -> Result<Option<Image>, StoreError> {
        match self.find_list(text)? {
            Some(list) => self.image_for(list.entries(), wanted),
            None => Ok(None),
        }
    }

    /// The image for `wanted` that the index has which `other` was pulled through, if it is here.
    ///
    /// # Errors
    /// A document of the image cannot be read.
    pub fn image_beside(&self, other: &Image, wanted: &Platform) -> Result<Option<Image>, StoreError> {
        let Some(digest) = &other.index else { return Ok(None) };
        let bytes = self.blobs().read(digest, MANIFEST_LIMIT_BYTES)?.unwrap_or_default();
        match Document::parse("", None, &bytes) {
            Ok(Document::Index(index)) => self.image_for(index.manifests, wanted),
            _ => Ok(None),
        }
    }

    fn image_for(&self, entries: Vec<Descriptor>, wanted: &Platform) -> Result<Option<Image>, StoreError> {
        let ranked = entries.iter().filter_map(|entry| Some((entry.platform.as_ref()?.rank_for(wanted)?, entry)));
        match ranked.min_by_key(|(rank, _)| *rank) {
            Some((_, entry)) => self.image_of(entry),
            None => Ok(None),
        }
    }

    fn list_of(&self, entry: &Descriptor) -> Result<Option<List>, StoreError> {
        let Some(name) = name_of(entry) else { return Ok(None) };
        let image = || name.to_string();
        let bytes = self.blobs().read(&entry.digest, MANIFEST_LIMIT_BYTES)?;
        let bytes = bytes.ok_or_else(|| StoreError::MissingBlob { image: image(), digest: entry.digest.clone() })?;
        let path = self.blobs().path(&entry.digest);
        let document = serde_json::from_slice(&bytes).map_err(|source| StoreError::Index { path, source })?;
        let id = entry.annotation(ANNOTATION_ID).and_then(|id| Digest::parse(id).ok());
        let mut index = entry.clone();
        index.annotations = None;
        Ok(Some(List { id: id.unwrap_or_else(|| entry.digest.clone()), name, index, document }))
    }

    /// Stores a list as it is now, in place of what its name meant before.
    ///
    /// # Errors
    /// Those of writing.
    pub fn store_list(&self, list: &mut List) -> Result<(), StoreError> {
        let _pin = self.pin()?;
        let path = self.layout().images().join(FILE);
        let bytes = serde_json::to_vec(&list.document).map_err(|source| StoreError::Index { path, source })?;
        let kind = list.document.get("mediaType").and_then(Value::as_str).unwrap_or(media_type::OCI_INDEX).to_owned();
        list.index = Descriptor::new(&kind, self.blobs().put(&bytes)?, bytes.len() as u64);
        let mut entry = list.index.clone();
        let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_else(|_| jiff::Timestamp::now());
        let annotations = entry.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_NAME.to_owned(), list.name.to_string());
        annotations.insert(ANNOTATION_ID.to_owned(), list.id.to_string());
        annotations.insert(ANNOTATION_CREATED.to_owned(), now.to_string());
        self.change_lists(|file| {
            file.manifests.retain(|known| name_of(known).as_ref() != Some(&list.name));
            file.manifests.push(entry);
        })
    }

    /// Forgets a list. Its images stay; what only it kept is garbage.
    ///
    /// # Errors
    /// Those of writing.
    pub fn remove_list(&self, list: &List) -> Result<(), StoreError> {
        self.change_lists(|file| file.manifests.retain(|known| name_of(known).as_ref() != Some(&list.name)))
    }

    /// The entries of all lists.
    pub(crate) fn lists(&self) -> Result<Vec<Descriptor>, StoreError> {
        Ok(self.read_lists()?.manifests)
    }

    /// Forgets the list of this name, whose index cannot be read.
    pub(crate) fn forget_list(&self, name: &str) -> Result<(), StoreError> {
        let has_name = |known: &Descriptor| {
            name_of(known).is_some_and(|known| known.to_string() == name) || known.digest.to_string() == name
        };
        self.change_lists(|file| file.manifests.retain(|known| !has_name(known)))
    }

    fn change_lists(&self, change: impl FnOnce(&mut IndexFile)) -> Result<(), StoreError> {
        let images = self.prepared()?;
        let _lock = FileLock::exclusive(&images.join("lock"))?;
        let mut file = self.read_lists()?;
        change(&mut file);
        let path = images.join(FILE);
        let bytes = serde_json::to_vec(&file).map_err(|source| StoreError::Index { path: path.clone(), source })?;
        Ok(write_atomic(&path, &bytes, Durability::Data)?)
    }

    fn read_lists(&self) -> Result<IndexFile, StoreError> {
        self.read_index_file(FILE)
    }

    /// Every manifest and index that a list leads to and the store has. A list that cannot be read keeps nothing.
    pub(super) fn listed_entries(&self) -> Vec<Descriptor> {
        let mut found = Vec::new();
        let mut next = self.read_lists().map(|file| file.manifests).unwrap_or_default();
        for _ in 0..=INDEX_DEPTH_LIMIT {
            let mut deeper = Vec::new();
            for entry in &next {
                let Ok(Some(bytes)) = self.blobs().read(&entry.digest, MANIFEST_LIMIT_BYTES) else { continue };
                if let Ok(Document::Index(index)) = Document::parse("", Some(&entry.media_type), &bytes) {
                    deeper.extend(index.manifests);
                }
            }
            found.append(&mut next);
            next = deeper;
        }
        found.append(&mut next);
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::state::layout::Layout;

    #[test]
    fn lists_are_found_by_name_and_id_and_keep_what_they_name() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&Layout::new(root.path().join("data"), root.path().join("run")));
        let mut list = store.new_list(&Reference::parse("localhost/all").unwrap());
        store.store_list(&mut list).unwrap();
        let config = store
            .blobs()
            .put(br#"{"architecture":"s390x","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#)
            .unwrap();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config}","size":70}},"layers":[]}}"#,
            media_type::OCI_MANIFEST,
            media_type::OCI_CONFIG
        );
        let digest = store.blobs().put(manifest.as_bytes()).unwrap();
        let manifest = Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), manifest.len() as u64);
        let platform = Platform::parse("linux/s390x").unwrap();
        let detail = Detail { annotations: vec![("a".into(), "b".into())], ..Detail::default() };
        list.add(&manifest, Some(&platform), &detail);
        list.add(&manifest, Some(&platform), &detail);
        let first = list.index.digest.clone();
        store.store_list(&mut list).unwrap();
        assert!(first != list.index.digest);
        for text in ["all", "localhost/all:latest", &list.id.hex()[..12]] {
            let found = store.find_list(text).unwrap().unwrap_or_else(|| panic!("{text}"));
            assert_eq!((found.id.clone(), found.entries().len()), (list.id.clone(), 1), "{text}");
        }
        assert!(store.find_list("docker.io/all").unwrap().is_none());
        store.collect_garbage(&HashSet::new()).unwrap();
        assert!(store.blobs().path(&config).exists(), "the list keeps the image");
        assert!(!store.blobs().path(&first).exists(), "and not what it was before");
        let other = Detail { platform: vec![("variant", "z1".into())], ..Detail::default() };
        assert!(list.change(&digest, &other) && !list.change(&first, &other));
        assert!(serde_json::to_string(&list.document).unwrap().contains(r#""variant":"z1""#));
        assert!(list.remove(&digest) && !list.remove(&digest));
        store.remove_list(&list).unwrap();
        assert!(store.find_list("all").unwrap().is_none());
        store.collect_garbage(&HashSet::new()).unwrap();
        assert!(!store.blobs().path(&config).exists());
    }
}
