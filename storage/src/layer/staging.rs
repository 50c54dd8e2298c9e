//! From a stream to a published layer, so that a half-made one never has a layer's name.
//!
//! ```text
//! layers/.tmp-<random>/      lock (held by the maker for as long as it lives)
//!                      journal (only where somebody reads the layer before it is whole)
//!                      early/ (only with a table of contents: files with what was fetched before the rest)
//!                      tree/ diff/ index    ── both digests checked, synced ── rename ──> layers/<diffID>
//! ```
//! The lock stands in the order of [`crate::state::lock`]: it is only ever tried.

use super::apply::{Applied, ApplyError, apply};
use super::compression::Decompressor;
use super::confine::confine_thread;
use super::ids::IdPolicy;
use super::index::{self, IndexError};
use super::journal::Journal;
use super::remove::{Effort, remove_tree, remove_tree_within};
use super::toc::Toc;
use crate::digest::{Algorithm, DiffId, Hasher};
use crate::state::layout::random_hex;
use crate::state::lock::{FileLock, LockError};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs;
use std::io::{self, BufWriter, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) const PREFIX: &str = ".tmp-";

/// What is known of a layer that is being unpacked.
pub(crate) const JOURNAL: &str = "journal";

/// Where what was fetched before the rest lies, by the ids of the table of contents.
pub(crate) const EARLY: &str = "early";

/// How often a name is tried before a sweeper that is always faster is taken for an error.
const ATTEMPTS: usize = 8;

/// Why a layer could not be staged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// A directory or file of the store.
    #[error("{call} {}: {}", path.display(), crate::sys::reason(source))]
    Io {
        /// Which call.
        call: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer itself.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Its index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The lock of a temporary directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its table of contents, which has been believed.
    #[error("its table of contents and its archive disagree about '{path}'")]
    Contents {
        /// What they disagree about.
        path: String,
    },
    /// The stream is not the layer it should be.
    #[error("layer: uncompressed it is {got}, not {expected} as the image configuration says")]
    DiffId {
        /// What was asked for.
        expected: DiffId,
        /// What came.
        got: DiffId,
    },
}

impl StageError {
    /// Whether the store's file system is full.
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Index(IndexError::Write(source)) => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Apply(ApplyError::Call { source, .. }) => matches!(source, Errno::ENOSPC | Errno::EDQUOT),
            _ => false,
        }
    }
}

/// A layer in the making, or made and not yet published. Dropping it deletes it.
#[derive(Debug)]
pub struct Staging {
    layers: PathBuf,
    dir: PathBuf,
    /// Taken by the unpacking, which tells there what it has.
    journal: Mutex<Option<Journal>>,
    /// What the archive must agree with.
    toc: Option<Arc<Toc>>,
    /// Held until all is gone or published.
    _lock: FileLock,
}

/// What [`Staging::publish`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The layer has its name now.
    Ours,
    /// Somebody else published the same layer first; ours is deleted.
    Theirs,
}

impl Staging {
    /// Makes a temporary directory with an empty `diff` in `layers`, which must exist.
    ///
    /// # Errors
    /// [`StageError::Io`], [`StageError::Lock`].
    pub fn new(layers: &Path) -> Result<Self, StageError> {
        for _ in 0..ATTEMPTS {
            let dir = layers.join(format!("{PREFIX}{}", random_hex(8)));
            fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|source| failed("mkdir", &dir, source))?;
            // Between these two calls a sweeper may take the directory for a dead one.
            let lock = match FileLock::try_exclusive(&dir.join("lock")) {
                Ok(Some(lock)) => lock,
                Ok(None) => continue,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            let staging = Self { layers: layers.to_owned(), dir, journal: Mutex::default(), toc: None, _lock: lock };
            for (path, mode) in [(staging.tree(), 0o700), (staging.diff(), 0o755)] {
                let make = fs::DirBuilder::new().mode(mode).create(&path);
                make.map_err(|source| failed("mkdir", &path, source))?;
                // Neither the umask nor a set-group-id bit of the store's own directory may show in a layer.
                let permissions = fs::Permissions::from_mode(mode);
                fs::set_permissions(&path, permissions).map_err(|source| failed("chmod", &path, source))?;
            }
            return Ok(staging);
        }
        Err(failed("lock", layers, io::Error::from(io::ErrorKind::ResourceBusy)))
    }

