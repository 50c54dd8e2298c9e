//! Reads one record of either format, without being told which: a log may have been written by both.

use std::borrow::Cow;

use super::Stream;
use super::time::Timestamp;
use crate::sys::monitor::find_byte;

/// One record: a line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) time: Timestamp,
    /// Seconds east of UTC, as written.
    pub(super) offset_s: i32,
    pub(super) stream: Stream,
    /// Without the newline.
    pub(super) text: Cow<'a, [u8]>,
    /// The line ends with this record.
    pub(super) ends_line: bool,
}

/// Reads a record without its final newline; `None` for anything else, such as the half record of a crash.
pub(super) fn parse(line: &[u8]) -> Option<Record<'_>> {
    if line.first() == Some(&b'{') { parse_json(line) } else { parse_k8s(line) }
}

fn parse_k8s(line: &[u8]) -> Option<Record<'_>> {
    let (time, rest) = split_at_blank(line)?;
    let (time, offset_s) = Timestamp::parse_rfc3339(time)?;
    let (stream, rest) = split_at_blank(rest)?;
    // A tag may have more, after colons.
    let (tag, text) = split_at_blank(rest).unwrap_or((rest, &[]));
    let ends_line = match tag.first() {
        Some(b'F') => true,
        Some(b'P') => false,
        _ => return None,
    };
    Some(Record { time, offset_s, stream: parse_stream(stream)?, text: Cow::Borrowed(text), ends_line })
}

fn split_at_blank(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (word, rest) = text.split_at_checked(find_byte(text, b' ')?)?;
    Some((word, rest.get(1..)?))
}

fn parse_stream(name: &[u8]) -> Option<Stream> {
    match name {
        b"stdout" => Some(Stream::Stdout),
        b"stderr" => Some(Stream::Stderr),
        _ => None,
    }
}

#[derive(serde::Deserialize)]
struct JsonRecord<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

fn parse_json(line: &[u8]) -> Option<Record<'_>> {
    let record: JsonRecord<'_> = serde_json::from_slice(line).ok()?;
    let (time, offset_s) = Timestamp::parse_rfc3339(record.time.as_bytes())?;
    let stream = parse_stream(record.stream.as_bytes())?;
    let ends_line = record.log.ends_with('\n');
    let text = match record.log {
        Cow::Borrowed(text) => Cow::Borrowed(text.strip_suffix('\n').unwrap_or(text).as_bytes()),
        Cow::Owned(mut text) => {
            if ends_line {
                text.pop();
            }
            Cow::Owned(text.into_bytes())
        }
    };
    Some(Record { time, offset_s, stream, text, ends_line })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let expected = |text: &'static [u8], ends_line| Record {
            time: Timestamp { secs: 1_767_323_045, nanos: 5 },
            offset_s: 0,
            stream: Stream::Stderr,
            text: Cow::Borrowed(text),
            ends_line,
        };
        let k8s = "2026-01-02T03:04:05.000000005+00:00 stderr";
        assert_eq!(parse(format!("{k8s} F a line").as_bytes()), Some(expected(b"a line", true)));
        assert_eq!(parse(format!("{k8s} F ").as_bytes()), Some(expected(b"", true)));
        assert_eq!(parse(format!("{k8s} F").as_bytes()), Some(expected(b"", true)));
        assert_eq!(parse(format!("{k8s} P  x ").as_bytes()), Some(expected(b" x ", false)));
        let json = r#""stream":"stderr","time":"2026-01-02T03:04:05.000000005Z"}"#;
        assert_eq!(parse(format!(r#"{{"log":"a line\n",{json}"#).as_bytes()), Some(expected(b"a line", true)));
        assert_eq!(parse(format!(r#"{{"log":" x ",{json}"#).as_bytes()), Some(expected(b" x ", false)));
        assert_eq!(parse(format!(r#"{{"log":"\n","attrs":{{"a":"b"}},{json}"#).as_bytes()), Some(expected(b"", true)));
        assert_eq!(parse(format!("{{{json}").as_bytes()), Some(expected(b"", false)));
    }

    #[test]
    fn anything_else_is_no_record() {
        for line in [
            &b""[..],
            b"hello",
            b"{",
            b"{}",
            b"{\"log\":\"x\\n\",\"stream\":\"stdin\",\"time\":\"2026-01-02T03:04:05Z\"}",
            b"2026-01-02T03:04:05.000000005+00:00",
            b"2026-01-02T03:04:05.000000005+00:00 stdout",
            b"2026-01-02T03:04:05.000000005+00:00 stdout X x",
            b"2026-01-02T03:04:05.000000005 stdout F x",
            b"05.000000005+00:00 stdout F x",
        ] {
            assert_eq!(parse(line), None, "{}", String::from_utf8_lossy(line));
        }
    }
}
