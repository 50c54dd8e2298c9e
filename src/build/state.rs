//! What the stages of a build share, and what a stage comes to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use storage::build::tree::Tree;
use storage::build::{BuildCache, Key};
use storage::digest::DiffId;
use storage::image::manifest::Descriptor;
use storage::image::{Image, ImageStore};
use storage::layer::IdPolicy;
use storage::state::layout::Ownership;
use storage::transport::PullOptions;

use super::config::Config;
use super::containerfile::Containerfile;
use super::context::Source;
use super::exchange::Imported;
use super::graph::{Graph, Names, Origin};
use super::inside::Space;
use super::options::{Options, Progress};
use crate::commands::{Context, pull};
use crate::error::CommandError;

/// A build: what all its stages share, read-only.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    /// The command's.
    pub(crate) context: &'a Context,
    /// What was asked for.
    pub(crate) options: Options,
    /// The Dockerfile.
    pub(crate) file: Containerfile,
    /// What is built.
    pub(crate) graph: Graph,
    /// Arguments before the first FROM, with their values.
    pub(crate) global: BTreeMap<String, String>,
    /// The context.
    pub(crate) source: Source,
    /// Contexts by name that are directories.
    pub(crate) named: BTreeMap<String, Source>,
    /// What was built before.
    pub(crate) cache: BuildCache,
    /// Images.
    pub(crate) store: ImageStore,
    /// The user's ids.
    pub(crate) space: &'a Space,
    /// What was built elsewhere.
    pub(crate) imported: Vec<Imported>,
}