    /// Has [`Self::unpack`] tell each entry as soon as it is whole, in the file `journal`. Returns the name of the
    /// directory that it is in, below `layers`.
    ///
    /// # Errors
    /// [`StageError::Io`].
    pub(crate) fn keep_journal(&self) -> Result<String, StageError> {
        let path = self.dir.join(JOURNAL);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| failed("create", &path, source))?;
        *self.journal.lock().unwrap_or_else(PoisonError::into_inner) = Some(Journal::new(file));
        Ok(self.name())
    }

    /// As [`Self::keep_journal`], and tells at once all names that a table of contents has. [`Self::unpack`] refuses an archive
    /// that does not agree with it. Returns also where pieces are told, and the directory that they are put into.
    ///
    /// # Errors
    /// [`StageError::Io`], [`StageError::Index`].
    pub(crate) fn keep_contents(&mut self, toc: &Arc<Toc>) -> Result<(String, fs::File, OwnedFd), StageError> {
        let early = self.dir.join(EARLY);
        fs::DirBuilder::new().mode(0o700).create(&early).map_err(|source| failed("mkdir", &early, source))?;
        let path = self.dir.join(JOURNAL);
        // Several write to its end.
        let file = fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| failed("create", &path, source))?;
        let pieces = file.try_clone().map_err(|source| failed("dup", &path, source))?;
        let journal = Journal::of_contents(file, Arc::clone(toc))?;
        *self.journal.lock().unwrap_or_else(PoisonError::into_inner) = Some(journal);
        self.toc = Some(Arc::clone(toc));
        Ok((self.name(), pieces, open_dir(&early)?))
    }

    fn name(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Unpacks an uncompressed archive, reads the stream to its end and writes the index. Call it once.
    ///
    /// With `is_confined` the calling thread loses the right to write anywhere else, for good.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn unpack(&self, tar: impl Read, ids: &IdPolicy, is_confined: bool) -> Result<Applied, StageError> {
        let tree = open_dir(&self.tree())?;
        if is_confined {
            confine_thread(&tree);
        }
        let diff = open_dir(&self.diff())?;
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut writer = journal.map_or_else(index::Writer::new, index::Writer::journaled);
        let applied = apply(tar, diff.as_fd(), ids, &mut writer)?;
        if let Some(path) = self.toc.as_ref().and_then(|toc| toc.disagrees(&writer)) {
            return Err(StageError::Contents { path: super::Shown(&path).to_string() });
        }
        let path = self.tree().join("index");
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| failed("create", &path, source))?;
        writer.finish(&mut BufWriter::with_capacity(1 << 16, file))?;
        Ok(applied)
    }

    /// Gives the layer its name. The caller has checked its digest, and synced the file system if it cares.
    ///
    /// # Errors
    /// [`StageError::Io`].
    pub fn publish(self, name: &str) -> Result<Published, StageError> {
        let target = self.layers.join(name);
        match fs::rename(self.tree(), &target) {
            Ok(()) => Ok(Published::Ours),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => Ok(Published::Theirs),
            Err(source) => Err(failed("rename", &target, source)),
        }
    }

    /// Leaves what there is to the next sweep, for who cannot wait.
    pub fn abandon(mut self) {
        // There is no such name.
        self.dir = PathBuf::new();
    }

    /// The directory that will get the layer's name.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// The layer's root.
    pub fn diff(&self) -> PathBuf {
        self.dir.join("tree/diff")
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be deleted now is swept later.
        if let (Ok(layers), Some(name)) = (open_dir(&self.layers), self.dir.file_name()) {
            let _ = remove_tree(layers.as_fd(), name.as_encoded_bytes());
        }
    }
}

