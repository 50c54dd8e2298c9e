//! Masked and read-only paths.
//!
//! **Runs in:** container init, after the bundle's mounts and before `pivot_root`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::MountError;
use crate::sys::SysError;
use crate::sys::mount::{Attributes, FsContext, attach, attr, clone_tree, open_in_root, set_attributes};

/// Hides each path: an empty read-only directory over directories, the null device over files.
pub fn mask(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), MountError> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(target) = existing(root, path)? else { continue };
        let stat = nix::sys::stat::fstat(&target).map_err(SysError::of("fstat", path))?;
        let cover = if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            let all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
            match &empty {
                Some(first) => clone_tree(first.as_fd(), Path::new(""), false)?,
                None => {
                    let context = FsContext::open("tmpfs")?;
                    context.string("size", "0k")?;
                    context.string("mode", "0555")?;
                    let first = context.mount(all)?;
                    let copy = first.try_clone().map_err(|_| SysError {
                        call: "dup",
                        args: path.clone(),
                        errno: Errno::EMFILE,
                    })?;
                    empty = Some(first);
                    copy
                }
            }
        } else {
            null_device()?
        };
        attach(cover.as_fd(), target.as_fd(), path)?;
    }
    Ok(())
}

/// Makes each path read-only, with all below it.
pub fn make_read_only(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), MountError> {
    for path in paths {
        let Some(target) = existing(root, path)? else { continue };
        let copy = clone_tree(target.as_fd(), Path::new(""), true)?;
        set_attributes(copy.as_fd(), Attributes { set: attr::RDONLY, ..Attributes::default() }, true)?;
        attach(copy.as_fd(), target.as_fd(), path)?;
    }
    Ok(())
}

fn existing(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, MountError> {
    match open_in_root(root, Path::new(path), OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The host's `/dev/null`, after a look that it really is that (CVE-2025-31133).
fn null_device() -> Result<OwnedFd, SysError> {
    let device = super::dev::host_device(Path::new("/dev/null"))?;
    let stat = nix::sys::stat::fstat(&device).map_err(SysError::of("fstat", "/dev/null"))?;
    if stat.st_rdev != nix::sys::stat::makedev(1, 3) {
        return Err(SysError { call: "fstat", args: "/dev/null".into(), errno: Errno::ENODEV });
    }
    Ok(device)
}
