//! The root file system: native overlay over layers, or a directory.
//!
//! **Runs in:** container init, single-threaded, in the container's own mount namespace before `pivot_root`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::MountError;
use crate::sys::SysError;
use crate::sys::mount::{Attributes, FsContext, attach, clone_tree, set_attributes};

/// What becomes the container's `/`.
#[derive(Debug, Clone)]
pub enum Rootfs {
    /// The kernel's overlay. Relative paths start at `base`: what the container can read about its mounts then tells
    /// nothing about the host, and names of any length and with any character fit.
    Overlay {
        /// The store's data directory.
        base: PathBuf,
        /// Lower directories, topmost first, relative to `base`.
        lowers: Vec<PathBuf>,
        /// Upper directory, relative to `base`.
        upper: PathBuf,
        /// Work directory, relative to `base`.
        work: PathBuf,
        /// Whether writes may be lost in a power cut: right for what is removed on exit.
        volatile: bool,
    },
    /// An existing directory (`--rootfs`).
    Directory(PathBuf),
}

/// Gives the calling process, which is single-threaded, a mount namespace of its own.
pub fn own_namespace() -> Result<(), MountError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(SysError::of("unshare", "CLONE_NEWNS"))?;
    stop_propagation()
}

/// Takes the mount at the directory `at` away, with what is mounted below it.
pub fn unmount(at: &Path) -> Result<(), MountError> {
    let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
    Ok(nix::mount::umount2(at, flags).map_err(SysError::of("umount2", at.display()))?)
}

/// Cuts mount propagation from this namespace to the host's; what the host mounts still arrives.
pub fn stop_propagation() -> Result<(), MountError> {
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(SysError::of("mount", "/, MS_REC|MS_SLAVE"))?;
    Ok(())
}

impl Rootfs {
    /// Mounts the root file system over the directory `at` and returns its root.
    pub fn mount(&self, at: &Path) -> Result<OwnedFd, MountError> {
        let place = open(at)?;
        attach_root(&self.detached(at)?, place.as_fd(), at)?;
        open(at)
    }

    /// The root file system, attached nowhere. `at` is a directory to use where the kernel cannot do without a place.
    pub fn detached(&self, at: &Path) -> Result<OwnedFd, MountError> {
        let detached = match self {
            Rootfs::Overlay { base, lowers, upper, work, volatile } => {
                nix::unistd::chdir(base.as_path())
                    .map_err(SysError::of("chdir", base.display()))
                    .map_err(MountError::Rootfs)?;
                match overlay(lowers, upper, work, *volatile) {
                    // Before Linux 6.5 there is no `lowerdir+`.
                    Err(error) if error.errno == Errno::EINVAL => {
                        overlay_before_6_5(lowers, upper, work, *volatile, at)
                            .map_err(|_| MountError::Rootfs(error))
                            .map(|()| None)?
                    }
                    other => Some(other.map_err(MountError::Rootfs)?),
                }
            }
            Rootfs::Directory(path) => Some(clone_tree(nix::fcntl::AT_FDCWD, path, true).map_err(MountError::Rootfs)?),
        };
        match detached {
            Some(detached) => Ok(detached),
            None => Ok(clone_tree(nix::fcntl::AT_FDCWD, at, false)?),
        }
    }
}

/// Attaches a root file system over the directory `place`, which is `name`.
pub fn attach_root(detached: &OwnedFd, place: BorrowedFd<'_>, name: &Path) -> Result<(), MountError> {
    attach(detached.as_fd(), place, name.display())?;
    // The container's own mounts must not travel anywhere, and pivot_root wants a private parent.
    let private = Attributes { propagation: MsFlags::MS_PRIVATE.bits(), ..Attributes::default() };
    Ok(set_attributes(detached.as_fd(), private, true)?)
}

fn open(path: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty()).map_err(SysError::of("open", path.display()))?)
}

/// A detached overlay mount.
///
/// # Source
/// Linux `Documentation/filesystems/overlayfs.rst`; `userxattr` since 5.11, `lowerdir+` since 6.5.
fn overlay(lowers: &[PathBuf], upper: &Path, work: &Path, volatile: bool) -> Result<OwnedFd, SysError> {
    let context = FsContext::open("overlay")?;
    // The source shows in the container's mountinfo.
    context.string("source", "overlay")?;
    context.flag("userxattr")?;
    if volatile {
        context.flag("volatile")?;
    }
    for lower in lowers {
        context.string("lowerdir+", lower)?;
    }
    context.string("upperdir", upper)?;
    context.string("workdir", work)?;
    let mount = context.mount(0)?;
    // Without room for its work directory the kernel makes a read-only mount of it, and says so in its log only.
    let flags = nix::sys::statvfs::fstatvfs(&mount).map_err(SysError::of("fstatvfs", "overlay"))?.flags();
    if flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        return Err(SysError { call: "fsmount", args: format!("overlay, {}", work.display()), errno: Errno::ENOSPC });
    }
    Ok(mount)
}

/// The same by `mount(2)`, whose options must fit into one page: layers go by the names of short links on a tmpfs.
fn overlay_before_6_5(
    lowers: &[PathBuf],
    upper: &Path,
    work: &Path,
    volatile: bool,
    at: &Path,
) -> Result<(), MountError> {
    let base =
        std::env::current_dir().map_err(|_| SysError { call: "getcwd", args: String::new(), errno: Errno::ENOENT })?;
    let links = open(at)?;
    let tmpfs = FsContext::open("tmpfs")?.mount(0)?;
    attach(tmpfs.as_fd(), links.as_fd(), at.display())?;
    let link = |name: &str, target: &Path| {
        nix::unistd::symlinkat(&base.join(target), tmpfs.as_fd(), name).map_err(SysError::of("symlinkat", name))
    };
    let mut text = String::from("userxattr,lowerdir=");
    for (number, lower) in lowers.iter().enumerate() {
        let name = format!("{number:x}");
        link(&name, lower)?;
        text.push_str(if number == 0 { "" } else { ":" });
        text.push_str(&name);
    }
    link("u", upper)?;
    link("w", work)?;
    text.push_str(if volatile { ",upperdir=u,workdir=w,volatile" } else { ",upperdir=u,workdir=w" });
    nix::unistd::fchdir(tmpfs.as_fd()).map_err(SysError::of("fchdir", at.display()))?;
    nix::mount::mount(
        Some("overlay"),
        at.as_os_str().as_bytes(),
        Some("overlay"),
        MsFlags::empty(),
        Some(text.as_str()),
    )
    .map_err(SysError::of("mount", format!("overlay, {text}")))?;
    Ok(())
}
