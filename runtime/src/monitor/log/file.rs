//! The file behind a log: whole records are appended, and it is rotated when it would grow beyond its limit.
//!
//! ```text
//! max-file 1 (podman's k8s-file):  name.new made empty, renamed over name; the old bytes are gone
//! max-file n:                      name.(n-2) → name.(n-1) … name → name.1, name made empty
//! ```
//! A reader that has the old file open reads it to its end and then opens `name` again.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::uio::writev;
use nix::unistd::ftruncate;

/// How large a log may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `max-size`: no file grows beyond this, unless a single record is longer.
    pub max_size_bytes: Option<u64>,
    /// `max-file`: how many files there are at most, the current one included.
    pub max_files: u32,
}

/// One file without a limit.
impl Default for Limits {
    fn default() -> Self {
        Self { max_size_bytes: None, max_files: 1 }
    }
}

/// A log that could not be opened or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} log {name:?}: {}", source.desc().to_lowercase())]
pub struct LogError {
    pub(super) call: &'static str,
    pub(super) name: String,
    pub(super) source: Errno,
}

/// The current file of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    directory: OwnedFd,
    name: String,
    limits: Limits,
    file: OwnedFd,
    /// Bytes of whole records in the current file.
    size_bytes: u64,
}

const APPEND: OFlag =
    OFlag::O_WRONLY.union(OFlag::O_APPEND).union(OFlag::O_CREAT).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn create(directory: BorrowedFd<'_>, name: &str, more: OFlag) -> nix::Result<OwnedFd> {
    openat(directory, name, APPEND | more, Mode::S_IRUSR | Mode::S_IWUSR)
}

impl LogFile {
    pub(super) fn open(directory: BorrowedFd<'_>, name: &str, limits: Limits) -> Result<Self, LogError> {
        let failed = |call| move |source| LogError { call, name: name.to_owned(), source };
        let directory = crate::sys::monitor::duplicate(directory).map_err(failed("open directory of"))?;
        let file = create(directory.as_fd(), name, OFlag::empty()).map_err(failed("open"))?;
        let size = fstat(&file).map_err(failed("stat"))?.st_size;
        let size_bytes = u64::try_from(size).unwrap_or(0);
        Ok(Self { directory, name: name.to_owned(), limits, file, size_bytes })
    }

    /// Whether so many bytes more would break the limit, if `unwritten` bytes are still to come before them.
    pub(super) fn is_full_for(&self, unwritten: usize, more: usize) -> bool {
        let before = self.size_bytes + unwritten as u64;
        before > 0 && self.limits.max_size_bytes.is_some_and(|max| before + more as u64 > max)
    }

    /// Starts a new file.
    pub(super) fn rotate(&mut self) -> Result<(), LogError> {
        self.file = self.make_new().map_err(|source| self.failed("rotate", source))?;
        self.size_bytes = 0;
        Ok(())
    }

    fn make_new(&self) -> nix::Result<OwnedFd> {
        let directory = self.directory.as_fd();
        if self.limits.max_files <= 1 {
            let temporary = format!("{}.new", self.name);
            let file = create(directory, &temporary, OFlag::O_TRUNC)?;
            renameat(directory, temporary.as_str(), directory, self.name.as_str())?;
            return Ok(file);
        }
        for generation in (1..self.limits.max_files).rev() {
            let newer = self.generation(generation - 1);
            match renameat(directory, newer.as_str(), directory, self.generation(generation).as_str()) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        create(directory, &self.name, OFlag::O_EXCL)
    }

    fn generation(&self, number: u32) -> String {
        generation(&self.name, number)
    }

    /// Appends whole records.
    pub(super) fn append(&mut self, parts: &[&[u8]]) -> Result<(), LogError> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut written = 0;
        while written < total {
            let mut skip = written;
            let rest: Vec<IoSlice<'_>> = parts
                .iter()
                .filter_map(|part| {
                    let from = skip.min(part.len());
                    skip -= from;
                    part.get(from..).filter(|rest| !rest.is_empty()).map(IoSlice::new)
                })
                .collect();
            match writev(&self.file, &rest) {
                Ok(some) => written += some,
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    // Half a record would spoil the next one; if cutting fails too, readers skip one record.
                    let _ = ftruncate(&self.file, self.size_bytes.cast_signed());
                    return Err(self.failed("write", errno));
                }
            }
        }
        self.size_bytes += total as u64;
        Ok(())
    }

    fn failed(&self, call: &'static str, source: Errno) -> LogError {
        LogError { call, name: self.name.clone(), source }
    }
}

/// Name of an older generation; 0 is the current one.
pub(super) fn generation(name: &str, number: u32) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}.{number}") }
}
