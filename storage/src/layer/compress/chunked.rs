//! zstd:chunked: each file's contents in frames of their own, and behind them a table of contents in frames that decoders skip.
//!
//! ```text
//! [headers][contents][contents][headers]… [skipped: table][skipped: tar-split][skipped: 64 bytes that say where those are]
//! ```
//! A reader that knows nothing of it sees a zstd stream of the same tar. Files are cut where a rolling checksum says so, the one
//! of containers/storage, so that equal parts of files become equal frames in both. The tar-split (all bytes of the tar that are
//! no contents) lets others rebuild the tar, and so its digest, from the table alone.
//!
//! A layer that the format cannot say everything about (global pax headers, sparse files, names that are no UTF-8) is compressed
//! as plain zstd, without a table.
//!
//! # Source
//! `containers/storage` `pkg/chunked/compressor/compressor.go`, `pkg/chunked/internal/minimal/compression.go`;
//! `vbatts/tar-split` `tar/storage/entry.go`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Cutter;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::layer::tar::{Entry, EntryKind, Reader};
use crate::layer::toc::{CHUNKED_CHECKSUM, CHUNKED_POSITION, CHUNKED_TAR_SPLIT};

/// A header block.
const BLOCK: usize = 512;
/// Longest piece of a file.
const MAX_CHUNK_BYTES: usize = 1 << 20;
/// Headers that are compressed together.
const MAX_HEADERS_BYTES: usize = 1 << 20;
/// Bits of the rolling checksum that end a piece: 64 KiB on average.
const SPLIT_BITS: u32 = 16;
/// A frame that decoders skip.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// The end of the footer: `GNUlInUx`.
const MAGIC: [u8; 8] = [0x47, 0x4e, 0x55, 0x6c, 0x49, 0x6e, 0x55, 0x78];

/// A frame that was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) offset: u64,
    pub(super) end: u64,
    /// SHA-256 of what is in it, if it is a piece of a file.
    pub(super) digest: [u8; 32],
}

/// What stands in the table, before it is known where frames begin.
#[derive(Debug)]
pub(super) struct Plan {
    entries: Vec<Planned>,
    tar_split: Vec<u8>,
    tar_split_raw_bytes: u64,
}

#[derive(Debug)]
struct Planned {
    entry: TocEntry,
    /// Frames of its contents: number, offset and length in the file.
    chunks: Vec<(usize, u64, u64)>,
    /// Of all of them, where there are several.
    digest: Option<Digest>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accesstime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changetime: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    version: u32,
    entries: Vec<TocEntry>,
    tar_split_digest: String,
}

/// The bytes of the tar as they come, kept until they are cut.
struct Kept<R> {
    inner: R,
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.bytes.borrow_mut().extend_from_slice(&buffer[..len]);
        Ok(len)
    }
}

/// The lines of a tar-split.
struct TarSplit {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    raw_bytes: u64,
    position: u64,
}

#[derive(Serialize)]
struct SplitLine<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

impl TarSplit {
    const FILE: u8 = 1;
    const SEGMENT: u8 = 2;

    fn line(&mut self, kind: u8, name: Option<&str>, size: u64, payload: Option<&[u8]>) -> io::Result<()> {
        let payload = payload.map(|payload| STANDARD.encode(payload));
        let line = SplitLine { kind, name, size, payload, position: self.position };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        self.position += 1;
        self.raw_bytes += bytes.len() as u64;
        self.encoder.write_all(&bytes)
    }
}

