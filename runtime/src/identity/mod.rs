//! Many users with one id: credentials and owners that the kernel cannot have, kept by a notifier.
//!
//! A user without subordinate ids has containers whose user namespace has one id, 0. The kernel then refuses every other:
//! `chown`, `setuid`, `setgroups` fail, so packages cannot be installed and daemons cannot leave root. Here these calls,
//! and those that ask for ids and owners, are answered by a process outside the container, to which a seccomp filter
//! hands them (`crate::security::seccomp::compiler::identity`). What a process is lies in the process itself
//! ([`table`]), what a file is in an attribute of the file ([`owner`]): the notifier keeps nothing that could be lost.
//!
//! ```text
//! container process ── chown, getuid, stat … ──▶ kernel ── listener ──▶ notifier: thread
//!        ▲                                                               │ ids: RLIMIT_LOCKS of the caller
//!        └───────────────── answer, or "go on" ◀─────────────────────────┘ owners: xattr of the file
//! ```
//!
//! # Invariants
//! - **Nothing is isolated by this.** For the kernel every process of the container is the same user: emulated users can
//!   read, write and signal each other's files and processes. The container's walls are those of any other container.
//! - The notifier acts for a process only where it could act itself: paths are resolved by the kernel from the process's
//!   own root, directories and descriptors, without `/proc` links that depend on rights.
//! - It never waits for a container: what it needs of one is in the kernel, and slow calls have threads of their own.
//! - No state of a process is kept outside of the process; a hostile one can only spoil its own.
//!
//! # What does not agree
//! `/proc/PID/status` and the owners of `/proc/PID` show root; credentials passed over a socket (`SCM_CREDENTIALS`) are
//! the kernel's; credentials belong to the process, not to a thread; symbolic links, devices and sockets keep an owner
//! on the union file system only; a socket that `bind` makes is root's; `io_uring` is not seen; permission bits are
//! checked as for the owner of every file; a process that has a listener of its own cannot be started.
//!
//! | kernel feature | first version | fallback |
//! |---|---|---|
//! | user notification with `CONTINUE` | 5.5 | the filter that lets the calls succeed without effect |
//! | `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` | 5.19 | a signal repeats the call |
//! | `SECCOMP_IOCTL_NOTIF_ADDFD` with `SEND` | 5.14 | files that users make belong to root |
//! | `SECCOMP_IOCTL_NOTIF_SET_FLAGS` | 6.6 | slower answers |
//! | `user.*` attributes on tmpfs | 6.6 | files on tmpfs belong to root |

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod credentials;

pub(crate) mod table;

mod attributes;

mod call;

mod owner;

mod target;

mod files;

mod answer;

mod serve;

pub mod socket;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::serve::{Listener, Surroundings};
use crate::process::spawn::{Servant, servant};
use crate::process::{pidfd_send_signal, wait};
use crate::sys::SysError;
use crate::sys::mount::FsContext;
use crate::sys::notify;

/// How ids are emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulation {
    /// A notifier answers.
    Notify,
    /// Changes succeed and have no effect.
    Succeed,
}

/// What a notifier needs.
#[derive(Debug)]
pub struct Settings {
    /// The first listener: that of the container's init.
    pub listener: OwnedFd,
    /// The container's root directory.
    pub root: OwnedFd,
    /// Where later processes hand in theirs.
    pub socket: Option<socket::Socket>,
}

/// A notifier that runs.
#[derive(Debug)]
pub struct Notifier {
    pidfd: OwnedFd,
}

impl Notifier {
    /// Forks the notifier. The caller is single-threaded and root of the container's user namespace.
    ///
    /// # Errors
    /// The fork's. What fails later ends the notifier.
    pub fn start(settings: Settings) -> Result<Notifier, SysError> {
        let socket = settings.socket.as_ref();
        let mut keep = vec![settings.listener.as_fd(), settings.root.as_fd()];
        keep.extend(socket.map(AsFd::as_fd));
        let role = Servant { name: c"coracle-ids", keep: &keep, dies_with_parent: true };
        let work = || match serve(&settings) {
            Ok(()) => 0,
            Err(_) => 1,
        };
        Ok(Notifier { pidfd: servant(&role, work)? })
    }

    /// For the wait for its death.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Ends it.
    pub fn stop(self) {
        let _ = pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = wait(self.pidfd.as_fd(), true);
    }
}

