//! Containers, names, volumes, and what is kept as one small file each.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Checked, Object, Remedy};
use crate::image::store::Image;
use crate::prune::layers_of;
use crate::state::atomic::TEMPORARY_PREFIX;
use crate::state::container::{self, Record};
use crate::state::lock::FileLock;
use crate::state::{name, network, pod, status, undo};
use crate::{secret, volume};

impl Checked<'_> {
    /// Everything that is not an image's.
    pub(super) fn records(&mut self) {
        let images = self.store.list().unwrap_or_default();
        for id in container::ids(self.layout).unwrap_or_default() {
            match container::load(self.layout, &id) {
                Ok(Some(record)) => self.container(&record, &images),
                // Not finished yet, or never: a sweep takes it.
                Ok(None) => {}
                Err(error) => self.find(Object::Container, id, error, Remedy::RemoveContainer),
            }
        }
        self.names();
        self.volumes();
        self.files("networks", network::list(self.layout).err().map(|error| error.to_string()));
        self.files("secrets", secret::list(self.layout).err().map(|error| error.to_string()));
        self.files("pods", pod::list(self.layout).err().map(|error| error.to_string()));
        self.steps();
        self.trash();
    }

    fn container(&mut self, record: &Record, images: &[Image]) {
        let lost = layers_of(record).find(|layer| {
            let has_blob = |image: &Image| {
                image.layers.iter().any(|other| other.diff_id == **layer && self.is_good(&other.blob.digest))
            };
            self.whole_tree(layer).is_none() && !images.iter().any(has_blob)
        });
        if let Some(layer) = lost {
            let problem = format!("its layer {layer} is gone or damaged, and no image has it");
            self.find(Object::Container, &record.name, problem, Remedy::RemoveContainer);
        }
        if let Err(error) = status::observe(self.layout, record) {
            self.find(Object::Container, &record.name, error, Remedy::ForgetRun);
        }
        match name::lookup(self.layout, &record.name) {
            Some(id) if id == record.id => {}
            Some(other) => {
                let problem = format!("container {} has this name, and it leads to {other}", record.id);
                self.find(Object::Name, &record.name, problem, Remedy::Claim(record.id.to_string()));
            }
            None => {
                let problem = format!("container {} has this name, and it leads nowhere", record.id);
                self.find(Object::Name, &record.name, problem, Remedy::Claim(record.id.to_string()));
            }
        }
    }

    /// Names that lead to no container.
    fn names(&mut self) {
        for path in entries(&self.layout.names()) {
            let Some(text) = file_name(&path).filter(|name| name::check(name).is_ok()) else { continue };
            let Some(id) = name::lookup(self.layout, &text) else {
                self.find(Object::Name, text, "it is not a link to a container", Remedy::Delete);
                continue;
            };
            let is_gone = fs::symlink_metadata(self.layout.container(&id)).is_err();
            if is_gone && !FileLock::is_held(&self.layout.container_lock(&id)).unwrap_or(true) {
                self.find(Object::Name, text, format_args!("its container {id} is gone"), Remedy::Delete);
            }
        }
    }

    fn volumes(&mut self) {
        for path in entries(&self.layout.volumes()) {
            let Some(name) = file_name(&path).filter(|name| volume::check_name(name).is_ok()) else { continue };
            match volume::load(self.layout, &name) {
                Ok(Some(_)) => {}
                Ok(None) => self.find(Object::Volume, &name, "its volume.json is gone", Remedy::Describe),
                Err(error) => self.find(Object::Volume, &name, error, Remedy::Describe),
            }
            if !path.join("_data").is_dir() {
                self.find(Object::Volume, &name, "its directory is gone, with all that was in it", Remedy::MakeData);
            }
        }
    }

    /// Files of JSON, one for each thing. `error` is what their reader says, who knows their fields.
    fn files(&mut self, kind: &str, error: Option<String>) {
        let before = self.findings.len();
        for path in entries(&self.layout.data_dir().join(kind)) {
            let Some(name) = file_name(&path) else { continue };
            if name.starts_with(TEMPORARY_PREFIX) || !name.ends_with(".json") {
                continue;
            }
            let parsed = fs::read(&path).map_err(|error| crate::sys::reason(&error).to_string());
            let parsed =
                parsed.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).map_err(|error| error.to_string()));
            if let Err(problem) = parsed {
                self.find(Object::Record, format_args!("{kind}/{name}"), problem, Remedy::SetAside);
            }
        }
        if let (Some(error), true) = (error, before == self.findings.len()) {
            self.find(Object::Record, kind, error, Remedy::Ask("remove or mend that file".to_owned()));
        }
    }

    fn steps(&mut self) {
        for path in entries(&self.layout.build().join("steps")) {
            let Some(name) = file_name(&path).filter(|name| !name.starts_with(TEMPORARY_PREFIX)) else { continue };
            let is_json = fs::read(&path).is_ok_and(|bytes| serde_json::from_slice::<Value>(&bytes).is_ok());
            if !is_json {
                self.find(Object::Cache, name, "what is known of this step of a build cannot be read", Remedy::Delete);
            }
        }
    }

    fn trash(&mut self) {
        for entry in undo::list(self.layout) {
            let error = match entry.kind {
                undo::Kind::Image => self.store.trashed(&entry).err(),
                undo::Kind::Volume => entry.volume().err(),
                undo::Kind::Container => entry.container().err(),
            };
            if let Some(error) = error {
                let name = file_name(&entry.path).unwrap_or_default();
                self.find(Object::Trash, name, error, Remedy::Delete);
            }
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> Option<String> {
    path.file_name()?.to_str().map(str::to_owned)
}
