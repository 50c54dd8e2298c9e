//! Gives a whole tree to one owner: `-v …:U`.
//!
//! **Runs in:** a process that may set any owner: root of the user's namespace.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::copy_up::entries;
use crate::layer::ids::{OVERRIDE_XATTR, Override};
use crate::sys::xattr;

/// Something that could not be given away.
#[derive(Debug, thiserror::Error)]
#[error("cannot change the owner of {}: {}", path.display(), crate::sys::reason(source))]
pub struct OwnError {
    path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Whose the files become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Ids of the user namespace that the caller is in.
    Real(u32, u32),
    /// Ids that there are none of: they stand beside the files, as those of the single-id mode do.
    Recorded(u32, u32),
}

/// Gives `path` and everything below it to `owner`. What has that owner already is only looked at, so that the second
/// start of a container costs a walk. No symbolic link is followed below `path`.
///
/// # Errors
/// [`OwnError`]; what was given away so far stays so.
pub fn own(path: &Path, owner: Owner) -> Result<(), OwnError> {
    let failed = |errno: Errno| OwnError { path: path.to_owned(), source: errno.into() };
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(path, flags, Mode::empty()).map_err(failed)?;
    own_opened(path, file.as_fd(), owner)
}

/// The same for what is open already; `path` is what messages call it.
///
/// # Errors
/// [`OwnError`].
pub fn own_opened(path: &Path, file: BorrowedFd<'_>, owner: Owner) -> Result<(), OwnError> {
    let failed = |errno: Errno| OwnError { path: path.to_owned(), source: errno.into() };
    let stat = fstat(file).map_err(failed)?;
    if is_directory(&stat) {
        children(path, file, owner)?;
    }
    opened(file, &stat, owner).map_err(failed)
}

fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

fn children(path: &Path, directory: BorrowedFd<'_>, owner: Owner) -> Result<(), OwnError> {
    let failed = |errno: Errno| OwnError { path: path.to_owned(), source: errno.into() };
    for name in entries(directory).map_err(failed)? {
        let below = path.join(name.to_string_lossy().as_ref());
        let failed = |errno: Errno| OwnError { path: below.clone(), source: errno.into() };
        let stat = match fstatat(directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => continue,
            other => other.map_err(failed)?,
        };
        if is_directory(&stat) {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let child = openat(directory, name.as_c_str(), flags, Mode::empty()).map_err(failed)?;
            children(&below, child.as_fd(), owner)?;
            opened(child.as_fd(), &stat, owner).map_err(failed)?;
            continue;
        }
        named(directory, &name, &stat, owner).map_err(failed)?;
    }
    Ok(())
}

fn opened(file: BorrowedFd<'_>, stat: &FileStat, owner: Owner) -> nix::Result<()> {
    match owner {
        Owner::Real(uid, gid) if (stat.st_uid, stat.st_gid) != (uid, gid) => {
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        }
        Owner::Real(..) => Ok(()),
        Owner::Recorded(uid, gid) => record(file, stat, uid, gid),
    }
}

fn named(directory: BorrowedFd<'_>, name: &CStr, stat: &FileStat, owner: Owner) -> nix::Result<()> {
    match owner {
        Owner::Real(uid, gid) if (stat.st_uid, stat.st_gid) != (uid, gid) => {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(directory, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
        }
        // Others than files and directories have no attributes of a user.
        Owner::Recorded(uid, gid) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            record(openat(directory, name, flags, Mode::empty())?.as_fd(), stat, uid, gid)
        }
        Owner::Real(..) | Owner::Recorded(..) => Ok(()),
    }
}

fn record(file: BorrowedFd<'_>, stat: &FileStat, uid: u32, gid: u32) -> nix::Result<()> {
    let before = xattr::get(file, OVERRIDE_XATTR).ok().and_then(|value| Override::parse(&value));
    let after = match before {
        Some(before) => Override { uid, gid, ..before },
        None if (uid, gid) == (0, 0) => return Ok(()),
        None => Override { uid, gid, mode: stat.st_mode & 0o7777, kind: None, device: 0 },
    };
    if before == Some(after) { Ok(()) } else { xattr::set(file, OVERRIDE_XATTR, after.to_value().as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn recorded_owners_reach_every_file_and_keep_what_else_is_recorded() {
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/file"), "x").unwrap();
        fs::write(&outside, "x").unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        let file = File::open(tree.join("sub/file")).unwrap();
        if xattr::set(file.as_fd(), OVERRIDE_XATTR, b"1:2:04755").is_err() {
            return; // a file system without such attributes
        }
        own(&tree, Owner::Recorded(33, 44)).unwrap();
        let value = |path: &Path| {
            let file = File::open(path).unwrap();
            xattr::get(file.as_fd(), OVERRIDE_XATTR).ok().map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(value(&tree.join("sub/file")).as_deref(), Some("33:44:04755"));
        assert!(value(&tree.join("sub")).unwrap().starts_with("33:44:0"));
        assert!(value(&tree).unwrap().starts_with("33:44:0"));
        assert_eq!(value(&outside), None, "links are not followed");
    }

    #[test]
    fn what_cannot_be_given_away_is_named() {
        let error = own(Path::new("/no/such/tree"), Owner::Real(0, 0)).unwrap_err();
        assert_eq!(error.to_string(), "cannot change the owner of /no/such/tree: no such file or directory");
    }
}
