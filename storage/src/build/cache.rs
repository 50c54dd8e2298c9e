//! What is known of the steps that were built, by their keys.
//!
//! ```text
//! build/steps/<key>                 a step's result: {"version", "created", "boot", "tree", "diff_id", "size_bytes", "blob"}
//! build/trees/<key>[-single]/diff   its tree, until an image has it: then layers/<diffID>/diff
//! build/files/<name>                hashes of a context's files: see the builder
//! build/mounts/<name>/{data,lock}   RUN --mount=type=cache
//! ```
//! | writer | readers | lock | durability | version |
//! |---|---|---|---|---|
//! | build | build, prune, df | `build/lock`: builds share it, prune takes it alone | none: a record is believed after a reboot only if its tree became a layer, which was synced | a record of another version is a miss |

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::digest::{Algorithm, DiffId, Hasher};
use crate::image::manifest::Descriptor;
use crate::layer::Effort;
use crate::layer::staging::{self, Staging};
use crate::state::atomic::{Durability, TEMPORARY_PREFIX, write_atomic};
use crate::state::layout::{Layout, Ownership, create_dir, is_lower_hex};
use crate::state::lock::FileLock;
use crate::state::status::boot_id;
use crate::state::trash;

const VERSION: u32 = 1;

/// What a step is known by: a digest of everything that decides its result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// The key of these parts, none of which can be mistaken for two.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finish().hex().to_owned())
    }

    /// A key by its digits.
    pub fn parse(hex: &str) -> Option<Self> {
        (hex.len() == 64 && is_lower_hex(hex)).then(|| Self(hex.to_owned()))
    }

    /// Its 64 digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first 12.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    version: u32,
    /// When it was built (RFC 3339).
    pub created: String,
    /// In which boot of this machine: what was not synced is not believed in the next one.
    boot: String,
    /// It changed files.
    pub tree: bool,
    /// Its layer, once an image needed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<DiffId>,
    /// The length of the layer's tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The layer's blob, if it came from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Descriptor>,
}

impl Step {
    /// A step that was built elsewhere; its layer is here by now.
    pub(super) fn foreign(created: &str, layer: Option<(Descriptor, DiffId)>) -> Self {
        let (blob, diff_id) = layer.unzip();
        let (created, boot) = (created.to_owned(), boot_id().to_owned());
        Self { version: VERSION, created, boot, tree: diff_id.is_some(), diff_id, size_bytes: None, blob }
    }
}

/// A step that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is known of it.
    pub step: Step,
    /// The root of its tree.
    pub diff: Option<PathBuf>,
}

/// What [`BuildCache::prune`] removed, or [`BuildCache::usage`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many steps and mounts.
    pub count: usize,
    /// The bytes that they alone have: a tree that became an image's layer is the image's.
    pub bytes: u64,
    /// Someone is building: nothing was, or can be, removed.
    pub in_use: bool,
}

/// The cache of one user.
#[derive(Clone, Debug)]
pub struct BuildCache {
    layout: Layout,
}

