//! `trash/`: directories renamed out of the way, unlinked later.
//!
//! Writer: whoever removes a container, layer or volume, by one rename, which is the moment it stops to exist. Unlinked
//! by [`empty`] under `trash.lock`, in a process that may remove files of subordinate ids (the user's user namespace).
//! No version: names are random and mean nothing.
//!
//! **Runs in:** `put` anywhere; `empty` as root of the user namespace, or as the user in the single-id mode.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::layout::{Layout, LayoutError, create_dir, random_hex};
use super::lock::{FileLock, LockError};
use crate::layer::remove::{Effort, remove_tree, remove_tree_within};

/// What cannot be thrown away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrashError {
    /// It cannot be moved into the trash.
    #[error("cannot move {} to the trash: {}", path.display(), crate::sys::reason(source))]
    Put {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in the trash cannot be unlinked; the rest was.
    #[error("cannot empty the trash: {call} {}: {}", path.display(), crate::sys::reason(source))]
    Empty {
        /// What was done.
        call: &'static str,
        /// What it was called for.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `trash/` cannot be made.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// `trash.lock` cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Renames `path` into the trash; what is not there needs no throwing away.
///
/// # Errors
/// [`TrashError::Put`].
pub fn put(layout: &Layout, path: &Path) -> Result<(), TrashError> {
    let target = layout.trash().join(random_hex(8));
    for attempt in 0..2 {
        match std::fs::rename(path, &target) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt == 0 => {
                // Either is missing. Making the trash for nothing does no harm.
                create_dir(&layout.trash())?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(TrashError::Put { path: path.to_owned(), source }),
        }
    }
    Ok(())
}

/// Makes the trash and its lock, so that a removal on a full disk finds them. Whoever makes something that goes there one
/// day calls this before.
///
/// # Errors
/// [`TrashError::Layout`], [`TrashError::Lock`].
pub fn prepare(layout: &Layout) -> Result<(), TrashError> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(layout.trash()) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        _ => {
            create_dir(&layout.trash())?;
            // Taking a lock makes its file.
            FileLock::try_exclusive(&layout.data_dir().join("trash.lock"))?;
            Ok(())
        }
    }
}

/// Whether anything lies in the trash.
pub fn is_empty(layout: &Layout) -> bool {
    std::fs::read_dir(layout.trash()).map_or(true, |mut entries| entries.next().is_none())
}

/// Unlinks everything in the trash, unless somebody is at it already. Goes on after a failure and reports the first.
///
/// # Errors
/// [`TrashError::Empty`].
pub fn empty(layout: &Layout) -> Result<(), TrashError> {
    // Who finds the lock taken leaves: so whoever had it looks once more after letting go.
    while !is_empty(layout) {
        let Some(_lock) = FileLock::try_exclusive(&layout.data_dir().join("trash.lock"))? else { break };
        empty_locked(layout, &remove_tree)?;
    }
    Ok(())
}

/// The same, for who cannot wait: what is more than that is left to whoever empties the trash next.
///
/// # Errors
/// As [`empty`].
pub fn empty_within(layout: &Layout, effort: &Effort) -> Result<(), TrashError> {
    if is_empty(layout) {
        return Ok(());
    }
    let Some(_lock) = FileLock::try_exclusive(&layout.data_dir().join("trash.lock"))? else { return Ok(()) };
    empty_locked(layout, &|dir, name| match remove_tree_within(dir, name, effort) {
        Err(Errno::E2BIG) => Ok(()),
        removed => removed,
    })
}

fn empty_locked(layout: &Layout, remove: &dyn Fn(BorrowedFd<'_>, &[u8]) -> nix::Result<()>) -> Result<(), TrashError> {
    let path = layout.trash();
    let failed = |call, path: &Path, source| TrashError::Empty { call, path: path.to_owned(), source };
    let top = open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", &path, errno.into()))?;
    let mut first = None;
    for entry in std::fs::read_dir(&path).map_err(|error| failed("read", &path, error))?.flatten() {
        let name = entry.file_name();
        if let Err(errno) = remove(top.as_fd(), name.as_bytes()) {
            first.get_or_insert_with(|| failed("remove", &entry.path(), errno.into()));
        }
    }
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::openat;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn layout() -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        create_dir(layout.data_dir()).unwrap();
        (root, layout)
    }

    #[test]
    fn what_is_put_is_gone_at_once_and_unlinked_when_emptied() {
        let (root, layout) = layout();
        let victim = layout.data_dir().join("victim");
        fs::create_dir_all(victim.join("a/b")).unwrap();
        fs::write(victim.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink(root.path(), victim.join("a/link")).unwrap();
        fs::write(root.path().join("canary"), "x").unwrap();
        put(&layout, &victim).unwrap();
        assert!(!victim.exists());
        put(&layout, &victim).unwrap();
        empty(&layout).unwrap();
        assert!(is_empty(&layout));
        assert!(root.path().join("canary").exists(), "links are not followed");
    }

    #[test]
    fn a_tree_deeper_than_any_path_and_without_permissions_is_removed() {
        let (_root, layout) = layout();
        create_dir(&layout.trash()).unwrap();
        // 3000 levels of two bytes each are beyond PATH_MAX.
        let mut dir = open(&layout.trash(), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&dir, "d", Mode::S_IRWXU).unwrap();
            dir = openat(&dir, "d", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        let locked = layout.trash().join("locked/inner");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("file"), "x").unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
        fs::set_permissions(layout.trash().join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
        empty(&layout).unwrap();
        assert!(is_empty(&layout));
    }

    #[test]
    fn somebody_elses_emptying_is_left_alone() {
        let (_root, layout) = layout();
        fs::create_dir_all(layout.trash().join("x")).unwrap();
        let _other = FileLock::exclusive(&layout.data_dir().join("trash.lock")).unwrap();
        empty(&layout).unwrap();
        assert!(!is_empty(&layout));
    }
}
