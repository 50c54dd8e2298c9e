//! Bytes between the threads of one blob: buffers that are used again, channels that are readers.

use std::io::{self, Read};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// How much is moved at once.
const BUFFER_BYTES: usize = 256 << 10;

/// How many buffers may wait for a slow reader: together with what threads hold, some 4 MiB per blob.
const QUEUE_BUFFERS: usize = 6;

/// Buffers of one kind. Allocating them anew would cost a page fault per 4 KiB of image.
#[derive(Clone, Default)]
pub(super) struct Pool {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    is_eager: bool,
}

impl Pool {
    /// One whose buffers, if `is_eager`, do not wait to be full: somebody may want what has come.
    pub(super) fn new(is_eager: bool) -> Self {
        Self { is_eager, ..Self::default() }
    }

    /// Fills a buffer from `source` as far as it goes; empty at its end.
    pub(super) fn fill(&self, source: &mut (impl Read + ?Sized)) -> (Buffer, io::Result<()>) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bytes = free.unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        bytes.resize(BUFFER_BYTES, 0);
        let mut len = 0;
        let result = loop {
            match source.read(&mut bytes[len..]) {
                Ok(0) => break Ok(()),
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if len == BUFFER_BYTES || self.is_eager && len > 0 {
                break Ok(());
            }
        };
        // What came before an error is good.
        (Buffer { bytes, len, pool: self.clone() }, result)
    }
}

/// Some bytes; their memory goes back to the pool.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Pool,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

enum Piece {
    Bytes(Arc<Buffer>),
    End,
}

/// The writing end of a pipe between two threads.
pub(super) struct PipeWriter(SyncSender<Piece>);

/// The reading end. A writer that goes away without [`PipeWriter::end`] is an error here, not an end.
pub(super) struct PipeReader {
    receiver: Receiver<Piece>,
    current: Option<(Arc<Buffer>, usize)>,
    is_ended: bool,
}

/// The reader is gone.
pub(super) struct Closed;

/// A bounded pipe.
pub(super) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, receiver) = sync_channel(QUEUE_BUFFERS);
    (PipeWriter(sender), PipeReader { receiver, current: None, is_ended: false })
}

impl PipeWriter {
    pub(super) fn send(&self, buffer: Arc<Buffer>) -> Result<(), Closed> {
        self.0.send(Piece::Bytes(buffer)).map_err(|_| Closed)
    }

    pub(super) fn end(self) {
        let _ = self.0.send(Piece::End);
    }
}

impl PipeReader {
    /// The next buffer as it was sent; nothing at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Arc<Buffer>>> {
        if self.is_ended {
            return Ok(None);
        }
        match self.receiver.recv() {
            Ok(Piece::Bytes(buffer)) => Ok(Some(buffer)),
            Ok(Piece::End) => {
                self.is_ended = true;
                Ok(None)
            }
            Err(_) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the stream stopped before its end")),
        }
    }
}

impl Read for PipeReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((buffer, position)) = &mut self.current {
                let rest = &buffer[*position..];
                if !rest.is_empty() {
                    let len = rest.len().min(target.len());
                    target[..len].copy_from_slice(&rest[..len]);
                    *position += len;
                    return Ok(len);
                }
            }
            self.current = None;
            match self.next()? {
                Some(buffer) => self.current = Some((buffer, 0)),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_the_end_is_told_from_a_stop() {
        let pool = Pool::default();
        let data: Vec<u8> = (0..BUFFER_BYTES * 20 + 17).map(|position| (position % 251) as u8).collect();
        for is_whole in [true, false] {
            let (writer, mut reader) = pipe();
            let mut got = Vec::new();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut source = data.as_slice();
                    loop {
                        let (buffer, result) = pool.fill(&mut source);
                        result.unwrap();
                        if buffer.is_empty() || writer.send(Arc::new(buffer)).is_err() {
                            break;
                        }
                    }
                    if is_whole { writer.end() } else { drop(writer) }
                });
                assert_eq!(reader.read_to_end(&mut got).is_ok(), is_whole);
            });
            assert!(got == data);
        }
        assert!(pool.free.lock().unwrap().len() <= QUEUE_BUFFERS + 4, "buffers are used again");
    }

    #[test]
    fn bytes_before_a_failure_are_kept() {
        struct Failing(u8);
        impl Read for Failing {
            fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 => {
                        target[..3].copy_from_slice(b"abc");
                        Ok(3)
                    }
                    2 => Err(io::ErrorKind::Interrupted.into()),
                    _ => Err(io::ErrorKind::ConnectionReset.into()),
                }
            }
        }
        let (buffer, result) = Pool::default().fill(&mut Failing(0));
        assert_eq!((&*buffer, result.unwrap_err().kind()), (&b"abc"[..], io::ErrorKind::ConnectionReset));
    }
}
