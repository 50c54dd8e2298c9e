//! One blob on its way into the store: hashed while it is written, published only when size and digest are right.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::BlobError;
use crate::digest::{Digest, Hasher};

/// A blob being written. Dropping it removes what was written so far.
///
/// The temporary file carries a lock for as long as this lives: whoever finds such a file unlocked may delete it.
#[derive(Debug)]
pub struct Ingest {
    /// Locked; first of the fields that clean up, because the file must go before the lock does.
    temporary: Temporary,
    digest: Digest,
    size_bytes: u64,
    written_bytes: u64,
    hasher: Hasher,
}

/// A whole blob whose digest is right, waiting for its name. Dropping it removes it.
#[derive(Debug)]
pub struct Verified {
    temporary: Temporary,
    target: PathBuf,
}

/// The locked file; unlinked on drop unless it has its final name by then.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: File,
    is_published: bool,
    target_dir: PathBuf,
}

impl Ingest {
    /// `file` is open for writing, locked, and named `path`.
    pub(super) fn new(file: File, path: PathBuf, target_dir: PathBuf, digest: Digest, size_bytes: u64) -> Self {
        let hasher = digest.hasher();
        let temporary = Temporary { path, file, is_published: false, target_dir };
        Self { temporary, digest, size_bytes, written_bytes: 0, hasher }
    }

    /// How much is there: where a download that was cut goes on.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`BlobError::Long`] before a byte too many is written; a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let written_bytes = self.written_bytes + bytes.len() as u64;
        if written_bytes > self.size_bytes {
            return Err(BlobError::Long { digest: self.digest.clone(), size_bytes: self.size_bytes });
        }
        self.hasher.update(bytes);
        self.temporary.file.write_all(bytes).map_err(BlobError::io("write", &self.temporary.path))?;
        self.written_bytes = written_bytes;
        Ok(())
    }

    /// Ends the blob and checks size and digest.
    ///
    /// # Errors
    /// [`BlobError::Short`], [`BlobError::Digest`].
    pub fn verify(self) -> Result<Verified, BlobError> {
        let Self { temporary, digest, size_bytes, written_bytes, hasher } = self;
        if written_bytes != size_bytes {
            return Err(BlobError::Short { digest, size_bytes, got_bytes: written_bytes });
        }
        let got = hasher.finish();
        if got != digest {
            return Err(BlobError::Digest { expected: digest, got });
        }
        let target = temporary.target_dir.join(digest.hex());
        Ok(Verified { temporary, target })
    }
}

impl Verified {
    /// Waits until the bytes are on disk.
    ///
    /// # Errors
    /// Those of `fdatasync`.
    pub fn sync(&self) -> Result<(), BlobError> {
        self.temporary.file.sync_data().map_err(BlobError::io("fdatasync", &self.temporary.path))
    }

    /// Gives the blob its name and releases its lock.
    ///
    /// # Errors
    /// Those of `rename`.
    pub fn publish(mut self) -> Result<(), BlobError> {
        fs::rename(&self.temporary.path, &self.target).map_err(BlobError::io("rename", &self.target))?;
        self.temporary.is_published = true;
        Ok(())
    }

    /// Where the blob is until it is published.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_published {
            // Nothing to be done about a failure: the sweep of a later command takes what stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}
