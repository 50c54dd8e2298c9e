//! Trees that container init cannot reach by their paths, made ready beforehand.
//!
//! Two cases. The init of a container with a user namespace inside the base one (`--userns keep-id`, `auto`) has lost the
//! user's own id, and with it every directory that only the user may enter: the supervisor opens what the bundle names
//! while it still may, in a mount namespace of its own, and init inherits detached trees. And the `/dev/shm` of another
//! container (`--ipc container:X`) lies in that container's mount namespace, out of which `open_tree(2)` takes nothing:
//! init visits it for a moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::Mount;

use super::rootfs::{self, Driver, Rootfs, Serve, Stack, Writable};
use super::{MountError, options};
use crate::init::sealed_exe::SealedFd;
use crate::sys::SysError;
use crate::sys::mount::{clone_tree, open_in_root};
use crate::sys::process::setns;

/// Detached trees.
#[derive(Debug, Default)]
pub struct Staged {
    /// The root file system. Init attaches it over its working directory, which need not be reachable by a path.
    pub root: Option<OwnedFd>,
    /// What mounted it, if it is a stack.
    pub driver: Option<Driver>,
    /// Our binary, if it needs protection.
    pub sealed: Option<SealedFd>,
    /// By the target in the container: several may have one source.
    binds: Vec<(PathBuf, OwnedFd)>,
}

/// What the supervisor stages for a nested user namespace.
#[derive(Debug)]
pub struct Request<'a> {
    /// The root file system.
    pub rootfs: &'a Rootfs,
    /// The bundle's mounts.
    pub mounts: &'a [Mount],
    /// A directory for the root to be attached over.
    pub mount_point: &'a Path,
    /// Targets of binds that are filled with what the image has there: new volumes.
    pub fill: &'a [PathBuf],
    /// The ids that the container's root has in the caller's user namespace.
    pub owner: (u32, u32),
}

impl Staged {
    /// Stages everything that the bundle names, and gives what the container shall write to its root.
    ///
    /// **Runs in:** the supervisor, root of the base user namespace; it has its own mount namespace and the mount point
    /// as working directory from here on.
    pub fn for_nested(request: &Request<'_>, serve: Serve<'_>) -> Result<Staged, MountError> {
        rootfs::own_namespace()?;
        let give = |path: &Path| {
            let (uid, gid) = request.owner;
            nix::unistd::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(SysError::of("chown", path.display()))
        };
        if let Rootfs::Stack(Stack { base, writable: Some(Writable { upper, .. }), .. }) = request.rootfs {
            give(&base.join(upper))?;
        }
        let mut staged = Staged::default();
        staged.add_overlays(request.mounts)?;
        for mount in request.mounts {
            let Some(source) = bind_source(mount)?.filter(|source| is_of_host(source)) else { continue };
            if request.fill.contains(mount.destination()) {
                give(source)?;
            }
            let tree = source_tree(source, &parsed(mount)?).map_err(|error| failed(mount, error))?;
            staged.binds.push((mount.destination().clone(), tree));
        }
        let (root, driver) = request.rootfs.detached(request.mount_point, serve)?;
        nix::unistd::chdir(request.mount_point).map_err(SysError::of("chdir", request.mount_point.display()))?;
        Ok(Staged { root: Some(root), driver, ..staged })
    }

    /// Makes the bundle's overlays: what they consist of may lie below the place that the root will cover.
    ///
    /// **Runs in:** container init, before it has mounted anything.
    pub fn add_overlays(&mut self, mounts: &[Mount]) -> Result<(), MountError> {
        for mount in mounts.iter().filter(|mount| is_overlay(mount)) {
            let tree = super::overlay::detached(&parsed(mount)?).map_err(|error| failed(mount, error))?;
            self.binds.push((mount.destination().clone(), tree));
        }
        Ok(())
    }

    /// Adds the trees of the bundle that lie in another container: binds from below `/proc/<pid>/root`.
    ///
    /// **Runs in:** container init, single-threaded, before it has mounted anything; its working directory is `/` after
    /// a visit.
    pub fn add_shared(&mut self, mounts: &[Mount]) -> Result<(), MountError> {
        for mount in mounts {
            let Some(source) = bind_source(mount)? else { continue };
            let Some((pid, path)) = in_container(source) else { continue };
            let tree = visit(pid, path, is_recursive(mount)?).map_err(|error| failed(mount, error))?;
            self.binds.push((mount.destination().clone(), tree));
        }
        Ok(())
    }