/// Unpacks a layer from its blob, compressed or not. What comes back is what it should be, and is to be published under
/// the digest's hex once it is on disk: see [`sync`].
///
/// One thread inflates, hashes and unpacks; a pull has its own pipeline with a thread for each.
///
/// # Errors
/// [`StageError`].
pub fn unpack_blob(
    layers: &Path,
    blob: impl Read + Send,
    diff_id: &DiffId,
    ids: &IdPolicy,
) -> Result<(Staging, Applied), StageError> {
    let staging = Staging::new(layers)?;
    let algorithm = diff_id.as_digest().algorithm();
    let unpack = || -> Result<(DiffId, Applied), StageError> {
        let read = |source| ApplyError::Tar(super::tar::TarError::Read { offset: 0, source });
        let tar = Decompressor::new(blob).map_err(read)?;
        let mut hashed = Hashed::new(tar, algorithm);
        let applied = staging.unpack(&mut hashed, ids, true)?;
        Ok((hashed.finish(), applied))
    };
    // A thread of its own, because it is confined for the rest of its life.
    let unpacked = std::thread::scope(|scope| scope.spawn(unpack).join().expect("unpacking does not panic"));
    let (got, applied) = unpacked?;
    if got != *diff_id {
        return Err(StageError::DiffId { expected: diff_id.clone(), got });
    }
    Ok((staging, applied))
}

/// Writes out the file system of `layers`. A layer's name is believed for ever, also after a power cut, so it is given
/// after this only; the rename itself may be lost, which costs another unpacking.
///
/// # Errors
/// [`StageError::Io`].
///
/// # Source
/// `syncfs(2)`, which reports errors of writing since Linux 5.8.
pub fn sync(layers: &Path) -> Result<(), StageError> {
    let dir = open_dir(layers)?;
    nix::unistd::syncfs(&dir).map_err(|errno| failed("syncfs", layers, errno.into()))
}

/// Deletes what dead processes left in `layers`; what is being made is left alone. Returns how many were deleted.
///
/// # Errors
/// [`StageError`] of the first that failed, after all were tried.
pub fn sweep(layers: &Path) -> Result<usize, StageError> {
    sweep_trees(layers, &remove_tree)
}

/// The same, for who cannot wait: what is more than that is left to the next sweep.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_within(layers: &Path, effort: &Effort) -> Result<usize, StageError> {
    sweep_trees(layers, &|dir, name| match remove_tree_within(dir, name, effort) {
        Err(Errno::E2BIG) => Ok(()),
        removed => removed,
    })
}

fn sweep_trees(layers: &Path, remove: &dyn Fn(BorrowedFd<'_>, &[u8]) -> nix::Result<()>) -> Result<usize, StageError> {
    let entries = match fs::read_dir(layers) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(|source| failed("read", layers, source))?,
    };
    let dir = open_dir(layers)?;
    let (mut swept, mut first_error) = (0, None);
    for entry in entries {
        let entry = entry.map_err(|source| failed("read", layers, source))?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        // Taking the lock makes a maker that has not locked yet choose another name.
        let result = match FileLock::try_exclusive(&entry.path().join("lock")) {
            Ok(None) => continue,
            Err(error) if error.is_not_found() => continue,
            // No directory, or one that this process may not enter: the tree walker knows better.
            Ok(Some(_)) | Err(_) => remove(dir.as_fd(), name.as_encoded_bytes()),
        };
        match result {
            Ok(()) => swept += 1,
            Err(errno) => {
                first_error.get_or_insert_with(|| failed("remove", &entry.path(), errno.into()));
            }
        }
    }
    first_error.map_or(Ok(swept), Err)
}

