//! User namespaces and their id maps.
//!
//! Two modes. With a subordinate range and the setuid helpers the container has 65,536 ids or more: 0 is the user, the
//! rest is the range. Without them, or when asked to, it has one id: 0, which is the user; others are emulated
//! ([`crate::identity`]).

pub mod subid;

pub mod idmap;

pub mod newidmap;

/// A user namespace made ahead of its use.
pub mod making;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

pub use idmap::{IdMap, IdMapEntry};

use crate::process::{Exit, Forked, clone3, wait};
use crate::sys::SysError;

/// Why a user namespace could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsernsError {
    /// The kernel or its configuration refuses user namespaces.
    #[error("create a user namespace: {0}")]
    Create(#[source] SysError),
    /// A kernel call failed while the namespace was set up.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// A setuid helper refused.
    #[error("{helper}: {message}")]
    Helper {
        /// `newuidmap` or `newgidmap`.
        helper: &'static str,
        /// What it said, on one line.
        message: String,
    },
    /// A setuid helper could not be started.
    #[error("run {helper}: {}", crate::sys::reason(source))]
    Spawn {
        /// `newuidmap` or `newgidmap`.
        helper: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A container's user namespace could not be joined.
    #[error("join the container's user namespace: {0}")]
    Join(String),
    /// A namespace could not be held.
    #[error("open {path}: {}", crate::sys::reason(source))]
    Open {
        /// The file below `/proc`.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A map could not be written.
    #[error("write {path}: {}", crate::sys::reason(source))]
    Write {
        /// The file below `/proc`.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Why a user has only one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SingleReason {
    /// No entry of the user in this file.
    NoRange(&'static str),
    /// The helper is not in `PATH`.
    NoHelper(&'static str),
    /// The user namespace that we are in has one.
    Outer,
    /// It was asked for: `--userns=single`.
    Asked,
}

/// The ids of a user's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// User ids: container to host.
    pub uids: IdMap,
    /// Group ids: container to host.
    pub gids: IdMap,
    writer: Writer,
    /// Why there is only one id; `None` in the normal mode.
    pub single: Option<SingleReason>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Writer {
    /// The setuid helpers at these paths.
    Helpers { newuidmap: std::path::PathBuf, newgidmap: std::path::PathBuf },
    /// This process writes the files itself.
    Direct,
}

impl Mapping {
    /// The mapping the calling user is entitled to.
    ///
    /// # Source
    /// `subuid(5)`, `newuidmap(1)`, `user_namespaces(7)`.
    pub fn of_user() -> Mapping {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        if uid == 0 {
            // Root, or root of an outer container: hand on every id there is.
            let [uids, gids] = ["/proc/self/uid_map", "/proc/self/gid_map"].map(IdMap::identity_of);
            if uids.len() == 1 || gids.len() == 1 {
                return Mapping::single(uid, gid, SingleReason::Outer);
            }
            return Mapping { uids, gids, writer: Writer::Direct, single: None };
        }
        let single = |reason| Mapping::single(uid, gid, reason);
        let user = subid::Owner::of(uid);
        let Some(uids) = subid::ranges("/etc/subuid", &user) else {
            return single(SingleReason::NoRange("/etc/subuid"));
        };
        let Some(gids) = subid::ranges("/etc/subgid", &user) else {
            return single(SingleReason::NoRange("/etc/subgid"));
        };
        let Some(newuidmap) = newidmap::find("newuidmap") else { return single(SingleReason::NoHelper("newuidmap")) };
        let Some(newgidmap) = newidmap::find("newgidmap") else { return single(SingleReason::NoHelper("newgidmap")) };
        Mapping {
            uids: IdMap::with_ranges(uid, &uids),
            gids: IdMap::with_ranges(gid, &gids),
            writer: Writer::Helpers { newuidmap, newgidmap },
            single: None,
        }
    }

    /// One id, whatever the calling user is entitled to.
    pub fn single_of_user() -> Mapping {
        Mapping::single(nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), SingleReason::Asked)
    }

    fn single(uid: u32, gid: u32, reason: SingleReason) -> Mapping {
        Mapping { uids: IdMap::single(uid), gids: IdMap::single(gid), writer: Writer::Direct, single: Some(reason) }
    }

    /// Writes the maps of process `pid`, which was cloned with `CLONE_NEWUSER` and waits.
    pub fn write(&self, pid: i32) -> Result<(), UsernsError> {
        match &self.writer {
            Writer::Helpers { newuidmap, newgidmap } => {
                newidmap::run_both(newuidmap, newgidmap, pid, &self.uids, &self.gids)
            }
            Writer::Direct => {
                let file = |name: &str, text: &str| {
                    let path = format!("/proc/{pid}/{name}");
                    std::fs::write(&path, text).map_err(|source| UsernsError::Write { path, source })
                };
                file("uid_map", &self.uids.to_proc_text())?;
                if self.single.is_some() {
                    file("setgroups", "deny")?;
                }
                file("gid_map", &self.gids.to_proc_text())
            }
        }
    }

    /// One line that identifies the mapping, for caches of files owned by its ids.
    pub fn signature(&self) -> String {
        format!("u {} g {}", self.uids.to_argument_text(), self.gids.to_argument_text())
    }
}

/// Runs `work` in a child that is root of a user namespace with `mapping`, and waits for it.
///
/// `work` returns the child's exit status. The caller must be single-threaded; the child may start threads.
pub fn run_in(mapping: &Mapping, work: impl FnOnce() -> i32) -> Result<Exit, UsernsError> {
    wait_for(&start_in(mapping, work)?)
}

/// Waits for a child of [`start_in`].
pub fn wait_for(child: &OwnedFd) -> Result<Exit, UsernsError> {
    let exit = wait(child.as_fd(), true).map_err(SysError::of("waitid", "P_PIDFD"))?;
    exit.ok_or(UsernsError::Sys(SysError { call: "waitid", args: "P_PIDFD".into(), errno: Errno::ECHILD }))
}

/// As [`run_in`], without waiting: returns the child's pidfd.
pub fn start_in(mapping: &Mapping, work: impl FnOnce() -> i32) -> Result<OwnedFd, UsernsError> {
    let (go_read, go_write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(SysError::of("pipe2", "O_CLOEXEC"))?;
    match clone3(libc::CLONE_NEWUSER as u64, None)
        .map_err(|errno| UsernsError::Create(SysError { call: "clone3", args: "CLONE_NEWUSER".into(), errno }))?
    {
        Forked::Child => {
            drop(go_write);
            let _ = crate::sys::process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
            let mut byte = [0];
            // End of file means that the parent failed or died: there is nothing to do without ids.
            let status = match nix::unistd::read(&go_read, &mut byte) {
                Ok(1) if become_root().is_ok() => work(),
                _ => 125,
            };
            std::process::exit(status)
        }
        Forked::Parent { pid, pidfd } => {
            drop(go_read);
            mapping.write(pid)?;
            nix::unistd::write(&go_write, b"g").map_err(SysError::of("write", "pipe"))?;
            Ok(pidfd)
        }
    }
}

/// A user namespace with its maps, which is there as long as this is: for work that needs it again and again. To make one
/// takes the setuid helpers, to join it takes nothing.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    /// Makes one. The caller must be single-threaded.
    ///
    /// # Errors
    /// As [`start_in`].
    pub fn new(mapping: &Mapping) -> Result<Self, UsernsError> {
        making::Making::new(mapping)?.namespace().map(Self)
    }

    /// The one that a process of the same user has open by this number.
    pub fn held_by(pid: i32, number: i32) -> Option<Self> {
        std::fs::File::open(format!("/proc/{pid}/fd/{number}")).ok().map(|file| Self(file.into()))
    }

    /// As [`start_in`], for this namespace.
    ///
    /// # Errors
    /// There can be no child.
    pub fn start(&self, work: impl FnOnce() -> i32) -> Result<OwnedFd, UsernsError> {
        let parent = nix::unistd::getpid();
        match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
            Forked::Child => {
                let joined = crate::sys::process::setns(self.0.as_fd(), libc::CLONE_NEWUSER).is_ok();
                let is_root = joined && become_root().is_ok();
                // Not before: more rights undo it. The parent may have died before.
                let _ = crate::sys::process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
                std::process::exit(if is_root && nix::unistd::getppid() == parent { work() } else { 125 })
            }
            Forked::Parent { pidfd, .. } => Ok(pidfd),
        }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `work` in a child that has joined the user namespace of the process behind `process`, without waiting: returns the
/// child's pidfd. A FUSE mount can be looked into from its own user namespace only.
///
/// `work` returns the child's exit status. The caller must be single-threaded.
pub fn start_joined(process: BorrowedFd<'_>, work: impl FnOnce() -> i32) -> Result<OwnedFd, UsernsError> {
    match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Child => {
            let joined = crate::sys::process::setns(process, libc::CLONE_NEWUSER);
            std::process::exit(if joined.is_ok() { work() } else { 125 })
        }
        Forked::Parent { pidfd, .. } => Ok(pidfd),
    }
}

/// Runs `work` in a child that is root of the container whose first process is behind `process`: in its user and mount
/// namespaces, so that every name means what it means there. Returns the child's pidfd without waiting.
///
/// The container cannot look into the child, which is not dumpable and in another pid namespace. `work` must not make the
/// C library load anything; it returns the child's exit status. The caller must be single-threaded.
pub fn start_inside(process: BorrowedFd<'_>, work: impl FnOnce() -> i32) -> Result<OwnedFd, UsernsError> {
    use crate::sys::process::{prctl, setns};
    match clone3(0, None).map_err(SysError::of("clone3", "0"))? {
        Forked::Child => {
            let _ = prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
            let joined = prctl(libc::PR_SET_DUMPABLE, 0)
                .and_then(|()| setns(process, libc::CLONE_NEWUSER | libc::CLONE_NEWNS))
                .is_ok_and(|()| become_root().is_ok());
            std::process::exit(if joined { work() } else { 125 })
        }
        Forked::Parent { pidfd, .. } => Ok(pidfd),
    }
}

/// Whether two processes are in one user namespace; not, if that cannot be told.
///
/// # Source
/// namespaces(7), `/proc/<pid>/ns/user`.
#[must_use]
pub fn is_shared(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let of = |pidfd| std::fs::read_link(format!("/proc/{}/ns/user", crate::process::pidfd::host_pid(pidfd)?)).ok();
    of(one).is_some_and(|namespace| Some(namespace) == of(other))
}

/// Takes id 0 of the user namespace, once its maps are written.
pub fn become_root() -> Result<(), SysError> {
    crate::sys::process::set_ids(0, 0).map_err(SysError::of("setresuid", "0, 0, 0"))
}
