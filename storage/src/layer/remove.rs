//! Deletes trees by descriptor: never through a link, whatever their modes, however deep.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Directories deeper than this are moved up before they are emptied: a hostile layer may nest deeper than we have
/// descriptors.
const MAX_OPEN: usize = 8;

/// How much is removed by who cannot wait. Not a time: what is little goes on a busy machine too.
#[derive(Debug)]
pub struct Effort {
    entries: Cell<u32>,
    /// To unlink a file takes the longer the more of it there is, and nothing ends it.
    bytes: Cell<u64>,
}

impl Effort {
    /// Files and directories, and the bytes of the files.
    pub fn new(entries: u32, bytes: u64) -> Self {
        Self { entries: Cell::new(entries), bytes: Cell::new(bytes) }
    }

    fn spend(&self, bytes: u64) -> nix::Result<()> {
        let left = self.entries.get().checked_sub(1).zip(self.bytes.get().checked_sub(bytes));
        let (entries, bytes) = left.ok_or(Errno::E2BIG)?;
        self.entries.set(entries);
        self.bytes.set(bytes);
        Ok(())
    }
}

/// Deletes `name` in `dir` and all below it; nothing there is success.
///
/// Whoever calls this must own the files, or be root of a user namespace that maps their owners.
///
/// # Errors
/// The errno of the call that failed; what was not reached yet is still there.
///
/// # Source
/// `unlinkat(2)`; a directory is moved only within the tree being deleted.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
    remove(dir, name, None)
}

/// The same, for who cannot wait: what is more than that stays.
///
/// # Errors
/// As [`remove_tree`]; `E2BIG` if something stayed.
pub(crate) fn remove_tree_within(dir: BorrowedFd<'_>, name: &[u8], effort: &Effort) -> nix::Result<()> {
    remove(dir, name, Some(effort))
}

fn remove(dir: BorrowedFd<'_>, name: &[u8], effort: Option<&Effort>) -> nix::Result<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    check(dir, &name, effort)?;
    match unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    let top = open_dir(dir, &name)?;
    let mut moved_up = 0_u64;
    loop {
        let before = moved_up;
        empty(&top, &mut moved_up, effort)?;
        if moved_up == before {
            break;
        }
    }
    unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir)
}

/// A directory being emptied: its stream, and its subdirectories still to be done.
struct Level {
    dir: OwnedFd,
    name: CString,
    subdirectories: Vec<CString>,
}

