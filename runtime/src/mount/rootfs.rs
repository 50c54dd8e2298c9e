//! The root file system: a stack of layers by one of several drivers, or a directory.
//!
//! | driver | since | what it is |
//! |---|---|---|
//! | [`Driver::Overlay`] | Linux 5.11 | the kernel's overlay over the layers |
//! | [`Driver::OverlayFuse`] | Linux 5.11 | the kernel's overlay over a read-only FUSE mount of all layers: reading a layer's file for the first time goes through a process, writing and what was written does not; ids of layers may be others on disk than in the container |
//! | [`Driver::Fuse`] | Linux 4.18 | a FUSE mount of layers and writable directory: nothing but `/dev/fuse` is asked of the kernel |
//!
//! All three keep the same upper directory. Which of them a machine allows is found out by mounting: the first of a list
//! that is not refused is it.
//!
//! **Runs in:** container init, single-threaded, in the container's own mount namespace before `pivot_root`; for a nested
//! user namespace the supervisor, see [`super::stage`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use super::MountError;
use super::fuse::FuseMount;
use crate::sys::SysError;
use crate::sys::mount::{Attributes, FsContext, attach, attr, clone_tree, set_attributes};

/// What becomes the container's `/`.
#[derive(Debug, Clone)]
pub enum Rootfs {
    /// Layers and a writable directory.
    Stack(Stack),
    /// An existing directory (`--rootfs`).
    Directory(PathBuf),
}

/// Layers and what is written above them. Relative paths start at `base`: what the container can read about its mounts
/// then tells nothing about the host, and names of any length and with any character fit.
#[derive(Debug, Clone)]
pub struct Stack {
    /// The store's data directory.
    pub base: PathBuf,
    /// Lower directories, topmost first, relative to `base`.
    pub lowers: Vec<PathBuf>,
    /// Where writes go; absent, nothing can be written. The kernel's overlay then wants two layers at least.
    pub writable: Option<Writable>,
    /// What may mount it, best first.
    pub drivers: &'static [Driver],
}

/// The writable part of a [`Stack`].
#[derive(Debug, Clone)]
pub struct Writable {
    /// Upper directory, relative to the stack's `base`.
    pub upper: PathBuf,
    /// Work directory, relative to the stack's `base`.
    pub work: PathBuf,
    /// Whether writes may be lost in a power cut: right for what is removed on exit.
    pub volatile: bool,
}

/// What mounts a [`Stack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The kernel's overlay.
    Overlay,
    /// The kernel's overlay over a read-only FUSE mount of the layers.
    OverlayFuse,
    /// A FUSE mount of everything.
    Fuse,
}

impl Driver {
    /// As records and command lines have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Driver::Overlay => "overlay",
            Driver::OverlayFuse => "overlay-fuse",
            Driver::Fuse => "fuse",
        }
    }

    /// The reverse.
    pub(crate) fn of_name(name: &[u8]) -> Option<Driver> {
        [Driver::Overlay, Driver::OverlayFuse, Driver::Fuse].into_iter().find(|one| one.as_str().as_bytes() == name)
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which part of a [`Stack`] a FUSE mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// The layers and what was written above them.
    Whole,
    /// The layers alone; nothing can be written.
    Lowers,
}

/// A FUSE mount that nobody answers for yet.
#[derive(Debug)]
pub struct Connection {
    /// The opened `/dev/fuse`. As long as a process holds it and does not answer, whoever looks at the mount waits.
    pub device: OwnedFd,
    /// What is to be shown.
    pub tree: Tree,
}

/// Hands a connection to the process that is to answer, and keeps no copy of it.
pub type Serve<'a> = &'a mut dyn FnMut(Connection) -> Result<(), SysError>;

/// Gives the calling process, which is single-threaded, a mount namespace of its own.
pub fn own_namespace() -> Result<(), MountError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(SysError::of("unshare", "CLONE_NEWNS"))?;
    stop_propagation()
}

