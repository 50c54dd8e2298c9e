//! Log drivers: they write to a descriptor they are given.
//!
//! | driver | record | parts of a line |
//! |---|---|---|
//! | `k8s-file` | `2026-01-02T03:04:05.000000000+00:00 stdout F line` | tag `P` instead of `F` |
//! | `json-file` | `{"log":"line\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}` | no `\n` at the end of `log` |
//! | `journald` | one datagram to systemd's journal | `CONTAINER_PARTIAL_MESSAGE=true` |
//! | `none` | | |
//!
//! What a container writes without a newline is logged at once as a part of a line; nothing is kept back in memory
//! and nothing is lost with the supervisor. [`Reader`] puts lines together again. `k8s-file` keeps every byte;
//! `json-file` cannot, and replaces what is no UTF-8 by U+FFFD, as docker does.
//!
//! Nothing is ever synced: a log that lags behind a power cut is not worth an fsync per line.
//!
//! Format of the files: writer: the supervisor, under the container's lock; readers: anyone, without a lock, since
//! records are only ever appended and generations only ever renamed; durability: none.

mod entry;
mod file;
mod journald;
mod json_file;
mod k8s_file;
mod reader;
mod record;
mod time;

use std::os::fd::BorrowedFd;
use std::str::FromStr;

pub use entry::{Entry, Printer, Selection, Visitor};
pub use file::{Limits, LogError};
pub use journald::SOCKET as JOURNAL_SOCKET;
pub use reader::{Follow, ReadError, Reader};
pub use time::{BadMoment, Timestamp};

use file::LogFile;

/// Which of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1, and everything of a terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// Its name in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Its number in a process.
    #[must_use]
    pub fn descriptor(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// A log driver by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// podman's.
    #[default]
    K8sFile,
    /// docker's.
    JsonFile,
    /// No log.
    None,
}

/// A name that is no driver of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown log driver: {0:?}: use k8s-file, json-file or none")]
pub struct UnknownDriver(pub String);

impl FromStr for Driver {
    type Err = UnknownDriver;

    fn from_str(name: &str) -> Result<Self, UnknownDriver> {
        match name {
            "k8s-file" => Ok(Self::K8sFile),
            "json-file" => Ok(Self::JsonFile),
            "none" => Ok(Self::None),
            _ => Err(UnknownDriver(name.to_owned())),
        }
    }
}

impl Driver {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::K8sFile => "k8s-file",
            Self::JsonFile => "json-file",
            Self::None => "none",
        }
    }
}

/// A container's log, open for writing.
#[derive(Debug)]
pub struct Log {
    writer: Writer,
}

#[derive(Debug)]
enum Writer {
    None,
    K8sFile(k8s_file::Writer),
    JsonFile(json_file::Writer),
    Journald(journald::Writer),
}

impl Log {
    /// A log that forgets everything.
    #[must_use]
    pub fn none() -> Self {
        Self { writer: Writer::None }
    }

    /// Opens or creates the log `name` in a directory; what is there is kept.
    ///
    /// The directory is lent by who owns the container's files; besides `name` only its older generations `name.1` …
    /// and, for a moment, `name.new` are made there, mode 0600.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(driver: Driver, directory: BorrowedFd<'_>, name: &str, limits: Limits) -> Result<Self, LogError> {
        let writer = match driver {
            Driver::None => Writer::None,
            Driver::K8sFile => Writer::K8sFile(k8s_file::Writer::new(LogFile::open(directory, name, limits)?)),
            Driver::JsonFile => Writer::JsonFile(json_file::Writer::new(LogFile::open(directory, name, limits)?)),
        };
        Ok(Self { writer })
    }

    /// A log in systemd's journal, which listens at `socket`; `fields` go with every line.
    ///
    /// # Errors
    /// [`LogError`] when nobody listens there.
    pub fn journald(socket: &std::path::Path, fields: &[(&str, &str)]) -> Result<Self, LogError> {
        Ok(Self { writer: Writer::Journald(journald::Writer::connect(socket.to_owned(), fields)?) })
    }

    /// Logs what one read of a stream gave, with one time for all of it.
    ///
    /// # Errors
    /// [`LogError`]; then none of `bytes`, or a first part in whole records, is in the log, and the next call tries
    /// again with what it is given.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), LogError> {
        match &mut self.writer {
            Writer::None => Ok(()),
            Writer::K8sFile(writer) => writer.write(stream, bytes, Timestamp::now()),
            Writer::JsonFile(writer) => writer.write(stream, bytes, Timestamp::now()),
            Writer::Journald(writer) => writer.write(stream, bytes),
        }
    }

    /// Logs what was kept back: the first bytes of a character whose rest never came. The container has ended.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn finish(&mut self) -> Result<(), LogError> {
        match &mut self.writer {
            Writer::None | Writer::K8sFile(_) | Writer::Journald(_) => Ok(()),
            Writer::JsonFile(writer) => writer.finish(Timestamp::now()),
        }
    }
}