impl BuildCache {
    /// Opens it; touches no file.
    pub fn open(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    fn root(&self) -> PathBuf {
        self.layout.build()
    }

    /// Keeps everything where it is for as long as the guard lives.
    ///
    /// # Errors
    /// A directory cannot be made, the lock not be taken.
    pub fn hold(&self) -> Result<FileLock, BuildError> {
        for name in ["steps", "trees", "files", "mounts"] {
            create_dir(&self.root().join(name))?;
        }
        Ok(FileLock::shared(&self.root().join("lock"))?)
    }

    /// Whether there are trees that were not finished, of builds that live or died.
    pub fn has_leftovers(&self) -> bool {
        let is_half = |path: PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        self.entries("trees").any(is_half)
    }

    /// Takes away what dead builds have left half-made.
    ///
    /// **Runs in:** a process in the user namespace: steps make files of other ids.
    ///
    /// # Errors
    /// As [`staging::sweep`].
    pub fn sweep(&self) -> Result<(), BuildError> {
        staging::sweep(&self.root().join("trees"))?;
        Ok(())
    }

    /// The same, for who cannot wait: what is more than that is left to the next sweep, or to prune.
    ///
    /// **Runs in:** as [`sweep`](Self::sweep).
    ///
    /// # Errors
    /// As [`staging::sweep`].
    pub fn sweep_within(&self, effort: &Effort) -> Result<(), BuildError> {
        staging::sweep_within(&self.root().join("trees"), effort)?;
        Ok(())
    }

    /// A place for the tree of a step, with its empty `diff`.
    ///
    /// # Errors
    /// As [`Staging::new`].
    pub fn stage(&self) -> Result<Staging, BuildError> {
        Ok(Staging::new(&self.root().join("trees"))?)
    }

    fn step_path(&self, key: &Key) -> PathBuf {
        self.root().join("steps").join(key.hex())
    }

    fn tree_path(&self, key: &Key, ownership: Ownership) -> PathBuf {
        let suffix = if ownership == Ownership::Single { "-single" } else { "" };
        self.root().join("trees").join(format!("{}{suffix}", key.hex()))
    }

    /// The result of a step, if it is known and its files are there.
    pub fn find(&self, key: &Key, ownership: Ownership) -> Option<Found> {
        let path = self.step_path(key);
        let step: Step = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        if step.version != VERSION {
            return None;
        }
        let diff = match (step.tree, &step.diff_id) {
            (false, _) => None,
            (true, Some(diff_id)) => Some(self.layout.layer(diff_id, ownership).join("diff")),
            (true, None) if step.boot == boot_id() => Some(self.tree_path(key, ownership).join("diff")),
            (true, None) => return None,
        };
        if diff.as_ref().is_some_and(|diff| !diff.is_dir()) {
            return None;
        }
        // Prune takes what was not used for long.
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(Found { step, diff })
    }

    /// Keeps the result of a step under its key, and says where its tree is now.
    ///
    /// # Errors
    /// Those of renaming and writing.
    pub fn keep(
        &self,
        key: &Key,
        tree: Option<Staging>,
        created: &str,
        ownership: Ownership,
    ) -> Result<Option<PathBuf>, BuildError> {
        let step = Step {
            version: VERSION,
            created: created.to_owned(),
            boot: boot_id().to_owned(),
            tree: tree.is_some(),
            diff_id: None,
            size_bytes: None,
            blob: None,
        };
        let diff = match tree {
            None => None,
            Some(staging) => {
                let path = self.tree_path(key, ownership);
                if path.exists() {
                    // Of another boot, or built without looking at the cache.
                    trash::put(&self.layout, &path)?;
                }
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                staging.publish(name)?;
                Some(path.join("diff"))
            }
        };
        self.write(key, &step)?;
        Ok(diff)
    }

    /// Keeps a step whose tree is a layer already.
    pub(super) fn adopt(&self, key: &Key, step: &Step) -> Result<(), BuildError> {
        self.write(key, step)
    }

    fn write(&self, key: &Key, step: &Step) -> Result<(), BuildError> {
        let path = self.step_path(key);
        let failed = |error: serde_json::Error| BuildError::Io {
            what: format!("write {}", path.display()),
            source: error.into(),
        };
        let bytes = serde_json::to_vec(step).map_err(failed)?;
        Ok(write_atomic(&path, &bytes, Durability::None)?)
    }

    /// The tree of a step became a layer: gives it that name. It was synced before.
    ///
    /// # Errors
    /// Those of renaming and writing.
    pub(super) fn settle(
        &self,
        key: &Key,
        (diff_id, size_bytes): (&DiffId, u64),
        ownership: Ownership,
    ) -> Result<(), BuildError> {
        let (from, to) = (self.tree_path(key, ownership), self.layout.layer(diff_id, ownership));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            // Somebody has the same one already; a build that ran beside this one may have settled it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {
                trash::put(&self.layout, &from)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.is_dir() => {}
            Err(source) => return Err(BuildError::Io { what: format!("rename {}", from.display()), source }),
        }
        if let Some(found) = self.find(key, ownership).map(|found| found.step).or_else(|| self.read(key)) {
            self.write(
                key,
                &Step { diff_id: Some(diff_id.clone()), size_bytes: Some(size_bytes), blob: None, ..found },
            )?;
        }
        Ok(())
    }

