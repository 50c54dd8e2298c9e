//! The threads that answer: who waits for calls, and what each call is answered with.
//!
//! ```text
//! main ── poll ── socket of `exec`s ──▶ a listener more
//!   │        └─── listeners: nobody is left under the filter ──▶ interrupt its threads
//!   └─ per listener: thread ── receive ── answer ── receive …
//!                    a thread that takes a call and leaves none waiting starts one more
//! ```
//! So a call that takes long, because it reaches a file system whose server sleeps, holds up nobody else: at most
//! [`MAX_THREADS`] such calls at once. Idle threads beyond [`MAX_IDLE`] end.
//!
//! **Runs in:** the notifier, a fork of the supervisor; each thread has a root and working directory of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};

use super::call::Calls;
use super::owner::{Owners, name_of};
use super::table::Table;
use super::target::Target;
use super::{answer, files};
use crate::sys::notify;

/// Calls that are answered at once, for each listener.
const MAX_THREADS: usize = 64;
/// Threads that wait for calls, for each listener.
const MAX_IDLE: usize = 8;
const STACK_BYTES: usize = 128 << 10;

/// What all threads share.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// A procfs that counts processes as this one does.
    pub(super) proc: OwnedFd,
    /// The container's root directory.
    pub(super) root: OwnedFd,
    pub(super) table: Table,
    pub(super) owners: Owners,
    pub(super) calls: Calls,
}

/// A filter's notifications.
#[derive(Debug)]
pub(super) struct Listener {
    fd: OwnedFd,
    /// What a first `setgroups` is about whose memory cannot be read.
    groups: Mutex<Vec<u32>>,
    waiting: AtomicUsize,
    threads: Mutex<Vec<i32>>,
}

/// How a call ends.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The kernel executes it.
    Continue,
    /// It returns this.
    Value(i64),
    /// It returns a descriptor for this.
    Descriptor { fd: OwnedFd, close_on_exec: bool },
}

impl Listener {
    /// Begins to answer. There is at least one thread, or an error.
    pub(super) fn start(
        fd: OwnedFd,
        groups: Vec<u32>,
        surroundings: &Arc<Surroundings>,
    ) -> Result<Arc<Listener>, Errno> {
        notify::wake_synchronously(fd.as_fd());
        let (waiting, threads) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let listener = Arc::new(Listener { fd, groups: Mutex::new(groups), waiting, threads });
        listener.add_thread(surroundings)?;
        Ok(listener)
    }

    /// Whether nobody is left who could call.
    pub(super) fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// For the wait for [`Self::is_over`].
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Makes threads look at the end: kernels before 6.11 leave them asleep. Returns whether there is one left.
    pub(super) fn interrupt(&self) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.iter() {
            notify::interrupt(*thread);
        }
        !threads.is_empty()
    }

    fn add_thread(self: &Arc<Self>, surroundings: &Arc<Surroundings>) -> Result<(), Errno> {
        let (listener, surroundings) = (Arc::clone(self), Arc::clone(surroundings));
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let started = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || listener.run(&surroundings));
        started.map(drop).map_err(|_| {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            Errno::EAGAIN
        })
    }

    fn run(self: &Arc<Self>, surroundings: &Arc<Surroundings>) {
        let own = nix::unistd::gettid().as_raw();
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(own);
        if prepare(surroundings).is_ok() {
            self.answer_all(surroundings);
        }
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).retain(|thread| *thread != own);
    }

    fn answer_all(self: &Arc<Self>, surroundings: &Arc<Surroundings>) {
        loop {
            let call = match notify::receive(self.fd.as_fd()) {
                Ok(call) => call,
                Err(Errno::EINTR | Errno::ENOENT) if !self.is_over() => continue,
                Err(_) => break,
            };
            if self.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
                let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).len();
                if threads < MAX_THREADS {
                    // Without one more, calls wait for this one.
                    let _ = self.add_thread(surroundings);
                }
            }
            self.answer(surroundings, call);
            if self.waiting.fetch_add(1, Ordering::SeqCst) >= MAX_IDLE {
                break;
            }
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn answer(&self, surroundings: &Surroundings, call: notify::Notification) {
        let fd = self.fd.as_fd();
        let mut target = Target::new(surroundings, fd, &self.groups, call);
        let outcome = answer::outcome(&mut target);
        // A thread that cannot go back to the container's root would resolve the next path elsewhere.
        if target.leave().is_err() {
            std::process::abort();
        }
        // Whoever is gone needs no answer.
        let _ = match outcome {
            Ok(Outcome::Continue) => notify::answer_continue(fd, call.id),
            Ok(Outcome::Value(value)) => notify::answer(fd, call.id, Ok(value)),
            Ok(Outcome::Descriptor { fd: source, close_on_exec }) => {
                match notify::answer_with_fd(fd, call.id, source.as_fd(), close_on_exec) {
                    Err(errno) if errno != Errno::ENOENT => notify::answer(fd, call.id, Err(errno)),
                    other => other,
                }
            }
            Err(errno) => notify::answer(fd, call.id, Err(errno)),
        };
    }
}

/// A thread's root is the container's, its working directory `/proc/self/fd`, for [`name_of`].
fn prepare(surroundings: &Surroundings) -> Result<(), Errno> {
    notify::unshare_directories()?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let own = openat(surroundings.proc.as_fd(), "self/fd", flags, Mode::empty())?;
    nix::unistd::fchdir(&own)?;
    umask(Mode::empty());
    nix::unistd::chroot(name_of(surroundings.root.as_fd()).as_c_str())?;
    files::check(surroundings)
}
