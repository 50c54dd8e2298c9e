//! The image at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storage::build::image::{Documents, Part, Settled, record, settle};
use storage::image::store::Layer;

use super::config::History;
use super::inside::inside;
use super::options::Squash;
use super::stage::{Build, LayerRef, State};
use crate::error::{CommandError, Kind};

/// The image that was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Finished {
    /// Its ID.
    pub(crate) id: String,
    /// The digest of its manifest.
    pub(crate) digest: String,
}

/// Makes the image of the target's state.
pub(crate) fn finish(build: &Build<'_>, mut state: State) -> Result<Finished, CommandError> {
    let options = &build.options;
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
    if options.squash == Squash::All && !state.layers.is_empty() {
        state.layers = vec![LayerRef::Step(super::squash::all(build, &state)?)];
    }
    let history = match (options.squash, options.omit_history) {
        (_, true) => History::Omitted,
        (Squash::All, false) => History::One("squashed".to_owned()),
        (Squash::No, false) => History::Kept,
    };
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
    let new = parts.iter().any(|part| matches!(part, Part::Step(_)));
    let make = || {
        let ids = build.ids();
        let settled: Vec<Settled> =
            settle(&build.store, &build.cache, &parts, &ids, options.timestamp).map_err(CommandError::host)?;
        let diff_ids: Vec<String> = settled.iter().map(|(layer, _)| layer.diff_id.to_string()).collect();
        let config = state.config.to_bytes(&created, &diff_ids, history.clone());
        let config = config.map_err(|error| CommandError::new(Kind::Internal, error))?;
        let documents = Documents {
            config,
            format: options.format,
            annotations: annotations.clone(),
            platform: platform.clone(),
            names: options.tags.clone(),
        };
        let image = record(&build.store, &settled, &documents).map_err(CommandError::host)?;
        Ok(Finished { id: image.id.hex().to_owned(), digest: image.manifest.digest.to_string() })
    };
    let is_settled = !new
        || parts.iter().all(|part| match part {
            Part::Layer(..) => true,
            Part::Step(key) => {
                build.cache.find(key, build.ownership()).is_some_and(|found| found.step.diff_id.is_some())
            }
        });
    // Without a layer to be archived nothing of other ids is touched.
    if is_settled { make() } else { inside(&build.mapping, make) }
}

/// When the image was built: when its last step was, so that the same steps give the same image.
fn created(build: &Build<'_>, state: &State) -> String {
    match build.options.timestamp {
        Some(_) => build.options.now(),
        None => state.config.last_created().unwrap_or_else(|| build.options.now()),
    }
}
