//! Containers of the OCI runtime's command line: each has a directory below the runtime's root.
//!
//! ```text
//! <root>/                   0700; $XDG_RUNTIME_DIR/coracle/oci, or --root
//!   .lock                   held while a directory is made or swept
//!   <id>/                   made by `create`: the id's lock and index
//!     lock                  held by whoever changes the container
//!     state.json            a [`Record`]
//!     config.json           the bundle's, as it was when the container was created
//!     start.sock            where init waits for `start`; see `runtime::init::gate`
//! ```
//! Writers: `create`, `start`, `pause`, `resume`, `update`, `delete`, each holding `lock`. Readers: every command; they take no
//! lock and see whole files. Durability: none, the root is on a tmpfs. A directory without a record whose lock is free is
//! what a `create` that was killed left, and the next one of that id takes it away.
//!
//! The record has the members of the specification's state, so that others can read it; the status in it is the last that
//! a command brought about, and says nothing of whether the process still runs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::atomic::{Durability, WriteError, write_atomic_at};
use super::layout::{LayoutError, create_dir};
use super::lock::{FileLock, LockError};

const RECORD: &str = "state.json";
const LOCK: &str = "lock";
const ROOT_LOCK: &str = ".lock";

/// The longest id: a directory's name.
const ID_MAX_BYTES: usize = 255;

/// Why a container could not be made, found or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// Not an id.
    #[error("container id {0:?}: only letters, digits, _ + - and . are allowed, a letter, digit or _ first")]
    InvalidId(String),
    /// The id is in use.
    #[error("container {0} exists")]
    Exists(String),
    /// There is no such container.
    #[error("container {0} does not exist")]
    NotFound(String),
    /// A file of the container's could not be read.
    #[error("read {}: {}", path.display(), crate::sys::reason(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record is not what a `create` of ours wrote.
    #[error("{}: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The container's directory could not be made or removed.
    #[error("{what} {}: {}", path.display(), crate::sys::reason(source))]
    Directory {
        /// `create` or `remove`.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root could not be made.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A lock could not be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// The last thing that a command brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Being made.
    #[default]
    Creating,
    /// Init waits for `start`.
    Created,
    /// The program has been let go.
    Running,
}

/// What is kept about a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Of the bundle.
    pub oci_version: String,
    /// As it was given.
    pub id: String,
    /// What has been done.
    pub status: Stage,
    /// Init, as the `/proc` of whoever created the container counts; 0 before there is one.
    pub pid: i32,
    /// Absolute.
    pub bundle: PathBuf,
    /// Of the bundle.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// When init started, in clock ticks since boot: a pid alone may be another process by now.
    pub start_time: u64,
    /// The root file system, absolute.
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// Who created it.
    pub owner: u32,
    /// The cgroup that was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Its processes were stopped by signals, for want of a cgroup.
    #[serde(default)]
    pub is_paused: bool,
    /// It has the session keyring of its creator.
    #[serde(default)]
    pub keeps_keyring: bool,
}

/// Where containers are.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

/// A container whose lock is held.
#[derive(Debug)]
pub struct Container {
    path: PathBuf,
    directory: OwnedFd,
    _lock: FileLock,
    /// What is known of it; [`Container::save`] after a change.
    pub record: Record,
}

impl Root {
    /// Nothing is made before the first container is.
    pub fn new(path: PathBuf) -> Root {
        Root(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a container of which nothing is known yet.
    ///
    /// # Errors
    /// [`OciError::Exists`] if the id is in use; and what the file system says.
    pub fn create(&self, id: &str) -> Result<Container, OciError> {
        let path = self.path_of(id)?;
        create_dir(&self.0)?;
        let _root = FileLock::exclusive(&self.0.join(ROOT_LOCK))?;
        let make = || std::fs::DirBuilder::new().mode(0o700).create(&path);
        let failed = |what, source| OciError::Directory { what, path: path.clone(), source };
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // What a killed `create` left has a free lock and no record.
                if FileLock::is_held(&path.join(LOCK))? || path.join(RECORD).exists() {
                    return Err(OciError::Exists(id.to_owned()));
                }
                std::fs::remove_dir_all(&path).map_err(|error| failed("remove", error))?;
                make().map_err(|error| failed("create", error))?;
            }
            made => made.map_err(|error| failed("create", error))?,
        }
        let lock = FileLock::exclusive(&path.join(LOCK))?;
        let directory = open(&path)?;
        let record = Record { id: id.to_owned(), ..Record::default() };
        Ok(Container { path, directory, _lock: lock, record })
    }

    /// Takes the lock of a container, waiting for whoever has it.
    ///
    /// # Errors
    /// [`OciError::NotFound`], [`OciError::Damaged`] and what the file system says.
    pub fn open(&self, id: &str) -> Result<Container, OciError> {
        let path = self.path_of(id)?;
        let lock = match FileLock::exclusive(&path.join(LOCK)) {
            Err(error) if error.is_not_found() => return Err(OciError::NotFound(id.to_owned())),
            lock => lock?,
        };
        let record = self.read(id)?.ok_or_else(|| OciError::NotFound(id.to_owned()))?;
        Ok(Container { directory: open(&path)?, path, _lock: lock, record })
    }

