//! What is done about findings, one at a time. Nothing that is whole is changed, and what a container that runs needs stays.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::tree::open_root;
use super::{CheckError, Finding, Object, Outcome, Remedy};
use crate::digest::{DiffId, Digest};
use crate::image::manifest::{Descriptor, Document, media_type};
use crate::image::record::{ANNOTATION_ID, IndexFile};
use crate::image::store::ImageStore;
use crate::image::{CONFIG_LIMIT_BYTES, MANIFEST_LIMIT_BYTES, config::Config};
use crate::layer::diff::{TreeForm, write_tree};
use crate::layer::pack::write_blob;
use crate::layer::staging::{self, Staging, unpack_blob};
use crate::layer::{IdPolicy, compress};
use crate::prune::layers_of;
use crate::reference::Reference;
use crate::state::atomic::{Durability, write_atomic};
use crate::state::container::{self, ContainerError, Record};
use crate::state::layout::{ContainerId, Layout, Ownership, create_dir};
use crate::state::lock::FileLock;
use crate::state::name::NamesLock;
use crate::state::{status, trash};
use crate::volume::Volume;

/// Why something was left as it is, or what failed.
type Failure = String;

/// Does what can be done about each finding; with `force` also what takes containers along.
///
/// # Errors
/// Somebody uses the store; the lock cannot be taken.
pub fn repair(layout: &Layout, findings: &[Finding], force: bool) -> Result<Vec<Outcome>, CheckError> {
    let store = ImageStore::open(layout);
    let _pin = match layout.images().is_dir() {
        true => {
            let pin = FileLock::try_exclusive(&layout.images().join("pin.lock"));
            Some(pin.map_err(crate::image::store::StoreError::from)?.ok_or(CheckError::Busy)?)
        }
        false => None,
    };
    let repairing = Repairing { layout, store, force };
    Ok(findings.iter().map(|finding| repairing.one(finding).unwrap_or_else(Outcome::Left)).collect())
}

struct Repairing<'a> {
    layout: &'a Layout,
    store: ImageStore,
    force: bool,
}