/// Passes bytes on and hashes them.
pub(crate) struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R> Hashed<R> {
    pub(crate) fn new(inner: R, algorithm: Algorithm) -> Self {
        Self { inner, hasher: Hasher::new(algorithm) }
    }

    /// The digest of all that was read.
    pub(crate) fn finish(self) -> DiffId {
        DiffId::new(self.hasher.finish())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, StageError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(nix::fcntl::AT_FDCWD, path, flags, Mode::empty()).map_err(|errno| failed("open", path, errno.into()))
}

fn failed(call: &'static str, path: &Path, source: io::Error) -> StageError {
    StageError::Io { call, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::layer::tar::{Entry, EntryKind, Timestamp, Writer};

    fn layer(name: &str) -> (Vec<u8>, DiffId) {
        let entry = Entry {
            path: name.into(),
            link: Vec::new(),
            kind: EntryKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 5,
            mtime: Timestamp::default(),
            device: (0, 0),
            xattrs: Vec::new(),
            data_offset: 0,
            stored_bytes: 0,
            sparse: false,
        };
        let mut writer = Writer::new(Vec::new());
        writer.append(&entry, &b"hello"[..]).unwrap();
        let tar = writer.finish().unwrap();
        let diff_id = DiffId::new(Digest::of(&tar));
        (tar, diff_id)
    }

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn layer_is_published_once_with_its_index_and_nothing_else_is_left() {
        let layers = tempfile::tempdir().unwrap();
        let (tar, diff_id) = layer("file");
        let compressed = zstd::encode_all(tar.as_slice(), 1).unwrap();
        let unpack = || {
            let (staging, _) = unpack_blob(layers.path(), compressed.as_slice(), &diff_id, &IdPolicy::Single).unwrap();
            assert!(!names(layers.path()).iter().all(|name| name == diff_id.hex()), "not before it is synced");
            sync(layers.path()).unwrap();
            staging.publish(diff_id.hex()).unwrap()
        };
        assert_eq!((unpack(), unpack()), (Published::Ours, Published::Theirs));
        assert_eq!(names(layers.path()), [diff_id.hex()]);
        let dir = layers.path().join(diff_id.hex());
        assert_eq!(fs::read(dir.join("diff/file")).unwrap(), b"hello");
        let index = index::Index::open(&dir.join("index")).unwrap();
        assert_eq!(index.lookup(b"file").unwrap().size(), 5);
    }

    #[test]
    fn layer_with_another_digest_or_a_broken_archive_is_not_published() {
        let layers = tempfile::tempdir().unwrap();
        let (tar, diff_id) = layer("file");
        let mut longer = tar.clone();
        longer.extend_from_slice(&[0; 512]);
        let error = unpack_blob(layers.path(), longer.as_slice(), &diff_id, &IdPolicy::Single).unwrap_err();
        assert!(matches!(error, StageError::DiffId { .. }), "{error}");
        // Within the contents of the file, then within what fills up its last block.
        let error = unpack_blob(layers.path(), &tar[..515], &diff_id, &IdPolicy::Single).unwrap_err();
        assert!(matches!(error, StageError::Apply(_)), "{error}");
        let error = unpack_blob(layers.path(), &tar[..700], &diff_id, &IdPolicy::Single).unwrap_err();
        assert!(matches!(error, StageError::DiffId { .. }), "{error}");
        assert!(names(layers.path()).is_empty());
    }

    #[test]
    fn sweep_takes_the_dead_and_leaves_the_living() {
        let layers = tempfile::tempdir().unwrap();
        let living = Staging::new(layers.path()).unwrap();
        fs::create_dir_all(layers.path().join(".tmp-dead/tree/diff")).unwrap();
        fs::write(layers.path().join(".tmp-dead/lock"), b"").unwrap();
        fs::create_dir(layers.path().join("published")).unwrap();
        assert_eq!(sweep(layers.path()).unwrap(), 1);
        let mut left = names(layers.path());
        left.sort();
        assert_eq!(left.len(), 2);
        assert_eq!(left[1], "published");
        drop(living);
        assert_eq!(names(layers.path()), ["published"]);
        assert_eq!(sweep(&layers.path().join("missing")).unwrap(), 0);
    }
}
