//! What instructions do.

/// Those that change no file.
mod configure;

/// COPY, and what it has in common with ADD.
mod copy;

/// ADD.
mod add;

/// What it unpacks.
mod archive;

pub(super) use archive::is_archive;

/// RUN.
mod run;

pub(crate) use run::step_request;

/// What `RUN --mount` shows.
mod mounts;

use std::path::{Component, Path, PathBuf};

/// A path without `.`, `..` and doubled slashes; `..` at the root stays there.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}
