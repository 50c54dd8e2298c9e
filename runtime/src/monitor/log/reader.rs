//! Reads a log for `logs`: from the start or the last lines, in a span of time, following it while it grows.
//!
//! ```text
//! name.2 → name.1 → name      read in this order; the file that is open is found again by its inode when names shift
//!                     └─ follow: inotify on the directory, until the supervisor's pidfd is readable
//! ```
//! No lock and no timer: records are only appended, and an end without a newline is the record being written.
//!
//! **Runs in:** the CLI.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::uio::pread;

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

/// Which entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// So many lines at the end; all if absent. Of two streams that write parts of lines in turns, the first line of
    /// one may miss its beginning.
    pub tail: Option<u64>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Not newer than this; following ends then.
    pub until: Option<Timestamp>,
    /// Those of stdout.
    pub stdout: bool,
    /// Those of stderr.
    pub stderr: bool,
}

/// Everything.
impl Default for Selection {
    fn default() -> Self {
        Self { tail: None, since: None, until: None, stdout: true, stderr: true }
    }
}

/// For how long to follow a log.
#[derive(Debug, Clone, Copy)]
pub struct Follow<'fd> {
    /// Readable when nobody will write to the log any more: the supervisor's pidfd.
    pub writer_ended: BorrowedFd<'fd>,
    /// Hung up when nobody reads what we show: stdout. `logs -f | head -1` then ends with `head`.
    pub reader_gone: Option<BorrowedFd<'fd>>,
}

/// A line, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it was read from the container.
    pub time: Timestamp,
    /// The offset from UTC in seconds that it was logged with.
    pub offset_s: i32,
    /// Where it was written to.
    pub stream: Stream,
    /// Without the newline.
    pub text: &'a [u8],
    /// The entry before it on this stream ended a line.
    pub starts_line: bool,
    /// A newline follows.
    pub ends_line: bool,
}

/// Who is shown the entries.
pub trait Visitor {
    /// Takes one entry.
    ///
    /// # Errors
    /// Its own; reading ends then.
    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()>;

    /// There is no more for now.
    ///
    /// # Errors
    /// Its own; reading ends then.
    fn idle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shows entries as the container wrote them, to two writers.
#[derive(Debug)]
pub struct Printer<O, E> {
    stdout: O,
    stderr: E,
    timestamps: bool,
    head: Vec<u8>,
}

impl<O: Write, E: Write> Printer<O, E> {
    /// With `timestamps`, each line begins with its time, in podman's and docker's form.
    pub fn new(stdout: O, stderr: E, timestamps: bool) -> Self {
        Self { stdout, stderr, timestamps, head: Vec::new() }
    }
}

impl<O: Write, E: Write> Visitor for Printer<O, E> {
    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let out: &mut dyn Write = match entry.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if self.timestamps && entry.starts_line {
            self.head.clear();
            entry.time.write_with_offset(entry.offset_s, &mut self.head);
            // Go's layout has Z for no offset.
            if entry.offset_s == 0 {
                self.head.truncate(self.head.len().saturating_sub("+00:00".len()));
                self.head.push(b'Z');
            }
            self.head.push(b' ');
            out.write_all(&self.head)?;
        }
        out.write_all(entry.text)?;
        if entry.ends_line { out.write_all(b"\n") } else { Ok(()) }
    }

    fn idle(&mut self) -> io::Result<()> {
        self.stdout.flush()?;
        self.stderr.flush()
    }
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
        let mut shown = Shown { selection: *selection, visitor, in_line: [false; 2] };
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

/// The entries on their way to a visitor.
struct Shown<'v, V> {
    selection: Selection,
    visitor: &'v mut V,
    in_line: [bool; 2],
}