/// Attaches the mount at the directory `at` once more over itself: it takes one [`unmount`] more to get rid of it.
pub fn stack_again(at: &Path) -> Result<(), MountError> {
    let mount = clone_tree(nix::fcntl::AT_FDCWD, at, true)?;
    attach_root(&mount, open(at)?.as_fd(), at)
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

/// Lets mounts below the container's root travel to namespaces that are made from its own, as `linux.rootfsPropagation`
/// says. Nothing travels between it and the host's: what is bound has an option for that.
pub fn propagate(root: BorrowedFd<'_>, kind: Option<&str>) -> Result<(), MountError> {
    let (flag, recursive) = match kind {
        Some("shared") => (MsFlags::MS_SHARED, false),
        Some("rshared") => (MsFlags::MS_SHARED, true),
        Some("unbindable") => (MsFlags::MS_UNBINDABLE, false),
        // It is private, and so a slave of nobody.
        _ => return Ok(()),
    };
    Ok(set_attributes(root, Attributes { propagation: flag.bits(), ..Attributes::default() }, recursive)?)
}

impl Rootfs {
    /// Mounts the root file system over the directory `at`; returns its root, and what mounted a stack.
    pub fn mount(&self, at: &Path, serve: Serve<'_>) -> Result<(OwnedFd, Option<Driver>), MountError> {
        let place = open(at)?;
        let (detached, driver) = self.detached(at, serve)?;
        attach_root(&detached, place.as_fd(), at)?;
        Ok((open(at)?, driver))
    }

    /// The root file system, attached nowhere, and what mounted a stack. `at` is a directory to use where the kernel cannot
    /// do without a place.
    pub fn detached(&self, at: &Path, serve: Serve<'_>) -> Result<(OwnedFd, Option<Driver>), MountError> {
        match self {
            Rootfs::Stack(stack) => stack.detached(at, serve).map(|(root, driver)| (root, Some(driver))),
            Rootfs::Directory(path) => {
                let tree = clone_tree(nix::fcntl::AT_FDCWD, path, true).map_err(MountError::Rootfs)?;
                Ok((tree, None))
            }
        }
    }
}

impl Stack {
    /// By the first driver that is not refused.
    fn detached(&self, at: &Path, serve: Serve<'_>) -> Result<(OwnedFd, Driver), MountError> {
        nix::unistd::chdir(self.base.as_path())
            .map_err(SysError::of("chdir", self.base.display()))
            .map_err(MountError::Rootfs)?;
        let mut refused: Vec<(Driver, SysError)> = Vec::new();
        for driver in self.drivers.iter().copied() {
            match self.detached_by(driver, at, serve) {
                Ok(root) => return Ok((root, driver)),
                Err(MountError::Rootfs(error)) if is_refusal(error.errno) => refused.push((driver, error)),
                Err(error) => return Err(error),
            }
        }
        match refused.pop() {
            Some((_, error)) if refused.is_empty() => Err(MountError::Rootfs(error)),
            Some(last) => Err(MountError::NoDriver(refused.into_iter().chain([last]).collect::<Vec<_>>().into())),
            None => Err(MountError::NoDriver(Refusals::default())),
        }
    }

    fn detached_by(&self, driver: Driver, at: &Path, serve: Serve<'_>) -> Result<OwnedFd, MountError> {
        match driver {
            Driver::Overlay => self.overlay(&self.lowers, at),
            // The layers alone need no overlay over them.
            Driver::OverlayFuse | Driver::Fuse if self.writable.is_none() => {
                fuse(Tree::Lowers, serve).map_err(MountError::Rootfs)
            }
            Driver::OverlayFuse => {
                let lowers = fuse(Tree::Lowers, serve).map_err(MountError::Rootfs)?;
                // Detached, it has no name but that of the descriptor. The overlay keeps a hold of its own on it.
                self.overlay(&[PathBuf::from(format!("/proc/self/fd/{}", lowers.as_raw_fd()))], at)
            }
            Driver::Fuse => fuse(Tree::Whole, serve).map_err(MountError::Rootfs),
        }
    }

    fn overlay(&self, lowers: &[PathBuf], at: &Path) -> Result<OwnedFd, MountError> {
        match overlay(lowers, self.writable.as_ref()) {
            // Before Linux 6.5 there is no `lowerdir+`.
            Err(error) if error.errno == Errno::EINVAL => {
                overlay_before_6_5(lowers, self.writable.as_ref(), at).map_err(|_| MountError::Rootfs(error))?;
                Ok(clone_tree(nix::fcntl::AT_FDCWD, at, false)?)
            }
            other => other.map_err(MountError::Rootfs),
        }
    }
}

/// Whether another driver may fare better: the kernel has no such file system, not for this user, or not on what the
/// directories lie on.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EPERM
            | Errno::EACCES
            | Errno::ENODEV
            | Errno::ENXIO
            | Errno::ENOENT
            | Errno::EINVAL
            | Errno::EOPNOTSUPP
            | Errno::ENOSYS
            | Errno::ESTALE
            | Errno::EREMOTE
            | Errno::ELOOP
    )
}

