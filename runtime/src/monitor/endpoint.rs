//! A client's standard descriptors, written and read without ever blocking the supervisor and without touching their
//! flags.
//!
//! `O_NONBLOCK` belongs to the open file description, which a client shares with its shell and with whatever runs
//! after it: setting it there breaks other programs. So each kind has its own way:
//!
//! | kind | way |
//! |---|---|
//! | pipe, FIFO, terminal | opened anew through `/proc/self/fd` with `O_NONBLOCK`: a description of our own |
//! | those, when the kernel refuses (owner is another user) | one write of at most `PIPE_BUF` after each `POLLOUT` |
//! | socket | `MSG_DONTWAIT` |
//! | regular file, `/dev/null` and other devices | plain calls: they do not wait for a peer |
//!
//! A terminal whose output the user has stopped (^S) can block the second way; its own description cannot.
//!
//! **Runs in:** the supervisor, and the CLI of an `exec -t`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use nix::unistd::write;

use crate::process::pty::is_terminal;
use crate::sys::monitor as sys;

/// What a pipe takes whole or not at all, and always when it has room for a byte.
const PIPE_BUF: usize = 4096;

/// How to keep a descriptor from blocking us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Its description is ours and has `O_NONBLOCK`.
    OwnDescription,
    /// Only after poll, and little at once.
    Careful,
    /// By flags of each call.
    Socket,
    /// It does not wait for a peer.
    Plain,
}

/// Takes over a descriptor for one direction.
fn adopt(fd: OwnedFd, direction: OFlag) -> (OwnedFd, Way) {
    let Ok(stat) = fstat(&fd) else { return (fd, Way::Careful) };
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let waits = match kind {
        SFlag::S_IFSOCK => return (fd, Way::Socket),
        SFlag::S_IFIFO => true,
        // Opening /dev/ptmx anew would make another pty instead of reaching this one.
        SFlag::S_IFCHR if (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2) => return (fd, Way::Careful),
        SFlag::S_IFCHR => is_terminal(fd.as_fd()),
        _ => false,
    };
    if !waits {
        return (fd, Way::Plain);
    }
    // O_NOCTTY: a session leader without a terminal, as S is, must not acquire this one.
    let flags = direction | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match open(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str(), flags, Mode::empty()) {
        Ok(own) => (own, Way::OwnDescription),
        Err(_) => (fd, Way::Careful),
    }
}

/// A descriptor that a client reads from on its side: its stdout or stderr.
///
/// What it did not take yet is kept. Who feeds it must not push more while [`Sink::is_pending`]: that is the
/// back-pressure that bounds memory.
#[derive(Debug)]
pub(crate) struct Sink {
    fd: OwnedFd,
    way: Way,
    pending: Vec<u8>,
    written: usize,
}

