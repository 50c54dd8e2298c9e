//! Reads a log for `logs`: from the start or the last lines, in a span of time, following it while it grows.
//!
//! ```text
//! name.2 → name.1 → name      read in this order; the file that is open is found again by its inode when names shift
//!                     └─ follow: inotify on the directory, until the supervisor's pidfd is readable
//! ```
//! No lock and no timer: records are only appended, and an end without a newline is the record being written.
//!
//! **Runs in:** the CLI.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::uio::pread;

use super::entry::{Selection, Shown, Visitor};
use super::file::generation;
use super::time::Timestamp;
use super::{Stream, record};
use crate::monitor::event_loop::{Interest, Turn};
use crate::sys::monitor::{duplicate, find_byte};

/// Read at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// A log that could not be read, or shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A call on the log failed.
    #[error("{call} log {name:?}: {}", source.desc().to_lowercase())]
    Call {
        /// Which.
        call: &'static str,
        /// The log.
        name: String,
        /// Why.
        source: Errno,
    },
    /// Who was shown the entries failed; a broken pipe is no failure of the command.
    #[error("write log entries: {}", crate::sys::reason(.0))]
    Show(#[source] io::Error),
}

/// For how long to follow a log.
#[derive(Debug, Clone, Copy)]
pub struct Follow<'fd> {
    /// Readable when nobody will write to the log any more: the supervisor's pidfd.
    pub writer_ended: BorrowedFd<'fd>,
    /// Hung up when nobody reads what we show: stdout. `logs -f | head -1` then ends with `head`.
    pub reader_gone: Option<BorrowedFd<'fd>>,
}

/// A log, open for reading.
#[derive(Debug)]
pub struct Reader {
    directory: OwnedFd,
    name: String,
}

/// A file of the log and how far it has been read.
#[derive(Debug)]
struct Position {
    file: OwnedFd,
    offset: i64,
    /// Bytes before `offset` that are the beginning of a record.
    carry: Vec<u8>,
}

/// Events of following.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Changed,
    WriterEnded,
    ReaderGone,
}