/// What each driver that was tried was told.
#[derive(Debug, Default)]
pub struct Refusals(Vec<(Driver, SysError)>);

impl From<Vec<(Driver, SysError)>> for Refusals {
    fn from(refusals: Vec<(Driver, SysError)>) -> Refusals {
        Refusals(refusals)
    }
}

impl Refusals {
    /// The error of the driver that would have been the best.
    pub fn first(&self) -> Option<&SysError> {
        self.0.first().map(|(_, error)| error)
    }
}

impl std::fmt::Display for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, (driver, error)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{driver}: {error}")?;
        }
        Ok(())
    }
}

/// A detached FUSE mount, handed to who serves it. The kernel checks permissions by what `stat` shows, for everybody.
pub(super) fn fuse(tree: Tree, serve: Serve<'_>) -> Result<OwnedFd, SysError> {
    let mount = FuseMount {
        // Both show in the container's mountinfo.
        source: "coracle".to_owned(),
        subtype: "coracle".to_owned(),
        is_read_only: tree == Tree::Lowers,
        allow_other: true,
        ..FuseMount::default()
    };
    let (mount, device) = mount.detached()?;
    serve(Connection { device, tree })?;
    Ok(mount)
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
fn overlay(lowers: &[PathBuf], writable: Option<&Writable>) -> Result<OwnedFd, SysError> {
    let context = FsContext::open("overlay")?;
    // The source shows in the container's mountinfo.
    context.string("source", "overlay")?;
    context.flag("userxattr")?;
    for lower in lowers {
        context.string("lowerdir+", lower)?;
    }
    let Some(Writable { upper, work, volatile }) = writable else {
        return context.mount(attr::RDONLY);
    };
    if *volatile {
        context.flag("volatile")?;
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
fn overlay_before_6_5(lowers: &[PathBuf], writable: Option<&Writable>, at: &Path) -> Result<(), MountError> {
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
    let mut flags = MsFlags::MS_RDONLY;
    if let Some(Writable { upper, work, volatile }) = writable {
        link("u", upper)?;
        link("w", work)?;
        text.push_str(if *volatile { ",upperdir=u,workdir=w,volatile" } else { ",upperdir=u,workdir=w" });
        flags = MsFlags::empty();
    }
    nix::unistd::fchdir(tmpfs.as_fd()).map_err(SysError::of("fchdir", at.display()))?;
    nix::mount::mount(Some("overlay"), at.as_os_str().as_bytes(), Some("overlay"), flags, Some(text.as_str()))
        .map_err(SysError::of("mount", format!("overlay, {text}")))?;
    Ok(())
}
