//! Puts files into a volume that containers may have written to.
//!
//! **Runs in:** root of the user's namespace. Names are resolved beneath the volume, and no symbolic link is followed:
//! whoever has had the volume may have left one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::state::atomic::TEMPORARY_PREFIX;
use crate::state::layout::random_hex;

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {} of volume {volume}: {}", path.display(), crate::sys::reason(source))]
pub struct PutError {
    volume: String,
    path: PathBuf,
    source: io::Error,
}

/// Writes one file of a volume; `root` is the volume's directory. Directories on its way are made, and whatever has its
/// name gives way to it by one rename.
///
/// # Errors
/// [`PutError`]: a path that is not relative or leads out of the volume, among others.
pub fn put_file(volume: &str, root: BorrowedFd<'_>, path: &Path, mode: u32, data: &[u8]) -> Result<(), PutError> {
    put(root, path, mode, data).map_err(|source| PutError { volume: volume.to_owned(), path: path.to_owned(), source })
}

fn put(root: BorrowedFd<'_>, path: &Path, mode: u32, data: &[u8]) -> io::Result<()> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name),
            _ => return Err(Errno::EXDEV.into()),
        }
    }
    let Some((last, directories)) = names.split_last() else { return Err(Errno::EISDIR.into()) };
    let mut directory: Option<OwnedFd> = None;
    for name in directories {
        let at = directory.as_ref().map_or(root, |directory| directory.as_fd());
        match mkdirat(at, *name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        directory = Some(openat(at, *name, flags, Mode::empty())?);
    }
    let at = directory.as_ref().map_or(root, |directory| directory.as_fd());
    let temporary = format!("{TEMPORARY_PREFIX}{}", random_hex(8));
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(at, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))?);
    let written = file
        .write_all(data)
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(mode)))
        .and_then(|()| renameat(at, temporary.as_str(), at, *last).map_err(io::Error::from));
    written.inspect_err(|_| {
        // Best effort: it has a name that nobody takes for a file of theirs.
        let _ = unlinkat(at, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_put_beneath_the_volume_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("v"), root.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("canary"), "alive").unwrap();
        symlink(&outside, inside.join("way")).unwrap();
        symlink(outside.join("canary"), inside.join("file")).unwrap();
        let volume = File::open(&inside).unwrap();
        let put = |path: &str| put_file("v", volume.as_fd(), Path::new(path), 0o640, b"new");
        for path in ["../outside/canary", "way/canary", "/canary", "", ".", "a/../b"] {
            assert!(put(path).is_err(), "{path:?}");
        }
        put("file").unwrap();
        put("deep/er/file").unwrap();
        put("deep/er/file").unwrap();
        assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read(inside.join("file")).unwrap(), b"new");
        let mode = fs::metadata(inside.join("deep/er/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 3);
    }
}