/// Cuts a tar into frames; gives the plan of its table, unless there is none for it.
pub(super) fn cut(source: impl Read, level: i32, cutter: &mut Cutter<'_>) -> io::Result<Option<Plan>> {
    let bytes = Rc::new(RefCell::new(Vec::new()));
    let mut reader = Reader::new(Kept { inner: source, bytes: Rc::clone(&bytes) });
    let encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
    let mut work = Work {
        bytes: &bytes,
        cutter,
        headers: Vec::new(),
        split: TarSplit { encoder, raw_bytes: 0, position: 0 },
        entries: Vec::new(),
        padding: 0,
    };
    loop {
        let before = reader.offset();
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            // What is no archive to us is compressed all the same; whoever reads it says what is wrong.
            Err(crate::layer::tar::TarError::Read { source, .. }) => return Err(source),
            Err(_) => return work.give_up(reader.into_inner()),
        };
        let header_bytes = usize::try_from(entry.data_offset - before).unwrap_or(usize::MAX);
        let planned = (!entry.sparse).then(|| work.plan(&entry, header_bytes)).flatten();
        let Some(planned) = planned else { return work.give_up(reader.into_inner()) };
        work.take_headers(header_bytes)?;
        let planned = work.contents(&entry, planned, &mut reader)?;
        work.entries.push(planned);
        work.padding = (BLOCK - (entry.stored_bytes as usize % BLOCK)) % BLOCK;
    }
    match reader.drain() {
        Ok(_) => {}
        Err(crate::layer::tar::TarError::Read { source, .. }) => return Err(source),
        Err(_) => return work.give_up(reader.into_inner()),
    }
    let rest = bytes.borrow().len();
    work.take_headers(rest)?;
    work.flush_headers()?;
    let Work { entries, split, .. } = work;
    Ok(Some(Plan { entries, tar_split_raw_bytes: split.raw_bytes, tar_split: split.encoder.finish()? }))
}

struct Work<'w, 'c> {
    bytes: &'w RefCell<Vec<u8>>,
    cutter: &'w mut Cutter<'c>,
    /// What is no contents, and not compressed yet.
    headers: Vec<u8>,
    split: TarSplit,
    entries: Vec<Planned>,
    /// Bytes behind the last contents that fill its block.
    padding: usize,
}

impl Work<'_, '_> {
    /// The first bytes that are kept, which are kept no more.
    fn take(&self, len: usize) -> Vec<u8> {
        let mut bytes = self.bytes.borrow_mut();
        let len = len.min(bytes.len());
        bytes.drain(..len).collect()
    }

    fn take_headers(&mut self, len: usize) -> io::Result<()> {
        let raw = self.take(len);
        if raw.is_empty() {
            return Ok(());
        }
        self.split.line(TarSplit::SEGMENT, None, 0, Some(&raw))?;
        self.headers.extend_from_slice(&raw);
        if self.headers.len() > MAX_HEADERS_BYTES { self.flush_headers() } else { Ok(()) }
    }

    fn flush_headers(&mut self) -> io::Result<()> {
        let headers = std::mem::take(&mut self.headers);
        if headers.is_empty() { Ok(()) } else { self.cutter.send(headers, false).map(drop) }
    }

    /// The rest as it is, without a table.
    fn give_up<R: Read>(mut self, rest: Kept<R>) -> io::Result<Option<Plan>> {
        self.flush_headers()?;
        let kept = self.take(usize::MAX);
        let mut rest = kept.as_slice().chain(rest.inner);
        loop {
            let mut piece = Vec::new();
            rest.by_ref().take(super::ZSTD_PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                return Ok(None);
            }
            self.cutter.send(piece, false)?;
        }
    }

    /// What the table says of an entry, but for its contents; nothing if it cannot say it.
    fn plan(&self, entry: &Entry, header_bytes: usize) -> Option<TocEntry> {
        let bytes = self.bytes.borrow();
        let raw = bytes.get(self.padding.min(header_bytes)..header_bytes)?;
        let header = Header::read(raw)?;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let kind = match entry.kind {
            EntryKind::File => "reg",
            EntryKind::Hardlink => "hardlink",
            EntryKind::Symlink => "symlink",
            EntryKind::CharDevice => "char",
            EntryKind::BlockDevice => "block",
            EntryKind::Directory => "dir",
            EntryKind::Fifo => "fifo",
        };
        Some(TocEntry {
            kind,
            name: text(&entry.path)?,
            link_name: text(&entry.link)?,
            mode: header.mode,
            size: entry.size,
            uid: u64::from(entry.uid),
            gid: u64::from(entry.gid),
            modtime: Some(time(entry.mtime.secs, entry.mtime.nanos)?),
            accesstime: header.accesstime,
            changetime: header.changetime,
            dev_major: header.device.0,
            dev_minor: header.device.1,
            xattrs: header.xattrs,
            ..TocEntry::default()
        })
    }

