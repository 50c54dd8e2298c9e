//! What a build leaves behind when it ends, or is ended; and a context that came as an archive.

use std::os::fd::AsFd;

use runtime::userns::Mapping;
use storage::build::BuildCache;
use storage::layer::compression::Decompressor;
use storage::layer::unpack::{Links, Options, Owner, unpack};
use storage::layer::{IdPolicy, Staging};

use super::inside::inside;
use crate::commands::{Context, empty_trash};
use crate::error::{CommandError, reason};

/// Takes away what stages have left half-made. What cannot be swept now is by the next build.
pub(crate) fn sweep(cache: &BuildCache) {
    if cache.has_leftovers() {
        let _ = inside(&Mapping::of_user(), || cache.sweep().map_err(CommandError::host));
    }
}

/// After a failure or a signal: the containers of steps go as if they had never been.
pub(crate) fn after_interruption(context: &Context) {
    let _ = storage::prune::sweep(&context.layout);
    empty_trash(&context.layout);
}

/// Unpacks a context that came as an archive, compressed or not; `false` if the bytes are something else.
pub(crate) fn unpack_context(bytes: &[u8], staging: &Staging) -> Result<bool, CommandError> {
    let broken = |why: String| CommandError::user(format!("context on stdin: {why}"));
    let tar = Decompressor::new(bytes).map_err(|error| broken(reason(&error)))?;
    if !super::steps::is_archive(bytes) {
        return Ok(false);
    }
    let directory = staging.diff();
    let opened = std::fs::File::open(&directory).map_err(|error| broken(reason(&error)))?;
    let ids = IdPolicy::identity();
    let options = Options { owner: Owner::Us, ids: &ids, links: Links::Refused, overwrite: true };
    unpack(tar, opened.as_fd(), None, &options).map_err(|error| broken(error.to_string()))?;
    Ok(true)
}
