//! Files that are always whole: written beside their place and renamed into it.
//!
//! A reader sees the old bytes or the new ones. What a crash leaves behind is a `.tmp-*` file, which no reader looks
//! at and which goes with its directory or is swept by [`crate::prune`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fdatasync, fsync, unlinkat};

use super::layout::random_hex;

/// The prefix of every file that is not published yet.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// What a write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the process: no fsync. For tmpfs, and for what dies with its container.
    None,
    /// Also a power cut, as far as that the file is never found empty or torn; it may be the old one.
    Data,
    /// Also a power cut, for certain: the directory is synced as well.
    Full,
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {call}: {}", path.display(), crate::sys::reason(source))]
pub struct WriteError {
    path: PathBuf,
    call: &'static str,
    /// Why.
    source: io::Error,
}

impl WriteError {
    /// The reason.
    pub fn source_error(&self) -> &io::Error {
        &self.source
    }
}

/// Replaces the file at `path` with `bytes`, mode 0600.
///
/// # Errors
/// [`WriteError`] names the file and the call; the old content is still there then.
pub fn write_atomic(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), WriteError> {
    let failed = |call, source| WriteError { path: path.to_owned(), call, source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| failed("open", io::ErrorKind::InvalidInput.into()))?;
    let dir = nix::fcntl::open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open directory", errno.into()))?;
    write_in(dir.as_fd(), name, bytes, durability).map_err(|(call, source)| failed(call, source))
}

/// As [`write_atomic`], in a directory that is already open (`O_PATH` is enough).
///
/// # Errors
/// [`WriteError`] with the name relative to the directory.
pub fn write_atomic_at(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    bytes: &[u8],
    durability: Durability,
) -> Result<(), WriteError> {
    write_in(dir, name, bytes, durability).map_err(|(call, source)| WriteError { path: name.into(), call, source })
}

fn write_in(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    bytes: &[u8],
    durability: Durability,
) -> Result<(), (&'static str, io::Error)> {
    let temporary = format!("{TEMPORARY_PREFIX}{}", random_hex(8));
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(dir, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))
        .map_err(|errno| ("open", errno.into()))?;
    let written = fill(File::from(file), bytes, durability)
        .and_then(|()| renameat(dir, temporary.as_str(), dir, name).map_err(|errno| ("rename", errno.into())));
    if let Err(error) = written {
        // Best effort: the error that matters is the first one, and a sweep takes what stays.
        let _ = unlinkat(dir, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        return Err(error);
    }
    if durability == Durability::Full {
        sync_directory(dir).map_err(|errno| ("fsync directory", errno.into()))?;
    }
    Ok(())
}

fn fill(mut file: File, bytes: &[u8], durability: Durability) -> Result<(), (&'static str, io::Error)> {
    file.write_all(bytes).map_err(|error| ("write", error))?;
    if durability != Durability::None {
        fdatasync(&file).map_err(|errno| ("fdatasync", errno.into()))?;
    }
    Ok(())
}

/// Syncs a directory through a descriptor that may be `O_PATH`.
fn sync_directory(dir: BorrowedFd<'_>) -> nix::Result<()> {
    let readable = openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    fsync(readable)
}

/// Removes a file and takes its absence for success.
///
/// # Errors
/// Everything but `ENOENT`.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match nix::unistd::unlinkat(nix::fcntl::AT_FDCWD, path, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_durability_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state.json");
        for durability in [Durability::None, Durability::Data, Durability::Full] {
            for bytes in [&b"longer than the next"[..], b"short", b""] {
                write_atomic(&path, bytes, durability).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), bytes);
            }
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_file_and_call_and_leaves_no_temporary() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("no/such");
        let error = write_atomic(&missing, b"", Durability::None).unwrap_err().to_string();
        assert!(error.contains("no/such") && error.contains("open directory"), "{error}");
        let occupied = root.path().join("directory");
        std::fs::create_dir_all(occupied.join("child")).unwrap();
        let error = write_atomic(&occupied, b"", Durability::None).unwrap_err().to_string();
        assert!(error.contains("rename"), "{error}");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
