//! Waits for named events.
//!
//! One [`Turn`] is one wait: it is filled with what matters *now* and consumed by the wait. So interest is a pure
//! function of the supervisor's state, and nothing stale can be registered. That, and that regular files work, is why
//! this is `poll(2)` and not epoll: epoll's registrations belong to open file descriptions, which S shares with P and
//! the user's shell, and outlive our descriptors. With some ten descriptors poll costs nothing.
//!
//! ```
//! use runtime::monitor::event_loop::{Interest, Turn};
//! # use std::os::fd::AsFd;
//! #[derive(Clone, Copy, Debug, PartialEq)]
//! enum Event { Output, Exited }
//! # let (output, writer) = std::io::pipe().unwrap();
//! # let (pidfd, _init) = std::io::pipe().unwrap();
//! # drop(writer);
//! let mut turn = Turn::new();
//! turn.watch(output.as_fd(), Interest::Read, Event::Output);
//! turn.watch(pidfd.as_fd(), Interest::Read, Event::Exited);
//! for ready in turn.wait(None)? {
//!     match ready.event {
//!         Event::Output => assert!(ready.is_hangup),
//!         Event::Exited => {}
//!     }
//! }
//! # Ok::<(), nix::errno::Errno>(())
//! ```
//!
//! **Runs in:** the supervisor and attached clients, single-threaded.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// What about a descriptor is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or the end.
    Read,
    /// Room to write, or nobody who reads.
    Write,
    /// Only that the other side is gone.
    Hangup,
    /// A file of the kernel's has changed since it was read.
    Change,
}

/// An event that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready<E> {
    /// Its name, as given to [`Turn::watch`].
    pub event: E,
    /// The descriptor also reported that its other side is gone (there may still be bytes to read).
    pub is_hangup: bool,
}

/// One wait for any of several events.
#[derive(Debug)]
pub struct Turn<'fd, E> {
    polled: Vec<PollFd<'fd>>,
    named: Vec<E>,
}

impl<E> Default for Turn<'_, E> {
    fn default() -> Self {
        Self { polled: Vec::new(), named: Vec::new() }
    }
}

impl<'fd, E: Copy> Turn<'fd, E> {
    /// A turn without events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event. A descriptor may be added several times; one whose other side is gone is ready for every
    /// interest, so do not watch what you would not act on.
    pub fn watch(&mut self, fd: BorrowedFd<'fd>, interest: Interest, event: E) {
        let flags = match interest {
            Interest::Read => PollFlags::POLLIN,
            Interest::Write => PollFlags::POLLOUT,
            Interest::Hangup => PollFlags::empty(),
            Interest::Change => PollFlags::POLLPRI,
        };
        self.polled.push(PollFd::new(fd, flags));
        self.named.push(event);
    }

    /// Waits until an event happens or the deadline has passed (then the result is empty). Events come in the order
    /// in which they were added.
    ///
    /// # Errors
    /// `EINVAL` above the limit of descriptors, `ENOMEM`.
    ///
    /// # Source
    /// `ppoll(2)`.
    pub fn wait(mut self, deadline: Option<Instant>) -> nix::Result<Vec<Ready<E>>> {
        loop {
            let timeout = deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                TimeSpec::from_duration(left)
            });
            match ppoll(&mut self.polled, timeout, None) {
                Ok(_) => break,
                // Stopped and continued, or traced: signals themselves are blocked and read from a descriptor.
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        let ready = self.polled.iter().zip(&self.named).filter_map(|(polled, event)| {
            let happened = polled.revents().unwrap_or(gone);
            (!happened.is_empty()).then(|| Ready { event: *event, is_hangup: happened.intersects(gone) })
        });
        Ok(ready.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Write, pipe};
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn events_come_by_name_in_the_order_of_adding() {
        let (first, mut first_writer) = pipe().unwrap();
        let (second, mut second_writer) = pipe().unwrap();
        let (silent, _silent_writer) = pipe().unwrap();
        second_writer.write_all(b"x").unwrap();
        first_writer.write_all(b"x").unwrap();
        let mut turn = Turn::new();
        turn.watch(first.as_fd(), Interest::Read, "first");
        turn.watch(silent.as_fd(), Interest::Read, "silent");
        turn.watch(second.as_fd(), Interest::Read, "second");
        turn.watch(second_writer.as_fd(), Interest::Write, "room");
        let names: Vec<_> = turn.wait(None).unwrap().into_iter().map(|ready| (ready.event, ready.is_hangup)).collect();
        assert_eq!(names, [("first", false), ("second", false), ("room", false)]);
    }

    #[test]
    fn end_of_file_and_a_lost_reader_are_hangups() {
        let (reader, writer) = pipe().unwrap();
        drop(writer);
        let (lost, lonely) = pipe().unwrap();
        drop(lost);
        for (number, fd) in [(1, reader.as_fd()), (2, lonely.as_fd())] {
            let mut turn = Turn::new();
            turn.watch(fd, Interest::Hangup, number);
            assert_eq!(turn.wait(None).unwrap(), [Ready { event: number, is_hangup: true }]);
        }
    }

    #[test]
    fn a_deadline_ends_the_wait_without_events() {
        let (reader, _writer) = pipe().unwrap();
        let mut turn = Turn::new();
        turn.watch(reader.as_fd(), Interest::Read, ());
        let start = Instant::now();
        assert_eq!(turn.wait(Some(start + Duration::from_millis(5))).unwrap(), []);
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert_eq!(Turn::<()>::new().wait(Some(start)).unwrap(), []);
    }

    #[test]
    fn regular_files_are_always_ready() {
        let file = tempfile::tempfile().unwrap();
        let mut turn = Turn::new();
        turn.watch(file.as_fd(), Interest::Write, ());
        assert_eq!(turn.wait(None).unwrap(), [Ready { event: (), is_hangup: false }]);
    }
}
