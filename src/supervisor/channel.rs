//! What the supervisor tells the command that started it, until the container runs.
//!
//! ```text
//! S ── "S" ─────────────────▶ P   it runs
//! S ── "F", code, text ─────▶ P   it does not, and nothing of it is left
//! S ══ end of file ═════════▶ P   the supervisor was killed
//! ```
//! One pipe, one message. From then on P is a client like any other (`runtime::monitor::attach`).

use std::io::{PipeReader, PipeWriter};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::error::CommandError;

/// The command's end.
#[derive(Debug)]
pub(crate) struct ResultReader(PipeReader);

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct ResultWriter(PipeWriter);

/// Makes both.
pub(crate) fn pair() -> std::io::Result<(ResultReader, ResultWriter)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((ResultReader(reader), ResultWriter(writer)))
}

impl ResultWriter {
    /// The container runs.
    pub(crate) fn started(mut self) {
        // Nobody listening is no reason to stop a container that was asked for.
        let _ = self.0.write_all(b"S");
    }

    /// It could not be started.
    pub(crate) fn failed(mut self, code: u8, message: &str) {
        let mut bytes = vec![b'F', code];
        bytes.extend_from_slice(message.as_bytes());
        let _ = self.0.write_all(&bytes);
    }
}

impl AsFd for ResultReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ResultReader {
    /// Waits for the message.
    pub(crate) fn wait(mut self) -> Result<(), CommandError> {
        let killed = || CommandError::host("the container's supervisor was killed before it started");
        let mut tag = [0];
        // Not to the end: an init that waits for the word to begin has the other end open, too.
        self.0.read_exact(&mut tag).map_err(|_| killed())?;
        match tag {
            [b'S'] => Ok(()),
            [b'F'] => {
                let mut bytes = Vec::new();
                self.0.read_to_end(&mut bytes).map_err(|_| killed())?;
                let (code, text) = bytes.split_first().ok_or_else(killed)?;
                Err(CommandError::host(String::from_utf8_lossy(text)).with_code(*code))
            }
            _ => Err(killed()),
        }
    }
}