/// Empties `top` except for the directories that it moves up into it.
fn empty(top: &OwnedFd, moved_up: &mut u64, effort: Option<&Effort>) -> nix::Result<()> {
    let mut levels = vec![level(open_dir(top.as_fd(), c".")?, c".".to_owned(), effort)?];
    while let Some(last) = levels.last_mut() {
        let Some(name) = last.subdirectories.pop() else {
            let done = levels.pop();
            if let (Some(parent), Some(done)) = (levels.last(), done) {
                match unlinkat(&parent.dir, done.name.as_c_str(), UnlinkatFlags::RemoveDir) {
                    // Something came in meanwhile: the caller's next round takes it.
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            continue;
        };
        let dir = open_dir(last.dir.as_fd(), &name)?;
        if levels.len() < MAX_OPEN {
            levels.push(level(dir, name, effort)?);
            continue;
        }
        let Some(last) = levels.last() else { continue };
        drop(dir);
        loop {
            *moved_up += 1;
            let new_name = CString::new(format!(".removed-{moved_up}")).map_err(|_| Errno::EINVAL)?;
            match renameat(&last.dir, name.as_c_str(), top, new_name.as_c_str()) {
                Ok(()) => break,
                // The tree may hold such a name itself; an empty directory of that name is just replaced.
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

/// Refuses what would be too much.
fn check(dir: impl AsFd, name: &CStr, effort: Option<&Effort>) -> nix::Result<()> {
    let Some(effort) = effort else { return Ok(()) };
    let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    let is_file = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    effort.spend(stat.ok().filter(|stat| is_file(stat.st_mode)).map_or(0, |stat| stat.st_size.unsigned_abs()))
}

/// Unlinks all that is no directory and notes the directories.
fn level(dir: OwnedFd, name: CString, effort: Option<&Effort>) -> nix::Result<Level> {
    let mut stream = Dir::from_fd(dir.try_clone().map_err(errno_of)?)?;
    let mut subdirectories = Vec::new();
    for entry in stream.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => {
                let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
            }
        };
        check(&dir, name, effort)?;
        if is_directory {
            subdirectories.push(name.to_owned());
            continue;
        }
        match unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Level { dir, name, subdirectories })
}

/// Opens a directory and makes sure that we may list and change it.
fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || openat(parent, name, flags, Mode::empty());
    let dir = match open() {
        Err(Errno::EACCES) => {
            unlock(parent, name)?;
            open()?
        }
        result => result?,
    };
    if !nix::unistd::geteuid().is_root() {
        let stat = nix::sys::stat::fstat(&dir)?;
        if stat.st_mode & 0o700 != 0o700 {
            fchmod(&dir, Mode::S_IRWXU)?;
        }
    }
    Ok(dir)
}

/// Gives us all rights to a directory that cannot be opened.
fn unlock(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat(parent, name, flags, Mode::empty())?;
    // chmod needs a path for an O_PATH descriptor; this one leads to exactly what was opened.
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        path.as_str(),
        Mode::S_IRWXU,
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn flags() -> OFlag {
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
    }

    #[test]
    fn removes_a_tree_with_closed_directories_and_leaves_link_targets_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::create_dir_all(root.join("tree/closed/inner")).unwrap();
        fs::write(root.join("tree/closed/inner/file"), b"x").unwrap();
        fs::create_dir(root.join("outside")).unwrap();
        fs::write(root.join("outside/canary"), b"alive").unwrap();
        symlink(root.join("outside"), root.join("tree/link")).unwrap();
        fs::set_permissions(root.join("tree/closed/inner"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(root.join("tree/closed"), fs::Permissions::from_mode(0o555)).unwrap();
        let dir = fs::File::open(root).unwrap();
        remove_tree(dir.as_fd(), b"tree").unwrap();
        assert!(!root.join("tree").exists());
        assert_eq!(fs::read(root.join("outside/canary")).unwrap(), b"alive");
        remove_tree(dir.as_fd(), b"tree").unwrap();
        symlink(root.join("outside"), root.join("tree")).unwrap();
        remove_tree(dir.as_fd(), b"tree").unwrap();
        assert!(root.join("outside/canary").exists());
    }

    #[test]
    fn who_cannot_wait_leaves_the_rest_and_what_takes_long() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::create_dir_all(root.join("tree/d")).unwrap();
        fs::write(root.join("tree/d/small"), b"x").unwrap();
        let dir = fs::File::open(root).unwrap();
        assert_eq!(remove_tree_within(dir.as_fd(), b"tree", &Effort::new(2, 100)), Err(Errno::E2BIG));
        assert!(root.join("tree/d/small").exists());
        fs::write(root.join("tree/large"), [0; 101]).unwrap();
        assert_eq!(remove_tree_within(dir.as_fd(), b"tree", &Effort::new(50, 100)), Err(Errno::E2BIG));
        assert!(root.join("tree/large").exists());
        fs::write(root.join("tree/large"), [0; 99]).unwrap();
        assert_eq!(remove_tree_within(dir.as_fd(), b"tree", &Effort::new(50, 100)), Ok(()));
        assert!(!root.join("tree").exists());
    }

    #[test]
    fn removes_a_tree_deeper_than_path_max_and_than_the_descriptor_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::File::open(scratch.path()).unwrap();
        let name = "d".repeat(200);
        let mut at: OwnedFd = root.try_clone().unwrap().into();
        for depth in 0..300 {
            let name = if depth == 0 { "tree" } else { name.as_str() };
            mkdirat(&at, name, Mode::S_IRWXU).unwrap();
            mkdirat(&at, format!("{name}x").as_str(), Mode::S_IRWXU).ok();
            at = openat(&at, name, flags(), Mode::empty()).unwrap();
            mkdirat(&at, ".removed-1", Mode::S_IRWXU).unwrap();
        }
        drop(at);
        remove_tree(root.as_fd(), b"tree").unwrap();
        assert!(!scratch.path().join("tree").exists());
    }
}