/// Answers until nobody is left who could call; with a socket, until it is killed.
fn serve(settings: &Settings) -> Result<(), Errno> {
    // What the supervisor's memory, which this is a copy of, owns is never closed.
    let own = |fd: &OwnedFd| fd.try_clone().map_err(|_| Errno::EMFILE);
    notify::interrupt_by_signal()?;
    let mut unblocked = nix::sys::signal::SigSet::empty();
    unblocked.add(nix::sys::signal::Signal::SIGUSR1);
    unblocked.thread_unblock()?;
    let surroundings = Arc::new(Surroundings {
        proc: own_proc()?,
        root: own(&settings.root)?,
        table: table::Table::new(),
        owners: owner::Owners::default(),
        calls: call::Calls::of_machine(),
    });
    let mut listeners = vec![Listener::start(own(&settings.listener)?, Vec::new(), &surroundings)?];
    let mut over: Vec<Arc<Listener>> = Vec::new();
    while settings.socket.is_some() || !listeners.is_empty() || !over.is_empty() {
        let (arrived, ended) = wait_for(settings.socket.as_ref(), &listeners, !over.is_empty());
        if arrived && let Some(arrival) = settings.socket.as_ref().and_then(socket::Socket::accept) {
            // The process under it is refused (`ENOSYS`) what cannot be served.
            listeners.extend(Listener::start(arrival.listener, arrival.groups, &surroundings));
        }
        if ended {
            let (gone, left) = listeners.into_iter().partition(|listener| listener.is_over());
            listeners = left;
            over.extend::<Vec<_>>(gone);
        }
        // A thread may just be on its way to sleep: it is woken until it has seen the end.
        over.retain(|listener| listener.interrupt());
    }
    Ok(())
}

/// Waits; returns whether somebody wants to hand in a listener, and whether one is over.
fn wait_for(socket: Option<&socket::Socket>, listeners: &[Arc<Listener>], soon: bool) -> (bool, bool) {
    let mut fds: Vec<PollFd<'_>> = socket.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    let first = fds.len();
    fds.extend(listeners.iter().map(|listener| PollFd::new(listener.fd().as_fd(), PollFlags::empty())));
    let timeout = if soon {
        PollTimeout::try_from(Duration::from_millis(10)).unwrap_or(PollTimeout::ZERO)
    } else {
        PollTimeout::NONE
    };
    if poll(&mut fds, timeout).is_err() {
        return (false, false);
    }
    let happened = |fd: &PollFd<'_>| fd.revents().is_none_or(|events| !events.is_empty());
    let (sockets, listeners) = fds.split_at_checked(first).unwrap_or_default();
    (sockets.iter().any(happened), listeners.iter().any(happened))
}

/// A procfs that numbers processes as this process's pid namespace does. The one at `/proc` may be that of an outer
/// namespace.
fn own_proc() -> Result<OwnedFd, Errno> {
    let mounted = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .and_then(|()| FsContext::open("proc").and_then(|context| context.mount(0)).map_err(|error| error.errno));
    mounted.or_else(|errno| {
        let is_ours = std::fs::read_link("/proc/self")
            .is_ok_and(|link| link.to_str().and_then(|pid| pid.parse().ok()) == Some(std::process::id()));
        if !is_ours {
            return Err(errno);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open("/proc", flags, nix::sys::stat::Mode::empty())
    })
}

/// Records the owner of a file that is open, as the notifier does.
///
/// # Errors
/// Of `fsetxattr(2)`.
pub(crate) fn record_owner(file: BorrowedFd<'_>, user: u32, group: u32) -> Result<(), Errno> {
    let attributes = notify::statx(file, 0, libc::STATX_BASIC_STATS)?;
    let name = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
    owner::record_at(&name, &attributes, owner::Owner { user, group })
}

/// Puts the calling thread under emulation, before it takes on its ids. Returns the listener that a notifier must get:
/// until it has it, every call that is emulated waits.
///
/// # Errors
/// The loading of the filter that is the last resort.
pub fn enter(wanted: Emulation) -> Result<Option<OwnedFd>, crate::security::seccomp::Error> {
    use crate::security::seccomp::{load_notifying, load_succeeding};
    if wanted == Emulation::Notify
        && table::is_possible()
        && let Ok(listener) = load_notifying()
    {
        return Ok(Some(listener));
    }
    load_succeeding().map(|()| None)
}
