//! The image at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storage::build::exchange::inlined;
use storage::build::image::{Documents, Part, Settled, is_settled, record, settle};
use storage::image::manifest::Descriptor;
use storage::image::store::Layer;
use storage::reference::Reference;

use super::config::History;
use super::options::Squash;
use super::stage::{Build, LayerRef, State};
use crate::error::{CommandError, Kind};

/// The image that was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Finished {
    /// Its ID.
    pub(crate) id: String,
    /// Its manifest, with its platform.
    pub(crate) manifest: Descriptor,
    /// Lengths of its layers, if all are known.
    pub(crate) layer_sizes: Option<Vec<u64>>,
}

/// Makes the image of the target's state, with its names; without, a list is to keep it.
pub(crate) fn finish(build: &Build<'_>, state: State, names: Option<Vec<Reference>>) -> Result<Finished, CommandError> {
    let options = &build.options;
    let before = state.layers.len();
    let mut state = super::squash::squashed(build, state)?;
    let is_squashed = state.layers.len() < before;
    for (name, value) in &options.labels {
        state.config.set_label(name, value);
    }
    for (name, value) in &options.env {
        state.config.set_variable(name, value);
    }
    for name in &options.unset_env {
        state.config.unset_variable(name);
    }
    for name in &options.unset_labels {
        state.config.unset_label(name);
    }
    let mut annotations: BTreeMap<String, String> = BTreeMap::new();
    if let Some((name, digest)) = &state.base {
        annotations.insert("org.opencontainers.image.base.digest".to_owned(), digest.clone());
        annotations.insert("org.opencontainers.image.base.name".to_owned(), name.clone());
    }
    annotations.extend(options.annotations.clone());
    if is_squashed && options.squash == Squash::New {
        let kept = state.layers.iter().filter(|layer| matches!(layer, LayerRef::Stored { .. })).count();
        state.config.squash_history(kept);
    }
    let history = match (options.squash, options.omit_history) {
        (_, true) => History::Omitted,
        (Squash::All, false) => History::One("squashed".to_owned()),
        (Squash::No | Squash::New, false) => History::Kept,
    };
    build.fetch_missing(&state)?;
    let parts = state.layers.iter().map(|layer| match layer {
        LayerRef::Stored { blob, diff_id, size } => {
            Part::Layer(Box::new(Layer { blob: blob.as_ref().clone(), diff_id: diff_id.clone() }), *size)
        }
        LayerRef::Step(key) => Part::Step(key.clone()),
    });
    let parts: Vec<Part> = parts.collect();
    let created = created(build, &state);
    let platform = state.config.platform();
    let _pin = build.store.pin()?;
    let is_own_cache = options.is_own_cache && options.squash == Squash::No;
    let steps = || {
        let step = |(at, layer): (usize, &LayerRef)| match layer {
            LayerRef::Step(key) => {
                let found = build.cache.find(key, build.ownership())?;
                Some((key.clone(), found.step.created, at))
            }
            LayerRef::Stored { .. } => None,
        };
        state.layers.iter().enumerate().filter_map(step).collect()
    };
    let make = || {
        let ids = build.ids();
        let settled: Vec<Settled> =
            settle(&build.store, &build.cache, &parts, &ids, options.timestamp).map_err(CommandError::host)?;
        let diff_ids: Vec<String> = settled.iter().map(|(layer, _)| layer.diff_id.to_string()).collect();
        let config = state.config.to_bytes(&created, &diff_ids, history.clone());
        let config = config.and_then(|config| if is_own_cache { inlined(&config, steps()) } else { Ok(config) });
        let config = config.map_err(|error| CommandError::new(Kind::Internal, error))?;
        let documents = Documents {
            config,
            format: options.format,
            annotations: annotations.clone(),
            platform: platform.clone(),
            names: names.clone(),
        };
        let image = record(&build.store, &settled, &documents).map_err(CommandError::host)?;
        let mut manifest = image.manifest.clone();
        manifest.platform = Some(platform.clone());
        let layer_sizes = settled.iter().map(|(_, size)| *size).collect();
        Ok(Finished { id: image.id.hex().to_owned(), manifest, layer_sizes })
    };
    let is_settled = is_settled(&build.store, &build.cache, &parts, &build.ids());
    // Without a layer to be archived nothing of other ids is touched.
    if is_settled { make() } else { build.space.inside(make) }
}

/// When the image was built: when its last step was, so that the same steps give the same image.
fn created(build: &Build<'_>, state: &State) -> String {
    match build.options.timestamp {
        Some(_) => build.options.now(),
        None => state.config.last_created().unwrap_or_else(|| build.options.now()),
    }
}
