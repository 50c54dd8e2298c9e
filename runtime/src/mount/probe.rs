//! What this kernel allows, found out by doing it.
//!
//! **Runs in:** children of their own; the caller keeps its namespaces.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::MountError;
use super::rootfs::{self, Driver, Rootfs, Stack, Tree, Writable, stop_propagation};
use crate::userns::{Mapping, UsernsError, run_in};

/// Why a probe did not get through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// There is no user namespace to try it in.
    #[error(transparent)]
    Userns(#[from] UsernsError),
    /// The kernel refused.
    #[error("{what}: {}", errno.desc().to_lowercase())]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// Makes a user namespace with this mapping and does nothing in it.
pub fn user_namespace(mapping: &Mapping) -> Result<(), ProbeError> {
    match run_in(mapping, || 0)?.code() {
        0 => Ok(()),
        _ => Err(ProbeError::Refused { what: "take id 0 of a user namespace", errno: Errno::EPERM }),
    }
}

/// Mounts an overlay in a user namespace and deletes a file of a lower layer through it. Everything lies below `scratch`,
/// a directory that must not exist and is gone afterwards: what counts is the file system it is on.
pub fn overlay(mapping: &Mapping, scratch: &Path) -> Result<(), ProbeError> {
    let exit = run_in(mapping, || {
        let tried = try_overlay(scratch);
        // The kernel leaves a directory without permissions in the work directory: only root of the namespace can.
        let removed = fs::remove_dir_all(scratch).map_err(|error| errno_of(&error));
        tried.and(removed).map_or_else(|errno| errno as i32, |()| 0)
    })?;
    match i32::from(exit.code()) {
        0 => Ok(()),
        errno => {
            Err(ProbeError::Refused { what: "mount an overlay in a user namespace", errno: Errno::from_raw(errno) })
        }
    }
}

fn try_overlay(scratch: &Path) -> Result<(), Errno> {
    let io = |result: io::Result<()>| result.map_err(|error| errno_of(&error));
    io(fs::create_dir(scratch))?;
    for name in ["lower", "upper", "work", "at"] {
        io(fs::create_dir(scratch.join(name)))?;
    }
    io(fs::write(scratch.join("lower/file"), ""))?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    stop_propagation().map_err(|error| mount_errno(&error))?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(Into::into);
    let at = scratch.join("at");
    let drivers = &[Driver::Overlay];
    let writable = Some(Writable { upper, work, volatile: false });
    let stack = Stack { base: scratch.to_owned(), lowers: vec![lower], writable, drivers };
    drop(Rootfs::Stack(stack).mount(&at, &mut |_| Ok(())).map_err(|error| mount_errno(&error))?);
    let deleted = fs::remove_file(at.join("file"));
    // Else the directories below cannot be removed.
    let unmounted = nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH);
    io(deleted)?;
    unmounted
}

/// Makes a FUSE mount in a user namespace. Nobody answers for it, and nobody looks into it.
pub fn fuse(mapping: &Mapping) -> Result<(), ProbeError> {
    let exit = run_in(mapping, || {
        let tried = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| rootfs::fuse(Tree::Whole, &mut |_| Ok(())).map(drop).map_err(|error| error.errno));
        tried.map_or_else(|errno| errno as i32, |()| 0)
    })?;
    match i32::from(exit.code()) {
        0 => Ok(()),
        errno => {
            Err(ProbeError::Refused { what: "make a FUSE mount in a user namespace", errno: Errno::from_raw(errno) })
        }
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32))
}

fn mount_errno(error: &MountError) -> Errno {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(sys) = error.downcast_ref::<crate::sys::SysError>() {
            return sys.errno;
        }
        source = error.source();
    }
    Errno::EIO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_nothing_behind() {
        let mapping = Mapping::of_user();
        if user_namespace(&mapping).is_err() {
            eprintln!("skipped: needs user namespaces");
            return;
        }
        let place = tempfile::tempdir().expect("a scratch directory");
        let scratch = place.path().join("probe");
        // Whether this machine can is its own affair; the directory is gone either way.
        let _ = overlay(&mapping, &scratch);
        assert!(!scratch.exists());
    }
}