fn is_same(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

impl Reader {
    /// The log `name` in a directory. It need not exist: then it is empty so far.
    ///
    /// # Errors
    /// [`ReadError::Call`].
    pub fn new(directory: BorrowedFd<'_>, name: &str) -> Result<Self, ReadError> {
        let source = |source| ReadError::Call { call: "open directory of", name: name.to_owned(), source };
        Ok(Self { directory: duplicate(directory).map_err(source)?, name: name.to_owned() })
    }

    /// Shows the entries of a selection, and with `follow` those to come.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(
        &self,
        selection: &Selection,
        follow: Option<Follow<'_>>,
        visitor: &mut impl Visitor,
    ) -> Result<(), ReadError> {
        // The watch begins before the first read: nothing falls between them.
        let watch = follow.map(|follow| Ok((follow, self.watch()?))).transpose()?;
        let mut shown = Shown::new(*selection, visitor);
        let mut position = match selection.tail {
            Some(lines) => self.last_lines(lines)?,
            None => self.oldest()?,
        };
        self.show_all(&mut position, &mut shown)?;
        let Some((follow, inotify)) = watch else { return Ok(()) };
        let deadline = selection.until.map(instant_of);
        loop {
            let mut turn = Turn::new();
            turn.watch(inotify.as_fd(), Interest::Read, Event::Changed);
            turn.watch(follow.writer_ended, Interest::Read, Event::WriterEnded);
            if let Some(reader) = follow.reader_gone {
                turn.watch(reader, Interest::Hangup, Event::ReaderGone);
            }
            let ready = turn.wait(deadline).map_err(|source| self.failed("wait for", source))?;
            let has = |event| ready.iter().any(|ready| ready.event == event);
            if has(Event::ReaderGone) {
                return Ok(());
            }
            if has(Event::Changed) {
                match inotify.read_events() {
                    Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(source) => return Err(self.failed("watch", source)),
                }
            }
            self.show_all(&mut position, &mut shown)?;
            if ready.is_empty() || has(Event::WriterEnded) {
                return Ok(());
            }
        }
    }

    fn failed(&self, call: &'static str, source: Errno) -> ReadError {
        ReadError::Call { call, name: self.name.clone(), source }
    }

    /// Hears of every change of the directory's files: appended to, made, renamed.
    fn watch(&self) -> Result<Inotify, ReadError> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).map_err(|source| self.failed("watch", source))?;
        let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let path = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        inotify.add_watch(path.as_str(), changes).map_err(|source| self.failed("watch", source))?;
        Ok(inotify)
    }

    fn open(&self, number: u32) -> Result<Option<Position>, ReadError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.directory, generation(&self.name, number).as_str(), flags, Mode::empty()) {
            Ok(file) => Ok(Some(Position { file, offset: 0, carry: Vec::new() })),
            Err(Errno::ENOENT) => Ok(None),
            Err(source) => Err(self.failed("open", source)),
        }
    }

    /// Every generation there is, newest first: its number and what `fstatat` says.
    ///
    /// While names shift one may be missing, between `name.1` becoming `name.2` and `name` becoming `name.1`.
    fn generations(&self) -> Vec<(u32, FileStat)> {
        let stat = |number| {
            let name = generation(&self.name, number);
            fstatat(&self.directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()
        };
        let mut found = Vec::new();
        let mut missing = 0;
        for number in 0.. {
            match stat(number) {
                Some(stat) => {
                    found.push((number, stat));
                    missing = 0;
                }
                None if missing == 1 => break,
                None => missing += 1,
            }
        }
        found
    }

    /// Opens a generation if it is still the one that was seen under this number.
    fn open_seen(&self, seen: &(u32, FileStat)) -> Result<Option<Position>, ReadError> {
        let opened = self.open(seen.0)?;
        Ok(opened.filter(|position| fstat(&position.file).is_ok_and(|stat| is_same(&stat, &seen.1))))
    }

    fn oldest(&self) -> Result<Option<Position>, ReadError> {
        loop {
            let generations = self.generations();
            let Some(oldest) = generations.last() else { return Ok(None) };
            if let Some(position) = self.open_seen(oldest)? {
                return Ok(Some(position));
            }
        }
    }

    /// The file that was begun when this one was full; `None` if this is the current one.
    fn successor(&self, of: &OwnedFd) -> Result<Option<Position>, ReadError> {
        loop {
            let generations = self.generations();
            let this = fstat(of).map_err(|source| self.failed("stat", source))?;
            let newer = match generations.iter().position(|(_, stat)| is_same(stat, &this)) {
                // The newest there is, or the next one is about to be made: we will hear of it.
                Some(0) => return Ok(None),
                Some(at) => generations.get(at - 1),
                // Dropped: what came after it is the oldest that is left.
                None if this.st_nlink == 0 => match generations.last() {
                    None => return Ok(None),
                    oldest => oldest,
                },
                // Renamed while we looked.
                None => None,
            };
            if let Some(newer) = newer
                && let Some(position) = self.open_seen(newer)?
            {
                return Ok(Some(position));
            }
        }
    }

    /// Shows everything from a position to the end of the newest file.
    fn show_all<V: Visitor>(&self, position: &mut Option<Position>, shown: &mut Shown<'_, V>) -> Result<(), ReadError> {
        if position.is_none() {
            *position = self.oldest()?;
        }
        while let Some(current) = position {
            self.show_file(current, shown)?;
            let Some(next) = self.successor(&current.file)? else { break };
            // It is full: what was written between our read and the rotation is its rest.
            self.show_file(current, shown)?;
            *position = Some(next);
        }
        shown.visitor.idle().map_err(ReadError::Show)
    }

    fn show_file<V: Visitor>(&self, position: &mut Position, shown: &mut Shown<'_, V>) -> Result<(), ReadError> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let len = match pread(&position.file, &mut block, position.offset) {
                Ok(len) => len,
                Err(Errno::EINTR) => continue,
                Err(source) => return Err(self.failed("read", source)),
            };
            if len == 0 {
                return self.rewind_if_cut(position);
            }
            position.offset += len as i64;
            let mut rest = block.get(..len).unwrap_or_default();
            while let Some((line, after)) = find_byte(rest, b'\n').and_then(|at| rest.split_at_checked(at)) {
                rest = after.get(1..).unwrap_or_default();
                if position.carry.is_empty() {
                    shown.show(line)?;
                } else {
                    position.carry.extend_from_slice(line);
                    shown.show(&position.carry)?;
                    position.carry.clear();
                }
            }
            position.carry.extend_from_slice(rest);
        }
    }

    /// The writer cuts half a record off when the disk is full.
    fn rewind_if_cut(&self, position: &mut Position) -> Result<(), ReadError> {
        let size = fstat(&position.file).map_err(|source| self.failed("stat", source))?.st_size;
        if size < position.offset {
            position.offset = size;
            position.carry.clear();
        }
        Ok(())
    }

    /// Where the last lines begin. Reads blocks from the end backwards.
    fn last_lines(&self, lines: u64) -> Result<Option<Position>, ReadError> {
        let mut counted = Counted { left: lines, is_open: [false; 2] };
        let mut start = None;
        for seen in self.generations() {
            // Names that shifted meanwhile end the search: the reader would begin in the wrong file.
            let Some(mut position) = self.open_seen(&seen)? else { break };
            let is_enough = self.count_back(&mut position, &mut counted)?;
            start = Some(position);
            if is_enough {
                break;
            }
        }
        Ok(start)
    }

    /// Moves a position to where enough lines follow, or to 0. True if it was enough.
    fn count_back(&self, position: &mut Position, counted: &mut Counted) -> Result<bool, ReadError> {
        let failed = |source| self.failed("read", source);
        let mut begin = fstat(&position.file).map_err(failed)?.st_size;
        // Records from `begin` on that are not counted yet; the last may lack its newline.
        let mut text: Vec<u8> = Vec::new();
        let mut is_end = true;
        while begin > 0 {
            let len = begin.min(BLOCK_BYTES as i64);
            begin -= len;
            let mut block = vec![0; usize::try_from(len).unwrap_or(0)];
            let got = pread(&position.file, &mut block, begin).map_err(failed)?;
            block.truncate(got);
            block.append(&mut text);
            text = block;
            if is_end {
                // A record without its newline is still being written: it is shown when it is whole.
                let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                text.truncate(whole);
                is_end = text.is_empty();
            }
            // All lines but the first are whole in `text`; the first only at the start of the file.
            while let Some(body) = text.strip_suffix(b"\n") {
                let from = match body.iter().rposition(|byte| *byte == b'\n') {
                    Some(at) => at + 1,
                    None if begin == 0 => 0,
                    None => break,
                };
                if !counted.takes(body.get(from..).unwrap_or_default()) {
                    position.offset = begin + text.len() as i64;
                    return Ok(true);
                }
                text.truncate(from);
            }
        }
        position.offset = 0;
        Ok(false)
    }
}

/// Counts lines from the last to the first.
struct Counted {
    left: u64,
    /// The stream's last counted line may have further parts before.
    is_open: [bool; 2],
}

impl Counted {
    /// Counts a record; false if it belongs to a line too many.
    fn takes(&mut self, line: &[u8]) -> bool {
        let Some(record) = record::parse(line) else { return true };
        let [stdout, stderr] = &mut self.is_open;
        let is_open = match record.stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        };
        if !record.ends_line && *is_open {
            return true;
        }
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        *is_open = true;
        true
    }
}

/// When the clock will show this.
fn instant_of(moment: Timestamp) -> Instant {
    let now = Timestamp::now();
    let nanos = i128::from(moment.secs - now.secs) * 1_000_000_000 + i128::from(moment.nanos) - i128::from(now.nanos);
    // A day at most: later moments are as good as never, and longer waits may not be representable.
    let left = u64::try_from(nanos.max(0)).unwrap_or(u64::MAX);
    let instant = Instant::now();
    instant.checked_add(Duration::from_nanos(left)).unwrap_or(instant)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
