//! Images, manifest lists, and what no image refers to.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::time::SystemTime;

use super::{Checked, Object, Remedy};
use crate::digest::{DiffId, Digest};
use crate::image::CONFIG_LIMIT_BYTES;
use crate::image::config::Config;
use crate::image::manifest::Descriptor;
use crate::image::record::{ANNOTATION_INDEX, name_of};
use crate::image::store::StoreError;
use crate::prune::layers_of;
use crate::state::container;
use crate::state::layout::{Ownership, is_lower_hex};

/// An image by its manifest, with its names.
struct Entry {
    descriptor: Descriptor,
    names: Vec<String>,
}

impl Entry {
    fn shown(&self) -> String {
        if self.names.is_empty() { self.descriptor.digest.to_string() } else { self.names.join(", ") }
    }
}

impl Checked<'_> {
    /// Every image: its documents must be there and right, and of each layer the blob or a whole tree.
    pub(super) fn images(&mut self) -> Result<(), StoreError> {
        let index = match self.store.read_index() {
            Ok(index) => index,
            Err(error @ StoreError::Index { .. }) => {
                self.find(Object::Store, "index.json", error, Remedy::Collect);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut entries: BTreeMap<Digest, Entry> = BTreeMap::new();
        for descriptor in index.manifests {
            let name = name_of(&descriptor).map(|name| name.to_string());
            let entry = entries.entry(descriptor.digest.clone()).or_insert(Entry { descriptor, names: Vec::new() });
            entry.names.extend(name);
        }
        for entry in entries.into_values() {
            self.image(&entry);
        }
        match self.store.lists() {
            Ok(lists) => {
                for list in lists {
                    if !self.is_good(&list.digest) {
                        let name = name_of(&list).map_or_else(|| list.digest.to_string(), |name| name.to_string());
                        let problem = format!(
                            "the index of this manifest list, {}, is {}",
                            list.digest,
                            self.state(&list.digest)
                        );
                        self.find(Object::Image, &name, problem, Remedy::ForgetList(name.clone()));
                    }
                }
            }
            Err(error) => self.find(Object::Store, "lists.json", error, Remedy::SetAside),
        }
        Ok(())
    }

    fn image(&mut self, entry: &Entry) {
        let shown = entry.shown();
        let forget = || Remedy::Forget(entry.descriptor.digest.clone());
        let bad = |checked: &Self, what: &str, digest: &Digest| {
            (!checked.is_good(digest)).then(|| format!("its {what}, {digest}, is {}", checked.state(digest)))
        };
        if let Some(problem) = bad(self, "manifest", &entry.descriptor.digest) {
            return self.find(Object::Image, shown, problem, forget());
        }
        let (descriptor, manifest) = match self.store.manifest_of(&shown, &entry.descriptor) {
            Ok(found) => found,
            Err(error) => return self.find(Object::Image, shown, error, forget()),
        };
        for (what, digest) in [("manifest", &descriptor.digest), ("configuration", &manifest.config.digest)] {
            if let Some(problem) = bad(self, what, digest) {
                return self.find(Object::Image, shown, problem, forget());
            }
        }
        let config = self.store.blobs().read(&manifest.config.digest, CONFIG_LIMIT_BYTES).map_err(StoreError::from);
        let config = config.and_then(|raw| Ok(Config::parse(&shown, raw.unwrap_or_default())?));
        let config =
            match config.and_then(|config| Ok(config.check_layers(&shown, manifest.layers.len()).map(|()| config)?)) {
                Ok(config) => config,
                Err(error) => return self.find(Object::Image, shown, error, forget()),
            };
        if let Some(index) = entry.descriptor.annotation(ANNOTATION_INDEX).and_then(|text| Digest::parse(text).ok())
            && let Some(problem) = bad(self, "index", &index)
        {
            let ask = Remedy::Ask("it runs, and a push of all its platforms fails: pull it again".to_owned());
            self.find(Object::Image, &shown, problem, ask);
        }
        for (layer, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
            if self.is_good(&layer.digest) {
                continue;
            }
            let Some(tree) = self.whole_tree(diff_id) else {
                let state = self.state(&layer.digest);
                let problem =
                    format!("the blob of its layer {diff_id}, {}, is {state}, and so is the layer", layer.digest);
                return self.find(Object::Image, shown, problem, forget());
            };
            if self.store.is_dropped(&layer.digest) {
                // What a quick check does not look at is whether a push could make it.
                if !self.options.quick
                    && let Err(why) = self.store.check_dropped(&layer.digest)
                {
                    let problem =
                        format!("it was dropped and cannot be made again: {why}, and {shown} has a layer of it");
                    self.find(Object::Blob, &layer.digest, problem, Remedy::Archive(Some(tree)));
                }
                continue;
            }
            // One that is damaged has been told of.
            let is_known = |digest: &Digest| self.findings.iter().any(|found| found.name == digest.to_string());
            if !self.blobs.contains_key(&layer.digest) && !is_known(&layer.digest) {
                let problem = format!("it is gone, and {shown} has a layer of it");
                self.find(Object::Blob, &layer.digest, problem, Remedy::Archive(Some(tree)));
            }
        }
    }

    fn state(&self, digest: &Digest) -> &'static str {
        if self.blobs.contains_key(digest) { "damaged" } else { "gone" }
    }

    /// Blobs and layers that no image, list, container or step needs, once they are old.
    pub(super) fn unreferenced(&mut self) -> Result<(), StoreError> {
        // Without a list of what is needed, everything is.
        if self.findings.iter().any(|found| found.object == Object::Store) {
            return Ok(());
        }
        let needed = self.store.needed()?;
        let is_old = |path: &std::path::Path| {
            let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            age.is_some_and(|age| age > self.options.max_age)
        };
        let problem = "nothing refers to it";
        let old: Vec<Digest> = self
            .blobs
            .keys()
            .filter(|digest| !needed.blobs.contains(*digest) && is_old(&self.store.blobs().path(digest)))
            .cloned()
            .collect();
        let (records, unread) = container::list(self.layout).unwrap_or_default();
        let of_containers: BTreeSet<String> =
            records.iter().flat_map(layers_of).map(|layer: &DiffId| layer.hex().to_owned()).collect();
        let is_needed = |hex: &str| {
            needed.layers.iter().any(|layer| layer.hex() == hex) || of_containers.contains(hex) || !unread.is_empty()
        };
        let mut layers: Vec<String> = Vec::new();
        for entry in fs::read_dir(self.layout.layers()).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let hex = Ownership::hex_of(&name);
            if hex.len() >= 64 && is_lower_hex(hex) && !is_needed(hex) && is_old(&entry.path()) {
                layers.push(name);
            }
        }
        for digest in old {
            self.findings.retain(|found| found.name != digest.to_string());
            self.find(Object::Blob, digest, problem, Remedy::Delete);
        }
        for name in layers {
            self.findings.retain(|found| found.name != name);
            self.find(Object::Layer, name, problem, Remedy::Delete);
        }
        Ok(())
    }
}
