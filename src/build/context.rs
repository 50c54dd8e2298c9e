//! The build context: one directory, opened once, and what a `.dockerignore` leaves of it; the hashes of its files.
//!
//! ```text
//! build/files/<key of the directory>: one line per file, "size mtime ctime inode sha256 path"
//! ```
//! A hash is believed as long as the numbers are the same. Files that changed in the last moments are hashed again next
//! time: within the grain of the clock a change leaves no trace.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::stat::FileStat;
use storage::build::tree::{self, Tree};
use storage::build::{BuildCache, Key};
use storage::digest::{Algorithm, Hasher};

use super::ignore::{Ignore, Verdict};
use crate::error::{CommandError, reason};

/// How long a file must have rested for its numbers to say that it is the same.
const REST: Duration = Duration::from_secs(2);

/// A directory to copy from.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its files.
    pub(crate) tree: Tree,
    /// What is left out.
    pub(crate) ignore: Ignore,
    /// Where it is; for messages and for mounts.
    pub(crate) path: PathBuf,
    name: Key,
    hashes: RefCell<Option<Hashes>>,
    /// What the tree's path leads through.
    _root: OwnedFd,
}

#[derive(Debug, Default)]
struct Hashes {
    known: HashMap<Vec<u8>, (Numbers, String)>,
    is_changed: bool,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
}

impl Numbers {
    fn of(stat: &FileStat) -> Self {
        Numbers {
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    fn has_rested(&self) -> bool {
        let since = Duration::new(self.ctime.0.max(0).unsigned_abs(), u32::try_from(self.ctime.1).unwrap_or(0));
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since).is_ok_and(|rested| rested >= REST)
    }
}

impl Source {
    /// Opens a directory.
    pub(crate) fn open(path: &Path, ignore: Ignore) -> Result<Source, CommandError> {
        let failed =
            |error: std::io::Error| CommandError::user(format!("context {}: {}", path.display(), reason(&error)));
        let path = std::path::absolute(path).map_err(failed)?;
        let root = File::open(&path).map_err(failed)?;
        let metadata = root.metadata().map_err(failed)?;
        if !metadata.is_dir() {
            return Err(CommandError::user(format!("context {}: not a directory", path.display())));
        }
        let root = OwnedFd::from(root);
        let name = Key::of([b"context".as_slice(), path.as_os_str().as_bytes()]);
        // Children of ours have the descriptor by the same number.
        let tree = Tree::of_directory(format!("/proc/self/fd/{}", root.as_raw_fd()));
        Ok(Source { tree, ignore, path, name, hashes: RefCell::new(None), _root: root })
    }

    /// What a walk does with a path.
    pub(crate) fn verdict(&self, path: &[u8]) -> tree::Verdict {
        if self.ignore.is_empty() {
            return tree::Verdict::Take;
        }
        verdict(&self.ignore, path)
    }

    /// The digest of a regular file's contents.
    pub(crate) fn digest(
        &self,
        cache: &BuildCache,
        path: &[u8],
        stat: &FileStat,
        open: impl FnOnce() -> nix::Result<File>,
    ) -> Result<String, CommandError> {
        let mut hashes = self.hashes.borrow_mut();
        let hashes = hashes.get_or_insert_with(|| Hashes::parse(&cache.files(&self.name).unwrap_or_default()));
        let numbers = Numbers::of(stat);
        if let Some((known, digest)) = hashes.known.get(path)
            && *known == numbers
        {
            return Ok(digest.clone());
        }
        let failed = |why: String| CommandError::host(format!("read {}: {why}", String::from_utf8_lossy(path)));
        let file = open().map_err(|errno| failed(errno.desc().to_lowercase()))?;
        let (digest, _) = Hasher::of_reader(Algorithm::Sha256, file).map_err(|error| failed(reason(&error)))?;
        let digest = digest.hex().to_owned();
        if numbers.has_rested() {
            hashes.known.insert(path.to_vec(), (numbers, digest.clone()));
            hashes.is_changed = true;
        }
        Ok(digest)
    }

    /// Keeps the hashes for the next build. Without them it takes longer.
    pub(crate) fn keep_hashes(&self, cache: &BuildCache) {
        let mut hashes = self.hashes.borrow_mut();
        if let Some(hashes) = hashes.as_mut().filter(|hashes| hashes.is_changed) {
            let _ = cache.keep_files(&self.name, &hashes.to_bytes());
            hashes.is_changed = false;
        }
    }
}

/// What a walk does with a path by these patterns.
pub(crate) fn verdict(ignore: &Ignore, path: &[u8]) -> tree::Verdict {
    match ignore.verdict(path) {
        Verdict::Keep => tree::Verdict::Take,
        Verdict::Ignore => tree::Verdict::Descend,
        Verdict::Skip => tree::Verdict::Skip,
    }
}

impl Hashes {
    fn parse(bytes: &[u8]) -> Self {
        let lines = bytes.split(|byte| *byte == 0).filter_map(|line| {
            let mut parts = line.splitn(8, |byte| *byte == b' ');
            let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<i64>().ok();
            let (size, mtime, ctime) = (number()?, (number()?, number()?), (number()?, number()?));
            let inode = number()?.cast_unsigned();
            let digest = std::str::from_utf8(parts.next()?).ok()?.to_owned();
            Some((parts.next()?.to_vec(), (Numbers { size, mtime, ctime, inode }, digest)))
        });
        Hashes { known: lines.collect(), is_changed: false }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, (numbers, digest)) in &self.known {
            let Numbers { size, mtime, ctime, inode } = numbers;
            let inode = inode.cast_signed();
            let head = format!("{size} {} {} {} {} {inode} {digest} ", mtime.0, mtime.1, ctime.0, ctime.1);
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_survive_a_round_trip_whatever_files_are_called() {
        let numbers = Numbers { size: 1, mtime: (2, 3), ctime: (-4, 5), inode: u64::MAX };
        let mut hashes = Hashes::default();
        hashes.known.insert(b"a b\nc \xff".to_vec(), (numbers, "d".repeat(64)));
        hashes.known.insert(b"x".to_vec(), (Numbers { size: 0, ..numbers }, "e".repeat(64)));
        assert_eq!(Hashes::parse(&hashes.to_bytes()).known, hashes.known);
        assert!(Hashes::parse(b"nonsense\0 \0").known.is_empty());
    }
}