    fn contents<R: Read>(
        &mut self,
        entry: &Entry,
        planned: TocEntry,
        reader: &mut Reader<Kept<R>>,
    ) -> io::Result<Planned> {
        let mut chunks = Vec::new();
        let mut digest = None;
        let mut crc = Crc64::new();
        if entry.stored_bytes > 0 {
            self.flush_headers()?;
            let (mut sum, mut hasher) = (RollSum::new(), Hasher::new(Algorithm::Sha256));
            let (mut piece, mut begin) = (Vec::new(), 0);
            while let Some(chunk) = reader.next_chunk().map_err(|error| io::Error::other(error.to_string()))? {
                let len = chunk.bytes.len();
                let bytes = self.take(len);
                crc.update(&bytes);
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let room = rest.len().min(MAX_CHUNK_BYTES - piece.len());
                    let end = rest[..room].iter().position(|byte| sum.roll(*byte));
                    let (now, later) = rest.split_at(end.map_or(room, |at| at + 1));
                    piece.extend_from_slice(now);
                    rest = later;
                    if end.is_some() || piece.len() == MAX_CHUNK_BYTES {
                        self.chunk(&mut piece, &mut begin, &mut chunks, &mut hasher)?;
                    }
                }
            }
            if !piece.is_empty() {
                self.chunk(&mut piece, &mut begin, &mut chunks, &mut hasher)?;
            }
            digest = (chunks.len() > 1).then(|| hasher.finish());
        }
        let payload = crc.finish().to_be_bytes();
        let payload = (entry.stored_bytes > 0).then_some(&payload[..]);
        self.split.line(TarSplit::FILE, Some(&planned.name), entry.stored_bytes, payload)?;
        Ok(Planned { entry: planned, chunks, digest })
    }

    fn chunk(
        &mut self,
        piece: &mut Vec<u8>,
        begin: &mut u64,
        chunks: &mut Vec<(usize, u64, u64)>,
        hasher: &mut Hasher,
    ) -> io::Result<()> {
        hasher.update(piece);
        let len = piece.len() as u64;
        let frame = self.cutter.send(std::mem::take(piece), true)?;
        chunks.push((frame, *begin, len));
        *begin += len;
        Ok(())
    }
}