    /// The tree that goes to this target, if it was staged.
    pub(super) fn tree(&self, target: &Path) -> Option<BorrowedFd<'_>> {
        self.binds.iter().find(|(path, _)| path == target).map(|(_, tree)| tree.as_fd())
    }
}

/// A copy of what a bind mount shows: `source`, or with `subpath=` what is there below it. A container may have written in
/// it, and may be writing now: no symbolic link on the way is followed (CVE-2023-2253 and its kin).
pub fn source_tree(source: &Path, options: &options::Options) -> Result<OwnedFd, SysError> {
    let subpath = options.data.iter().find(|(key, _)| key == "subpath").and_then(|(_, path)| path.as_deref());
    let Some(subpath) = subpath else { return clone_tree(nix::fcntl::AT_FDCWD, source, options.recursive) };
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(source, flags, Mode::empty()).map_err(SysError::of("open", source.display()))?;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let place = nix::fcntl::openat2(&directory, subpath, how).map_err(SysError::of("openat2", subpath))?;
    clone_tree(place.as_fd(), Path::new(""), options.recursive)
}

fn failed(mount: &Mount, source: SysError) -> MountError {
    MountError::Mount {
        source_name: mount.source().as_ref().map(|source| source.display().to_string()).unwrap_or_default(),
        target: mount.destination().display().to_string(),
        source,
    }
}

fn is_overlay(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("overlay")
}

fn bind_source(mount: &Mount) -> Result<Option<&Path>, MountError> {
    let is_bind = mount.typ().as_deref() == Some("bind") || parsed(mount)?.bind;
    Ok(mount.source().as_deref().filter(|_| is_bind))
}

fn is_recursive(mount: &Mount) -> Result<bool, MountError> {
    Ok(parsed(mount)?.recursive)
}

fn parsed(mount: &Mount) -> Result<options::Options, MountError> {
    options::parse(mount.options().as_deref().unwrap_or_default(), &mount.destination().display().to_string())
}

/// The kernel's own trees are bound by init: as its namespaces see them.
fn is_of_host(source: &Path) -> bool {
    in_container(source).is_none() && !["/proc", "/sys"].iter().any(|tree| source.starts_with(tree))
}

/// `/proc/<pid>/root/<path>`
fn in_container(source: &Path) -> Option<(u32, &Path)> {
    let rest = source.strip_prefix("/proc").ok()?;
    let mut components = rest.components();
    let Component::Normal(pid) = components.next()? else { return None };
    let pid = pid.to_str()?.parse().ok()?;
    (components.next()? == Component::Normal("root".as_ref())).then_some((pid, components.as_path()))
}

/// Takes a tree out of the mount namespace of process `pid`.
fn visit(pid: u32, path: &Path, recursive: bool) -> Result<OwnedFd, SysError> {
    let open = |name: &str| {
        nix::fcntl::open(name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(SysError::of("open", name))
    };
    let theirs_name = format!("/proc/{pid}/ns/mnt");
    let (ours, theirs) = (open("/proc/self/ns/mnt")?, open(&theirs_name)?);
    setns(theirs.as_fd(), libc::CLONE_NEWNS).map_err(SysError::of("setns", theirs_name))?;
    let root = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let tree = root.map_err(SysError::of("open", "/")).and_then(|root| {
        let place = open_in_root(root.as_fd(), path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        clone_tree(place.as_fd(), Path::new(""), recursive)
    });
    setns(ours.as_fd(), libc::CLONE_NEWNS).map_err(SysError::of("setns", "/proc/self/ns/mnt"))?;
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_in_other_containers_are_told_from_those_of_the_host() {
        assert_eq!(in_container(Path::new("/proc/12/root/dev/shm")), Some((12, Path::new("dev/shm"))));
        for source in ["/proc/self/root/dev/shm", "/proc/12/cwd/x", "/proc", "/dev/shm", "/x/proc/12/root"] {
            assert_eq!(in_container(Path::new(source)), None, "{source}");
        }
    }
}