impl Repairing<'_> {
    fn one(&self, finding: &Finding) -> Result<Outcome, Failure> {
        let name = finding.name.as_str();
        match &finding.remedy {
            Remedy::Collect => self.collect(),
            Remedy::SetAside => self.set_aside(finding),
            Remedy::Archive(layer) => self.archive(name, layer.as_deref()),
            Remedy::Unpack(blob) => self.unpack(name, blob),
            Remedy::Index => self.index(name),
            Remedy::Delete => self.delete(finding),
            Remedy::Forget(manifest) => self.forget(manifest),
            Remedy::ForgetList(list) => {
                self.store.forget_list(list).map_err(said)?;
                Ok(Outcome::Deleted("make it again".to_owned()))
            }
            Remedy::RemoveContainer => self.remove_container(name),
            Remedy::ForgetRun => {
                let record = container::find(self.layout, name).map_err(said)?;
                let _lock = container::lock(self.layout, &record.id).map_err(said)?;
                status::forget_last_run(self.layout, &record.id).map_err(said)?;
                Ok(Outcome::Repaired("how its last run ended is forgotten".to_owned()))
            }
            Remedy::Claim(id) => {
                let id = ContainerId::parse(id).map_err(said)?;
                let names = NamesLock::take(self.layout).map_err(said)?;
                names.claim(self.layout, name, &id).map_err(said)?;
                Ok(Outcome::Repaired("it leads to its container".to_owned()))
            }
            Remedy::Describe => {
                let volume = Volume::named(name);
                let bytes = serde_json::to_vec(&volume).map_err(said)?;
                let path = self.layout.volume(name).join("volume.json");
                write_atomic(&path, &bytes, Durability::Full).map_err(said)?;
                Ok(Outcome::Repaired("its data is as it was; labels and options are lost".to_owned()))
            }
            Remedy::MakeData => {
                let data = self.layout.volume(name).join("_data");
                create_dir(&data).map_err(said)?;
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                fs::set_permissions(&data, mode).map_err(said)?;
                Ok(Outcome::Repaired("it is empty now".to_owned()))
            }
            Remedy::Ask(what) => Err(what.clone()),
        }
    }

    /// The trees that running containers stand on.
    fn in_use(&self, hex: &str) -> Option<String> {
        let (records, _) = container::list(self.layout).unwrap_or_default();
        let uses = |record: &Record| layers_of(record).any(|layer| layer.hex() == hex);
        let runs = |record: &Record| FileLock::is_held(&self.layout.container_lock(&record.id)).unwrap_or(true);
        records.into_iter().find(|record| uses(record) && runs(record)).map(|record| record.name)
    }

    fn ids_of(name: &str) -> IdPolicy {
        if Ownership::hex_of(name) == name { IdPolicy::identity() } else { IdPolicy::Single }
    }

    fn unpack(&self, name: &str, blob: &Digest) -> Result<Outcome, Failure> {
        let layers = self.layout.layers();
        let hex = Ownership::hex_of(name);
        if let Some(user) = self.in_use(hex) {
            return Err(format!("container {user} runs on it: stop it and try again"));
        }
        let diff_id =
            DiffId::parse(&format!("{}:{hex}", if hex.len() == 64 { "sha256" } else { "sha512" })).map_err(said)?;
        let file = self.store.blobs().open(blob).map_err(said)?;
        let (staging, _) = unpack_blob(&layers, file, &diff_id, &Self::ids_of(name)).map_err(said)?;
        staging::sync(&layers).map_err(said)?;
        trash::put(self.layout, &layers.join(name)).map_err(said)?;
        staging.publish(name).map_err(said)?;
        Ok(Outcome::Repaired("unpacked again from its blob".to_owned()))
    }

    /// Unpacks what archiving the tree gives, and keeps only the index of that.
    fn index(&self, name: &str) -> Result<Outcome, Failure> {
        let layers = self.layout.layers();
        let ids = Self::ids_of(name);
        let root = open_root(&layers.join(name).join("diff")).map_err(said)?;
        let staging = Staging::new(&layers).map_err(said)?;
        let (reader, writer) = io::pipe().map_err(said)?;
        std::thread::scope(|scope| {
            let ids = &ids;
            let archiving = scope.spawn(move || write_tree(root.as_fd(), TreeForm::Overlay, ids, writer).map_err(said));
            // A thread of its own, because it is confined for the rest of its life.
            let unpacking = scope.spawn(|| staging.unpack(reader, ids, true).map_err(said));
            let unpacked = unpacking.join().unwrap_or_else(|_| Err("the unpacking thread ended".to_owned()));
            let archived = archiving.join().unwrap_or_else(|_| Err("the archiving thread ended".to_owned()));
            unpacked.and(archived)
        })?;
        fs::rename(staging.tree().join("index"), layers.join(name).join("index")).map_err(said)?;
        Ok(Outcome::Repaired("its index was made again from its files".to_owned()))
    }

    /// Archives a tree: if that gives the blob's bytes, it is whole again; else a damaged one goes, so that a pull brings it.
    fn archive(&self, digest: &str, layer: Option<&str>) -> Result<Outcome, Failure> {
        let digest = Digest::parse(digest).map_err(said)?;
        if let Some(layer) = layer {
            let ids = Self::ids_of(layer);
            let diff = self.layout.layers().join(layer).join("diff");
            let root = open_root(&diff).map_err(said)?;
            // What was built here is plain, what was committed gzip by us; nobody else's compressor gives the same bytes.
            for format in [None, Some(compress::Format::Gzip), Some(compress::Format::Zstd)] {
                let mut spool = self.store.blobs().spool().map_err(said)?;
                write_blob(root.as_fd(), TreeForm::Overlay, &ids, format, &mut spool).map_err(said)?;
                let spooled = spool.finish().map_err(said)?;
                if spooled.digest == digest {
                    staging::sync(&self.layout.layers()).map_err(said)?;
                    self.store.blobs().publish_spooled(spooled).map_err(said)?;
                    return Ok(Outcome::Repaired("made again from its unpacked layer, byte for byte".to_owned()));
                }
            }
        }
        if self.store.blobs().path(&digest).exists() {
            self.store.blobs().remove(&digest).map_err(said)?;
            return Ok(Outcome::Deleted(match layer {
                Some(_) => "its image runs, and a pull brings it again".to_owned(),
                None => "a pull brings it again".to_owned(),
            }));
        }
        Err("its unpacked layer does not give the same bytes: pull its image again, which runs meanwhile".to_owned())
    }

    fn delete(&self, finding: &Finding) -> Result<Outcome, Failure> {
        let name = finding.name.as_str();
        match finding.object {
            Object::Blob => self.store.blobs().remove(&Digest::parse(name).map_err(said)?).map_err(said)?,
            Object::Layer => {
                if let Some(user) = self.in_use(Ownership::hex_of(name)) {
                    return Err(format!("container {user} runs on it"));
                }
                trash::put(self.layout, &self.layout.layers().join(name)).map_err(said)?;
            }
            Object::Name => {
                let _names = NamesLock::take(self.layout).map_err(said)?;
                trash::put(self.layout, &self.layout.name(name)).map_err(said)?;
            }
            Object::Cache => trash::put(self.layout, &self.layout.build().join("steps").join(name)).map_err(said)?,
            Object::Trash => trash::put(self.layout, &self.layout.undo().join(name)).map_err(said)?,
            _ => return Err("it is needed".to_owned()),
        }
        Ok(Outcome::Deleted(match finding.object {
            Object::Cache => "the next build does that step again".to_owned(),
            _ => "nothing needs it".to_owned(),
        }))
    }

    fn forget(&self, manifest: &Digest) -> Result<Outcome, Failure> {
        let index = self.store.read_index().map_err(said)?;
        let ids: BTreeSet<String> = index
            .manifests
            .iter()
            .filter(|entry| entry.digest == *manifest)
            .filter_map(|entry| entry.annotation(ANNOTATION_ID).map(str::to_owned))
            .collect();
        let (records, _) = container::list(self.layout).map_err(said)?;
        let uses = |record: &&Record| record.image.as_ref().is_some_and(|image| ids.contains(&image.id.to_string()));
        let users: Vec<&Record> = records.iter().filter(uses).collect();
        if !self.force && !users.is_empty() {
            let users: Vec<&str> = users.iter().map(|record| record.name.as_str()).collect();
            return Err(format!("container {} was made from it: --force removes both", users.join(", ")));
        }
        for user in users {
            self.remove(&user.id)?;
        }
        self.store.change_index(|index| index.remove(manifest)).map_err(said)?;
        Ok(Outcome::Deleted("it could not be used any more: pull it again".to_owned()))
    }

    fn remove_container(&self, name: &str) -> Result<Outcome, Failure> {
        let id = match ContainerId::parse(name) {
            Ok(id) => id,
            Err(_) => match container::find(self.layout, name) {
                Ok(record) => record.id,
                Err(ContainerError::NotFound(_)) => return Ok(Outcome::Deleted("it went with its image".to_owned())),
                Err(error) => return Err(said(error)),
            },
        };
        if !self.force {
            let upper = self.layout.container(&id).join("upper");
            return Err(format!("what it changed is in {}: --force removes it", upper.display()));
        }
        self.remove(&id)?;
        Ok(Outcome::Deleted("it could not be started any more".to_owned()))
    }

    fn remove(&self, id: &ContainerId) -> Result<(), Failure> {
        let _lock = container::lock(self.layout, id).map_err(said)?;
        match container::load(self.layout, id) {
            Ok(Some(_)) => container::remove(self.layout, id).map_err(said),
            _ => {
                trash::put(self.layout, &self.layout.container(id)).map_err(said)?;
                container::remove_runtime(self.layout, id).map_err(said)?;
                let names = NamesLock::take(self.layout).map_err(said)?;
                names.sweep(self.layout).map(drop).map_err(said)
            }
        }
    }

    fn set_aside(&self, finding: &Finding) -> Result<Outcome, Failure> {
        let path = match finding.object {
            Object::Store => self.layout.images().join(&finding.name),
            _ => self.layout.data_dir().join(&finding.name),
        };
        let aside = aside(&path);
        fs::rename(&path, &aside).map_err(said)?;
        Ok(Outcome::Deleted(format!("what it was is in {}", aside.display())))
    }

    /// Writes `index.json` again: every manifest among the blobs whose configuration is there, called what containers that
    /// were made from it call it.
    fn collect(&self) -> Result<Outcome, Failure> {
        let mut digests = Vec::new();
        self.store.blobs().for_each(|digest, size| digests.push((digest, size))).map_err(said)?;
        let (records, _) = container::list(self.layout).map_err(said)?;
        let mut index = IndexFile::default();
        for (digest, size) in digests.into_iter().filter(|(_, size)| *size <= MANIFEST_LIMIT_BYTES) {
            let Ok(Some(bytes)) = self.store.blobs().read_verified(&digest, MANIFEST_LIMIT_BYTES) else { continue };
            let Ok(Document::Manifest(manifest)) = Document::parse("blob", None, &bytes) else { continue };
            let config = &manifest.config.digest;
            let Ok(Some(raw)) = self.store.blobs().read_verified(config, CONFIG_LIMIT_BYTES) else { continue };
            let Ok(parsed) = Config::parse("blob", raw) else { continue };
            let kind = if manifest.media_type.is_empty() { media_type::OCI_MANIFEST } else { &manifest.media_type };
            let mut entry = Descriptor::new(kind, digest, size);
            entry.platform = Some(parsed.platform);
            entry.annotations.get_or_insert_default().insert(ANNOTATION_ID.to_owned(), config.to_string());
            let of = |record: &Record| {
                record.image.as_ref().filter(|image| image.id == *config).map(|_| record.image_name().to_owned())
            };
            let names: BTreeSet<String> = records.iter().filter_map(of).collect();
            let names: Vec<Reference> = names.iter().filter_map(|name| Reference::parse(name).ok()).collect();
            for name in names.into_iter().filter(|name| name.digest().is_none()).map(Reference::with_default_tag) {
                index.insert(entry.clone(), Some(&name));
            }
            index.insert(entry, None);
        }
        let count = index.manifests.len();
        let path = self.layout.images().join("index.json");
        let bytes = serde_json::to_vec(&index).map_err(said)?;
        let aside = aside(&path);
        fs::rename(&path, &aside).map_err(said)?;
        write_atomic(&path, &bytes, Durability::Full).map_err(said)?;
        let lost = "names that no container remembers are lost";
        Ok(Outcome::Repaired(format!("{count} images are in it again; {lost}; what it was is in {}", aside.display())))
    }
}

/// Another name beside a file's, that no reader looks for.
fn aside(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.with_file_name(format!("{name}.damaged-{}", crate::state::layout::random_hex(4)))
}

fn said(error: impl std::fmt::Display) -> Failure {
    error.to_string()
}
