//! Writes docker's format.
//!
//! ```text
//! {"log":"a whole line\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}
//! {"log":"a part of one","stream":"stderr","time":"2026-01-02T03:04:05Z"}
//! ```
//! # Source
//! moby `daemon/logger/jsonfilelog/jsonlog/jsonlogbytes.go`: what is escaped, and how.

use super::Stream;
use super::file::{LogError, LogFile};
use super::time::Timestamp;
use crate::sys::monitor::find_byte;

/// Longer lines are cut: a byte can become six.
const PIECE_BYTES: usize = 8 * 1024;
/// Records are put together to writes of about this size.
const BATCH_BYTES: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Writer {
    file: LogFile,
    tail: Vec<u8>,
    batch: Vec<u8>,
    /// The first bytes of a character whose rest has not been read yet, for each stream.
    cut: [Vec<u8>; 2],
}

impl Writer {
    pub(super) fn new(file: LogFile) -> Self {
        Self { file, tail: Vec::new(), batch: Vec::new(), cut: [Vec::new(), Vec::new()] }
    }

    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> Result<(), LogError> {
        self.set_tail(stream, now);
        let [stdout, stderr] = &mut self.cut;
        let cut = match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        };
        let kept = std::mem::take(cut);
        let joined;
        let bytes = if kept.is_empty() {
            bytes
        } else {
            joined = [&kept, bytes].concat();
            &joined
        };
        let (bytes, unfinished) = bytes.split_at(bytes.len() - unfinished_len(bytes));
        cut.extend_from_slice(unfinished);
        let written = self.write_lines(bytes);
        self.batch.clear();
        written
    }

    /// Logs what is left of characters that never became whole, since the container has ended.
    pub(super) fn finish(&mut self, now: Timestamp) -> Result<(), LogError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let [stdout, stderr] = &mut self.cut;
            let cut = std::mem::take(if stream == Stream::Stdout { stdout } else { stderr });
            if !cut.is_empty() {
                self.set_tail(stream, now);
                self.write_lines(&cut)?;
            }
        }
        Ok(())
    }

    fn set_tail(&mut self, stream: Stream, now: Timestamp) {
        self.tail.clear();
        self.tail.extend_from_slice(b"\",\"stream\":\"");
        self.tail.extend_from_slice(stream.as_str().as_bytes());
        self.tail.extend_from_slice(b"\",\"time\":\"");
        now.write_utc(&mut self.tail);
        self.tail.extend_from_slice(b"\"}\n");
    }

    fn write_lines(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let line_len = find_byte(rest, b'\n').map_or(rest.len(), |at| at + 1);
            let (piece, after) = rest.split_at(line_len.min(PIECE_BYTES));
            // Never cut within a character, if it is one.
            let back = if after.is_empty() || piece.ends_with(b"\n") { 0 } else { unfinished_len(piece) };
            let (piece, after) = rest.split_at(piece.len() - back);
            rest = after;
            let start = self.batch.len();
            self.batch.extend_from_slice(b"{\"log\":\"");
            escape(piece, &mut self.batch);
            self.batch.extend_from_slice(&self.tail);
            let len = self.batch.len() - start;
            if self.file.is_full_for(start, len) {
                let (before, record) = self.batch.split_at(start);
                self.file.append(&[before])?;
                self.file.rotate()?;
                self.file.append(&[record])?;
                self.batch.clear();
            } else if self.batch.len() > BATCH_BYTES {
                self.flush()?;
            }
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

/// How many bytes at the end begin a character without finishing it: 0 to 3.
fn unfinished_len(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let Some(tail) = bytes.len().checked_sub(back).and_then(|from| bytes.get(from..)) else { break };
        match tail.first() {
            Some(0x80..=0xbf) => {}
            Some(0xc2..=0xf4) => {
                let is_unfinished = std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none());
                return if is_unfinished { back } else { 0 };
            }
            _ => break,
        }
    }
    0
}

/// Appends text as the inside of a JSON string.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let mut plain = chunk.valid();
        while let Some(at) =
            plain.find(|c: char| matches!(c, '\0'..'\u{20}' | '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}'))
        {
            let (before, from) = plain.split_at(at);
            out.extend_from_slice(before.as_bytes());
            let mut characters = from.chars();
            match characters.next() {
                Some(c @ ('"' | '\\')) => out.extend_from_slice(&[b'\\', c as u8]),
                Some('\n') => out.extend_from_slice(b"\\n"),
                Some('\r') => out.extend_from_slice(b"\\r"),
                Some(c) => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
                None => {}
            }
            plain = characters.as_str();
        }
        out.extend_from_slice(plain.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::Limits;
    use super::*;
    use std::os::fd::AsFd;

    const NOW: Timestamp = Timestamp { secs: 1_767_323_045, nanos: 120_000_000 };

    fn written(limits: Limits, chunks: &[(Stream, &[u8])]) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        let mut writer = Writer::new(LogFile::open(handle.as_fd(), "log", limits).unwrap());
        for (stream, bytes) in chunks {
            writer.write(*stream, bytes, NOW).unwrap();
        }
        let text = std::fs::read_to_string(directory.path().join("log")).unwrap();
        (directory, text)
    }

    fn logged(text: &str) -> String {
        let value = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned();
        text.lines().map(value).collect()
    }

    #[test]
    fn records_are_docker_s_to_the_byte() {
        let (_directory, text) = written(
            Limits::default(),
            &[(Stream::Stdout, b"a \"b\" \\ <&>\t\x1b\r\n"), (Stream::Stderr, "ä\u{2028}\n".as_bytes())],
        );
        let expected = concat!(
            r#"{"log":"a \"b\" \\ \u003c\u0026\u003e\u0009\u001b\r\n","stream":"stdout","time":"2026-01-02T03:04:05.12Z"}"#,
            "\n",
            r#"{"log":"ä\u2028\n","stream":"stderr","time":"2026-01-02T03:04:05.12Z"}"#,
            "\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn characters_cut_by_reads_or_by_length_stay_whole() {
        let input = "€ä𝄞\n".repeat(9) + &"€".repeat(6_000) + "\n";
        for step in 1..7 {
            let chunks: Vec<(Stream, &[u8])> =
                input.as_bytes().chunks(step).map(|chunk| (Stream::Stdout, chunk)).collect();
            let (_directory, text) = written(Limits::default(), &chunks);
            assert!(logged(&text) == input, "{step}");
        }
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let (_directory, text) = written(Limits::default(), &[(Stream::Stdout, b"a\xff\xfeb\xe2\x82\n\xc0")]);
        assert_eq!(logged(&text), "a\u{fffd}\u{fffd}b\u{fffd}\u{fffd}\n\u{fffd}");
    }

    #[test]
    fn generations_hold_everything_in_order() {
        let input: String = (0..50).map(|number| format!("line {number}\n")).collect();
        let limits = Limits { max_size_bytes: Some(400), max_files: 100 };
        let (directory, _) = written(limits, &[(Stream::Stdout, input.as_bytes())]);
        let mut all = String::new();
        for generation in (0..100).rev() {
            let path = directory.path().join(super::super::file::generation("log", generation));
            if let Ok(text) = std::fs::read_to_string(path) {
                assert!(text.len() <= 400);
                all += &text;
            }
        }
        assert_eq!(logged(&all), input);
    }
}
