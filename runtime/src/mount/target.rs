//! Places to mount on: resolved, and made where they are missing, beneath the container's root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::sys::mount::{create_in_root, open_in_root};
use crate::sys::{Result, SysError};

/// What a mount point must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file, for binds of files.
    File,
}

/// Opens `path` below `root`, making it when it is missing.
pub fn open_or_make(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd> {
    match open_in_root(root, path, OFlag::O_PATH) {
        Err(error) if error.errno == Errno::ENOENT => {}
        other => return other,
    }
    match kind {
        Kind::Directory => make_directories(root, path, 0o755),
        Kind::File => {
            if let Some(parent) = path.parent() {
                make_directories(root, parent, 0o755)?;
            }
            create_in_root(root, path, 0o644)?;
            open_in_root(root, path, OFlag::O_PATH)
        }
    }
}

/// Makes `path` and its parents below `root`; each step resolves anew, so that a link cannot lead out.
pub fn make_directories(root: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<OwnedFd> {
    let mut done = PathBuf::from("/");
    let mut dir = open_in_root(root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::ParentDir => {
                done.push("..");
                dir = open_in_root(root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
                continue;
            }
            _ => continue,
        };
        done.push(name);
        dir = match open_in_root(root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(error) if error.errno == Errno::ENOENT => {
                match nix::sys::stat::mkdirat(dir.as_fd(), name, Mode::from_bits_truncate(mode)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(SysError { call: "mkdirat", args: done.display().to_string(), errno }),
                }
                open_in_root(root, &done, OFlag::O_PATH | OFlag::O_DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(dir)
}
