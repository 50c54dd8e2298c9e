//! Writes podman's and Kubernetes' format.
//!
//! ```text
//! 2026-01-02T03:04:05.000000000+00:00 stdout F a whole line, or the last part of one
//! 2026-01-02T03:04:05.000000000+00:00 stderr P a first part of a line
//! ```
//! The time is local with its offset, as conmon writes it.
//!
//! # Source
//! Kubernetes design proposal *CRI: log management*; conmon `src/ctr_logging.c`.

use super::Stream;
use super::file::{LogError, LogFile};
use super::time::{Clock, Timestamp};
use crate::sys::monitor::find_byte;

/// Short lines are put together to writes of about this size. Long ones are not copied at all.
const BATCH_BYTES: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Writer {
    file: LogFile,
    clock: Clock,
    head: Vec<u8>,
    batch: Vec<u8>,
}

impl Writer {
    pub(super) fn new(file: LogFile) -> Self {
        Self { file, clock: Clock::default(), head: Vec::new(), batch: Vec::new() }
    }

    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> Result<(), LogError> {
        self.head.clear();
        self.clock.write_local(now, &mut self.head);
        self.head.extend_from_slice(match stream {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        });
        let written = self.write_lines(bytes);
        // After an error the rest of the batch is given up, or it would come twice.
        self.batch.clear();
        written
    }

    fn write_lines(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, after, tag) = match find_byte(rest, b'\n').and_then(|at| rest.split_at_checked(at)) {
                Some((line, newline)) => (line, newline.get(1..).unwrap_or_default(), WHOLE),
                None => (rest, &[][..], PART),
            };
            rest = after;
            let len = self.head.len() + tag.len() + line.len() + 1;
            if self.file.is_full_for(self.batch.len(), len) {
                self.flush()?;
                self.file.rotate()?;
            }
            if self.batch.len() + len > BATCH_BYTES {
                self.flush()?;
            }
            if len > BATCH_BYTES / 4 {
                self.file.append(&[&self.batch, &self.head, tag, line, b"\n"])?;
                self.batch.clear();
                continue;
            }
            self.batch.reserve_exact(BATCH_BYTES.saturating_sub(self.batch.len()));
            self.batch.extend_from_slice(&self.head);
            self.batch.extend_from_slice(tag);
            self.batch.extend_from_slice(line);
            self.batch.push(b'\n');
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), LogError> {
        if !self.batch.is_empty() {
            self.file.append(&[&self.batch])?;
            self.batch.clear();
        }
        Ok(())
    }
}

/// Tag of a line's last part, and of a whole line.
const WHOLE: &[u8] = b"F ";
/// Tag of a line's other parts.
const PART: &[u8] = b"P ";

#[cfg(test)]
mod tests {
    use super::super::file::Limits;
    use super::*;
    use std::os::fd::AsFd;

    fn written(limits: Limits, chunks: &[(Stream, &[u8])]) -> (tempfile::TempDir, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        let mut writer = Writer::new(LogFile::open(handle.as_fd(), "log", limits).unwrap());
        for (stream, bytes) in chunks {
            writer.write(*stream, bytes, Timestamp { secs: 1_767_323_045, nanos: 7 }).unwrap();
        }
        let text = std::fs::read(directory.path().join("log")).unwrap();
        (directory, text)
    }

    #[test]
    fn lines_and_parts_are_tagged_as_podman_does() {
        let (_directory, text) = written(
            Limits::default(),
            &[(Stream::Stdout, b"one\n\ntwo"), (Stream::Stderr, b"err\n"), (Stream::Stdout, b" rest\n")],
        );
        let stamp = {
            let mut stamp = Vec::new();
            Clock::default().write_local(Timestamp { secs: 1_767_323_045, nanos: 7 }, &mut stamp);
            String::from_utf8(stamp).unwrap()
        };
        let expected = ["stdout F one", "stdout F ", "stdout P two", "stderr F err", "stdout F  rest"];
        let expected: String = expected.iter().map(|line| format!("{stamp} {line}\n")).collect();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn long_lines_and_batches_are_complete() {
        let mut input = Vec::new();
        for len in [0, 1, 100, 7_000, 9_000, 3, 20_000, 31_000, 5] {
            input.extend(std::iter::repeat_n(b'x', len));
            input.push(b'\n');
        }
        input.extend(std::iter::repeat_n(b"ab\n", 5_000).flatten());
        let (_directory, text) = written(Limits::default(), &[(Stream::Stdout, &input)]);
        let back: Vec<u8> = text.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line[45..].to_vec()).collect();
        assert!(back == input);
    }

    #[test]
    fn a_full_file_makes_room_by_dropping_or_shifting() {
        let line = |number: u32| format!("line {number}\n");
        let input: String = (0..10).map(line).collect();
        let record = 35 + 10 + "line 0\n".len() as u64;
        let limits = Limits { max_size_bytes: Some(record * 3), max_files: 1 };
        let (directory, text) = written(limits, &[(Stream::Stdout, input.as_bytes())]);
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);

        let (directory, text) = written(Limits { max_files: 3, ..limits }, &[(Stream::Stdout, input.as_bytes())]);
        assert!(text.ends_with(b"line 9\n"));
        let older = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(older("log.1").ends_with("line 8\n") && older("log.2").ends_with("line 5\n"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_record_longer_than_the_limit_has_a_file_of_its_own() {
        let limits = Limits { max_size_bytes: Some(10), max_files: 1 };
        let (_directory, text) = written(limits, &[(Stream::Stdout, b"a\nb\n")]);
        assert!(text.ends_with(b"F b\n") && text.len() < 60);
    }

    #[test]
    fn a_link_in_place_of_the_log_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        std::os::unix::fs::symlink("/dev/null", directory.path().join("link")).unwrap();
        assert!(LogFile::open(handle.as_fd(), "link", Limits::default()).is_err());
    }
}
