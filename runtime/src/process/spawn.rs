//! The supervisor's birth: forked straight into the container's base user namespace.

use std::os::fd::OwnedFd;

use crate::sys::SysError;
use crate::sys::process::{Forked, clone3};
use crate::userns::{Mapping, UsernsError};

/// One end of the fork of [`supervisor`].
#[derive(Debug)]
pub enum Side {
    /// In the caller: the supervisor's pidfd.
    Parent(Parent),
    /// In the supervisor: wait for the maps before using ids.
    Supervisor(MapsPending),
}

/// The caller's side: must call [`Parent::write_maps`].
#[derive(Debug)]
pub struct Parent {
    pid: i32,
    /// The supervisor's pidfd.
    pub pidfd: OwnedFd,
    maps: OwnedFd,
}

/// The supervisor's side, before it has ids.
#[derive(Debug)]
pub struct MapsPending {
    maps: OwnedFd,
}

/// Forks the supervisor into a new user namespace and, with `own_pids`, as init of a pid namespace: when it dies, the
/// kernel kills whatever it started.
pub fn supervisor(own_pids: bool) -> Result<Side, UsernsError> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(SysError::of("pipe2", "O_CLOEXEC"))?;
    let flags = libc::CLONE_NEWUSER as u64 | if own_pids { libc::CLONE_NEWPID as u64 } else { 0 };
    let forked = clone3(flags, None).map_err(|errno| {
        UsernsError::Create(SysError { call: "clone3", args: "CLONE_NEWUSER|CLONE_NEWPID".into(), errno })
    })?;
    Ok(match forked {
        Forked::Child => Side::Supervisor(MapsPending { maps: read }),
        Forked::Parent { pid, pidfd } => Side::Parent(Parent { pid, pidfd, maps: write }),
    })
}

impl Parent {
    /// Writes the id maps and lets the supervisor go on.
    pub fn write_maps(self, mapping: &Mapping) -> Result<OwnedFd, UsernsError> {
        mapping.write(self.pid)?;
        nix::unistd::write(&self.maps, b"m").map_err(SysError::of("write", "maps"))?;
        Ok(self.pidfd)
    }
}

impl MapsPending {
    /// Waits until the maps are written and takes id 0. `false`: the caller died or failed, there is nobody to tell.
    pub fn wait(self) -> Result<bool, SysError> {
        let mut byte = [0];
        loop {
            match nix::unistd::read(&self.maps, &mut byte) {
                Err(nix::errno::Errno::EINTR) => continue,
                Ok(1) => break,
                _ => return Ok(false),
            }
        }
        crate::userns::become_root().map(|()| true)
    }
}
