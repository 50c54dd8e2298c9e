//! One forwarded TCP connection: two sockets, two flows, half-close and reset passed on.
//!
//! ```text
//!            ┌──────────── up ────────────┐
//! client ──▶ outer ──splice──▶ pipe ──splice──▶ inner ──▶ service
//!            ◀─────────── down ───────────┘
//! ```
//! Sockets are watched edge-triggered, once, for everything: a flow remembers which of its ends were ready and tries
//! until the kernel says otherwise. A flow whose receiver does not read stops after one pipe.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use super::pipe::{Pipe, Pool};
use crate::sys;

/// How much one flow may move before others get their turn, in bytes.
const TURN: usize = 1024 * 1024;

/// The most that a pipe holds, in bytes. It has room for more: a slot of it takes what a packet has, which may be 32 KiB.
const MOST_HELD: usize = 256 * 1024;

/// Idle seconds after which a service that has closed its side is asked whether it is still there. If it closed for
/// good, its kernel says so, and a client that never closes is not kept for ever.
const HALF_CLOSED_IDLE_SECONDS: u32 = 60;

/// Which of a connection's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The client's.
    Outer,
    /// The container's.
    Inner,
}

/// What is to be done with a connection after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: wait for events.
    Wait,
    /// It has more to do and gave way to others.
    Again,
    /// The container refused; try another way or give up.
    Refused,
    /// Both sides are through.
    Close,
    /// One side was torn down; tear down the other.
    Reset,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) outer: OwnedFd,
    pub(super) inner: OwnedFd,
    pub(super) peer: SocketAddr,
    pub(super) container_port: u16,
    /// Whether it was turned from IPv6 to IPv4 already.
    pub(super) is_fallback: bool,
    /// Until when a service that refuses it is asked again: it may not listen yet.
    pub(super) patient_until: Option<Instant>,
    /// Whether it waits in the queue of those that gave way.
    pub(super) is_queued: bool,
    connected: bool,
    up: Flow,
    down: Flow,
}

impl Connection {
    pub(super) fn new(outer: OwnedFd, inner: OwnedFd, peer: SocketAddr, container_port: u16) -> Self {
        Self {
            outer,
            inner,
            peer,
            container_port,
            is_fallback: false,
            patient_until: None,
            is_queued: false,
            connected: false,
            up: Flow::default(),
            down: Flow::default(),
        }
    }

    /// Takes note of an event.
    pub(super) fn on_event(&mut self, side: Side, events: EpollFlags) -> Verdict {
        let failed = events.contains(EpollFlags::EPOLLERR);
        if side == Side::Inner && !self.connected {
            if failed || events.contains(EpollFlags::EPOLLHUP) {
                return Verdict::Refused;
            }
            self.connected = events.contains(EpollFlags::EPOLLOUT);
        } else if failed {
            return Verdict::Reset;
        }
        let (reads, writes) = match side {
            Side::Outer => (&mut self.up, &mut self.down),
            Side::Inner => (&mut self.down, &mut self.up),
        };
        reads.readable |= events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        writes.writable |= events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP);
        Verdict::Again
    }

    /// Moves what can be moved.
    pub(super) fn pump(&mut self, pool: &mut Pool) -> Verdict {
        if !self.connected {
            return Verdict::Wait;
        }
        let up = self.up.pump(self.outer.as_fd(), self.inner.as_fd(), pool);
        let was_half_closed = self.down.done;
        let down = self.down.pump(self.inner.as_fd(), self.outer.as_fd(), pool);
        match (up, down) {
            (Ok(_), Ok(_)) if self.up.done && self.down.done => Verdict::Close,
            (Ok(more_up), Ok(more_down)) => {
                if self.down.done && !was_half_closed {
                    let _ = setsockopt(&self.inner, sockopt::KeepAlive, &true);
                    let _ = setsockopt(&self.inner, sockopt::TcpKeepIdle, &HALF_CLOSED_IDLE_SECONDS);
                }
                if more_up || more_down { Verdict::Again } else { Verdict::Wait }
            }
            _ => Verdict::Reset,
        }
    }

    /// Replaces the socket into the container by another that is about to connect.
    pub(super) fn replace_inner(&mut self, inner: OwnedFd) {
        self.inner = inner;
        self.is_fallback = true;
    }

    /// Gives the pipes back that are empty, and drops the others with what is in them.
    pub(super) fn dismantle(mut self, pool: &mut Pool, reset: bool) {
        for flow in [&mut self.up, &mut self.down] {
            if flow.held == 0
                && let Some(pipe) = flow.pipe.take()
            {
                pool.give_back(pipe);
            }
        }
        if reset {
            sys::set_linger_zero(self.outer.as_fd());
            sys::set_linger_zero(self.inner.as_fd());
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    readable: bool,
    writable: bool,
    /// The sender has closed.
    ended: bool,
    /// And so have we, towards the receiver.
    done: bool,
}

impl Flow {
    /// Moves bytes until an end is not ready, or the turn is over: then it returns true.
    ///
    /// # Errors
    /// A socket's error; both are to be torn down.
    fn pump(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, pool: &mut Pool) -> Result<bool, Errno> {
        let mut moved = 0;
        while moved < TURN {
            let mut progress = false;
            if self.readable && !self.ended && self.held < MOST_HELD {
                let pipe = match self.pipe.take() {
                    Some(pipe) => pipe,
                    None => pool.lend()?,
                };
                let read = sys::splice_in(from, pipe.write(), MOST_HELD - self.held);
                self.pipe = Some(pipe);
                match read {
                    Ok(0) => self.ended = true,
                    Ok(len) => {
                        self.held += len;
                        progress = true;
                    }
                    // Nothing to read, or, if there is something in the pipe, perhaps no room in it: then the flag
                    // stays and reading is tried again when the pipe has been emptied.
                    Err(Errno::EAGAIN) => self.readable = self.held > 0,
                    Err(Errno::EINTR) => progress = true,
                    Err(errno) => return Err(errno),
                }
            }
            if self.writable
                && self.held > 0
                && let Some(pipe) = &self.pipe
            {
                match sys::splice_out(pipe.read(), to, self.held) {
                    Ok(len) => {
                        self.held -= len.min(self.held);
                        moved += len;
                        progress = true;
                    }
                    Err(Errno::EAGAIN) => self.writable = false,
                    Err(Errno::EINTR) => progress = true,
                    Err(errno) => return Err(errno),
                }
            }
            if self.held == 0
                && let Some(pipe) = self.pipe.take_if(|_| !progress || self.ended)
            {
                pool.give_back(pipe);
            }
            if self.ended && self.held == 0 && !self.done {
                self.done = true;
                match shutdown(to.as_raw_fd(), Shutdown::Write) {
                    Ok(()) | Err(Errno::ENOTCONN) => {}
                    Err(errno) => return Err(errno),
                }
            }
            if !progress {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
