//! What a log holds, as `logs` shows it: entries, which of them, and to whom.

use std::io::{self, Write};

use super::reader::ReadError;
use super::time::Timestamp;
use super::{Stream, record};

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

/// The entries on their way to a visitor.
pub(super) struct Shown<'v, V> {
    selection: Selection,
    pub(super) visitor: &'v mut V,
    in_line: [bool; 2],
}

impl<'v, V: Visitor> Shown<'v, V> {
    pub(super) fn new(selection: Selection, visitor: &'v mut V) -> Self {
        Self { selection, visitor, in_line: [false; 2] }
    }

    pub(super) fn show(&mut self, line: &[u8]) -> Result<(), ReadError> {
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
