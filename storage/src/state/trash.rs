//! `trash/`: directories renamed out of the way, unlinked later.
//!
//! Writer: whoever removes a container, layer or volume, by one rename, which is the moment it stops to exist. Unlinked
//! by [`empty`] under `trash.lock`, in a process that may remove files of subordinate ids (the user's user namespace).
//! No version: names are random and mean nothing.
//!
//! **Runs in:** `put` anywhere; `empty` as root of the user namespace, or as the user in the single-id mode.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::layout::{Layout, LayoutError, create_dir, random_hex};
use super::lock::{FileLock, LockError};

/// Deeper trees are cut: the rest is moved to the top and removed on its own, so that a tree of any depth needs few
/// descriptors.
const MAX_DEPTH: usize = 12;

/// What cannot be thrown away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrashError {
    /// It cannot be moved into the trash.
    #[error("cannot move {} to the trash: {source}", path.display())]
    Put {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in the trash cannot be unlinked; the rest was.
    #[error("cannot empty the trash: {call} {}: {source}", path.display())]
    Empty {
        /// The kernel call.
        call: &'static str,
        /// The last component of what it was called for.
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

/// Whether anything lies in the trash.
pub fn is_empty(layout: &Layout) -> bool {
    std::fs::read_dir(layout.trash()).map_or(true, |mut entries| entries.next().is_none())
}

/// Unlinks everything in the trash, unless somebody is at it already. Goes on after a failure and reports the first.
///
/// # Errors
/// [`TrashError::Empty`].
pub fn empty(layout: &Layout) -> Result<(), TrashError> {
    // Whoever comes while the lock is held goes away again: its holder looks once more after letting go.
    while !is_empty(layout) {
        let Some(_lock) = FileLock::try_exclusive(&layout.data_dir().join("trash.lock"))? else { return Ok(()) };
        let path = layout.trash();
        let failed = |errno: Errno| TrashError::Empty { call: "open", path: path.clone(), source: errno.into() };
        let top =
            open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        if let Some(Failure { call, name, errno }) = remove_children(top.as_fd()) {
            let path = PathBuf::from(name.to_string_lossy().into_owned());
            return Err(TrashError::Empty { call, path, source: errno.into() });
        }
    }
    Ok(())
}

/// Removes everything below a directory; `None` if it worked.
///
/// The directory must be ours alone: names are never followed, but a directory that is too deep is moved up into `top`.
fn remove_children(top: BorrowedFd<'_>) -> Option<Failure> {
    let mut queue: VecDeque<CString> = match names(top) {
        Ok(entries) => entries.into_iter().map(|(name, _)| name).collect(),
        Err(errno) => return Some(Failure { call: "getdents", name: c".".into(), errno }),
    };
    let mut first = None;
    while let Some(name) = queue.pop_front() {
        let mut removal = Removal { top, queue: &mut queue, failure: None };
        removal.remove(top, &name, None, 0);
        first = first.or(removal.failure);
    }
    first
}

struct Failure {
    call: &'static str,
    name: CString,
    errno: Errno,
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    queue: &'a mut VecDeque<CString>,
    failure: Option<Failure>,
}

impl Removal<'_> {
    fn fail(&mut self, call: &'static str, name: &CStr, errno: Errno) {
        self.failure.get_or_insert_with(|| Failure { call, name: name.into(), errno });
    }

    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr, kind: Option<Type>, depth: usize) {
        if kind != Some(Type::Directory) {
            match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => return,
                Err(Errno::EISDIR | Errno::EPERM) => {}
                Err(errno) => return self.fail("unlinkat", name, errno),
            }
        }
        // Empty already, which most directories of a container are.
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return,
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => return self.fail("unlinkat", name, errno),
        }
        if depth >= MAX_DEPTH {
            let moved = CString::new(random_hex(8)).unwrap_or_default();
            // Moving a directory writes its "..": without write permission it is refused, and gets it.
            let result = match renameat(parent, name, self.top, moved.as_c_str()) {
                Err(Errno::EACCES) => fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)
                    .and_then(|()| renameat(parent, name, self.top, moved.as_c_str())),
                other => other,
            };
            match result {
                Ok(()) => self.queue.push_back(moved),
                Err(errno) => self.fail("renameat", name, errno),
            }
            return;
        }
        let dir = match open_writable(parent, name) {
            Ok(dir) => dir,
            Err(errno) => return self.fail("openat", name, errno),
        };
        match names(dir.as_fd()) {
            Ok(entries) => {
                for (child, kind) in entries {
                    self.remove(dir.as_fd(), &child, kind, depth + 1);
                }
            }
            Err(errno) => self.fail("getdents", name, errno),
        }
        drop(dir);
        if let Err(errno) = unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            self.fail("unlinkat", name, errno);
        }
    }
}

/// Opens a directory to empty it; where its mode forbids that, the mode goes first (the owner alone may do so).
fn open_writable(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::EACCES) => {
            // `O_NOFOLLOW` said EACCES, not ELOOP: it is a directory, and nobody but us is in the trash to change that.
            fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            openat(parent, name, flags, Mode::empty())?
        }
        other => other?,
    };
    // Readable is not enough: without write permission its children stay.
    if nix::unistd::faccessat(
        &dir,
        ".",
        nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK,
        nix::fcntl::AtFlags::AT_EACCESS,
    )
    .is_err()
    {
        // A failure shows at the first child.
        let _ = nix::sys::stat::fchmod(&dir, Mode::S_IRWXU);
    }
    Ok(dir)
}

/// The entries of a directory, read to the end before one is removed.
fn names(dir: BorrowedFd<'_>) -> nix::Result<Vec<(CString, Option<Type>)>> {
    let reopened = openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut listing = Dir::from_fd(reopened)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
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
