//! A blob whose digest is known only when it is whole: one that we make.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::{BlobError, BlobStore};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::state::atomic::TEMPORARY_PREFIX;
use crate::state::layout::random_hex;
use crate::state::lock::FileLock;

/// A blob being made. Dropping it removes it; the lock on its file tells a sweep that it lives.
#[derive(Debug)]
pub struct Spool {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size_bytes: u64,
}

/// A blob that is whole and waits for its name. Dropping it removes it.
#[derive(Debug)]
pub struct Spooled {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    path: PathBuf,
    _file: File,
}

impl BlobStore {
    /// Begins a blob that is hashed while it is written.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn spool(&self) -> Result<Spool, BlobError> {
        let dir = self.dir().join("sha256");
        crate::state::layout::create_dir(&dir)
            .map_err(|error| BlobError::io("mkdir", &dir)(io::Error::other(error.to_string())))?;
        let path = self.dir().join(format!("{TEMPORARY_PREFIX}{}", random_hex(16)));
        let file = File::from(OwnedFd::from(FileLock::exclusive(&path)?));
        Ok(Spool { file, path, hasher: Hasher::new(Algorithm::Sha256), size_bytes: 0 })
    }

    /// Gives a blob its name. The caller has synced it.
    ///
    /// # Errors
    /// Those of `rename`.
    pub fn publish_spooled(&self, blob: Spooled) -> Result<(), BlobError> {
        let target = self.path(&blob.digest);
        fs::rename(&blob.path, &target).map_err(BlobError::io("rename", &target))
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..len).unwrap_or(bytes));
        self.size_bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Spool {
    /// Ends the blob.
    ///
    /// # Errors
    /// Its mode cannot be set.
    pub fn finish(self) -> Result<Spooled, BlobError> {
        use std::os::unix::fs::PermissionsExt;
        let Self { file, path, hasher, size_bytes } = self;
        let chmod = file.set_permissions(fs::Permissions::from_mode(0o644));
        let blob = Spooled { digest: hasher.finish(), size_bytes, path, _file: file };
        chmod.map_err(BlobError::io("fchmod", &blob.path))?;
        Ok(blob)
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        // After the rename there is nothing of that name. What cannot be removed is swept later.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_is_there_under_its_digest_when_published_and_gone_when_dropped() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::new(root.path());
        let spooled = |text: &[u8]| {
            let mut spool = store.spool().unwrap();
            spool.write_all(text).unwrap();
            spool.finish().unwrap()
        };
        let kept = spooled(b"hello");
        store.sweep().unwrap();
        assert_eq!((kept.digest.clone(), kept.size_bytes), (Digest::of(b"hello"), 5));
        store.publish_spooled(kept).unwrap();
        drop(spooled(b"other"));
        assert_eq!(store.read(&Digest::of(b"hello"), 9).unwrap().unwrap(), b"hello");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
