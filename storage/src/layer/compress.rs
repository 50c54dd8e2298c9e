//! Compression of layers on their way out: pieces of the tar, each a gzip member or zstd frame of its own, on all cores.
//!
//! ```text
//! tar ─ pieces ─┬→ worker ─┬→ in their order → reader
//!               └→ worker ─┘
//! ```
//! A stream of members is a gzip file (RFC 1952, 2.2), and one of frames a zstd file (RFC 8878, 3). The same tar gives the
//! same bytes, whatever the number of workers. At most two pieces for each worker are in memory.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use libdeflater::{CompressionLvl, Compressor};

/// The tar in one gzip member: larger ones are hardly smaller in sum.
const GZIP_PIECE_BYTES: usize = 1 << 20;

/// The tar in one zstd frame, whose window is as large.
const ZSTD_PIECE_BYTES: usize = 4 << 20;

/// What a layer is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Format {
    /// The level without a wish: as small as podman's layers, in a third of the time.
    pub const fn default_level(self) -> i32 {
        match self {
            Self::Gzip => 1,
            Self::Zstd => 3,
        }
    }

    /// The levels that there are.
    pub const fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            Self::Gzip => 1..=12,
            Self::Zstd => 1..=22,
        }
    }

    /// How much of the tar becomes one piece.
    pub(crate) const fn piece_bytes(self) -> usize {
        match self {
            Self::Gzip => GZIP_PIECE_BYTES,
            Self::Zstd => ZSTD_PIECE_BYTES,
        }
    }
}

type Outcome = io::Result<Vec<u8>>;

/// A piece, and where its compressed bytes are waited for.
type Task = (Vec<u8>, SyncSender<Outcome>);

/// The compressed bytes of a stream. Dropped early, its threads end by themselves.
#[derive(Debug)]
pub struct Compressing {
    /// The outcomes of the pieces in their order.
    pieces: Receiver<io::Result<Receiver<Outcome>>>,
    current: io::Cursor<Vec<u8>>,
}

/// Begins to compress `source`, at a level that is one of [`Format::levels`], on as many threads as there are cores.
///
/// # Errors
/// No thread can be started.
pub fn compress(source: impl Read + Send + 'static, format: Format, level: i32) -> io::Result<Compressing> {
    compress_with(source, format, level, thread::available_parallelism().map_or(1, usize::from).min(16))
}

fn compress_with(
    source: impl Read + Send + 'static,
    format: Format,
    level: i32,
    workers: usize,
) -> io::Result<Compressing> {
    let (tasks, queue) = sync_channel::<Task>(workers);
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..workers {
        let queue = Arc::clone(&queue);
        thread::Builder::new().name("compress".to_owned()).spawn(move || {
            let mut encoder = Encoder::new(format, level);
            loop {
                let task = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((piece, waiting)) = task else { return };
                // Whoever waited may be gone.
                let _ = waiting.send(encoder.encode(&piece));
            }
        })?;
    }
    let (order, pieces) = sync_channel(workers);
    thread::Builder::new().name("pieces".to_owned()).spawn(move || cut(source, format, &tasks, &order))?;
    Ok(Compressing { pieces, current: io::Cursor::default() })
}

/// Cuts the stream into pieces until it ends, fails, or nobody reads any more.
fn cut(
    mut source: impl Read,
    format: Format,
    tasks: &SyncSender<Task>,
    order: &SyncSender<io::Result<Receiver<Outcome>>>,
) {
    let mut is_first = true;
    loop {
        let mut piece = Vec::with_capacity(format.piece_bytes());
        if let Err(error) = source.by_ref().take(format.piece_bytes() as u64).read_to_end(&mut piece) {
            let _ = order.send(Err(error));
            return;
        }
        // Of nothing, one empty piece: no bytes at all would not be a gzip file.
        if piece.is_empty() && !is_first {
            return;
        }
        is_first = false;
        let (outcome, waiting) = sync_channel(1);
        if order.send(Ok(waiting)).is_err() || tasks.send((piece, outcome)).is_err() {
            return;
        }
    }
}

enum Encoder {
    Gzip(Compressor),
    Zstd(io::Result<zstd::bulk::Compressor<'static>>),
}

impl Encoder {
    fn new(format: Format, level: i32) -> Self {
        match format {
            Format::Gzip => Self::Gzip(Compressor::new(CompressionLvl::new(level).unwrap_or_default())),
            Format::Zstd => Self::Zstd(zstd::bulk::Compressor::new(level)),
        }
    }

    fn encode(&mut self, piece: &[u8]) -> Outcome {
        match self {
            Self::Gzip(compressor) => {
                let mut bytes = vec![0; compressor.gzip_compress_bound(piece.len())];
                let len = compressor
                    .gzip_compress(piece, &mut bytes)
                    .map_err(|error| io::Error::other(format!("gzip: {error}")))?;
                bytes.truncate(len);
                Ok(bytes)
            }
            Self::Zstd(Ok(compressor)) => compressor.compress(piece),
            Self::Zstd(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl Read for Compressing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.current.read(buffer)?;
            if len > 0 || buffer.is_empty() {
                return Ok(len);
            }
            let Ok(piece) = self.pieces.recv() else { return Ok(0) };
            let bytes = piece?.recv().map_err(|_| io::Error::other("a worker stopped"))??;
            self.current = io::Cursor::new(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compression::{Compression, Decompressor};
    use super::*;

    /// Compressible, and different in each place.
    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|at| ((at / 7) % 251) as u8 ^ (at >> 16) as u8).collect()
    }

    #[test]
    fn streams_of_pieces_are_read_back_and_do_not_depend_on_the_number_of_workers() {
        for format in [Format::Gzip, Format::Zstd] {
            for len in [0, 1, GZIP_PIECE_BYTES, GZIP_PIECE_BYTES + 1, 9 * GZIP_PIECE_BYTES + 17] {
                let data = sample(len);
                let packed = [1, 3].map(|workers| {
                    let mut bytes = Vec::new();
                    let source = io::Cursor::new(data.clone());
                    compress_with(source, format, format.default_level(), workers)
                        .unwrap()
                        .read_to_end(&mut bytes)
                        .unwrap();
                    bytes
                });
                assert!(packed[0] == packed[1], "{format:?} {len}");
                let mut reader = Decompressor::new(packed[0].as_slice()).unwrap();
                let expected = if format == Format::Gzip { Compression::Gzip } else { Compression::Zstd };
                assert_eq!(reader.compression(), expected);
                let mut back = Vec::new();
                reader.read_to_end(&mut back).unwrap();
                assert!(back == data, "{format:?} {len}");
            }
        }
    }

    #[test]
    fn a_source_that_fails_is_an_error_and_no_end() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let len = buffer.len().min(self.0);
                self.0 -= len;
                if len == 0 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(len) }
            }
        }
        let mut bytes = Vec::new();
        let mut reader = compress_with(Failing(3 << 20), Format::Gzip, 1, 2).unwrap();
        assert_eq!(reader.read_to_end(&mut bytes).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn whoever_stops_reading_stops_the_work() {
        let (alive, watch) = sync_channel::<()>(0);
        struct Endless(#[expect(dead_code, reason = "held")] SyncSender<()>);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(1);
                Ok(buffer.len())
            }
        }
        let mut reader = compress_with(Endless(alive), Format::Gzip, 1, 2).unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
        drop(reader);
        assert!(watch.recv().is_err(), "the source is dropped");
    }
}