    /// What is known of a container; `None` if there is none.
    ///
    /// # Errors
    /// [`OciError::InvalidId`], [`OciError::Damaged`] and what the file system says.
    pub fn read(&self, id: &str) -> Result<Option<Record>, OciError> {
        let path = self.path_of(id)?.join(RECORD);
        match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(record) => Ok(Some(record)),
                Err(source) => Err(OciError::Damaged { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OciError::Read { path, source }),
        }
    }

    /// A file of a container's.
    ///
    /// # Errors
    /// [`OciError::InvalidId`], [`OciError::Read`].
    pub fn read_file(&self, id: &str, name: &str) -> Result<Vec<u8>, OciError> {
        let path = self.path_of(id)?.join(name);
        std::fs::read(&path).map_err(|source| OciError::Read { path, source })
    }

    /// Every container's id, sorted.
    ///
    /// # Errors
    /// The root cannot be read; that it is missing is none.
    pub fn ids(&self) -> Result<Vec<String>, OciError> {
        let failed = |source| OciError::Read { path: self.0.clone(), source };
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.into_string().ok().filter(|name| is_valid(name)));
        }
        ids.sort();
        Ok(ids)
    }

    fn path_of(&self, id: &str) -> Result<PathBuf, OciError> {
        if is_valid(id) { Ok(self.0.join(id)) } else { Err(OciError::InvalidId(id.to_owned())) }
    }
}

impl Container {
    /// Its directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Writes the record.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn save(&self) -> Result<(), OciError> {
        let bytes = serde_json::to_vec(&self.record).unwrap_or_default();
        self.write(RECORD, &bytes)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), OciError> {
        Ok(write_atomic_at(self.directory.as_fd(), name.as_ref(), bytes, Durability::None)?)
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`OciError::Directory`].
    pub fn remove(self) -> Result<(), OciError> {
        // The record first: without it there is no container, whatever becomes of us.
        let removed = std::fs::remove_file(self.path.join(RECORD));
        match removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }) {
            Ok(()) => std::fs::remove_dir_all(&self.path),
            Err(error) => Err(error),
        }
        .map_err(|source| OciError::Directory { what: "remove", path: self.path.clone(), source })
    }
}

fn open(path: &Path) -> Result<OwnedFd, OciError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
        .map_err(|errno| OciError::Read { path: path.to_owned(), source: errno.into() })
}

fn is_valid(id: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_later = |c: char| is_first(c) || matches!(c, '+' | '-' | '.');
    id.len() <= ID_MAX_BYTES && id.starts_with(is_first) && id.chars().all(is_later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path().join("oci"));
        (directory, root)
    }

    #[test]
    fn an_id_is_one_name_in_the_root() {
        for id in ["a", "9-x_y.z+", "A.b"] {
            assert!(is_valid(id), "{id}");
        }
        for id in ["", ".", "..", ".lock", "a/b", "-a", "a b", "a\n", "ä"] {
            assert!(!is_valid(id), "{id}");
        }
        assert!(!is_valid(&"a".repeat(256)));
    }

    #[test]
    fn an_id_belongs_to_the_first_until_it_is_removed() {
        let (_directory, root) = root();
        assert_eq!(root.ids().unwrap(), [""; 0]);
        let first = root.create("one").unwrap();
        assert!(matches!(root.create("one"), Err(OciError::Exists(_))), "it is being made");
        first.save().unwrap();
        drop(first);
        assert!(matches!(root.create("one"), Err(OciError::Exists(_))), "it is there");
        assert_eq!(root.ids().unwrap(), ["one"]);
        let mut first = root.open("one").unwrap();
        first.record.pid = 7;
        first.save().unwrap();
        assert_eq!(root.read("one").unwrap().unwrap().pid, 7);
        first.remove().unwrap();
        assert!(matches!(root.open("one"), Err(OciError::NotFound(_))));
        assert_eq!(root.read("one").unwrap(), None);
        root.create("one").unwrap();
    }

    #[test]
    fn what_a_killed_create_left_is_taken_away() {
        let (_directory, root) = root();
        let killed = root.create("one").unwrap();
        killed.write("config.json", b"{}").unwrap();
        drop(killed);
        root.create("one").unwrap();
        assert!(root.read_file("one", "config.json").is_err());
    }

    #[test]
    fn a_damaged_record_is_named() {
        let (_directory, root) = root();
        root.create("one").unwrap().write(RECORD, b"{").unwrap();
        let error = root.open("one").unwrap_err();
        assert!(error.to_string().contains("oci/one/state.json: "), "{error}");
    }
}