impl Plan {
    /// The frames behind the last: the table, the tar-split, the footer; and the annotations that tell of them.
    pub(super) fn tail(
        self,
        frames: &[Frame],
        offset: u64,
        level: i32,
    ) -> io::Result<(Vec<u8>, BTreeMap<String, String>)> {
        let hex = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut entries = Vec::with_capacity(self.entries.len());
        for Planned { mut entry, chunks, digest } in self.entries {
            let of = |chunk: &(usize, u64, u64)| frames.get(chunk.0).copied().ok_or(io::ErrorKind::InvalidData);
            let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
                entries.push(entry);
                continue;
            };
            let name = entry.name.clone();
            (entry.offset, entry.end_offset) = (of(first)?.offset, of(last)?.end);
            entry.digest = match &digest {
                Some(digest) => digest.to_string(),
                None => format!("sha256:{}", hex(&of(first)?.digest)),
            };
            if digest.is_some() {
                entry.chunk_size = first.2;
                entry.chunk_digest = format!("sha256:{}", hex(&of(first)?.digest));
            }
            entries.push(entry);
            for chunk in &chunks[1..] {
                let frame = of(chunk)?;
                entries.push(TocEntry {
                    kind: "chunk",
                    name: name.clone(),
                    offset: frame.offset,
                    chunk_offset: chunk.1,
                    chunk_size: chunk.2,
                    chunk_digest: format!("sha256:{}", hex(&frame.digest)),
                    ..TocEntry::default()
                });
            }
        }
        let tar_split_digest = Digest::of(&self.tar_split).to_string();
        let json = serde_json::to_vec(&Table { version: 1, entries, tar_split_digest })?;
        let packed = zstd::bulk::compress(&json, level)?;
        let (table, split) = (offset + 8, offset + 8 + packed.len() as u64 + 8);
        let split_bytes = self.tar_split.len() as u64;
        let numbers = [
            table,
            packed.len() as u64,
            json.len() as u64,
            1,
            split,
            split_bytes,
            self.tar_split_raw_bytes,
            u64::from_le_bytes(MAGIC),
        ];
        let footer: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
        let mut tail = Vec::new();
        for part in [&packed, &self.tar_split, &footer] {
            let len = u32::try_from(part.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
            tail.extend(SKIPPABLE);
            tail.extend(len.to_le_bytes());
            tail.extend(part);
        }
        let annotations = [
            (CHUNKED_CHECKSUM, Digest::of(&packed).to_string()),
            (CHUNKED_POSITION, format!("{table}:{}:{}:1", packed.len(), json.len())),
            (CHUNKED_TAR_SPLIT, format!("{split}:{split_bytes}:{}", self.tar_split_raw_bytes)),
        ];
        Ok((tail, annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
    }
}

fn time(secs: i64, nanos: u32) -> Option<String> {
    let time = jiff::Timestamp::new(secs, i32::try_from(nanos).ok()?).ok()?;
    // Years of four digits, or nobody reads it.
    (-62_135_596_800..253_402_300_800).contains(&secs).then(|| time.to_string())
}

/// What is in the raw header of an entry and nowhere else.
#[derive(Default)]
struct Header {
    mode: u64,
    device: (u64, u64),
    accesstime: Option<String>,
    changetime: Option<String>,
    xattrs: BTreeMap<String, String>,
}

impl Header {
    /// Reads the blocks of one entry up to its own; nothing if there is something that a table cannot say.
    fn read(raw: &[u8]) -> Option<Self> {
        let mut header = Self::default();
        let mut rest = raw;
        loop {
            let (block, after) = rest.split_first_chunk::<BLOCK>()?;
            let size = usize::try_from(octal(&block[124..136])?).ok()?;
            match block[156] {
                b'x' => header.pax(after.get(..size)?)?,
                b'L' | b'K' => {}
                0 | b'0'..=b'6' => {
                    header.mode = octal(&block[100..108])?;
                    let (is_ustar, is_gnu) = (&block[257..262] == b"ustar", &block[257..265] == b"ustar  \0");
                    if is_ustar && &block[508..512] == b"tar\0" {
                        return None;
                    }
                    if is_ustar {
                        header.device = (octal(&block[329..337])?, octal(&block[337..345])?);
                    }
                    for (place, at) in [(&mut header.accesstime, 345), (&mut header.changetime, 357)] {
                        if is_gnu && block[at] != 0 {
                            *place = Some(time(octal(&block[at..at + 12])?.try_into().ok()?, 0)?);
                        }
                    }
                    return after.is_empty().then_some(header);
                }
                _ => return None,
            }
            rest = after.get(size.next_multiple_of(BLOCK)..)?;
        }
    }

    fn pax(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ')?;
            let len: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
            let record = records.get(space + 1..len)?.strip_suffix(b"\n")?;
            records = &records[len..];
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (std::str::from_utf8(&record[..equals]).ok()?, &record[equals + 1..]);
            match key {
                "atime" => self.accesstime = pax_time(value)?,
                "ctime" => self.changetime = pax_time(value)?,
                _ => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        self.xattrs.insert(name.to_owned(), STANDARD.encode(value));
                    }
                }
            }
        }
        Some(())
    }
}

