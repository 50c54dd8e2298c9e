//! Compression of layers: recognised by magic, never by media type (which registries get wrong), undone while streaming.
//!
//! Memory: a 64 KiB input buffer and the decoder's window (gzip 32 KiB; zstd as its frame says, at most 128 MiB: the
//! largest that `zstd --ultra` makes; the usual levels need 8 MiB at most). Output is only ever as large as the
//! caller's buffer, so a bomb costs time and what its bytes cost the caller, nothing else.
//!
//! gzip is undone by zlib-rs. On a layer of Debian (95 MB, one thread, MB of contents per second of processor time): zlib
//! 217 to 260, **zlib-rs 340 to 358**, zlib-ng 391 to 407, libdeflate 444 to 448, ISA-L 457 to 482. libdeflate wants the whole
//! layer in memory, ISA-L an assembler, zlib-ng CMake for some 15 % of a third of a pull's time; zlib-rs is Rust.
//! `cargo bench --bench images` measures what is linked here.

use std::fmt;
use std::io::{self, BufReader, Chain, Cursor, Read};

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
        let is_skippable_frame = matches!(begin, [first, 0x2a, 0x4d, 0x18, ..] if (0x50..=0x5f).contains(first));
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

/// The bytes looked at, then the rest.
type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

enum Decoder<R: Read> {
    None(Input<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Input<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
}

impl<R: Read> Decompressor<R> {
    /// Looks at the first bytes of `inner` and chooses the decoder.
    ///
    /// # Errors
    /// What `inner` reports; [`UnsupportedCompression`] as `InvalidData`.
    pub fn new(mut inner: R) -> io::Result<Self> {
        let mut begin = Vec::with_capacity(MAGIC_BYTES);
        inner.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut begin)?;
        let compression =
            Compression::detect(&begin).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let input = BufReader::with_capacity(INPUT_BYTES, Cursor::new(begin).chain(inner));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// Gives one byte at a time, as a slow network does.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(1).min(self.0.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn inflate(data: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut decoder = Decompressor::new(Trickle(data))?;
        let mut out = Vec::new();
        decoder.read_to_end(&mut out)?;
        Ok((decoder.compression(), out))
    }

    #[test]
    fn every_compression_of_layers_is_recognised_and_undone() {
        let zstd = zstd::encode_all(&b"one"[..], 3).unwrap();
        let skippable = [&b"\x5a\x2a\x4d\x18\x03\0\0\0abc"[..]].concat();
        let cases: &[(Vec<u8>, Compression, &[u8])] = &[
            (b"".to_vec(), Compression::None, b""),
            (b"ab".to_vec(), Compression::None, b"ab"),
            (b"plain text".to_vec(), Compression::None, b"plain text"),
            (gzip(b"one"), Compression::Gzip, b"one"),
            ([gzip(b"one"), gzip(b""), gzip(b"two")].concat(), Compression::Gzip, b"onetwo"),
            (zstd.clone(), Compression::Zstd, b"one"),
            ([zstd.clone(), skippable.clone(), zstd.clone()].concat(), Compression::Zstd, b"oneone"),
            ([skippable, zstd].concat(), Compression::Zstd, b"one"),
        ];
        for (data, compression, expected) in cases {
            assert_eq!(inflate(data).unwrap(), (*compression, expected.to_vec()), "{compression}");
        }
    }

    #[test]
    fn other_compressions_are_refused_by_name() {
        for (magic, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz"), (b"LZIP\x01..", "lzip")] {
            let error = inflate(magic).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("zstd"), "{error}");
        }
    }

    #[test]
    fn cut_and_damaged_streams_are_errors() {
        let zstd = zstd::encode_all(&[7_u8; 5000][..], 3).unwrap();
        for whole in [gzip(&[7; 5000]), zstd] {
            for len in 7..whole.len() {
                assert!(inflate(&whole[..len]).is_err(), "{len}");
            }
        }
        let mut garbage_behind = gzip(b"one");
        garbage_behind.extend_from_slice(b"garbage");
        assert!(inflate(&garbage_behind).is_err());
        let mut flipped = gzip(b"one");
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        assert!(inflate(&flipped).is_err());
    }
}
