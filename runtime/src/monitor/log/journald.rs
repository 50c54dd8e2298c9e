//! Hands lines to systemd's journal in its native protocol.
//!
//! ```text
//! one datagram a line:  NAME=value\n …      a value with a newline:  NAME\n <length, 8 bytes LE> value \n
//! ```
//! What ends a read without a newline is sent at once with `CONTAINER_PARTIAL_MESSAGE=true`, as podman and docker do. The
//! journal that is restarted is found again at the next line.
//!
//! # Source
//! systemd `docs/JOURNAL_NATIVE_PROTOCOL.md`; field names: podman `libpod/logs/log.go`, `podman-logs(1)`.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::errno::Errno;

use super::Stream;
use super::file::LogError;
use crate::sys::monitor::find_byte;

/// Where the journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Longer lines are cut: a datagram has to fit into the socket's buffer.
const PIECE_BYTES: usize = 48 * 1024;

/// Sends lines.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    socket: UnixDatagram,
    /// The fields that every line has, encoded.
    fields: Vec<u8>,
}

impl Writer {
    pub(super) fn connect(path: PathBuf, fields: &[(&str, &str)]) -> Result<Self, LogError> {
        let socket = connect(&path)?;
        let mut encoded = Vec::new();
        for (name, value) in fields {
            field(&mut encoded, name, value.as_bytes());
        }
        Ok(Self { path, socket, fields: encoded })
    }

    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), LogError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, is_whole, after) = match find_byte(rest, b'\n').filter(|at| *at <= PIECE_BYTES) {
                Some(at) => {
                    let (line, after) = rest.split_at(at);
                    (line, true, after.get(1..).unwrap_or_default())
                }
                None => {
                    let (line, after) = rest.split_at(rest.len().min(PIECE_BYTES));
                    (line, false, after)
                }
            };
            rest = after;
            self.send(&self.message(stream, line, is_whole))?;
        }
        Ok(())
    }

    fn message(&self, stream: Stream, line: &[u8], is_whole: bool) -> Vec<u8> {
        let mut message = self.fields.clone();
        field(&mut message, "PRIORITY", if stream == Stream::Stdout { b"6" } else { b"3" });
        if !is_whole {
            field(&mut message, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        field(&mut message, "MESSAGE", line);
        message
    }

    fn send(&mut self, message: &[u8]) -> Result<(), LogError> {
        if self.socket.send(message).is_ok() {
            return Ok(());
        }
        self.socket = connect(&self.path)?;
        self.socket.send(message).map(drop).map_err(|error| failed("send to", &error))
    }
}

fn connect(path: &std::path::Path) -> Result<UnixDatagram, LogError> {
    let socket = UnixDatagram::unbound().map_err(|error| failed("socket for", &error))?;
    socket.connect(path).map_err(|error| failed("connect to", &error))?;
    Ok(socket)
}

fn failed(call: &'static str, error: &std::io::Error) -> LogError {
    let source = Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32));
    LogError { call, name: "systemd journal".to_owned(), source }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_datagrams_with_the_container_s_fields() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut writer = Writer::connect(path.clone(), &[("CONTAINER_NAME", "c"), ("CONTAINER_TAG", "a\nb")]).unwrap();
        let next = |journal: &UnixDatagram| {
            let mut bytes = vec![0; 100_000];
            let len = journal.recv(&mut bytes).unwrap();
            bytes.truncate(len);
            bytes
        };
        writer.write(Stream::Stdout, b"one\ntwo").unwrap();
        let fields = b"CONTAINER_NAME=c\nCONTAINER_TAG\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(next(&journal), [&fields[..], b"PRIORITY=6\nMESSAGE=one\n"].concat());
        let partial = b"PRIORITY=6\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=two\n";
        assert_eq!(next(&journal), [&fields[..], partial].concat());
        // The journal is restarted.
        drop(journal);
        std::fs::remove_file(&path).unwrap();
        assert!(writer.write(Stream::Stderr, b"lost\n").is_err());
        let journal = UnixDatagram::bind(&path).unwrap();
        writer.write(Stream::Stderr, b"three\n").unwrap();
        assert!(next(&journal).ends_with(b"PRIORITY=3\nMESSAGE=three\n"));
    }

    #[test]
    fn no_journal_is_an_error_that_names_it() {
        let error = Writer::connect("/nonexistent/socket".into(), &[]).unwrap_err();
        assert!(error.to_string().contains("systemd journal"), "{error}");
    }
}
