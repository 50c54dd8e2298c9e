//! Questions for bytes that are wanted before the rest: from servers to whoever brings the layer.
//!
//! - **File**: `$RUNTIME/lazy/wanted/<temporary directory>`, a named pipe; made by the puller before it announces the layer.
//! - **Writers**: the servers of containers; **reader**: the puller. A question is [`Question::BYTES`] in one `write`, shorter
//!   than what a pipe may tear apart. What is asked is no promise: the puller brings what it can, and the rest in its order.
//! - **Trust**: a server that asks nonsense is not answered; it can cost a download of what the image has anyway.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::layer::index::NodeId;
use crate::state::layout::create_dir;

/// Most questions that are remembered.
const MAX_ASKED: usize = 1 << 16;

/// Where the pipes are.
pub(crate) fn directory(notes: &Path) -> PathBuf {
    notes.join("wanted")
}

/// Which bytes of which file, by the ids of the table of contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) id: NodeId,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Question {
    pub(crate) const BYTES: usize = 20;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let all = self.id.to_le_bytes().into_iter().chain(self.offset.to_le_bytes()).chain(self.len.to_le_bytes());
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        bytes
    }

    /// What was asked.
    pub(crate) fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (len, _) = rest.split_first_chunk()?;
        let (offset, len) = (u64::from_le_bytes(*offset), u64::from_le_bytes(*len));
        Some(Self { id: NodeId::from_le_bytes(*id), offset, len })
    }
}

/// The asking end.
#[derive(Debug)]
pub(super) struct Asking {
    path: PathBuf,
    pipe: Option<File>,
    asked: HashSet<Question>,
}

impl Asking {
    pub(super) fn at(notes: &Path, directory_name: &str) -> Self {
        Self { path: directory(notes).join(directory_name), pipe: None, asked: HashSet::new() }
    }

    /// Asks, unless it was asked before.
    pub(super) fn ask(&mut self, id: NodeId, wanted: Range<u64>) {
        let question = Question { id, offset: wanted.start, len: wanted.end.saturating_sub(wanted.start) };
        if self.asked.contains(&question) {
            return;
        }
        if self.pipe.is_none() {
            // Without a reader it cannot be opened: then nobody would answer.
            let open =
                OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&self.path);
            self.pipe = open.ok();
        }
        let Some(mut pipe) = self.pipe.as_ref() else { return };
        match pipe.write(&question.to_bytes()) {
            Ok(_) => {
                if self.asked.len() >= MAX_ASKED {
                    self.asked.clear();
                }
                self.asked.insert(question);
            }
            // Full: what waits asks again when something comes.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.pipe = None,
        }
    }
}

/// The answering end: a pipe of this name, gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Asked {
    path: PathBuf,
    pub(crate) pipe: File,
}

impl Asked {
    /// Makes the pipe for a temporary directory of `layers`, and removes those of directories that are gone.
    ///
    /// # Errors
    /// Those of making and opening it.
    pub(crate) fn make(notes: &Path, layers: &Path, directory_name: &str) -> io::Result<Self> {
        let pipes = directory(notes);
        create_dir(&pipes).map_err(|error| io::Error::other(error.to_string()))?;
        for entry in fs::read_dir(&pipes)?.flatten() {
            if !layers.join(entry.file_name()).exists() {
                let _ = fs::remove_file(entry.path());
            }
        }
        let path = pipes.join(directory_name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
        // With both ends in one hand it neither waits for the first writer nor ends with the last.
        let pipe =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path)?;
        Ok(Self { path, pipe })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_question_arrives_once_and_one_that_nobody_reads_is_asked_again() {
        let base = tempfile::tempdir().unwrap();
        let (notes, layers) = (base.path().join("notes"), base.path().join("layers"));
        fs::create_dir_all(layers.join(".tmp-one")).unwrap();
        fs::create_dir_all(&notes).unwrap();
        let mut asking = Asking::at(&notes, ".tmp-one");
        asking.ask(7, 10..30);
        let mut asked = Asked::make(&notes, &layers, ".tmp-one").unwrap();
        for _ in 0..3 {
            asking.ask(7, 10..30);
        }
        asking.ask(8, 0..u64::MAX);
        let mut bytes = [0; 100];
        let len = asked.pipe.read(&mut bytes).unwrap();
        assert_eq!(len, 2 * Question::BYTES);
        let (first, _) = bytes.split_first_chunk().unwrap();
        assert_eq!(Question::parse(first), Some(Question { id: 7, offset: 10, len: 20 }));
        fs::write(directory(&notes).join(".tmp-gone"), b"").unwrap();
        drop(asked);
        fs::create_dir(layers.join(".tmp-two")).unwrap();
        let _two = Asked::make(&notes, &layers, ".tmp-two").unwrap();
        assert_eq!(fs::read_dir(directory(&notes)).unwrap().count(), 1);
    }
}