    fn read(&self, key: &Key) -> Option<Step> {
        serde_json::from_slice(&fs::read(self.step_path(key)).ok()?).ok()
    }

    /// What is known of the files of a context, in the builder's form.
    pub fn files(&self, name: &Key) -> Option<Vec<u8>> {
        fs::read(self.root().join("files").join(name.hex())).ok()
    }

    /// Keeps what is known of the files of a context.
    ///
    /// # Errors
    /// Those of writing.
    pub fn keep_files(&self, name: &Key, bytes: &[u8]) -> Result<(), BuildError> {
        Ok(write_atomic(&self.root().join("files").join(name.hex()), bytes, Durability::None)?)
    }

    /// The directory of a RUN cache, made if it is missing; says whether it is new.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn mount(&self, name: &Key) -> Result<(PathBuf, bool), BuildError> {
        let directory = self.root().join("mounts").join(name.hex());
        let data = directory.join("data");
        let is_new = !data.is_dir();
        create_dir(&data)?;
        Ok((data, is_new))
    }

    /// Takes a RUN cache for one process alone; `None` if it is taken and `wait` is off.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn lock_mount(&self, name: &Key, wait: bool) -> Result<Option<FileLock>, BuildError> {
        let path = self.root().join("mounts").join(name.hex()).join("lock");
        Ok(if wait { Some(FileLock::exclusive(&path)?) } else { FileLock::try_exclusive(&path)? })
    }

    /// Removes steps and mounts that were not used for `older`, or all. Does nothing while somebody builds.
    ///
    /// **Runs in:** a process in the user namespace: a RUN cache may have directories of others.
    ///
    /// # Errors
    /// Those of reading and removing.
    pub fn prune(&self, older: Option<Duration>, with_mounts: bool) -> Result<Usage, BuildError> {
        let mut removed = Usage::default();
        if !self.root().is_dir() {
            return Ok(removed);
        }
        let Some(_lock) = FileLock::try_exclusive(&self.root().join("lock"))? else {
            return Ok(Usage { in_use: true, ..removed });
        };
        let _ = staging::sweep(&self.root().join("trees"));
        let is_old = |path: &Path| {
            let age = || fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?.elapsed().ok();
            older.is_none_or(|limit| age().is_some_and(|age| age >= limit))
        };
        for path in self.entries("steps") {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let is_temporary = name.starts_with(TEMPORARY_PREFIX);
            if is_temporary || is_old(&path) {
                removed.count += usize::from(!is_temporary);
                fs::remove_file(&path).map_err(|source| io_failed("unlink", &path, source))?;
            }
        }
        for path in self.entries("trees") {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let key = name.split('-').next().unwrap_or_default();
            if is_lower_hex(key) && !self.root().join("steps").join(key).exists() {
                removed.bytes += bytes_below(&path);
                trash::put(&self.layout, &path)?;
            }
        }
        if with_mounts {
            for path in self.entries("mounts").filter(|path| is_old(path)) {
                removed.count += 1;
                removed.bytes += bytes_below(&path);
                trash::put(&self.layout, &path)?;
            }
            for path in self.entries("files") {
                let _ = fs::remove_file(path);
            }
        }
        Ok(removed)
    }

    /// How much there is.
    ///
    /// **Runs in:** as [`BuildCache::prune`].
    pub fn usage(&self) -> Usage {
        let (steps, mounts) = (self.entries("steps").count(), self.entries("mounts").count());
        let trees = self.entries("trees").chain(self.entries("mounts"));
        let in_use = FileLock::is_held(&self.root().join("lock")).unwrap_or(false);
        Usage { count: steps + mounts, bytes: trees.map(|path| bytes_below(&path)).sum(), in_use }
    }

    fn entries(&self, name: &str) -> impl Iterator<Item = PathBuf> + use<> {
        fs::read_dir(self.root().join(name)).into_iter().flatten().flatten().map(|entry| entry.path())
    }
}

