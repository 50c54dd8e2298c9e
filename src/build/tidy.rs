//! What a build leaves behind when it ends, or is ended; and a context that came as an archive.

use std::os::fd::AsFd;
use std::path::PathBuf;

use runtime::userns::Mapping;
use storage::build::BuildCache;
use storage::digest::Algorithm;
use storage::layer::unpack::{Links, Options, Owner, unpack};
use storage::layer::unpacker::Unpacker;
use storage::layer::{Effort, IdPolicy, Staging};
use storage::state::trash;
use storage::transport::download::{DownloadLimits, download};

use super::inside::inside;
use super::interrupt::ended_by_signals;
use super::remote::Remote;
use super::remote::git::forget_history;
use crate::commands::{Context, empty_trash};
use crate::error::{CommandError, reason};

/// Who has interrupted a build waits for so much to be removed: some hundredths of a second.
const ENTRIES: u32 = 2000;
const BYTES: u64 = 64 << 20;

/// After a signal: takes away what goes fast. The rest is what the next build, or prune, takes away.
pub(crate) fn sweep_soon(context: &Context, cache: &BuildCache) {
    let _ = storage::prune::sweep(&context.layout);
    if !cache.has_leftovers() && trash::is_empty(&context.layout) {
        return;
    }
    let _ = inside(&Mapping::of_user(), || {
        let effort = Effort::new(ENTRIES, BYTES);
        let emptied = trash::empty_within(&context.layout, &effort).map_err(CommandError::host);
        emptied.and(cache.sweep_within(&effort).map_err(CommandError::host))
    });
}

/// Takes away what stages have left half-made. What cannot be swept now is by the next build.
pub(crate) fn sweep(cache: &BuildCache) {
    if cache.has_leftovers() {
        let _ = inside(&Mapping::of_user(), || cache.sweep().map_err(CommandError::host));
    }
}

/// After a failure: the containers of steps go as if they had never been.
pub(crate) fn after_failure(context: &Context) {
    let _ = storage::prune::sweep(&context.layout);
    empty_trash(&context.layout);
}

/// Fetches a context: a repository, an archive, or a Dockerfile alone, which is given.
pub(crate) fn fetch_context(text: &str, staging: &Staging) -> Result<(PathBuf, Option<Vec<u8>>), CommandError> {
    ended_by_signals(|| fetch(text, staging))
}

fn fetch(text: &str, staging: &Staging) -> Result<(PathBuf, Option<Vec<u8>>), CommandError> {
    let remote = Remote::of_context(text).map_err(CommandError::user)?;
    let url = match remote {
        Some(Remote::Git(git)) => {
            let (directory, _) = git.fetch(&staging.diff())?;
            // What was fetched is a context, not the history that led to it.
            if git.keep_git_dir != Some(true) {
                forget_history(&staging.diff())?;
            }
            return Ok((directory, None));
        }
        Some(Remote::Url(url)) => url,
        None => return Err(CommandError::user(format!("context {text}: not a URL"))),
    };
    let path = staging.tree().join("context");
    let failed = |error: std::io::Error| CommandError::host(format!("write {}: {}", path.display(), reason(&error)));
    let out = std::fs::File::create_new(&path).map_err(failed)?;
    inside(&Mapping::of_user(), || {
        download(&url, Algorithm::Sha256, &DownloadLimits::default(), &out).map_err(CommandError::host)?;
        Ok(())
    })?;
    let bytes = std::fs::read(&path).map_err(failed)?;
    let is_archive = unpack_context(&bytes, staging)?;
    Ok((staging.diff(), (!is_archive).then_some(bytes)))
}

/// Unpacks a context that came as an archive, compressed or not; `false` if the bytes are something else.
pub(crate) fn unpack_context(bytes: &[u8], staging: &Staging) -> Result<bool, CommandError> {
    let broken = |why: String| CommandError::user(format!("context on stdin: {why}"));
    let tar = Unpacker::new(bytes).map_err(|error| broken(reason(&error)))?;
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