fn pax_time(value: &[u8]) -> Option<Option<String>> {
    let text = std::str::from_utf8(value).ok()?;
    if text.is_empty() {
        return Some(None);
    }
    let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = secs.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    // The fraction counts away from zero.
    let (secs, nanos) =
        if text.starts_with('-') && nanos > 0 { (secs - 1, 1_000_000_000 - nanos) } else { (secs, nanos) };
    Some(Some(time(secs, nanos)?))
}

/// A number of a header; nothing if it is in base 256.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(|ch| ch == '\0' || ch == ' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// The rolling checksum of bup, which ends pieces where the last 64 bytes say so.
struct RollSum {
    sums: (u32, u32),
    window: [u8; Self::WINDOW],
    at: usize,
}

impl RollSum {
    const WINDOW: usize = 64;
    const OFFSET: u32 = 31;

    fn new() -> Self {
        let window = Self::WINDOW as u32;
        Self { sums: (window * Self::OFFSET, window * (window - 1) * Self::OFFSET), window: [0; Self::WINDOW], at: 0 }
    }

    /// Takes a byte; true if a piece ends with it.
    fn roll(&mut self, byte: u8) -> bool {
        let old = u32::from(std::mem::replace(&mut self.window[self.at], byte));
        self.at = (self.at + 1) % Self::WINDOW;
        let (mut one, mut two) = self.sums;
        one = one.wrapping_add(u32::from(byte)).wrapping_sub(old);
        two = two.wrapping_add(one).wrapping_sub(Self::WINDOW as u32 * (old + Self::OFFSET));
        self.sums = (one, two);
        let mask = (1 << SPLIT_BITS) - 1;
        two & mask == mask
    }
}

/// CRC-64 of ISO 3309, as Go's `crc64.ISO`.
struct Crc64 {
    table: [u64; 256],
    value: u64,
}

impl Crc64 {
    fn new() -> Self {
        const TABLE: [u64; 256] = {
            let mut table = [0; 256];
            let mut at = 0;
            while at < 256 {
                let mut crc = at as u64;
                let mut bit = 0;
                while bit < 8 {
                    crc = if crc & 1 == 1 { (crc >> 1) ^ 0xD800_0000_0000_0000 } else { crc >> 1 };
                    bit += 1;
                }
                table[at] = crc;
                at += 1;
            }
            table
        };
        Self { table: TABLE, value: !0 }
    }

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.value = self.table[usize::from(self.value as u8 ^ byte)] ^ (self.value >> 8);
        }
    }

    fn finish(self) -> u64 {
        !self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_others() {
        let mut crc = Crc64::new();
        crc.update(b"123456789");
        assert_eq!(crc.finish(), 0xB909_56C7_75A4_1001);
        // bup's: the position of the first split of a known sequence does not depend on what was before its window.
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let bytes: Vec<u8> = (0..600_000).map(|_| next()).collect();
        let splits = |from: usize| {
            let mut sum = RollSum::new();
            let found = bytes[from..].iter().enumerate().filter(|(_, byte)| sum.roll(**byte));
            found.map(|(at, _)| at + from).filter(|at| *at > 2000).collect::<Vec<_>>()
        };
        assert!(!splits(0).is_empty());
        assert_eq!(splits(0), splits(1000));
    }

    #[test]
    fn times_of_pax_are_those_of_rfc_3339() {
        for (pax, expected) in [
            ("0", Some("1970-01-01T00:00:00Z")),
            ("1.5", Some("1970-01-01T00:00:01.5Z")),
            ("-1.25", Some("1969-12-31T23:59:58.75Z")),
            ("", None),
        ] {
            assert_eq!(pax_time(pax.as_bytes()).unwrap().as_deref(), expected, "{pax}");
        }
        assert!(pax_time(b"x").is_none());
    }
}
