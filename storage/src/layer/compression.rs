//! Compression of layers: recognised by magic, never by media type (which registries get wrong), undone while streaming.
//!
//! Memory: a 64 KiB input buffer and the decoder's window (gzip 32 KiB; zstd as its frame says, at most 128 MiB: the
//! largest that `zstd --ultra` makes; the usual levels need 8 MiB at most). Output is only ever as large as the
//! caller's buffer, so a bomb costs time and what its bytes cost the caller, nothing else.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

const INPUT_BYTES: usize = 64 * 1024;

/// Longest magic looked for.
const MAGIC_BYTES: usize = 6;

/// zstd's largest window without `--long=31`, as a power of two.
const MAX_WINDOW_LOG: u32 = 27;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, one member or many.
    Gzip,
    /// zstd frames, skippable ones among them.
    Zstd,
}

impl Compression {
    /// Recognises a stream by its first bytes.
    ///
    /// # Errors
    /// [`UnsupportedCompression`] for formats that no layer may have. Anything unknown counts as uncompressed; the tar
    /// reader knows better.
    pub fn detect(begin: &[u8]) -> Result<Self, UnsupportedCompression> {
        const UNSUPPORTED: [(&[u8], &str); 5] = [
            (b"BZh", "bzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x5d\0\0", "lzma"),
            (b"\x04\x22\x4d\x18", "lz4"),
            (b"LZIP", "lzip"),
        ];
        if begin.starts_with(&[0x1f, 0x8b]) {
            return Ok(Self::Gzip);
        }
        let is_zstd_frame = begin.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        let is_skippable_frame =
            matches!(begin, [first, 0x2a, 0x4d, 0x18, ..] if (0x50..=0x5f).contains(first));
        if is_zstd_frame || is_skippable_frame {
            return Ok(Self::Zstd);
        }
        match UNSUPPORTED.iter().find(|(magic, _)| begin.starts_with(magic)) {
            Some((_, format)) => Err(UnsupportedCompression { format }),
            None => Ok(Self::None),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// A compression that layers do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compression with {format} is not supported: use gzip, zstd or none")]
pub struct UnsupportedCompression {
    format: &'static str,
}

/// A stream with its compression undone.
pub struct Decompressor<R: Read> {
    compression: Compression,
    decoder: Decoder<R>,
}

enum Decoder<R: Read> {
    None(BufReader<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decompressor<R> {
    /// Looks at the first bytes of `inner` and chooses the decoder.
    ///
    /// # Errors
    /// What `inner` reports; [`UnsupportedCompression`] as `InvalidData`.
    pub fn new(inner: R) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(INPUT_BYTES, inner);
        let compression = Compression::detect(peek(&mut input)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let decoder = match compression {
            Compression::None => Decoder::None(input),
            Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { compression, decoder })
    }

    /// What was found.
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

/// The first bytes of a stream, which stay in its buffer.
fn peek<R: Read>(input: &mut BufReader<R>) -> io::Result<&[u8]> {
    // One read may bring fewer bytes than a magic has (a pipe): then put a reader for the rest behind it.
    loop {
        let before = input.buffer().len();
        if before >= MAGIC_BYTES {
            break;
        }
        if before == 0 {
            if input.fill_buf()?.is_empty() {
                break;
            }
        } else {
            // `BufReader` reads again only when it is empty; the few bytes at hand decide.
            break;
        }
    }
    Ok(input.buffer())
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.decoder {
            Decoder::None(decoder) => decoder.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

impl<R: Read> fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor").field("compression", &self.compression).finish_non_exhaustive()
    }
}
