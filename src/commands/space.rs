//! Room on the disk: how much things take, and how it comes back from what was removed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::userns::Mapping;
use storage::digest::DiffId;
use storage::image::store::ImageStore;
use storage::state::atomic::TEMPORARY_PREFIX;
use storage::state::container::Record;
use storage::state::layout::Layout;
use storage::state::trash;
use storage::state::undo::{self, Entry, Kind, UndoLock};

use super::{Context, in_userns_with_output, select};
use crate::cli::parse::duration::go_duration;
use crate::error::CommandError;

/// How long what was removed can be brought back, unless the environment says otherwise.
const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// Says how long, as `12h` or `30m`; `0` removes for good.
const WINDOW_VARIABLE: &str = "CORACLE_UNDO_WINDOW";

/// How long what was removed can be brought back; zero if it is to go for good.
pub(crate) fn undo_window() -> Duration {
    let Ok(text) = std::env::var(WINDOW_VARIABLE) else { return WINDOW };
    match text.as_str() {
        "" => WINDOW,
        "0" => Duration::ZERO,
        text => go_duration(text).unwrap_or_else(|| {
            eprintln!("Warning: {WINDOW_VARIABLE}={}: not a span of time like 12h, so it is 24h", text.escape_debug());
            WINDOW
        }),
    }
}

/// Whether the file system of our data is about to be full: then nothing is kept for its own sake.
pub(crate) fn is_short(layout: &Layout) -> bool {
    const LEAST_BYTES: u64 = 2 << 30;
    nix::sys::statvfs::statvfs(layout.data_dir()).is_ok_and(|fs| {
        let bytes = |blocks: u64| blocks.saturating_mul(fs.fragment_size());
        bytes(fs.blocks_available()) < LEAST_BYTES.min(bytes(fs.blocks()) / 20)
    })
}

/// Gives back what was removed long enough ago, or, when the disk runs short, the oldest until it does not. A failure is
/// no reason for a command to fail: a later one tries again.
pub(crate) fn sweep(context: &Context) {
    let entries = undo::list(&context.layout);
    if let Some(oldest) = entries.first() {
        let age = jiff::Timestamp::now().duration_since(oldest.removed);
        if Duration::try_from(age).is_ok_and(|age| age >= undo_window())
            && let Ok(Some(lock)) = UndoLock::try_take(&context.layout)
            && let Ok(gone) = lock.expire(&context.layout, undo_window())
            && gone.contains(&Kind::Image)
        {
            let _ = collect_garbage(context);
        }
        if is_short(&context.layout) {
            make_room(context);
        }
    }
    empty_trash(&context.layout);
}

fn make_room(context: &Context) {
    while is_short(&context.layout) {
        let Ok(Some(lock)) = UndoLock::try_take(&context.layout) else { return };
        let Some(oldest) = undo::list(&context.layout).into_iter().next() else { return };
        if throw_away(context, &lock, std::slice::from_ref(&oldest)).is_err() {
            return;
        }
    }
}

/// Unlinks what can be brought back, for good.
pub(crate) fn throw_away(context: &Context, lock: &UndoLock, entries: &[Entry]) -> Result<(), CommandError> {
    for entry in entries {
        lock.throw_away(&context.layout, entry)?;
    }
    if entries.iter().any(|entry| entry.kind == Kind::Image) {
        collect_garbage(context)?;
    }
    empty_trash(&context.layout);
    Ok(())
}

/// The layers of containers, which outlive the images that they were made from.
pub(crate) fn layers_of<'a>(records: impl IntoIterator<Item = &'a Record>) -> HashSet<DiffId> {
    records.into_iter().flat_map(storage::prune::layers_of).cloned().collect()
}

/// Deletes blobs and layers that nothing refers to, and layers that killed pulls left half unpacked; returns the bytes of
/// these last ones, which nobody has counted.
pub(crate) fn collect_garbage(context: &Context) -> Result<u64, CommandError> {
    let keep = layers_of(&select::all(context)?);
    ImageStore::open(&context.layout).collect_garbage(&keep)?;
    sweep_layers(&context.layout)
}

/// Deletes the layers that killed pulls left half unpacked, in the user namespace if there are any; returns their bytes.
fn sweep_layers(layout: &Layout) -> Result<u64, CommandError> {
    let layers = layout.layers();
    let half = |name: std::ffi::OsString| name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes());
    let halves = || -> Vec<_> {
        let entries = fs::read_dir(&layers).into_iter().flatten().flatten();
        entries.filter(|entry| half(entry.file_name())).map(|entry| entry.path()).collect()
    };
    if halves().is_empty() {
        return Ok(0);
    }
    let text = in_userns_with_output(&Mapping::of_user(), || {
        let bytes = || halves().iter().filter_map(|path| tree_bytes(path, &mut HashSet::new())).sum::<u64>();
        // What a pull is at work on stays.
        let before = bytes();
        storage::layer::sweep(&layers).map_err(CommandError::host)?;
        Ok(before.saturating_sub(bytes()).to_string())
    })?;
    Ok(text.parse().unwrap_or(0))
}

/// The bytes of the regular files below each of some directories; a file with several names counts once in each. Counted
/// in the user namespace if some directory is closed to us.
pub(crate) fn bytes_of(paths: &[PathBuf]) -> Result<Vec<u64>, CommandError> {
    let count = || paths.iter().map(|path| tree_bytes(path, &mut HashSet::new())).collect::<Option<Vec<u64>>>();
    if let Some(bytes) = count() {
        return Ok(bytes);
    }
    let text = in_userns_with_output(&Mapping::of_user(), || {
        let bytes = paths.iter().map(|path| tree_bytes(path, &mut HashSet::new()).unwrap_or(0));
        Ok(bytes.map(|bytes| format!("{bytes} ")).collect())
    })?;
    Ok(text.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
}

/// `None` if some directory may not be read.
fn tree_bytes(path: &Path, seen: &mut HashSet<(u64, u64)>) -> Option<u64> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
        Err(_) => return Some(0),
    };
    let mut bytes = 0;
    for entry in entries.flatten() {
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => tree_bytes(&entry.path(), seen)?,
            Ok(metadata) if metadata.is_file() => {
                let first = metadata.nlink() < 2 || seen.insert((metadata.dev(), metadata.ino()));
                if first { metadata.size() } else { 0 }
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
            _ => 0,
        };
    }
    Some(bytes)
}

/// The bytes of all that waits to be unlinked.
pub(crate) fn trash_bytes(layout: &Layout) -> Result<u64, CommandError> {
    if trash::is_empty(layout) { Ok(0) } else { Ok(bytes_of(&[layout.trash()])?.into_iter().sum()) }
}

/// Unlinks what lies in the trash, in the user namespace if some of it belongs to subordinate ids.
///
/// A failure is no reason for a command to fail: a later one tries again.
pub(crate) fn empty_trash(layout: &Layout) {
    if trash::is_empty(layout) || trash::empty(layout).is_ok() && trash::is_empty(layout) {
        return;
    }
    let _ = in_userns_with_output(&Mapping::of_user(), || {
        trash::empty(layout).map_err(CommandError::host)?;
        Ok(String::new())
    });
}