impl<V: Visitor> Shown<'_, V> {
    fn show(&mut self, line: &[u8]) -> Result<(), ReadError> {
        let Some(record) = record::parse(line) else { return Ok(()) };
        let [stdout, stderr] = &mut self.in_line;
        let (in_line, is_wanted) = match record.stream {
            Stream::Stdout => (stdout, self.selection.stdout),
            Stream::Stderr => (stderr, self.selection.stderr),
        };
        let is_in_time = self.selection.since.is_none_or(|since| record.time >= since)
            && self.selection.until.is_none_or(|until| record.time <= until);
        if !is_wanted || !is_in_time {
            return Ok(());
        }
        let starts_line = !std::mem::replace(in_line, !record.ends_line);
        let entry = Entry {
            time: record.time,
            offset_s: record.offset_s,
            stream: record.stream,
            text: &record.text,
            starts_line,
            ends_line: record.ends_line,
        };
        self.visitor.entry(&entry).map_err(ReadError::Show)
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
mod tests {
    use super::super::{Driver, Limits, Log};
    use super::*;
    use std::io::pipe;
    use std::sync::mpsc;

    struct Fixture {
        directory: tempfile::TempDir,
        handle: std::fs::File,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let handle = std::fs::File::open(directory.path()).unwrap();
            Self { directory, handle }
        }

        fn log(&self, driver: Driver, limits: Limits) -> Log {
            Log::open(driver, self.handle.as_fd(), "log", limits).unwrap()
        }

        fn shown(&self, selection: Selection) -> (String, String) {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let reader = Reader::new(self.handle.as_fd(), "log").unwrap();
            reader.read(&selection, None, &mut Printer::new(&mut out, &mut err, false)).unwrap();
            (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
        }

        fn tail(&self, lines: u64) -> String {
            let (out, err) = self.shown(Selection { tail: Some(lines), ..Selection::default() });
            out + &err
        }
    }

    const DRIVERS: [Driver; 2] = [Driver::K8sFile, Driver::JsonFile];

    #[test]
    fn streams_and_parts_come_back_as_they_were_written() {
        for driver in DRIVERS {
            let fixture = Fixture::new();
            assert_eq!(fixture.shown(Selection::default()), (String::new(), String::new()));
            let mut log = fixture.log(driver, Limits::default());
            for (stream, text) in [
                (Stream::Stdout, "one\ntwo, "),
                (Stream::Stderr, "error: "),
                (Stream::Stdout, "second\n\n"),
                (Stream::Stderr, "bad\n"),
                (Stream::Stdout, "prompt> "),
            ] {
                log.write(stream, text.as_bytes()).unwrap();
            }
            let (out, err) = ("one\ntwo, second\n\nprompt> ".to_owned(), "error: bad\n".to_owned());
            assert_eq!(fixture.shown(Selection::default()), (out.clone(), err.clone()));
            assert_eq!(fixture.shown(Selection { stderr: false, ..Selection::default() }), (out, String::new()));
            assert_eq!(fixture.shown(Selection { stdout: false, ..Selection::default() }), (String::new(), err));
        }
    }

    #[test]
    fn the_last_lines_are_counted_over_parts_blocks_and_generations() {
        for (driver, limits) in [
            (Driver::K8sFile, Limits::default()),
            (Driver::JsonFile, Limits::default()),
            (Driver::K8sFile, Limits { max_size_bytes: Some(30_000), max_files: 100 }),
            (Driver::JsonFile, Limits { max_size_bytes: Some(200_000), max_files: 100 }),
        ] {
            let fixture = Fixture::new();
            let mut log = fixture.log(driver, limits);
            let lines: Vec<String> =
                (0..400).map(|number| format!("{number} {}\n", "x".repeat(number * 37 % 1_500))).collect();
            for line in &lines {
                // Each line in up to three parts.
                let (first, rest) = line.split_at(line.len() / 3);
                let (second, third) = rest.split_at(rest.len() / 2);
                for part in [first, second, third] {
                    log.write(Stream::Stdout, part.as_bytes()).unwrap();
                }
            }
            log.write(Stream::Stdout, b"not finished").unwrap();
            assert_eq!(fixture.tail(0), "");
            assert_eq!(fixture.tail(1), "not finished");
            for count in [2, 3, 50, 200, 400] {
                let expected = lines[lines.len() + 1 - count..].concat() + "not finished";
                assert!(fixture.tail(count as u64) == expected, "{driver:?} {limits:?} {count}");
            }
            assert!(fixture.tail(10_000) == lines.concat() + "not finished");
        }
    }

    #[test]
    fn tail_zero_shows_nothing_even_without_a_final_newline() {
        let fixture = Fixture::new();
        std::fs::write(fixture.directory.path().join("log"), "2026-01-02T03:04:05Z stdout F a\nhalf a rec").unwrap();
        assert_eq!(fixture.tail(0), "");
        assert_eq!(fixture.tail(1), "a\n");
        assert_eq!(fixture.shown(Selection::default()).0, "a\n");
    }

    #[test]
    fn time_bounds_are_inclusive_and_garbage_is_skipped() {
        let fixture = Fixture::new();
        let text = "2026-01-02T03:04:05Z stdout F a\n\
                    garbage\n\
                    {\"log\":\"b\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:06Z\"}\n\
                    2026-01-02T04:04:07+01:00 stdout F c\n";
        std::fs::write(fixture.directory.path().join("log"), text).unwrap();
        let at = |secs: i64| Some(Timestamp { secs: 1_767_323_045 + secs, nanos: 0 });
        let shown = |since, until| fixture.shown(Selection { since, until, ..Selection::default() }).0;
        assert_eq!(shown(None, None), "a\nb\nc\n");
        assert_eq!(shown(at(1), None), "b\nc\n");
        assert_eq!(shown(None, at(1)), "a\nb\n");
        assert_eq!(shown(at(2), at(2)), "c\n");
        assert_eq!(shown(at(3), None), "");
    }

    #[test]
    fn timestamps_stand_before_lines_not_before_parts() {
        let fixture = Fixture::new();
        let text = "2026-01-02T03:04:05.5+00:00 stdout P a\n2026-01-02T03:04:06Z stdout F b\n2026-01-02T04:04:07+01:00 stderr F c\n";
        std::fs::write(fixture.directory.path().join("log"), text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let reader = Reader::new(fixture.handle.as_fd(), "log").unwrap();
        reader.read(&Selection::default(), None, &mut Printer::new(&mut out, &mut err, true)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "2026-01-02T03:04:05.500000000Z ab\n");
        assert_eq!(String::from_utf8(err).unwrap(), "2026-01-02T04:04:07.000000000+01:00 c\n");
    }

    /// Sends what it is shown, so that a test knows when it may go on.
    struct Channel(mpsc::Sender<String>);

    impl Visitor for Channel {
        fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
            self.0.send(String::from_utf8(entry.text.to_vec()).unwrap()).map_err(io::Error::other)
        }
    }

    #[test]
    fn following_sees_every_record_over_rotations_and_ends_with_the_writer() {
        for (driver, max_files) in [(Driver::K8sFile, 1), (Driver::K8sFile, 3), (Driver::JsonFile, 3)] {
            let fixture = Fixture::new();
            let (ended, writer_lives) = pipe().unwrap();
            let (sender, receiver) = mpsc::channel();
            std::thread::scope(|scope| {
                let reader = Reader::new(fixture.handle.as_fd(), "log").unwrap();
                let ended = &ended;
                scope.spawn(move || {
                    let follow = Follow { writer_ended: ended.as_fd(), reader_gone: None };
                    reader.read(&Selection::default(), Some(follow), &mut Channel(sender)).unwrap();
                });
                // The log is made only after following began, or before: both must work.
                let mut log = fixture.log(driver, Limits { max_size_bytes: Some(300), max_files });
                for number in 0..50 {
                    log.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
                    assert_eq!(receiver.recv().unwrap(), format!("line {number}"));
                }
                log.write(Stream::Stdout, b"last\n").unwrap();
                drop(writer_lives);
                assert_eq!(receiver.iter().collect::<Vec<_>>(), ["last"]);
            });
        }
    }

    #[test]
    fn following_ends_with_its_reader_and_at_its_time() {
        let fixture = Fixture::new();
        let (ended, _writer_lives) = pipe().unwrap();
        let (reader_end, stdout) = pipe().unwrap();
        drop(reader_end);
        let reader = Reader::new(fixture.handle.as_fd(), "log").unwrap();
        let mut printer = Printer::new(io::sink(), io::sink(), false);
        let gone = Follow { writer_ended: ended.as_fd(), reader_gone: Some(stdout.as_fd()) };
        reader.read(&Selection::default(), Some(gone), &mut printer).unwrap();
        let follow = Follow { writer_ended: ended.as_fd(), reader_gone: None };
        let until = Some(Timestamp { secs: Timestamp::now().secs - 1, nanos: 0 });
        reader.read(&Selection { until, ..Selection::default() }, Some(follow), &mut printer).unwrap();
    }

    #[test]
    fn a_file_cut_by_a_full_disk_is_read_on() {
        let fixture = Fixture::new();
        let path = fixture.directory.path().join("log");
        std::fs::write(&path, "2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z std").unwrap();
        let reader = Reader::new(fixture.handle.as_fd(), "log").unwrap();
        let (sender, receiver) = mpsc::channel();
        let mut channel = Channel(sender);
        let mut shown = Shown { selection: Selection::default(), visitor: &mut channel, in_line: [false; 2] };
        let mut position = reader.oldest().unwrap();
        reader.show_all(&mut position, &mut shown).unwrap();
        std::fs::write(&path, "2026-01-02T03:04:05Z stdout F a\n").unwrap();
        reader.show_all(&mut position, &mut shown).unwrap();
        std::fs::write(&path, "2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:06Z stdout F b\n").unwrap();
        reader.show_all(&mut position, &mut shown).unwrap();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), ["a", "b"]);
    }
}
