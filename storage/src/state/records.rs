//! Small records that are kept by name, one file each: `<kind>/<name>.json` in the data directory.
//!
//! Writer: who creates, replaces or removes one, under `<kind>.lock`; readers: everybody, without it. Published by rename.
//! Durability: fdatasync. What they hold, and its version, is the business of [`pod`](super::pod) and
//! [`secret`](crate::secret).

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic::{Durability, TEMPORARY_PREFIX, WriteError, remove_if_there, write_atomic};
use super::layout::{Layout, LayoutError, create_dir};
use super::lock::{FileLock, LockError};
use super::version::{self, ReadError};

/// What goes wrong with the files of records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// A file cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The directory cannot be made.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Another kernel call failed.
    #[error("cannot {action} {}: {}", path.display(), crate::sys::reason(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The records of one kind. Names are checked by whoever makes them: they are names of files.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    lock: PathBuf,
    version: u32,
}

impl Records {
    /// Those in `<kind>/`, up to this version.
    pub(crate) fn of(layout: &Layout, kind: &str, version: u32) -> Self {
        let data = layout.data_dir();
        Self { directory: data.join(kind), lock: data.join(format!("{kind}.lock")), version }
    }

    /// The directory, made if it is not there.
    pub(crate) fn directory(&self) -> Result<&PathBuf, LayoutError> {
        create_dir(&self.directory)?;
        Ok(&self.directory)
    }

    /// Where one is.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    /// Keeps other writers out.
    pub(crate) fn lock(&self) -> Result<FileLock, RecordsError> {
        self.directory()?;
        Ok(FileLock::exclusive(&self.lock)?)
    }

    /// Reads one, if there is one of this name.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, RecordsError> {
        Ok(version::read(&self.file(name), self.version)?)
    }

    /// Writes one over whatever has its name; the caller holds the lock.
    pub(crate) fn write(&self, name: &str, record: &impl Serialize) -> Result<(), RecordsError> {
        let bytes = serde_json::to_vec(record).unwrap_or_default();
        Ok(write_atomic(&self.file(name), &bytes, Durability::Data)?)
    }

    /// Removes one, for good; one that is not there needs no removing.
    pub(crate) fn remove(&self, name: &str) -> Result<(), RecordsError> {
        let path = self.file(name);
        remove_if_there(&path).map_err(|source| RecordsError::Io { action: "remove", path, source })
    }

    /// Every one whose name fits, in no order. One that cannot be read is an error for all: nothing may be overlooked.
    pub(crate) fn list<T: DeserializeOwned>(&self, fits: impl Fn(&str) -> bool) -> Result<Vec<T>, RecordsError> {
        let failed = |source| RecordsError::Io { action: "list", path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut records = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_str().filter(|name| !name.starts_with(TEMPORARY_PREFIX));
            if let Some(name) = name.and_then(|name| name.strip_suffix(".json")).filter(|name| fits(name)) {
                records.extend(self.read(name)?);
            }
        }
        Ok(records)
    }
}
