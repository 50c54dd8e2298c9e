//! Blobs and unpacked layers.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;

use super::tree::{Problems, against_blob, against_index, open_root};
use super::{Checked, Object, Remedy, on_all_cores};
use crate::digest::{DiffId, Digest};
use crate::image::store::StoreError;
use crate::layer::IdPolicy;
use crate::layer::index::Index;
use crate::state::layout::{Ownership, is_lower_hex};

/// An unpacked layer to be looked at.
struct Unpacked {
    /// Of its directory.
    name: String,
    diff_id: DiffId,
    /// A good blob that it can be compared with and made of.
    blob: Option<Digest>,
}

impl Checked<'_> {
    /// Hashes every blob; a quick check only notes its length.
    pub(super) fn blobs(&mut self) -> Result<(), StoreError> {
        let mut blobs = Vec::new();
        self.store.blobs().for_each(|digest, size_bytes| blobs.push((digest, size_bytes)))?;
        // The largest first: or one core has nothing to do while the other hashes it.
        blobs.sort_by_key(|(_, size_bytes)| std::cmp::Reverse(*size_bytes));
        let store = self.store.blobs().clone();
        let quick = self.options.quick;
        let problems = on_all_cores(&blobs, |(digest, _)| match quick {
            true => None,
            false => match store.check(digest) {
                Ok(true) => None,
                Ok(false) => Some("its bytes have another digest".to_owned()),
                Err(error) => Some(error.to_string()),
            },
        });
        self.blobs =
            blobs.into_iter().zip(problems).map(|((digest, size), problem)| (digest, (size, problem))).collect();
        // What is in an additional store is checked by whoever may write there.
        for layer in self.store.list().unwrap_or_default().iter().flat_map(|image| &image.layers) {
            let digest = &layer.blob.digest;
            if !self.blobs.contains_key(digest)
                && let Some(size) = self.store.blobs().len_elsewhere(digest)
            {
                self.blobs.insert(digest.clone(), (size, None));
            }
        }
        // What its manifests say of its length shows damage without a look at the contents.
        for image in self.store.list().unwrap_or_default() {
            for layer in &image.layers {
                if let Some((size, problem @ None)) = self.blobs.get_mut(&layer.blob.digest)
                    && *size != layer.blob.size
                {
                    *problem = Some(format!("it has {size} bytes instead of {}", layer.blob.size));
                }
            }
        }
        Ok(())
    }

    /// Compares every unpacked layer with its index and, unless the check is quick, with its blob; then tells of damaged
    /// blobs, since it is known by now what they could be made of.
    pub(super) fn layers(&mut self) -> Result<(), StoreError> {
        let of_layers: HashMap<DiffId, Vec<Digest>> = self.blobs_of_layers();
        let mut unpacked = Vec::new();
        for entry in fs::read_dir(self.layout.layers()).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let hex = Ownership::hex_of(&name);
            let algorithm = if hex.len() == 64 { "sha256" } else { "sha512" };
            let Ok(diff_id) = DiffId::parse(&format!("{algorithm}:{hex}")) else { continue };
            if is_lower_hex(hex) && entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                let is_there = entry.path().join("diff").is_dir();
                self.layers.insert(name.clone(), is_there);
                if !is_there {
                    let problem = "the additional store that it was in is gone";
                    self.find(Object::Layer, name, problem, Remedy::Delete);
                }
            } else if is_lower_hex(hex) {
                let blobs = of_layers.get(&diff_id).into_iter().flatten();
                let blob = blobs.into_iter().find(|digest| self.is_good(digest)).cloned();
                unpacked.push(Unpacked { name, diff_id, blob });
            }
        }
        let problems = on_all_cores(&unpacked, |layer| self.layer(layer));
        for (layer, (problems, index_alone)) in unpacked.into_iter().zip(problems) {
            let told = problems.told();
            self.layers.insert(layer.name.clone(), told.is_empty() || index_alone);
            if told.is_empty() {
                continue;
            }
            let remedy = match layer.blob {
                Some(blob) => Remedy::Unpack(blob),
                None if index_alone => Remedy::Index,
                None => Remedy::Ask("its blob is not there: pull the image again".to_owned()),
            };
            self.find(Object::Layer, &layer.name, "", remedy);
            if let Some(finding) = self.findings.last_mut() {
                finding.problems = told;
            }
        }
        let bad: Vec<(Digest, String)> =
            self.blobs.iter().filter_map(|(digest, (_, problem))| Some((digest.clone(), problem.clone()?))).collect();
        for (digest, problem) in bad {
            let layer = of_layers.iter().find(|(_, blobs)| blobs.contains(&digest)).map(|(diff_id, _)| diff_id);
            let remedy = Remedy::Archive(layer.and_then(|diff_id| self.whole_tree(diff_id)));
            self.find(Object::Blob, &digest, problem, remedy);
        }
        Ok(())
    }

    /// The name of a whole tree of a layer.
    pub(super) fn whole_tree(&self, diff_id: &DiffId) -> Option<String> {
        let names = [self.ids.ownership(), Ownership::Mapped, Ownership::Single].map(|own| own.layer_name(diff_id));
        names.into_iter().find(|name| self.layers.get(name).is_some_and(|is_whole| *is_whole))
    }

    /// Which blobs hold which layers, as all images say that can be read.
    fn blobs_of_layers(&self) -> HashMap<DiffId, Vec<Digest>> {
        let mut of_layers: HashMap<DiffId, Vec<Digest>> = HashMap::new();
        for image in self.store.list().unwrap_or_default() {
            for layer in image.layers {
                of_layers.entry(layer.diff_id).or_default().push(layer.blob.digest);
            }
        }
        of_layers
    }

    /// What is wrong with one layer, and whether that is its index alone.
    fn layer(&self, layer: &Unpacked) -> (Problems, bool) {
        let mut problems = Problems::default();
        let dir = self.layout.layers().join(&layer.name);
        let root = match open_root(&dir.join("diff")) {
            Ok(root) => root,
            Err(errno) => {
                problems.say(format!("its tree cannot be opened: {}", errno.desc().to_lowercase()));
                return (problems, false);
            }
        };
        let ids = if layer.name == Ownership::Single.layer_name(&layer.diff_id) {
            IdPolicy::Single
        } else {
            IdPolicy::identity()
        };
        let path = dir.join("index");
        // A layer that was built here has none.
        let index = path.exists().then(|| Index::open(&path));
        if let Some(Ok(index)) = &index {
            against_index(root.as_fd(), index, &ids, &mut problems);
        }
        if let (false, Some(blob)) = (self.options.quick, &layer.blob)
            && let Ok(blob) = self.store.blobs().open(blob)
            && let Some(why) =
                against_blob(root.as_fd(), blob, &layer.diff_id, !matches!(index, Some(Ok(_))), &mut problems)
        {
            problems.say(format!("its blob is another layer's: {why}"));
        }
        let tree_is_whole = problems.is_empty();
        if let Some(Err(error)) = index {
            problems.say(error.to_string());
            return (problems, tree_is_whole);
        }
        (problems, false)
    }
}
