//! The server's log: what no program provoked and no program can be told, such as the cause of an `EIO`.
//!
//! Writer: the server alone. Readers: people. One line each, with the time; lines are appended over the runs of a
//! container. No durability, no version. A file that has grown too large begins anew with the next run.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{ftruncate, write};

/// What is kept of one run, and of several: a disk that fails may fail for every request.
const MAX_BYTES: usize = 256 << 10;

/// An open log.
#[derive(Debug)]
pub struct Log {
    file: OwnedFd,
    written: AtomicUsize,
}

impl Log {
    /// Opens the log for appending.
    ///
    /// # Errors
    /// The errno of `open`.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        if usize::try_from(fstat(&file)?.st_size).is_ok_and(|size| size > MAX_BYTES) {
            ftruncate(&file, 0)?;
        }
        Ok(Self { file, written: AtomicUsize::new(0) })
    }

    /// Appends a line, unless the run has said enough.
    pub(crate) fn write(&self, what: &str) -> Result<(), Errno> {
        let line = format!("{:.3} {what}\n", Timestamp::now());
        let before = self.written.fetch_add(line.len(), Ordering::Relaxed);
        match before + line.len() {
            after if after <= MAX_BYTES => write(self.file.as_fd(), line.as_bytes()).map(drop),
            _ if before <= MAX_BYTES => write(self.file.as_fd(), b"and more of this kind\n").map(drop),
            _ => {
                // Never so much that it begins at zero again.
                self.written.store(MAX_BYTES + 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_kept_over_runs_and_never_grows_beyond_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for _ in 0..2 {
            Log::open(&path).unwrap().write("read inode 5: input/output error").unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("Z read inode 5: input/output error\n").count(), 2, "{text}");
        let log = Log::open(&path).unwrap();
        (0..10_000).for_each(|_| log.write(&"x".repeat(100)).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() > MAX_BYTES && text.len() < MAX_BYTES + 1000, "{}", text.len());
        assert!(text.ends_with("x\nand more of this kind\n"));
        drop(Log::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
