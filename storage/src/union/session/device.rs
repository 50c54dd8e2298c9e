//! One thread's end of the FUSE device: waits for requests, sends answers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::turns::{LOOK, Turns};
use crate::sys;

/// Two ends of one session, for one thread: an answer goes to the end that its request came from.
#[derive(Debug)]
pub(crate) struct Device<'a> {
    turns: &'a Turns,
    /// The thread's number, above 0.
    number: usize,
    /// Reading it sleeps.
    sleeping: OwnedFd,
    /// Reading it does not; missing if the device cannot be cloned.
    looking: Option<OwnedFd>,
}

/// Where a request came from, and how long it is.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    is_looking: bool,
}

impl<'a> Device<'a> {
    /// Takes one end and clones what it needs.
    pub(crate) fn new(turns: &'a Turns, number: usize, end: OwnedFd) -> Self {
        let looking = clone(end.as_fd(), OFlag::O_NONBLOCK).ok();
        Self { turns, number, sleeping: end, looking }
    }

    /// One more end, for another thread.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn another(&self) -> io::Result<OwnedFd> {
        clone(self.sleeping.as_fd(), OFlag::empty()).or_else(|_| self.sleeping.try_clone())
    }

    /// Waits for a request; `None` when the file system is unmounted.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        match self.wait(buffer) {
            Ok(received) => Ok(Some(received)),
            Err(errno) => {
                // Whoever is parked shall see it too.
                self.turns.end(self.number);
                if errno == Errno::ENODEV { Ok(None) } else { Err(errno.into()) }
            }
        }
    }

    fn wait(&self, buffer: &mut [u8]) -> nix::Result<Received> {
        if self.turns.take(self.number) {
            if let Some(looking) = &self.looking
                && let Some(received) = self.look(looking, buffer)?
            {
                return Ok(received);
            }
            self.turns.idle(self.number);
        }
        loop {
            match nix::unistd::read(&self.sleeping, buffer) {
                Ok(len) => {
                    self.turns.received(self.number, false);
                    return Ok(Received { len, is_looking: false });
                }
                // A request that was interrupted before it could be read is ENOENT.
                Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn look(&self, looking: &OwnedFd, buffer: &mut [u8]) -> nix::Result<Option<Received>> {
        let begin = Instant::now();
        let mut was_queued = true;
        loop {
            match nix::unistd::read(looking, &mut *buffer) {
                Ok(len) => {
                    self.turns.received(self.number, was_queued);
                    return Ok(Some(Received { len, is_looking: true }));
                }
                Err(Errno::EAGAIN) => {}
                Err(Errno::EINTR | Errno::ENOENT) => continue,
                Err(errno) => return Err(errno),
            }
            if begin.elapsed() > LOOK {
                return Ok(None);
            }
            was_queued = false;
            // Whoever the processor could serve meanwhile goes first: it may be who sends the next request.
            std::thread::yield_now();
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

fn clone(session: BorrowedFd<'_>, flags: OFlag) -> io::Result<OwnedFd> {
    let fresh = open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC | flags, Mode::empty())?;
    sys::fuse::clone_device(fresh.as_fd(), session)?;
    Ok(fresh)
}
