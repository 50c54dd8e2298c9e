//! Reads a container's output back from systemd's journal, by `journalctl`.
//!
//! ```text
//! --tail N     journalctl --reverse, until there are N lines; then from the last of them on
//! otherwise    journalctl, all of it
//! --follow     journalctl --follow --after-cursor, until the supervisor has ended and the journal is quiet
//! ```
//! The journal's files are a format of systemd's own, which its program reads with the rights that this user has.
//!
//! **Runs in:** the CLI.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use runtime::monitor::event_loop::{Interest, Turn};
use runtime::monitor::log::{Entry, Selection as Span, Stream, Timestamp, Visitor};
use serde::Deserialize;
use storage::state::container::Record;

use crate::error::{CommandError, reason};

/// The journal tells nobody when it has written down what it was sent. Quiet for so long after the container's end, it has.
const QUIET: Duration = Duration::from_millis(500);

/// A line of `journalctl -o json`, as far as it was asked for.
///
/// # Source
/// systemd `docs/JOURNAL_EXPORT_FORMATS.md`, "Journal JSON Format".
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "__CURSOR")]
    cursor: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time_us: String,
    #[serde(rename = "PRIORITY", default)]
    priority: String,
    #[serde(rename = "CONTAINER_PARTIAL_MESSAGE", default)]
    partial: Option<String>,
    #[serde(rename = "MESSAGE", default)]
    message: Message,
}

/// Text, or bytes that are none.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Bytes(Vec<u8>),
    #[default]
    Nothing,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Line> {
        serde_json::from_slice(line).ok()
    }

    fn time(&self) -> Timestamp {
        let micros: i64 = self.time_us.parse().unwrap_or_default();
        Timestamp { secs: micros.div_euclid(1_000_000), nanos: (micros.rem_euclid(1_000_000) * 1000) as u32 }
    }

    fn stream(&self) -> Stream {
        // 3, an error, is what stderr is logged with.
        if self.priority == "3" { Stream::Stderr } else { Stream::Stdout }
    }

    fn ends_line(&self) -> bool {
        self.partial.as_deref() != Some("true")
    }

    fn text(&self) -> &[u8] {
        match &self.message {
            Message::Text(text) => text.as_bytes(),
            Message::Bytes(bytes) => bytes,
            Message::Nothing => b"",
        }
    }
}

/// The journal of one container.
pub(super) struct Journal<'a> {
    pub(super) record: &'a Record,
    pub(super) span: &'a Span,
}

/// How far one has been shown.
#[derive(Default)]
struct Shown {
    cursor: Option<String>,
    in_line: [bool; 2],
}

impl Journal<'_> {
    /// Shows what there is, and with `writer` what comes until that process has ended.
    pub(super) fn read(&self, writer: Option<&OwnedFd>, visitor: &mut impl Visitor) -> Result<(), CommandError> {
        let mut shown = Shown::default();
        match self.span.tail {
            Some(count) => self.last_lines(count, &mut shown, visitor)?,
            None => {
                let mut program = Reading::start(self.command(&[]))?;
                while let Some(line) = program.next()? {
                    self.show(&line, &mut shown, visitor)?;
                }
                program.finish()?;
            }
        }
        visitor.idle().map_err(show_failed)?;
        match writer {
            Some(writer) => self.follow(writer, &mut shown, visitor),
            None => Ok(()),
        }
    }

    fn command(&self, more: &[String]) -> Command {
        let mut command = Command::new("journalctl");
        command.args(["--quiet", "--no-pager", "--all", "--output=json"]);
        command.arg("--output-fields=MESSAGE,PRIORITY,CONTAINER_PARTIAL_MESSAGE");
        // Whole seconds, since it takes no others; what is too much is left out later.
        command.args(self.span.since.map(|since| format!("--since=@{}", since.secs)));
        command.args(self.span.until.map(|until| format!("--until=@{}", until.secs.saturating_add(1))));
        command.args(more);
        command.arg(format!("CONTAINER_ID_FULL={}", self.record.id));
        // Anybody may write such a field; only we write as this user.
        command.arg(format!("_UID={}", nix::unistd::geteuid()));
        command
    }

    /// Reads backwards until there are enough lines.
    fn last_lines(&self, count: u64, shown: &mut Shown, visitor: &mut impl Visitor) -> Result<(), CommandError> {
        let mut program = Reading::start(self.command(&["--reverse".to_owned()]))?;
        let mut found = VecDeque::new();
        let mut lines = 0;
        let mut is_all = true;
        while let Some(line) = program.next()? {
            shown.cursor.get_or_insert_with(|| line.cursor.clone());
            if !self.is_wanted(&line) {
                continue;
            }
            // The line that is still being written counts as one.
            lines += u64::from(line.ends_line() || found.is_empty());
            if lines > count {
                is_all = false;
                break;
            }
            found.push_front(line);
        }
        if is_all {
            program.finish()?;
        }
        let last = shown.cursor.take();
        for line in found {
            self.show(&line, shown, visitor)?;
        }
        shown.cursor = last;
        Ok(())
    }

    fn is_wanted(&self, line: &Line) -> bool {
        let time = line.time();
        self.span.since.is_none_or(|since| time >= since) && self.span.until.is_none_or(|until| time <= until)
    }

    fn show(&self, line: &Line, shown: &mut Shown, visitor: &mut impl Visitor) -> Result<(), CommandError> {
        shown.cursor = Some(line.cursor.clone());
        if !self.is_wanted(line) {
            return Ok(());
        }
        let time = line.time();
        let moment = jiff::Timestamp::from_second(time.secs).unwrap_or_default();
        let stream = line.stream();
        let [stdout, stderr] = &mut shown.in_line;
        let in_line = if stream == Stream::Stdout { stdout } else { stderr };
        let starts_line = !std::mem::replace(in_line, !line.ends_line());
        let entry = Entry {
            time,
            offset_s: jiff::tz::TimeZone::system().to_offset(moment).seconds(),
            stream,
            text: line.text(),
            starts_line,
            ends_line: line.ends_line(),
        };
        visitor.entry(&entry).map_err(show_failed)
    }

    fn follow(&self, writer: &OwnedFd, shown: &mut Shown, visitor: &mut impl Visitor) -> Result<(), CommandError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Event {
            More,
            Ended,
            ReaderGone,
        }
        let after = match &shown.cursor {
            Some(cursor) => format!("--after-cursor={cursor}"),
            None => "--lines=all".to_owned(),
        };
        let mut program = Reading::start(self.command(&["--follow".to_owned(), after]))?;
        let (mut has_ended, stdout) = (false, io::stdout());
        let until = self.span.until.map(|until| {
            let left = until.secs.saturating_sub(Timestamp::now().secs);
            Instant::now() + Duration::from_secs(u64::try_from(left).unwrap_or_default())
        });
        loop {
            let mut turn = Turn::new();
            turn.watch(program.fd(), Interest::Read, Event::More);
            turn.watch(stdout.as_fd(), Interest::Hangup, Event::ReaderGone);
            if !has_ended {
                turn.watch(writer.as_fd(), Interest::Read, Event::Ended);
            }
            let quiet = has_ended.then(|| Instant::now() + QUIET);
            let ready = turn.wait([quiet, until].into_iter().flatten().min());
            let ready =
                ready.map_err(|errno| CommandError::host(format!("poll(): {}", errno.desc().to_lowercase())))?;
            let has = |event| ready.iter().any(|one| one.event == event);
            if ready.is_empty() || has(Event::ReaderGone) {
                return Ok(());
            }
            has_ended |= has(Event::Ended);
            if has(Event::More) && !program.fill()? {
                return Ok(());
            }
            while let Some(line) = program.buffered() {
                self.show(&line, shown, visitor)?;
            }
            visitor.idle().map_err(show_failed)?;
        }
    }
}

