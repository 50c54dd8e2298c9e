//! Pipes between two sockets, lent for as long as bytes are in them: a connection that rests has none.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

/// How much a pipe is asked to hold, in bytes. Less costs system calls, more leaves the processor's cache.
const SIZE: i32 = 256 * 1024;

/// Empty pipes that are kept for the next connection with data.
const KEEP: usize = 8;

#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    pub(super) fn read(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    pub(super) fn write(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

/// The empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pool {
    empty: Vec<Pipe>,
}

impl Pool {
    /// Lends an empty pipe.
    pub(super) fn lend(&mut self) -> Result<Pipe, Errno> {
        if let Some(pipe) = self.empty.pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused beyond the user's share of pipe memory; the pipe is smaller then, and works.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(SIZE));
        Ok(Pipe { read, write })
    }

    /// Takes a pipe back, which must be empty.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.empty.len() < KEEP {
            self.empty.push(pipe);
        }
    }
}
