//! A connection over which messages go, each behind its length.
//!
//! # Source
//! RFC 1035 section 4.2.2, RFC 7766.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

const LENGTH_LEN: usize = 2;

/// Bytes that are read at once.
const CHUNK: usize = 4096;

/// One end; it does not block.
#[derive(Debug)]
pub(super) struct Stream {
    socket: OwnedFd,
    /// Come, and not yet taken.
    input: Vec<u8>,
    /// To be sent.
    output: Vec<u8>,
}

impl Stream {
    /// A socket that does not block; it need not be connected yet.
    pub(super) fn over(socket: OwnedFd) -> Self {
        Self { socket, input: Vec::new(), output: Vec::new() }
    }

    /// Sends a message, now or as soon as there is room.
    pub(super) fn put(&mut self, message: &[u8]) {
        let Ok(len) = u16::try_from(message.len()) else { return };
        self.output.extend_from_slice(&len.to_be_bytes());
        self.output.extend_from_slice(message);
    }

    /// Sends and reads what can be.
    ///
    /// # Errors
    /// `ECONNRESET` at the other's end, and what the socket has.
    pub(super) fn proceed(&mut self) -> Result<(), Errno> {
        self.send()?;
        let mut buffer = [0; CHUNK];
        // One message at a time: who sends more waits.
        while self.message_len().is_none_or(|len| self.input.len() < len) {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(Errno::ECONNRESET),
                Ok(len) => self.input.extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                // It is not connected yet.
                Err(Errno::EAGAIN | Errno::ENOTCONN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Sends what can be.
    ///
    /// # Errors
    /// What the socket has.
    pub(super) fn send(&mut self) -> Result<(), Errno> {
        while !self.output.is_empty() {
            match send(self.socket.as_raw_fd(), &self.output, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOTCONN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Whether everything was sent.
    pub(super) fn has_sent(&self) -> bool {
        self.output.is_empty()
    }

    /// The next message, if it is all there.
    pub(super) fn take_message(&mut self) -> Option<Vec<u8>> {
        let len = self.message_len().filter(|len| self.input.len() >= *len)?;
        let rest = self.input.split_off(len);
        let whole = std::mem::replace(&mut self.input, rest);
        whole.get(LENGTH_LEN..).map(<[u8]>::to_vec)
    }

    /// The length of the message that is coming, with its length.
    fn message_len(&self) -> Option<usize> {
        let bytes = self.input.get(..LENGTH_LEN)?.try_into().ok()?;
        Some(LENGTH_LEN + usize::from(u16::from_be_bytes(bytes)))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