fn io_failed(call: &str, path: &Path, source: io::Error) -> BuildError {
    BuildError::Io { what: format!("{call} {}", path.display()), source }
}

/// The bytes of the files below a directory; what cannot be read counts nothing.
fn bytes_below(path: &Path) -> u64 {
    let mut rest = vec![path.to_owned()];
    let mut bytes = 0;
    while let Some(path) = rest.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.is_dir() {
                rest.push(entry.path());
            } else if metadata.is_file() {
                bytes += metadata.len() / metadata.nlink().max(1);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, BuildCache) {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::new(scratch.path().join("data"), scratch.path().join("run"));
        let cache = BuildCache::open(&layout);
        cache.hold().unwrap();
        (scratch, cache)
    }

    #[test]
    fn parts_of_a_key_are_told_apart() {
        let key = |parts: &[&[u8]]| Key::of(parts.iter().copied());
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_ne!(key(&[b"ab"]), key(&[b"ab", b""]));
        assert_eq!(key(&[b"ab", b"c"]), key(&[b"ab", b"c"]));
        assert_eq!(key(&[]).hex().len(), 64);
    }

    #[test]
    fn steps_are_found_while_their_trees_are_there() {
        let (_scratch, cache) = cache();
        let (empty, full) = (Key::of([b"empty".as_slice()]), Key::of([b"full".as_slice()]));
        assert!(cache.find(&empty, Ownership::Mapped).is_none());
        assert_eq!(cache.keep(&empty, None, "then", Ownership::Mapped).unwrap(), None);
        let found = cache.find(&empty, Ownership::Mapped).unwrap();
        assert_eq!((found.step.created.as_str(), found.diff), ("then", None));
        let staging = cache.stage().unwrap();
        fs::write(staging.diff().join("file"), b"12345").unwrap();
        let diff = cache.keep(&full, Some(staging), "now", Ownership::Mapped).unwrap().unwrap();
        assert_eq!(fs::read(diff.join("file")).unwrap(), b"12345");
        assert_eq!(cache.find(&full, Ownership::Mapped).unwrap().diff, Some(diff.clone()));
        assert!(cache.find(&full, Ownership::Single).is_none(), "its files belong to others there");
        assert_eq!(cache.usage().bytes, 5);
        fs::remove_dir_all(diff.parent().unwrap()).unwrap();
        assert!(cache.find(&full, Ownership::Mapped).is_none());
    }

    #[test]
    fn prune_waits_for_no_build_and_takes_what_is_old() {
        let (_scratch, cache) = cache();
        let key = Key::of([b"x".as_slice()]);
        let staging = cache.stage().unwrap();
        fs::write(staging.diff().join("file"), b"123").unwrap();
        cache.keep(&key, Some(staging), "now", Ownership::Mapped).unwrap();
        cache.mount(&key).unwrap();
        let held = cache.hold().unwrap();
        assert!(cache.prune(None, true).unwrap().in_use);
        drop(held);
        assert_eq!(cache.prune(Some(Duration::from_secs(3600)), true).unwrap().count, 0);
        let removed = cache.prune(None, true).unwrap();
        assert_eq!((removed.count, removed.bytes), (2, 3));
        assert!(cache.find(&key, Ownership::Mapped).is_none());
        assert_eq!(cache.usage(), Usage::default());
    }
}
