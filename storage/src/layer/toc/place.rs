//! Where a layer's table of contents is, by its annotations; for eStargz also by the last bytes of the blob.

use std::io::Read;

use super::{
    CHUNKED_CHECKSUM, CHUNKED_POSITION, ESTARGZ_DIGEST, MAX_PACKED_BYTES, MAX_RAW_BYTES, Toc, TocError, tree::Builder,
};
use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::layer::IdPolicy;
use crate::layer::compression::Decompressor;
use crate::layer::tar::{EntryKind, Reader};

/// The name of the table in an eStargz archive.
const ESTARGZ_NAME: &[u8] = b"stargz.index.json";

/// The table's manifest type that there is (`ManifestTypeCRFS`).
const CRFS: u64 = 1;

/// A table that annotations tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// zstd:chunked: bytes of the blob that are one zstd stream, whose digest is that of those bytes.
    Chunked { offset: u64, len: u64, raw_len: u64, digest: Digest },
    /// eStargz: an archive of one file at an offset that the blob's last bytes have; the digest is the file's.
    Estargz { digest: Digest },
}

/// The last bytes of an eStargz blob: an empty gzip member whose extra field says where the table begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footer;

impl Footer {
    pub(crate) const BYTES: u64 = 51;

    /// Where the table begins.
    ///
    /// # Errors
    /// [`TocError`].
    pub(crate) fn parse(footer: &[u8], blob_bytes: u64) -> Result<u64, TocError> {
        let text = footer.get(16..38).filter(|_| footer.starts_with(&[0x1f, 0x8b]));
        let offset = text.and_then(|text| text.strip_suffix(b"STARGZ")).and_then(|hex| std::str::from_utf8(hex).ok());
        let offset = offset.and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let offset = offset.ok_or(TocError::Unusable("the layer does not end as eStargz layers do"))?;
        let end = blob_bytes.saturating_sub(Self::BYTES);
        if offset >= end {
            return Err(hostile(format!("it begins at byte {offset} of a layer of {blob_bytes}")));
        }
        if end - offset > MAX_PACKED_BYTES {
            return Err(TocError::Unusable("it is too long to be read in advance"));
        }
        Ok(offset)
    }
}

fn hostile(text: String) -> TocError {
    TocError::Hostile(text)
}

impl Place {
    /// The table of a layer, if it says that it has one.
    ///
    /// # Errors
    /// [`TocError`] if it cannot be where it says.
    pub(crate) fn of(layer: &Descriptor) -> Result<Option<Self>, TocError> {
        let digest = |key: &str| {
            let text = layer.annotation(key);
            text.map(|text| Digest::parse(text).map_err(|error| hostile(format!("{key}: {error}")))).transpose()
        };
        if let (Some(digest), Some(position)) = (digest(CHUNKED_CHECKSUM)?, layer.annotation(CHUNKED_POSITION)) {
            let numbers: Option<Vec<u64>> = position.split(':').map(|number| number.parse().ok()).collect();
            let Some([offset, len, raw_len, kind]) = numbers.as_deref() else {
                return Err(hostile(format!("{CHUNKED_POSITION}: not four numbers")));
            };
            let (offset, len, raw_len) = (*offset, *len, *raw_len);
            if *kind != CRFS {
                return Err(TocError::Unusable("it is of an unknown kind"));
            }
            if offset.checked_add(len).is_none_or(|end| end > layer.size) || len == 0 {
                let size = layer.size;
                return Err(hostile(format!("{len} bytes at {offset} of a layer of {size} bytes")));
            }
            if len > MAX_PACKED_BYTES || raw_len > MAX_RAW_BYTES {
                return Err(TocError::Unusable("it is too long to be read in advance"));
            }
            return Ok(Some(Self::Chunked { offset, len, raw_len, digest }));
        }
        Ok(digest(ESTARGZ_DIGEST)?.map(|digest| Self::Estargz { digest }))
    }

    /// Reads the table from its bytes in the blob, which begin at `offset`.
    ///
    /// # Errors
    /// [`TocError`].
    pub(crate) fn read(&self, bytes: &[u8], offset: u64, ids: &IdPolicy) -> Result<Toc, TocError> {
        match self {
            Self::Chunked { raw_len, digest, .. } => {
                check(digest, bytes)?;
                let json = Decompressor::new(bytes).map_err(|error| unpackable(&error))?;
                let mut builder = Builder::new(offset, ids, false);
                super::parse::entries(json.take(*raw_len), *raw_len, &mut builder)?;
                builder.finish()
            }
            Self::Estargz { digest } => {
                let archive = Decompressor::new(bytes).map_err(|error| unpackable(&error))?;
                let mut archive = Reader::new(archive.take(MAX_RAW_BYTES));
                let malformed = |error: crate::layer::tar::TarError| hostile(error.to_string());
                let entry = archive.next_entry().map_err(malformed)?;
                let entry = entry.filter(|entry| entry.path == ESTARGZ_NAME && entry.kind == EntryKind::File);
                let entry = entry.ok_or_else(|| hostile("there is none where it should be".to_owned()))?;
                let mut json = Vec::new();
                while let Some(chunk) = archive.next_chunk().map_err(malformed)? {
                    json.extend_from_slice(chunk.bytes);
                }
                check(digest, &json)?;
                let mut builder = Builder::new(offset, ids, true);
                super::parse::entries(json.as_slice(), json.len() as u64, &mut builder)?;
                // It is a file of the layer as well, behind all others.
                builder.add_table(&entry, offset)?;
                builder.finish()
            }
        }
    }
}

fn check(digest: &Digest, bytes: &[u8]) -> Result<(), TocError> {
    let mut hasher = digest.hasher();
    hasher.update(bytes);
    match hasher.finish() {
        got if got == *digest => Ok(()),
        got => Err(hostile(format!("its digest is {got}, not {digest} as the manifest says"))),
    }
}

fn unpackable(error: &std::io::Error) -> TocError {
    hostile(crate::sys::reason(error))
}
