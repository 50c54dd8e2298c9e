//! What instructions do.

/// Those that change no file.
mod configure;

/// COPY, and what it has in common with ADD.
mod copy;

/// ADD.
mod add;

/// RUN.
mod run;

pub(crate) use run::step_request;

/// What `RUN --mount` shows.
mod mounts;

use std::path::{Component, Path, PathBuf};

/// Whether these bytes are an archive, compressed or not.
pub(super) fn is_archive(bytes: &[u8]) -> bool {
    copy::is_archive(bytes)
}

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
