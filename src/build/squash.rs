//! All layers become one.

use std::path::Path;

use storage::build::Key;
use storage::build::copy::{Place, Rules};
use storage::build::tree::{Tree, everything};

use super::inside::inside;
use super::stage::{Build, State};
use crate::error::CommandError;

/// Makes a step of everything that a state has, and gives its key.
pub(crate) fn all(build: &Build<'_>, state: &State) -> Result<Key, CommandError> {
    let key = Key::of([state.key.hex().as_bytes(), b"squash all"]);
    let ownership = build.ownership();
    if !build.options.no_cache && build.cache.find(&key, ownership).is_some() {
        return Ok(key);
    }
    let staging = build.cache.stage().map_err(CommandError::host)?;
    let tree = build.tree(state)?;
    inside(&build.mapping, || {
        let ids = build.ids();
        // The root directory is made to look as it does below.
        let mut place = Place::open(&staging.diff(), tree.clone(), &ids).map_err(CommandError::host)?;
        let rules = Rules { keep_links: true, ..Rules::default() };
        let root = Path::new("/");
        place.forget_below(Tree::of_layers(Vec::new(), ownership));
        place.copy(&tree, root, root, &everything, &rules).map_err(CommandError::host)?;
        place.finish().map_err(CommandError::host)
    })?;
    build.cache.keep(&key, Some(staging), &build.options.now(), ownership).map_err(CommandError::host)?;
    Ok(key)
}