fn show_failed(error: io::Error) -> CommandError {
    match error.kind() {
        // Whoever reads has seen enough.
        io::ErrorKind::BrokenPipe => CommandError::printed(0),
        _ => CommandError::host(format!("write log entries: {}", reason(&error))),
    }
}

/// `journalctl` at work; it is ended when this is dropped.
struct Reading {
    child: Child,
    stdout: ChildStdout,
    bytes: Vec<u8>,
    /// How many of them have been taken.
    taken: usize,
}

impl Reading {
    fn start(mut command: Command) -> Result<Self, CommandError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CommandError::host("logs in systemd's journal: no journalctl here to read them"),
            _ => CommandError::host(format!("journalctl: {}", reason(&error))),
        })?;
        let stdout = child.stdout.take().ok_or_else(|| CommandError::host("journalctl: no pipe to it"))?;
        Ok(Self { child, stdout, bytes: Vec::new(), taken: 0 })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// Reads once; `false` at the end.
    fn fill(&mut self) -> Result<bool, CommandError> {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        let mut block = [0; 64 * 1024];
        match self.stdout.read(&mut block) {
            Ok(count) => {
                self.bytes.extend_from_slice(block.get(..count).unwrap_or_default());
                Ok(count > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(CommandError::host(format!("read from journalctl: {}", reason(&error)))),
        }
    }

    /// The next line of what has been read.
    fn buffered(&mut self) -> Option<Line> {
        loop {
            let rest = self.bytes.get(self.taken..)?;
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = Line::parse(rest.get(..end)?);
            self.taken += end + 1;
            if line.is_some() {
                return line;
            }
        }
    }

    fn next(&mut self) -> Result<Option<Line>, CommandError> {
        loop {
            if let Some(line) = self.buffered() {
                return Ok(Some(line));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Its failure, once it has ended by itself.
    fn finish(mut self) -> Result<(), CommandError> {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        match self.child.wait() {
            Ok(status) if !status.success() && !said.trim().is_empty() => {
                Err(CommandError::host(format!("journalctl: {}", said.lines().next().unwrap_or_default()))
                    .hinted("members of the group systemd-journal may read all of it"))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_journal_are_entries() {
        let line = Line::parse(
            br#"{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1700000000123456","PRIORITY":"3","MESSAGE":"a\nb","X":"y"}"#,
        )
        .unwrap();
        assert_eq!(line.time(), Timestamp { secs: 1_700_000_000, nanos: 123_456_000 });
        assert_eq!((line.stream(), line.ends_line(), line.text()), (Stream::Stderr, true, &b"a\nb"[..]));
        let line = Line::parse(
            br#"{"__CURSOR":"s=2","__REALTIME_TIMESTAMP":"1","PRIORITY":"6","MESSAGE":[255,10],"CONTAINER_PARTIAL_MESSAGE":"true"}"#,
        )
        .unwrap();
        assert_eq!((line.stream(), line.ends_line(), line.text()), (Stream::Stdout, false, &[255, 10][..]));
        let empty = Line::parse(br#"{"__CURSOR":"s=3","__REALTIME_TIMESTAMP":"1","MESSAGE":null}"#).unwrap();
        assert_eq!(empty.text(), b"");
        assert!(Line::parse(b"-- no entries --").is_none());
    }
}
