//! Several layers become one.

use storage::build::Key;
use storage::build::flatten::flatten;
use storage::build::tree::Tree;

use super::options::Squash;
use super::stage::{Build, LayerRef, State};
use crate::error::CommandError;

/// Makes one step of those layers of a state that become one, and gives the state with it.
pub(crate) fn squashed(build: &Build<'_>, mut state: State) -> Result<State, CommandError> {
    let stored = state.layers.iter().take_while(|layer| matches!(layer, LayerRef::Stored { .. })).count();
    let (kept, least, what) = match build.options.squash {
        Squash::No => return Ok(state),
        Squash::New => (stored, 2, b"squash new".as_slice()),
        Squash::All => (0, 1, b"squash all".as_slice()),
    };
    if state.layers.len() - kept < least {
        return Ok(state);
    }
    let key = Key::of([state.key.hex().as_bytes(), what]);
    let ownership = build.ownership();
    if build.options.no_cache || build.cache.find(&key, ownership).is_none() {
        let staging = build.cache.stage().map_err(CommandError::host)?;
        build.fetch_missing(&state)?;
        let roots = build.roots(&state)?;
        let (new, below) = roots.split_at(state.layers.len() - kept);
        build.space.inside(|| {
            let below = Tree::of_layers(below.to_vec(), ownership);
            flatten(&staging, new, &below, &build.ids()).map_err(CommandError::host)
        })?;
        build.cache.keep(&key, Some(staging), &build.options.now(), ownership).map_err(CommandError::host)?;
    }
    state.layers.truncate(kept);
    state.layers.push(LayerRef::Step(key));
    Ok(state)
}
