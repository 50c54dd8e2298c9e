//! Files in memory that nothing on disk has: secrets.
//!
//! **Runs in:** container init, single-threaded, when the bundle's mounts are made. Whatever lies at a target is resolved
//! beneath the container's root.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use super::target::{Kind, make_directories, open_or_make};
use crate::sys::SysError;
use crate::sys::mount::{FsContext, attach, attr, clone_tree, open_in_root};

/// Where most of them are.
const DIRECTORY: &str = "/run/secrets";

/// One file.
pub struct SecretFile {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Owner and group in the container.
    pub owner: (u32, u32),
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretFile").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Makes the files. A file elsewhere than in `/run/secrets` is bound to its place from a file system that has no place of
/// its own.
pub fn mount(root: BorrowedFd<'_>, files: &[SecretFile], single_id: bool) -> Result<(), SysError> {
    if files.is_empty() {
        return Ok(());
    }
    let directory = Path::new(DIRECTORY);
    let place = open_or_make(root, directory, Kind::Directory)?;
    let inside = |file: &&SecretFile| file.target.starts_with(directory) && file.target != directory;
    let elsewhere: Vec<_> = files.iter().filter(|file| !inside(file)).collect();
    if !elsewhere.is_empty() {
        // A tree is cloned from an attached mount, so for a moment it has a place, which the next one covers.
        let memory = memory()?;
        attach(memory.as_fd(), place.as_fd(), DIRECTORY)?;
        let shown = open_in_root(root, directory, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        for (number, file) in elsewhere.iter().enumerate() {
            let name = number.to_string();
            write(shown.as_fd(), Path::new(&name), file, single_id)?;
            let tree = clone_tree(shown.as_fd(), Path::new(&name), false)?;
            let target = open_or_make(root, &file.target, Kind::File)?;
            attach(tree.as_fd(), target.as_fd(), file.target.display())?;
        }
        drop(shown);
        // By descriptor: the root is not the process's own yet.
        let here = nix::fcntl::open(".", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(SysError::of("open", "."))?;
        nix::unistd::fchdir(&memory).map_err(SysError::of("fchdir", DIRECTORY))?;
        nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).map_err(SysError::of("umount2", DIRECTORY))?;
        nix::unistd::fchdir(&here).map_err(SysError::of("fchdir", "."))?;
    }
    let memory = memory()?;
    for file in files.iter().filter(inside) {
        write(memory.as_fd(), file.target.strip_prefix(directory).unwrap_or(&file.target), file, single_id)?;
    }
    let place = open_or_make(root, directory, Kind::Directory)?;
    attach(memory.as_fd(), place.as_fd(), DIRECTORY)
}

fn memory() -> Result<OwnedFd, SysError> {
    let context = FsContext::open("tmpfs")?;
    context.string("source", "tmpfs")?;
    context.string("mode", "755")?;
    context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

/// Writes a file below a directory that nobody else sees yet.
fn write(directory: BorrowedFd<'_>, path: &Path, file: &SecretFile, single_id: bool) -> Result<(), SysError> {
    let failed = |call: &'static str| SysError::of(call, file.target.display().to_string());
    let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or(OsStr::new("secret")));
    let parent = make_directories(directory, parent, 0o755)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::openat(&parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("openat"))?;
    let mut opened = std::fs::File::from(opened);
    opened.write_all(&file.data).map_err(|error| SysError {
        call: "write",
        args: file.target.display().to_string(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
    })?;
    nix::sys::stat::fchmod(&opened, Mode::from_bits_truncate(file.mode)).map_err(failed("fchmod"))?;
    let (uid, gid) = file.owner;
    if single_id {
        // A kernel without such attributes on tmpfs (before 6.6) leaves it to root.
        let _ = crate::identity::record_owner(opened.as_fd(), uid, gid);
        return Ok(());
    }
    nix::unistd::fchown(&opened, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed("fchown"))
}