impl Build<'_> {
    /// What is known of a step: here, or elsewhere.
    pub(crate) fn known(&self, key: &Key) -> Option<Known> {
        if let Some(found) = self.cache.find(key, self.ownership()) {
            return Some(Known { created: found.step.created, has_files: found.diff.is_some(), is_here: true });
        }
        let foreign = self.imported.iter().find_map(|imported| imported.steps.get(key))?;
        Some(Known { created: foreign.created.clone(), has_files: foreign.layer.is_some(), is_here: false })
    }

    /// Brings those layers of a state here that are only elsewhere yet.
    pub(crate) fn fetch_missing(&self, state: &State) -> Result<(), CommandError> {
        if self.imported.is_empty() {
            return Ok(());
        }
        let ownership = self.ownership();
        let missing: Vec<&Key> = state
            .layers
            .iter()
            .filter_map(|layer| match layer {
                LayerRef::Step(key) if self.cache.find(key, ownership).is_none() => Some(key),
                _ => None,
            })
            .collect();
        for imported in &self.imported {
            let wanted: Vec<_> = missing.iter().filter_map(|key| Some((*key, imported.steps.get(key)?))).collect();
            if !wanted.is_empty() {
                imported.fetch(self, &wanted)?;
            }
        }
        Ok(())
    }

    /// How files get their owners.
    pub(crate) fn ids(&self) -> IdPolicy {
        if self.space.mapping.single.is_some() { IdPolicy::Single } else { IdPolicy::identity() }
    }

    /// The same, as it is written into names.
    pub(crate) fn ownership(&self) -> Ownership {
        self.ids().ownership()
    }

    /// What names mean.
    pub(crate) fn names<'b>(&'b self, lookup: &'b dyn Fn(&str) -> Option<String>) -> Names<'b> {
        Names { file: &self.file, contexts: &self.options.contexts, lookup }
    }

    /// Where the tree of a step is going to be that is only elsewhere yet.
    fn foreign(&self, key: &Key) -> Option<PathBuf> {
        let step = self.imported.iter().find_map(|imported| imported.steps.get(key))?;
        Some(self.context.layout.layer(&step.layer.as_ref()?.1, self.ownership()))
    }

    /// The roots of the trees of a state, topmost first. Who looks into them calls [`Build::fetch_missing`] before.
    pub(crate) fn roots(&self, state: &State) -> Result<Vec<PathBuf>, CommandError> {
        let ownership = self.ownership();
        let root = |layer: &LayerRef| match layer {
            LayerRef::Stored { diff_id, .. } => Ok(self.context.layout.layer(diff_id, ownership).join("diff")),
            LayerRef::Step(key) => {
                let diff = self.cache.find(key, ownership).and_then(|found| found.diff);
                let diff = diff.or_else(|| Some(self.foreign(key)?.join("diff")));
                diff.ok_or_else(|| CommandError::host(format!("build cache: step {} is gone", key.short())))
            }
        };
        state.layers.iter().rev().map(root).collect()
    }

    /// The files of a state.
    pub(crate) fn tree(&self, state: &State) -> Result<Tree, CommandError> {
        Ok(Tree::of_layers(self.roots(state)?, self.ownership()))
    }

    /// An image as a state, pulled and unpacked if need be.
    pub(crate) fn image(&self, name: &str, platform: Option<&str>) -> Result<State, CommandError> {
        let platform = match platform {
            Some(text) => pull::parse_platform(Some(text))?,
            None => self.options.platform.clone(),
        };
        let options = PullOptions { platform, client: self.options.client.clone(), ..PullOptions::default() };
        let quiet = self.options.progress != Progress::Steps;
        let image = pull::ensure(self.context, name, self.options.pull, &options, quiet)?;
        self.unpack(&image)?;
        let bad = |error: serde_json::Error| CommandError::host(format!("image {name}: its configuration: {error}"));
        let sizes = image.layer_sizes.clone().unwrap_or_default();
        let layers = image.layers.iter().enumerate().map(|(at, layer)| LayerRef::Stored {
            blob: Box::new(layer.blob.clone()),
            diff_id: layer.diff_id.clone(),
            size: sizes.get(at).copied(),
        });
        let digest = image.manifest.digest.to_string();
        let full = image.names.first().map_or_else(|| name.to_owned(), ToString::to_string);
        Ok(State {
            layers: layers.collect(),
            config: Config::of_image(&image.raw_config).map_err(bad)?,
            key: self.root_key(&["image", &digest]),
            base: Some((full, digest)),
        })
    }

    fn unpack(&self, image: &Image) -> Result<(), CommandError> {
        let ownership = self.ownership();
        let is_there = |layer: &storage::image::store::Layer| {
            self.context.layout.layer(&layer.diff_id, ownership).join("diff").is_dir()
        };
        if image.layers.iter().all(is_there) {
            return Ok(());
        }
        self.space.inside(|| {
            let silent = storage::progress::Silent;
            storage::layer::ensure_unpacked(&self.store, image, &self.ids(), &silent).map_err(CommandError::host)?;
            Ok(())
        })
    }

    /// A key that everything with these ids and this time begins with.
    fn root_key(&self, parts: &[&str]) -> Key {
        let time = self.options.timestamp.map(|time| time.secs.to_string()).unwrap_or_default();
        let ownership = format!("{:?}", self.ownership());
        let all = ["coracle build 1", &ownership, &time].into_iter().chain(parts.iter().copied());
        Key::of(all.map(str::as_bytes))
    }

    /// The state that a stage begins with, or that is copied from.
    pub(crate) fn origin(
        &self,
        origin: &Origin,
        done: &BTreeMap<usize, State>,
        platform: Option<&str>,
    ) -> Result<State, CommandError> {
        match origin {
            Origin::Scratch => {
                let platform = self.options.platform.clone().unwrap_or_else(storage::image::index::Platform::host);
                Ok(State {
                    layers: Vec::new(),
                    config: Config::scratch(&platform),
                    key: self.root_key(&["scratch", &platform.to_string()]),
                    base: None,
                })
            }
            Origin::Stage(index) => {
                let state = done.get(index).cloned();
                state.ok_or_else(|| {
                    CommandError::new(crate::error::Kind::Internal, format!("stage {index} is not built"))
                })
            }
            Origin::Image(name) => self.image(name, platform),
            Origin::Context(name) => {
                let value = self.options.contexts.get(name).map(String::as_str).unwrap_or_default();
                match value.strip_prefix("docker-image://").or(value.strip_prefix("container-image://")) {
                    Some(image) => self.image(image, platform),
                    None => Err(CommandError::user(format!("build context {name}: a directory is no image"))),
                }
            }
        }
    }
}

/// A step whose result is known.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// When it was built.
    pub(crate) created: String,
    /// It changed files.
    pub(crate) has_files: bool,
    /// Its result is on this machine.
    pub(crate) is_here: bool,
}

/// A layer of a state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum LayerRef {
    /// Of an image.
    Stored {
        /// Its blob.
        blob: Box<Descriptor>,
        /// Its tree.
        diff_id: DiffId,
        /// The length of its tar, if known.
        size: Option<u64>,
    },
    /// Of a step.
    Step(Key),
}

/// What a stage has come to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// Bottom first.
    pub(crate) layers: Vec<LayerRef>,
    /// What the image is, beside its files.
    pub(crate) config: Config,
    /// What it is known by.
    pub(crate) key: Key,
    /// The image at the bottom: name and digest.
    pub(crate) base: Option<(String, String)>,
}
