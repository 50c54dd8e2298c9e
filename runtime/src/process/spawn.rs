//! The supervisor's birth: forked straight into the container's base user namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::init::handshake::Report;
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
    /// Whose maps are to be written; `None` if the namespace has them.
    pid: Option<i32>,
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
        Forked::Parent { pid, pidfd } => Side::Parent(Parent { pid: Some(pid), pidfd, maps: write }),
    })
}

impl Parent {
    /// Writes the id maps and lets the supervisor go on.
    pub fn write_maps(self, mapping: &Mapping) -> Result<OwnedFd, UsernsError> {
        if let Some(pid) = self.pid {
            mapping.write(pid)?;
        }
        match nix::unistd::write(&self.maps, b"m") {
            // A supervisor that has given up already says why by its own channel.
            Ok(_) | Err(nix::errno::Errno::EPIPE) => Ok(self.pidfd),
            Err(errno) => Err(SysError { call: "write", args: "maps".into(), errno }.into()),
        }
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

/// Marks every descriptor from `first` upward to be closed by `execve`: what the caller's caller left open is for nobody
/// that we start.
///
/// # Errors
/// The call that failed.
pub fn keep_from_programs(first: i32) -> Result<(), SysError> {
    crate::sys::process::close_from(first, true).map_err(SysError::of("close_range", format!("{first}, CLOEXEC")))
}

/// How a process is to live that serves its parent, or what its parent made.
#[derive(Debug)]
pub struct Servant<'a> {
    /// What process listings call it.
    pub name: &'a std::ffi::CStr,
    /// The descriptors it keeps besides the standard ones; all others are closed.
    pub keep: &'a [BorrowedFd<'a>],
    /// It ends with its parent. Else it is in a session of its own, its standard streams lead nowhere, and it has a mount
    /// namespace of its own where it may, so that it keeps nothing mounted that is unmounted elsewhere.
    pub dies_with_parent: bool,
}

/// Forks a servant, which may start threads and ends with the status that `work` returns. The caller is single-threaded.
/// Gives its pidfd.
pub fn servant(servant: &Servant<'_>, work: impl FnOnce() -> i32) -> Result<OwnedFd, SysError> {
    let parent = nix::unistd::getpid();
    match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Parent { pidfd, .. } => Ok(pidfd),
        Forked::Child => {
            let status = match settle(servant, parent) {
                Ok(()) => work(),
                Err(_) => 125,
            };
            std::process::exit(status)
        }
    }
}

fn settle(servant: &Servant<'_>, parent: nix::unistd::Pid) -> Result<(), SysError> {
    crate::sys::heap::give_back();
    crate::sys::process::hide_command_line(servant.name);
    crate::sys::process::close_others(3, servant.keep).map_err(SysError::of("close_range", ""))?;
    if servant.dies_with_parent {
        let _ = crate::sys::process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
        // It may have died before.
        if nix::unistd::getppid() != parent {
            return Err(SysError { call: "getppid", args: String::new(), errno: nix::errno::Errno::ESRCH });
        }
        return Ok(());
    }
    nix::unistd::setsid().map_err(SysError::of("setsid", ""))?;
    let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())
        .map_err(SysError::of("open", "/dev/null"))?;
    nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .and_then(|()| nix::unistd::dup2_stderr(&null))
        .map_err(SysError::of("dup2", "/dev/null"))?;
    match nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
        // On the host, where nothing of ours is mounted.
        Err(nix::errno::Errno::EPERM) => Ok(()),
        other => other.map_err(SysError::of("unshare", "CLONE_NEWNS")),
    }
}

