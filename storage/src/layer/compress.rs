//! Compression of layers on their way out: pieces of the tar, each a gzip member or zstd frame of its own, on all cores.
//!
//! ```text
//! tar ─ pieces ─┬→ worker ─┬→ in their order → reader
//!               └→ worker ─┘
//! ```
//! A stream of members is a gzip file (RFC 1952, 2.2), and one of frames a zstd file (RFC 8878, 3). The same tar gives the
//! same bytes, whatever the number of workers. At most two pieces for each worker are in memory.

mod chunked;

use std::collections::BTreeMap;
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
    /// zstd with a table of contents.
    ZstdChunked,
}

impl Format {
    /// The level without a wish: as small as podman's layers, in a third of the time.
    pub const fn default_level(self) -> i32 {
        match self {
            Self::Gzip => 1,
            Self::Zstd | Self::ZstdChunked => 3,
        }
    }

    /// The levels that there are.
    pub const fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            Self::Gzip => 1..=12,
            Self::Zstd | Self::ZstdChunked => 1..=22,
        }
    }

    /// How much of the tar becomes one piece.
    pub(crate) const fn piece_bytes(self) -> usize {
        match self {
            Self::Gzip => GZIP_PIECE_BYTES,
            Self::Zstd | Self::ZstdChunked => ZSTD_PIECE_BYTES,
        }
    }

    /// Pieces on their way for each worker.
    fn depth(self) -> usize {
        match self {
            Self::Gzip | Self::Zstd => 1,
            // They are as small as files.
            Self::ZstdChunked => 12,
        }
    }
}

/// Compressed bytes, and the SHA-256 of what they were if that was asked for.
type Outcome = io::Result<(Vec<u8>, [u8; 32])>;

/// A piece, and where its compressed bytes are waited for.
struct Task {
    piece: Vec<u8>,
    is_hashed: bool,
    waiting: SyncSender<Outcome>,
}

/// The table of contents, once the last piece is cut.
type Plan = Arc<Mutex<Option<chunked::Plan>>>;

/// The compressed bytes of a stream. Dropped early, its threads end by themselves.
#[derive(Debug)]
pub struct Compressing {
    /// The outcomes of the pieces in their order.
    pieces: Receiver<io::Result<Receiver<Outcome>>>,
    current: io::Cursor<Vec<u8>>,
    /// Frames so far, where a table of contents is to tell of them.
    frames: Option<Vec<chunked::Frame>>,
    plan: Plan,
    level: i32,
    offset: u64,
    annotations: BTreeMap<String, String>,
}

impl Compressing {
    /// What the layer's descriptor is to say of the bytes, once all are read.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// What stands behind the last piece, once.
    fn tail(&mut self) -> io::Result<Vec<u8>> {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(plan), Some(frames)) = (plan, self.frames.take()) else { return Ok(Vec::new()) };
        let (tail, annotations) = plan.tail(&frames, self.offset, self.level)?;
        self.annotations = annotations;
        Ok(tail)
    }
}

/// Where pieces go in their order.
struct Cutter<'a> {
    tasks: &'a SyncSender<Task>,
    order: &'a SyncSender<io::Result<Receiver<Outcome>>>,
    count: usize,
}

impl Cutter<'_> {
    /// Sends a piece; gives its number.
    fn send(&mut self, piece: Vec<u8>, is_hashed: bool) -> io::Result<usize> {
        let (waiting, outcome) = sync_channel(1);
        let is_read =
            self.order.send(Ok(outcome)).is_ok() && self.tasks.send(Task { piece, is_hashed, waiting }).is_ok();
        self.count += 1;
        if is_read { Ok(self.count - 1) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
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
    let (tasks, queue) = sync_channel::<Task>(workers * format.depth());
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..workers {
        let queue = Arc::clone(&queue);
        thread::Builder::new().name("compress".to_owned()).spawn(move || {
            let mut encoder = Encoder::new(format, level);
            loop {
                let task = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(Task { piece, is_hashed, waiting }) = task else { return };
                let digest = if is_hashed { sha256(&piece) } else { [0; 32] };
                // Whoever waited may be gone.
                let _ = waiting.send(encoder.encode(&piece).map(|bytes| (bytes, digest)));
            }
        })?;
    }
    let (order, pieces) = sync_channel(workers * format.depth());
    let plan = Plan::default();
    let planned = Arc::clone(&plan);
    thread::Builder::new().name("pieces".to_owned()).spawn(move || match format {
        Format::Gzip | Format::Zstd => cut(source, format, &tasks, &order),
        Format::ZstdChunked => {
            let mut cutter = Cutter { tasks: &tasks, order: &order, count: 0 };
            match chunked::cut(source, level, &mut cutter) {
                Ok(plan) => *planned.lock().unwrap_or_else(PoisonError::into_inner) = plan,
                // Nobody hears of it if nobody reads any more.
                Err(error) => drop(order.send(Err(error))),
            }
        }
    })?;
    let frames = (format == Format::ZstdChunked).then(Vec::new);
    let (current, annotations) = (io::Cursor::default(), BTreeMap::new());
    Ok(Compressing { pieces, current, frames, plan, level, offset: 0, annotations })
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
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
        let (waiting, outcome) = sync_channel(1);
        if order.send(Ok(outcome)).is_err() || tasks.send(Task { piece, is_hashed: false, waiting }).is_err() {
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
            Format::Zstd | Format::ZstdChunked => Self::Zstd(zstd::bulk::Compressor::new(level)),
        }
    }

    fn encode(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
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
            let Ok(piece) = self.pieces.recv() else {
                let tail = self.tail()?;
                if tail.is_empty() {
                    return Ok(0);
                }
                self.current = io::Cursor::new(tail);
                continue;
            };
            let (bytes, digest) = piece?.recv().map_err(|_| io::Error::other("a worker stopped"))??;
            let end = self.offset + bytes.len() as u64;
            if let Some(frames) = &mut self.frames {
                frames.push(chunked::Frame { offset: self.offset, end, digest });
            }
            self.offset = end;
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
