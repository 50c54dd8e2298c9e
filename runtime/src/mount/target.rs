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

/// Text for the end of a file of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The file, as the container sees it.
    pub path: PathBuf,
    /// Whole lines.
    pub text: String,
}

/// Nobody's passwd is larger.
const LARGEST: u64 = 8 << 20;

/// Appends to a file of the root, unless it has the text already. One that is not there, not a file, or of a file system that cannot be written, stays
/// as it is.
pub fn append(root: BorrowedFd<'_>, what: &Append) -> Result<()> {
    let args = || what.path.display().to_string();
    let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match open_in_root(root, &what.path, flags) {
        Ok(file) => file,
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP) => {
            return Ok(());
        }
        Err(error) if matches!(error.errno, Errno::EROFS | Errno::ENXIO | Errno::EACCES) => return Ok(()),
        Err(error) => return Err(error),
    };
    let kind = nix::sys::stat::fstat(&file).map_err(SysError::of("fstat", args()))?.st_mode & libc::S_IFMT;
    if kind != libc::S_IFREG {
        return Ok(());
    }
    let failed = |error: std::io::Error| {
        SysError::of("read", args())(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    };
    let mut has = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::from(file.try_clone().map_err(failed)?), LARGEST),
        &mut has,
    )
    .map_err(failed)?;
    let wanted = what.text.trim().as_bytes();
    if !wanted.is_empty() && !has.windows(wanted.len()).any(|window| window == wanted) {
        nix::unistd::write(&file, what.text.as_bytes()).map_err(SysError::of("write", args()))?;
    }
    Ok(())
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
