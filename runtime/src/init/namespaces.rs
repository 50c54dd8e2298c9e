//! Which namespaces a bundle asks for: new ones, and others' by path.

use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::OFlag;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::steps::InitError;
use crate::sys::SysError;
use crate::sys::process as sys;

/// Whether the bundle asks for a new namespace of this kind.
pub fn has_private(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|all| all.iter().any(|one| one.typ() == kind && one.path().is_none()))
}

/// The namespaces that the bundle asks for, `CLONE_NEW*`.
pub fn clone_flags(spec: &Spec) -> u64 {
    let mut flags = 0;
    for (kind, flag) in [
        (LinuxNamespaceType::User, libc::CLONE_NEWUSER),
        (LinuxNamespaceType::Mount, libc::CLONE_NEWNS),
        (LinuxNamespaceType::Pid, libc::CLONE_NEWPID),
        (LinuxNamespaceType::Network, libc::CLONE_NEWNET),
        (LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC),
        (LinuxNamespaceType::Uts, libc::CLONE_NEWUTS),
        (LinuxNamespaceType::Cgroup, libc::CLONE_NEWCGROUP),
    ] {
        if has_private(spec, kind) {
            flags |= flag as u64;
        }
    }
    flags
}

/// The pid namespace to join, if it is another container's.
pub fn pid_namespace(spec: &Spec) -> Option<&Path> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces.iter().find(|one| one.typ() == LinuxNamespaceType::Pid)?.path().as_deref()
}

/// Joins the namespaces that the bundle names by path. A pid namespace is joined by the supervisor: it holds for
/// children only.
pub(super) fn join_shared(spec: &Spec) -> Result<(), InitError> {
    for namespace in spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten()) {
        let Some(path) = namespace.path() else { continue };
        // Those are joined before there is an init.
        if matches!(namespace.typ(), LinuxNamespaceType::Pid | LinuxNamespaceType::User) {
            continue;
        }
        let fd = nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
            .map_err(SysError::of("open", path.display()))?;
        sys::setns(fd.as_fd(), namespace.typ() as i32).map_err(SysError::of("setns", path.display()))?;
    }
    Ok(())
}
