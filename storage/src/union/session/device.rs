//! One thread's end of the FUSE device: waits for requests, sends answers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::sys;

/// How long a thread looks for the next request before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// Two ends of one session, for one thread: an answer goes to the end that its request came from.
#[derive(Debug)]
pub(crate) struct Device {
    /// Reading it sleeps.
    sleeping: OwnedFd,
    /// Reading it does not; missing if the device cannot be cloned.
    looking: Option<OwnedFd>,
    /// Mean time between requests of late.
    gap: Duration,
}

/// Where a request came from, and how long it is.
pub(crate) struct Received {
    pub(crate) len: usize,
    is_looking: bool,
}

impl Device {
    /// Takes one end and clones what it needs.
    pub(crate) fn new(end: OwnedFd) -> Self {
        let looking = clone(end.as_fd(), OFlag::O_NONBLOCK).ok();
        Self { sleeping: end, looking, gap: SPIN * 4 }
    }

    /// One more end for another thread.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn another(&self) -> io::Result<OwnedFd> {
        Ok(clone(self.sleeping.as_fd(), OFlag::empty())
            .or_else(|_| self.sleeping.try_clone().map_err(|_| Errno::EMFILE))?)
    }

    /// Waits for a request; `None` when the file system is unmounted.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let begin = Instant::now();
        let received = self.wait(buffer, begin);
        let waited = begin.elapsed().min(SPIN * 4);
        self.gap = (self.gap * 3 + waited) / 4;
        match received {
            Ok(received) => Ok(Some(received)),
            Err(Errno::ENODEV) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn wait(&self, buffer: &mut [u8], begin: Instant) -> nix::Result<Received> {
        if let Some(looking) = self.looking.as_ref().filter(|_| self.gap < SPIN) {
            while begin.elapsed() < SPIN {
                match nix::unistd::read(looking, buffer) {
                    Ok(len) => return Ok(Received { len, is_looking: true }),
                    Err(Errno::EAGAIN) => std::thread::yield_now(),
                    Err(Errno::EINTR | Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        loop {
            match nix::unistd::read(&self.sleeping, buffer) {
                Ok(len) => return Ok(Received { len, is_looking: false }),
                // A request that was interrupted before it could be read is ENOENT.
                Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// The kernel's errno: `ENOENT` if nobody waits for it any more, `EINVAL` if it is not one.
    pub(crate) fn send(&self, received: &Received, answer: &[u8]) -> nix::Result<()> {
        let end = match &self.looking {
            Some(looking) if received.is_looking => looking,
            _ => &self.sleeping,
        };
        nix::unistd::write(end, answer).map(drop)
    }
}

fn clone(session: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
    let fresh = open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC | flags, Mode::empty())?;
    sys::fuse::clone_device(fresh.as_fd(), session)?;
    Ok(fresh)
}