impl Sink {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let (fd, way) = adopt(fd, OFlag::O_WRONLY);
        Self { fd, way, pending: Vec::new(), written: 0 }
    }

    /// Whether bytes wait for the client to read; then watch [`Sink::as_fd`] for room and call [`Sink::flush`].
    pub(crate) fn is_pending(&self) -> bool {
        self.written < self.pending.len()
    }

    /// Writes as much as the client takes now and keeps the rest.
    ///
    /// # Errors
    /// `EPIPE`, `ENOSPC` …: the client will take nothing any more.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> nix::Result<()> {
        let taken = if self.is_pending() || self.way == Way::Careful { 0 } else { self.write_some(bytes)? };
        self.pending.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        Ok(())
    }

    /// Keeps bytes for a client that must not be written to now.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// How many bytes are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Writes kept bytes after poll has reported room.
    ///
    /// # Errors
    /// As [`Sink::push`].
    pub(crate) fn flush(&mut self) -> nix::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let rest = pending.get(self.written..).unwrap_or_default();
        let taken = match self.way {
            Way::Careful => self.write_once(rest.get(..PIPE_BUF).unwrap_or(rest)),
            _ => self.write_some(rest),
        };
        self.pending = pending;
        self.written += taken?;
        if !self.is_pending() {
            // The memory goes back as well: a slow moment must not make an idle supervisor big.
            self.pending = Vec::new();
            self.written = 0;
        }
        Ok(())
    }

    /// Writes until all is taken or no more is; returns how much was.
    fn write_some(&self, bytes: &[u8]) -> nix::Result<usize> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            match self.write_once(rest)? {
                0 => break,
                some => taken += some,
            }
        }
        Ok(taken)
    }

    /// One call; 0 if it would have to wait.
    fn write_once(&self, bytes: &[u8]) -> nix::Result<usize> {
        loop {
            let result = match self.way {
                Way::Socket => sys::send_now(self.fd.as_fd(), bytes),
                _ => write(&self.fd, bytes),
            };
            match result {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                other => return other,
            }
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a client's stdin gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// Bytes are in the buffer.
    Bytes,
    /// Nothing for now.
    Nothing,
    /// The end, or a descriptor that does not work (any more): a terminal that hung up reads as `EIO`.
    End,
}

/// A descriptor that a client writes to on its side: its stdin.
#[derive(Debug)]
pub(crate) struct Source {
    fd: OwnedFd,
    way: Way,
}

impl Source {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let (fd, way) = adopt(fd, OFlag::O_RDONLY);
        Self { fd, way }
    }

    /// Reads once into the spare capacity of `buffer`, after poll has reported something.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>) -> Got {
        let result = match self.way {
            Way::Socket => sys::recv_now(self.fd.as_fd(), buffer),
            _ => sys::read_to_spare(self.fd.as_fd(), buffer),
        };
        match result {
            Ok(0) => Got::End,
            Ok(_) => Got::Bytes,
            Err(Errno::EAGAIN | Errno::EINTR) => Got::Nothing,
            Err(_) => Got::End,
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::event_loop::{Interest, Turn};
    use std::io::{Read, Write, pipe};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use nix::fcntl::{FcntlArg, fcntl};

    fn is_nonblocking(fd: impl AsFd) -> bool {
        OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn a_pipe_is_opened_anew_and_its_own_flags_stay() {
        let (reader, writer) = pipe().unwrap();
        let sink = Sink::new(writer.try_clone().unwrap().into());
        let source = Source::new(reader.try_clone().unwrap().into());
        assert_eq!((sink.way, source.way), (Way::OwnDescription, Way::OwnDescription));
        assert!(is_nonblocking(&sink) && is_nonblocking(&source));
        assert!(!is_nonblocking(&writer) && !is_nonblocking(&reader));
    }

    #[test]
    fn a_terminal_is_opened_anew_but_a_master_is_not() {
        let pty = crate::process::pty::tests::pty();
        assert_eq!(Sink::new(pty.slave.try_clone().unwrap()).way, Way::OwnDescription);
        assert_eq!(Sink::new(pty.master.try_clone().unwrap()).way, Way::Careful);
        assert!(!is_nonblocking(&pty.slave));
    }

    #[test]
    fn files_devices_and_sockets_keep_their_description() {
        assert_eq!(Sink::new(tempfile::tempfile().unwrap().into()).way, Way::Plain);
        assert_eq!(Sink::new(std::fs::File::create("/dev/null").unwrap().into()).way, Way::Plain);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sink = Sink::new(ours.try_clone().unwrap().into());
        assert_eq!(sink.way, Way::Socket);
        assert!(!is_nonblocking(&ours) && !is_nonblocking(&theirs));
    }

    /// Fills `sink` beyond what the kernel buffers, then reads it out while flushing: nothing lost, nothing doubled.
    fn slow_reader_gets_everything(mut sink: Sink, mut reader: impl Read) {
        let sent: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
        for chunk in sent.chunks(30_000) {
            sink.push(chunk).unwrap();
        }
        assert!(sink.is_pending());
        let mut got = vec![0; sent.len()];
        let mut at = 0;
        while at < got.len() {
            at += reader.read(&mut got[at..]).unwrap();
            if sink.is_pending() {
                sink.flush().unwrap();
            }
        }
        assert!(!sink.is_pending() && sink.pending.capacity() == 0);
        assert!(got == sent);
    }

    #[test]
    fn slow_readers_lose_nothing() {
        let (reader, writer) = pipe().unwrap();
        slow_reader_gets_everything(Sink::new(writer.into()), reader);
        let (ours, theirs) = UnixStream::pair().unwrap();
        slow_reader_gets_everything(Sink::new(ours.into()), theirs);
    }

    #[test]
    fn the_careful_way_never_fills_a_pipe_that_has_room() {
        let (mut reader, writer) = pipe().unwrap();
        let mut sink = Sink { fd: writer.into(), way: Way::Careful, pending: Vec::new(), written: 0 };
        sink.push(&[7; 10_000]).unwrap();
        let mut got = Vec::new();
        while sink.is_pending() {
            sink.flush().unwrap();
            let mut buffer = [0; PIPE_BUF];
            let len = reader.read(&mut buffer).unwrap();
            assert!(len <= PIPE_BUF);
            got.extend_from_slice(&buffer[..len]);
        }
        assert_eq!(got, [7; 10_000]);
    }

    #[test]
    fn a_lost_reader_is_an_error_and_a_full_device_too() {
        let (reader, writer) = pipe().unwrap();
        let mut sink = Sink::new(writer.into());
        drop(reader);
        // Until other tests' children have executed something, they have our reader too.
        let error = (0..50_000).find_map(|_| {
            thread::yield_now();
            sink.push(b"x").err()
        });
        assert_eq!(error, Some(Errno::EPIPE));
        let mut full = Sink::new(std::fs::File::create("/dev/full").unwrap().into());
        assert_eq!(full.push(b"x"), Err(Errno::ENOSPC));
    }

    /// Reads as soon as there is something: other tests' children may hold the other side for a moment.
    fn end_of(source: &Source) -> Got {
        let mut turn = Turn::new();
        turn.watch(source.as_fd(), Interest::Read, ());
        turn.wait(None).unwrap();
        source.read(&mut Vec::with_capacity(16))
    }

    #[test]
    fn a_source_tells_bytes_from_silence_and_from_the_end() {
        let (reader, mut writer) = pipe().unwrap();
        let source = Source::new(reader.into());
        let mut buffer = Vec::with_capacity(16);
        assert_eq!(source.read(&mut buffer), Got::Nothing);
        writer.write_all(b"hi").unwrap();
        assert_eq!(source.read(&mut buffer), Got::Bytes);
        assert_eq!(buffer, b"hi");
        drop(writer);
        assert_eq!(end_of(&source), Got::End);
    }

    #[test]
    fn a_terminal_that_hung_up_is_at_its_end() {
        let pty = crate::process::pty::tests::pty();
        let source = Source::new(pty.slave);
        drop(pty.master);
        assert_eq!(end_of(&source), Got::End);
    }
}
