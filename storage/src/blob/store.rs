//! Finding, claiming, reading and sweeping blobs.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{BlobError, Ingest};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::state::atomic::TEMPORARY_PREFIX;
use crate::state::lock::FileLock;

/// The `blobs/` directory of the store. Cheap to make; holds no descriptor.
#[derive(Clone, Debug)]
pub struct BlobStore {
    dir: PathBuf,
    /// Directories that blobs are also read from.
    additional: Vec<PathBuf>,
}

/// The answer to a claim.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
pub enum Claim {
    /// The blob is there, perhaps since a moment ago.
    Exists,
    /// It is not there, and the caller alone may write it.
    Ours(Ingest),
}

impl BlobStore {
    /// The blobs below `dir`, which is `images/blobs`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), additional: Vec::new() }
    }

    /// The same, which reads what it does not have from other directories. Nothing else looks there: what is not here is
    /// claimed, and never removed there.
    #[must_use]
    pub fn with_additional(self, additional: Vec<PathBuf>) -> Self {
        Self { additional, ..self }
    }

    /// Where the blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Whether the blob is there with this size. What has its final name was verified before it got it.
    pub fn has(&self, digest: &Digest, size_bytes: u64) -> bool {
        fs::symlink_metadata(self.path(digest)).is_ok_and(|found| found.is_file() && found.len() == size_bytes)
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// Those of `open`, such as that it is not there.
    pub fn open(&self, digest: &Digest) -> Result<File, BlobError> {
        let path = self.path(digest);
        self.open_any(digest, &path).map_err(BlobError::io("open", &path))
    }

    /// Opens it here, or where else it is.
    fn open_any(&self, digest: &Digest, path: &Path) -> io::Result<File> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = Path::new(digest.algorithm().as_str()).join(digest.hex());
                let found = self.additional.iter().find_map(|dir| File::open(dir.join(&name)).ok());
                found.ok_or(error)
            }
            other => other,
        }
    }

    /// The length of a blob that is in another directory.
    pub fn len_elsewhere(&self, digest: &Digest) -> Option<u64> {
        let name = Path::new(digest.algorithm().as_str()).join(digest.hex());
        self.additional.iter().find_map(|dir| Some(fs::metadata(dir.join(&name)).ok()?.len()))
    }

    /// Reads a document into memory; nothing if it is not there. Does not hash it again.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], and those of reading.
    pub fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Option<Vec<u8>>, BlobError> {
        let path = self.path(digest);
        let file = match self.open_any(digest, &path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BlobError::io("open", &path)(error)),
        };
        let mut bytes = Vec::with_capacity(16 << 10);
        file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(BlobError::io("read", &path))?;
        match bytes.len() as u64 {
            size_bytes if size_bytes > limit_bytes => {
                Err(BlobError::TooLarge { digest: digest.clone(), size_bytes, limit_bytes })
            }
            _ => Ok(Some(bytes)),
        }
    }

    /// As [`BlobStore::read`], and nothing as well when the bytes are not those of the digest any more.
    ///
    /// # Errors
    /// As [`BlobStore::read`].
    pub fn read_verified(&self, digest: &Digest, limit_bytes: u64) -> Result<Option<Vec<u8>>, BlobError> {
        Ok(self.read(digest, limit_bytes)?.filter(|bytes| {
            let mut hasher = digest.hasher();
            hasher.update(bytes);
            hasher.finish() == *digest
        }))
    }

    /// Claims a blob for writing; waits while another thread or process is writing the same one.
    ///
    /// # Errors
    /// The directories cannot be made, the lock cannot be taken.
    pub fn claim(&self, digest: &Digest, size_bytes: u64) -> Result<Claim, BlobError> {
        if self.has(digest, size_bytes) {
            return Ok(Claim::Exists);
        }
        let path = self.make_dir(digest)?;
        // The name is the same for all who want this blob, so the lock on the file makes them wait for each other.
        self.claim_locked(digest, size_bytes, path.clone(), FileLock::exclusive(&path)?)
    }

    /// As [`BlobStore::claim`], but does not wait for others: nothing while somebody writes the blob.
    ///
    /// # Errors
    /// As [`BlobStore::claim`].
    pub fn try_claim(&self, digest: &Digest, size_bytes: u64) -> Result<Option<Claim>, BlobError> {
        if self.has(digest, size_bytes) {
            return Ok(Some(Claim::Exists));
        }
        let path = self.make_dir(digest)?;
        let lock = FileLock::try_exclusive(&path)?;
        lock.map(|lock| self.claim_locked(digest, size_bytes, path, lock)).transpose()
    }

    /// Makes the directory of a blob; gives the name that it has until it is whole.
    fn make_dir(&self, digest: &Digest) -> Result<PathBuf, BlobError> {
        let dir = self.dir.join(digest.algorithm().as_str());
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(BlobError::io("mkdir", &dir))?;
        Ok(self.dir.join(format!("{TEMPORARY_PREFIX}{}-{}", digest.algorithm().as_str(), digest.hex())))
    }

    fn claim_locked(
        &self,
        digest: &Digest,
        size_bytes: u64,
        path: PathBuf,
        lock: FileLock,
    ) -> Result<Claim, BlobError> {
        let file = File::from(OwnedFd::from(lock));
        if self.has(digest, size_bytes) {
            let _ = fs::remove_file(&path);
            return Ok(Claim::Exists);
        }
        // A writer that was killed may have left bytes in it.
        file.set_len(0).map_err(BlobError::io("ftruncate", &path))?;
        file.set_permissions(Permissions::from_mode(0o644)).map_err(BlobError::io("fchmod", &path))?;
        let target_dir = self.dir.join(digest.algorithm().as_str());
        Ok(Claim::Ours(Ingest::new(file, path, target_dir, digest.clone(), size_bytes)))
    }

    /// Stores a small document and gives its digest; nothing happens if it is there.
    ///
    /// # Errors
    /// Those of writing.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        if let Claim::Ours(mut ingest) = self.claim(&digest, bytes.len() as u64)? {
            ingest.write(bytes)?;
            let verified = ingest.verify()?;
            verified.sync()?;
            verified.publish()?;
        }
        Ok(digest)
    }

    /// Deletes what writers that died have left behind. Writers that live are not disturbed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sweep(&self) -> Result<(), BlobError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(BlobError::io("read", &self.dir)(error)),
        };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
                let path = entry.path();
                if path.exists()
                    && let Ok(Some(_lock)) = FileLock::try_exclusive(&path)
                {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(())
    }

    /// Calls `visit` with each blob that has its final name, and its size.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn for_each(&self, mut visit: impl FnMut(Digest, u64)) -> Result<(), BlobError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.dir.join(algorithm.as_str());
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(BlobError::io("read", &dir)(error)),
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let digest = name.to_str().map(|hex| Digest::parse(&format!("{}:{hex}", algorithm.as_str())));
                if let Some(Ok(digest)) = digest {
                    visit(digest, entry.metadata().map_or(0, |metadata| metadata.len()));
                }
            }
        }
        Ok(())
    }

    /// Deletes a blob; one that is not there is no error.
    ///
    /// # Errors
    /// Those of `unlink`.
    pub fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        let path = self.path(digest);
        crate::state::atomic::remove_if_there(&path).map_err(BlobError::io("unlink", &path))
    }

    /// The directory, for `syncfs`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Hashes a blob that is there and says whether it is what its name says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn check(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.path(digest);
        let (got, _) =
            Hasher::of_reader(digest.algorithm(), self.open(digest)?).map_err(BlobError::io("read", &path))?;
        Ok(got == *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn ours(store: &BlobStore, digest: &Digest, size_bytes: u64) -> Ingest {
        match store.claim(digest, size_bytes).unwrap() {
            Claim::Ours(ingest) => ingest,
            Claim::Exists => panic!("{digest} is there"),
        }
    }

    #[test]
    fn blob_appears_under_its_name_only_when_whole_and_right() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::new(root.path());
        let digest = Digest::of(b"hello world");
        let mut ingest = ours(&store, &digest, 11);
        ingest.write(b"hello ").unwrap();
        assert!(!store.has(&digest, 11));
        ingest.write(b"world").unwrap();
        ingest.verify().unwrap().publish().unwrap();
        assert!(store.has(&digest, 11) && !store.has(&digest, 12));
        assert_eq!(store.read(&digest, 11).unwrap().unwrap(), b"hello world");
        assert!(matches!(store.read(&digest, 10), Err(BlobError::TooLarge { .. })));
        assert!(matches!(store.claim(&digest, 11).unwrap(), Claim::Exists));
        assert_eq!(names(root.path()), ["sha256"]);
        assert!(store.check(&digest).unwrap());
    }

    #[test]
    fn short_long_and_wrong_blobs_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::new(root.path());
        let digest = Digest::of(b"hello");
        let mut short = ours(&store, &digest, 5);
        short.write(b"hell").unwrap();
        let message = format!("blob {digest}: truncated: 4 of 5 bytes");
        assert_eq!(short.verify().unwrap_err().to_string(), message);
        let mut long = ours(&store, &digest, 5);
        assert!(matches!(long.write(b"hello!"), Err(BlobError::Long { .. })));
        drop(long);
        let mut wrong = ours(&store, &digest, 5);
        wrong.write(b"hellO").unwrap();
        assert!(matches!(wrong.verify(), Err(BlobError::Digest { .. })));
        assert_eq!(names(root.path()), ["sha256"]);
        assert!(names(&root.path().join("sha256")).is_empty());
    }

    #[test]
    fn second_writer_waits_and_finds_the_blob_there() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::new(root.path());
        let digest = Digest::of(b"x");
        let mut first = ours(&store, &digest, 1);
        let second = {
            let (store, digest) = (store.clone(), digest.clone());
            std::thread::spawn(move || matches!(store.claim(&digest, 1).unwrap(), Claim::Exists))
        };
        first.write(b"x").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(!second.is_finished());
        first.verify().unwrap().publish().unwrap();
        assert!(second.join().unwrap());
        assert_eq!(names(root.path()), ["sha256"]);
    }

    #[test]
    fn second_writer_takes_over_when_the_first_gives_up() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::new(root.path());
        let digest = Digest::of(b"x");
        let first = ours(&store, &digest, 1);
        let second = {
            let (store, digest) = (store.clone(), digest.clone());
            std::thread::spawn(move || {
                let mut ingest = ours(&store, &digest, 1);
                ingest.write(b"x").unwrap();
                ingest.verify().unwrap().publish().unwrap();
            })
        };
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(first);
        second.join().unwrap();
        assert!(store.has(&digest, 1));
    }

    #[test]
    fn sweep_takes_dead_temporaries_and_spares_live_ones() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::new(root.path());
        let live = ours(&store, &Digest::of(b"live"), 4);
        let dead = root.path().join(format!("{TEMPORARY_PREFIX}sha256-{}", Digest::of(b"dead").hex()));
        fs::write(&dead, b"partial").unwrap();
        store.sweep().unwrap();
        assert!(!dead.exists());
        assert_eq!(names(root.path()).len(), 2, "sha256 and the live one");
        drop(live);
        BlobStore::new(root.path().join("missing")).sweep().unwrap();
    }

    #[test]
    fn documents_are_stored_once_and_read_back_verified() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::new(root.path());
        let digest = store.put(b"{}").unwrap();
        assert_eq!(store.put(b"{}").unwrap(), digest);
        assert_eq!(store.read_verified(&digest, 100).unwrap().as_deref(), Some(&b"{}"[..]));
        fs::write(store.path(&digest), b"[]").unwrap();
        assert_eq!(store.read_verified(&digest, 100).unwrap(), None);
        let mut seen = Vec::new();
        store.for_each(|digest, size_bytes| seen.push((digest, size_bytes))).unwrap();
        assert_eq!(seen, [(digest.clone(), 2)]);
        store.remove(&digest).unwrap();
        store.remove(&digest).unwrap();
        assert_eq!(store.read(&digest, 100).unwrap(), None);
    }
}
