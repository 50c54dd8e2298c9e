//! What becomes of an image that a container was started from before it was there.
//!
//! ```text
//! puller ── 'K': every layer is here and verified ──▶ the container may have succeeded
//!        ── 'E' and a line, or nothing: it was killed ▶ the container is killed, exit status 125
//! ```
//! The puller writes into a pipe, once, at its end. Its readers are the command that started it and then the supervisor; the
//! union server needs none, see [`storage::union::lazy`].

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// All is well.
pub(crate) const VERIFIED: u8 = b'K';

/// Why not follows.
pub(crate) const FAILED: u8 = b'E';

/// Where the end of a pull is told.
#[derive(Debug)]
pub(crate) struct Verdict {
    image: String,
    reader: PipeReader,
    is_good: bool,
    /// Who has started the container, to be told why it ended.
    teller: Option<PipeWriter>,
}

impl Verdict {
    /// Of the pull of `image`, as messages name it.
    pub(crate) fn new(image: String, reader: PipeReader) -> Self {
        Verdict { image, reader, is_good: false, teller: None }
    }

    /// Has [`Self::tell`] tell what this returns the other end of.
    pub(crate) fn add_teller(&mut self) -> std::io::Result<PipeReader> {
        let (reader, writer) = std::io::pipe()?;
        self.teller = Some(writer);
        Ok(reader)
    }

    /// What it is; waits for it. Asked once.
    pub(crate) fn take(&mut self) -> Result<(), String> {
        let mut tag = [0];
        let mut text = String::new();
        match self.reader.read(&mut tag) {
            Ok(1) if tag == [VERIFIED] => {
                self.is_good = true;
                return Ok(());
            }
            Ok(1) => {
                let _ = self.reader.read_to_string(&mut text);
            }
            _ => {}
        }
        Err(match text.is_empty() {
            true => format!("the pull of image {} was killed before its end", self.image),
            false => text,
        })
    }

    /// Whether it has been taken, and all is well.
    pub(crate) fn is_good(&self) -> bool {
        self.is_good
    }

    /// Tells who started the container.
    pub(crate) fn tell(&mut self, line: &str) {
        if let Some(mut teller) = self.teller.take() {
            // Less than a pipe holds; one that is gone does not want to know.
            let _ = teller.write_all(line.as_bytes());
        }
    }
}

impl AsFd for Verdict {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
