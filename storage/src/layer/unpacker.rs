//! Compression of archives that users have: that of layers, and `xz` and `bzip2`, which no layer may have.
//!
//! Memory: as [`super::compression`]; xz at most 128 MiB, of which `xz -9` needs 65; bzip2 4 MiB.

use std::fmt;
use std::io::{self, BufReader, Chain, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use lzma_rust2::XzReader;

use super::compression::{Compression, Decompressor};

/// Longest magic looked for.
const MAGIC_BYTES: usize = 6;

const INPUT_BYTES: usize = 64 * 1024;

/// Most memory of one stream.
const MAX_XZ_KIB: u32 = 128 << 10;

type Input<R> = Chain<Cursor<Vec<u8>>, R>;

/// A stream with its compression undone.
pub struct Unpacker<R: Read> {
    decoder: Decoder<R>,
}

enum Decoder<R: Read> {
    OfLayers(Box<Decompressor<Input<R>>>),
    Xz(Box<XzReader<BufReader<Input<R>>>>),
    Bzip2(Box<MultiBzDecoder<BufReader<Input<R>>>>),
}

impl<R: Read> Unpacker<R> {
    /// Looks at the first bytes of `inner` and chooses the decoder.
    ///
    /// # Errors
    /// Those of [`Decompressor::new`].
    pub fn new(mut inner: R) -> io::Result<Self> {
        let mut begin = Vec::with_capacity(MAGIC_BYTES);
        inner.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut begin)?;
        let (is_xz, is_bzip2) = (begin.starts_with(b"\xfd7zXZ\0"), begin.starts_with(b"BZh"));
        let input = Cursor::new(begin).chain(inner);
        let buffered = |input| BufReader::with_capacity(INPUT_BYTES, input);
        let decoder = match (is_xz, is_bzip2) {
            (true, _) => Decoder::Xz(Box::new(XzReader::new_mem_limit(buffered(input), true, MAX_XZ_KIB))),
            (_, true) => Decoder::Bzip2(Box::new(MultiBzDecoder::new(buffered(input)))),
            _ => Decoder::OfLayers(Box::new(Decompressor::new(input)?)),
        };
        Ok(Self { decoder })
    }

    /// Whether there is a compression to undo.
    pub fn is_compressed(&self) -> bool {
        !matches!(&self.decoder, Decoder::OfLayers(decoder) if decoder.compression() == Compression::None)
    }
}

impl<R: Read> Read for Unpacker<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.decoder {
            Decoder::OfLayers(decoder) => decoder.read(buffer),
            Decoder::Xz(decoder) => decoder.read(buffer),
            Decoder::Bzip2(decoder) => decoder.read(buffer),
        }
    }
}

impl<R: Read> fmt::Debug for Unpacker<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker").field("is_compressed", &self.is_compressed()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hello | xz`.
    const XZ: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x04\x68\
        \x65\x6c\x6c\x6f\x00\x00\x00\x00\xb1\x37\xb9\xdb\xe5\xda\x1e\x9b\x00\x01\x1d\x05\xb8\x2d\x80\xaf\x1f\xb6\xf3\x7d\
        \x01\x00\x00\x00\x00\x04\x59\x5a";

    fn unpacked(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Unpacker::new(packed)?.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn archives_of_users_are_packed_as_tar_packs_them() {
        use std::io::Write;
        assert_eq!(unpacked(XZ).unwrap(), b"hello");
        assert_eq!(unpacked(&[XZ, XZ].concat()).unwrap(), b"hellohello");
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(b"hello").unwrap();
        let bzip2 = bzip2.finish().unwrap();
        assert_eq!(unpacked(&[bzip2.as_slice(), &bzip2].concat()).unwrap(), b"hellohello");
        assert_eq!(unpacked(&zstd::encode_all(&b"hello"[..], 1).unwrap()).unwrap(), b"hello");
        assert_eq!(unpacked(b"hello").unwrap(), b"hello");
        assert!(!Unpacker::new(&b"hello"[..]).unwrap().is_compressed() && Unpacker::new(XZ).unwrap().is_compressed());
    }

    #[test]
    fn cut_streams_are_errors() {
        assert!(unpacked(&XZ[..XZ.len() - 20]).is_err());
        assert!(unpacked(b"BZh91AY&SY").is_err());
        assert!(unpacked(b"LZIP and more").is_err());
    }
}