/// Forks the supervisor into a user namespace that is there: of a running container, `namespace` being the pidfd of its
/// init, since what is shared with it (network, IPC, pids) belongs to that user namespace, and nobody outside of it may
/// join; or one that is held.
///
/// The supervisor is a child of the caller, by way of a joiner that exits.
pub fn supervisor_beside(namespace: BorrowedFd<'_>, own_pids: bool) -> Result<Side, UsernsError> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(SysError::of("pipe2", "O_CLOEXEC"))?;
    let (ours, theirs) = crate::init::handshake::pair()?;
    match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Child => {
            drop(ours);
            let joined = crate::sys::process::setns(namespace, libc::CLONE_NEWUSER)
                .map_err(SysError::of("setns", "CLONE_NEWUSER"))
                .and_then(|()| {
                    let flags = libc::CLONE_PARENT as u64 | if own_pids { libc::CLONE_NEWPID as u64 } else { 0 };
                    clone3(flags, None).map_err(SysError::of("clone3", "CLONE_PARENT|CLONE_NEWPID"))
                });
            match joined {
                Ok(Forked::Child) => {
                    drop((write, theirs));
                    Ok(Side::Supervisor(MapsPending { maps: read }))
                }
                Ok(Forked::Parent { pidfd, .. }) => {
                    let told = theirs.report(&Report::Process(pidfd));
                    std::process::exit(i32::from(told.is_err()))
                }
                Err(error) => {
                    let _ = theirs.report(&Report::Failed { code: 125, message: error.to_string() });
                    std::process::exit(125)
                }
            }
        }
        Forked::Parent { pidfd: joiner, .. } => {
            drop((read, theirs));
            let report = ours.receive()?;
            let _ = crate::sys::process::wait(joiner.as_fd(), true);
            match report {
                Report::Process(pidfd) => Ok(Side::Parent(Parent { pid: None, pidfd, maps: write })),
                Report::Failed { message, .. } => Err(UsernsError::Join(message)),
                _ => Err(UsernsError::Join("the container has exited".into())),
            }
        }
    }
}

/// One end of the fork of [`child_by_joiner`].
#[derive(Debug)]
pub enum Birth<T> {
    /// In the child: what the joiner has prepared.
    Child(T),
    /// In the caller.
    Parent {
        /// The child's pid, as the `/proc` that the caller sees counts.
        pid: i32,
        /// The child's pidfd.
        pidfd: OwnedFd,
    },
}

/// Clones a child of the caller by way of a joiner, which does `prepare` first and exits: whatever that joins, makes its
/// own or opens, the caller does not.
///
/// # Errors
/// What `prepare` failed with, as text, or the call that failed.
pub fn child_by_joiner<T>(
    prepare: impl FnOnce() -> Result<T, String>,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Birth<T>, JoinError> {
    let (ours, theirs) = crate::init::handshake::pair()?;
    match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Child => {
            drop(ours);
            let cloned = prepare().and_then(|prepared| {
                let cloned = clone3(flags | libc::CLONE_PARENT as u64, cgroup);
                let cloned = cloned.map_err(SysError::of("clone3", format!("{flags:#x}")));
                cloned.map(|cloned| (prepared, cloned)).map_err(|error| error.to_string())
            });
            let told = match cloned {
                Ok((prepared, Forked::Child)) => return Ok(Birth::Child(prepared)),
                Ok((_, Forked::Parent { pidfd, .. })) => theirs.report(&Report::Process(pidfd)),
                Err(message) => theirs.report(&Report::Failed { code: 125, message }),
            };
            std::process::exit(i32::from(told.is_err()))
        }
        Forked::Parent { pidfd: joiner, .. } => {
            drop(theirs);
            let report = ours.receive()?;
            let _ = crate::sys::process::wait(joiner.as_fd(), true);
            match report {
                Report::Process(pidfd) => {
                    let pid = super::pidfd::host_pid(pidfd.as_fd()).unwrap_or(0);
                    Ok(Birth::Parent { pid, pidfd })
                }
                Report::Failed { message, .. } => Err(JoinError::Failed(message)),
                _ => Err(JoinError::Gone),
            }
        }
    }
}

/// Why there is no child of a joiner.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A kernel call of the caller's failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// The joiner failed, and said why.
    #[error("{0}")]
    Failed(String),
    /// The joiner was killed.
    #[error("the process that makes the container was killed")]
    Gone,
}

/// Clones a child of the caller into the pid namespace at `path`, which only children can join.
///
/// The namespace is entered by a joiner that exits, so that whatever the caller clones later stays out of it.
///
/// # Errors
/// [`JoinError`].
pub fn child_in_pid_namespace(path: &Path, flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked, JoinError> {
    let prepare = || join(path, libc::CLONE_NEWPID).map_err(|error| error.to_string());
    Ok(match child_by_joiner(prepare, flags, cgroup)? {
        Birth::Child(()) => Forked::Child,
        Birth::Parent { pid, pidfd } => Forked::Parent { pid, pidfd },
    })
}

/// Joins the namespace at `path`, which must be of this kind, `CLONE_NEW*`.
///
/// # Errors
/// The call that failed.
pub fn join(path: &Path, kind: i32) -> Result<(), SysError> {
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let fd =
        nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty()).map_err(SysError::of("open", path.display()))?;
    crate::sys::process::setns(fd.as_fd(), kind).map_err(SysError::of("setns", path.display()))
}
