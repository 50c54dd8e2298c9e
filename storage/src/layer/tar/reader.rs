//! The streaming reader: blocks in, entries and chunks of file contents out.

use super::header::{self, Block, Dialect, field};
use super::pax::{self, Pax, Scope};
use super::sparse::{self, Map, Piece};
use super::{BLOCK_BYTES, Entry, EntryKind, MAX_NAME_BYTES, MAX_PAX_BYTES, TarError};
use std::io::{self, Read, Seek, SeekFrom};

const BUFFER_BYTES: usize = 128 * 1024;

/// Reads an archive front to back.
///
/// ```text
/// loop { next_entry() → loop { next_chunk() } }   then drain()
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Offset in the archive of `buffer[start]`.
    offset: u64,
    global: Pax,
    body: Body,
    is_finished: bool,
}

/// What is left of the current entry's contents.
#[derive(Debug, Default)]
struct Body {
    stored_bytes: u64,
    padding_bytes: u64,
    /// Where the next stored byte belongs in the file.
    position: u64,
    /// Pieces not yet begun, last one first; empty for a file without holes.
    pieces: Vec<Piece>,
    /// What is left of the piece being read.
    piece_bytes: u64,
}

/// Some bytes of a file's contents.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Where they belong in the file; greater than the end of the chunk before if a hole lies between.
    pub offset: u64,
    /// Never empty.
    pub bytes: &'a [u8],
}

/// Headers that speak of the entry after them.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Reads an uncompressed archive from `inner`.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            offset: 0,
            global: Pax::default(),
            body: Body::default(),
            is_finished: false,
        }
    }

    /// Reads the header of the next entry, skipping what is left of the one before; `None` at the end of the archive.
    ///
    /// The end is two blocks of zeros, or the end of the stream in place of a header.
    ///
    /// # Errors
    /// [`TarError`] if the stream fails or is not an archive that every reader would understand the same way.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_body()?;
        let mut extensions = Extensions::default();
        loop {
            let offset = self.offset;
            let Some(block) = self.header_block()? else {
                let pending = extensions.pax.is_some() || extensions.has_gnu_names();
                return if pending { Err(truncated(offset, "an entry after its extended header")) } else { Ok(None) };
            };
            let flag = block[field::TYPE];
            match flag {
                b'x' => {
                    let mut pax = self.global.clone();
                    let records = self.meta_body(&block, offset, "a pax header", MAX_PAX_BYTES)?;
                    pax.extend(&records, Scope::Local, offset)?;
                    set_once(&mut extensions.pax, pax, offset)?;
                }
                b'g' => {
                    let records = self.meta_body(&block, offset, "a global pax header", MAX_PAX_BYTES)?;
                    self.global.extend(&records, Scope::Global, offset)?;
                }
                b'L' => {
                    let name = self.meta_body(&block, offset, "a long name", MAX_NAME_BYTES)?;
                    set_once(&mut extensions.long_name, header::text(&name).to_vec(), offset)?;
                }
                b'K' => {
                    let link = self.meta_body(&block, offset, "a long link target", MAX_NAME_BYTES)?;
                    set_once(&mut extensions.long_link, header::text(&link).to_vec(), offset)?;
                }
                _ => return self.entry(&block, offset, extensions).map(Some),
            }
        }
    }

    /// Returns the next bytes of the current entry's contents, straight from the buffer; `None` at their end.
    ///
    /// # Errors
    /// [`TarError::Read`] and [`TarError::Truncated`].
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, TarError> {
        self.chunk(u64::MAX)
    }

    /// Reads the stream to its end after the last entry and returns how many bytes followed the archive.
    ///
    /// They are no part of the archive but of the digest, so the stream below must see them; bounding them is the
    /// stream's business (a blob ends at its descriptor's size).
    ///
    /// # Errors
    /// [`TarError::Read`].
    pub fn drain(&mut self) -> Result<u64, TarError> {
        let begin = self.offset;
        loop {
            self.consume(self.end - self.start);
            if self.fill()? == 0 {
                return Ok(self.offset - begin);
            }
        }
    }

    /// Offset in the archive of the next byte to be read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The stream below, for instance to end its hash after [`Self::drain`].
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn chunk(&mut self, limit: u64) -> Result<Option<Chunk<'_>>, TarError> {
        if self.body.stored_bytes == 0 || limit == 0 {
            return Ok(None);
        }
        while self.body.piece_bytes == 0 {
            // The map was checked against `stored_bytes`, so there is a piece left.
            let Some(piece) = self.body.pieces.pop() else { return Ok(None) };
            self.body.position = piece.offset;
            self.body.piece_bytes = piece.len_bytes;
        }
        if self.start == self.end && self.fill()? == 0 {
            return Err(truncated(self.offset, "the contents of an entry"));
        }
        let available = (self.end - self.start) as u64;
        let len = available.min(self.body.piece_bytes).min(limit);
        let offset = self.body.position;
        self.body.position += len;
        self.body.piece_bytes -= len;
        self.body.stored_bytes -= len;
        let from = self.start;
        self.consume(len as usize);
        Ok(Some(Chunk { offset, bytes: &self.buffer[from..self.start] }))
    }

    fn entry(&mut self, block: &Block, offset: u64, extensions: Extensions) -> Result<Entry, TarError> {
        let malformed = |what| TarError::Malformed { offset, what };
        let dialect = header::dialect(block);
        let has_gnu_names = extensions.has_gnu_names();
        if extensions.pax.is_some() && has_gnu_names {
            // Which of them gives the name differs between readers.
            return Err(malformed("an entry has a GNU long name and a pax header"));
        }
        let mut pax = extensions.pax.unwrap_or_else(|| self.global.clone());
        let sparse = std::mem::take(&mut pax.sparse);
        let path = sparse.name.clone().or(pax.path.take()).or(extensions.long_name);
        let path = path.unwrap_or_else(|| header_path(block, dialect));
        let link = pax.link.take().or(extensions.long_link);
        let flag = block[field::TYPE];
        let kind = kind_of(flag, &path, offset)?;
        let link = match kind {
            EntryKind::Symlink | EntryKind::Hardlink => {
                link.unwrap_or_else(|| header::text(&block[field::LINK]).to_vec())
            }
            _ => Vec::new(),
        };
        if path.is_empty() {
            return Err(malformed("an entry has no name"));
        }
        if link.is_empty() && matches!(kind, EntryKind::Symlink | EntryKind::Hardlink) {
            return Err(malformed("a link has no target"));
        }
        if flag == b'0' && path.ends_with(b"/") {
            return Err(malformed("a file's name ends with a slash"));
        }
        let number = |range: std::ops::Range<usize>| header::unsigned(&block[range]);
        let id = |from_pax: Option<u64>, range, what| {
            let value = from_pax.or_else(|| number(range)).ok_or(malformed(what))?;
            // The last value is no id but -1, "leave it".
            u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or(malformed(what))
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => super::Timestamp {
                secs: header::signed(&block[field::MTIME]).ok_or(malformed("the time is not a number"))?,
                nanos: 0,
            },
        };
        let device = match kind {
            EntryKind::CharDevice | EntryKind::BlockDevice if dialect != Dialect::V7 => {
                let part = |range| number(range).and_then(|part| u32::try_from(part).ok());
                let device = part(field::MAJOR).zip(part(field::MINOR));
                device.ok_or(malformed("a device number is not a number"))?
            }
            _ => (0, 0),
        };
        let stored_bytes = match pax.size {
            Some(size) => size,
            None => number(field::SIZE).ok_or(malformed("the size is not a number"))?,
        };
        let mode = number(field::MODE).ok_or(malformed("the mode is not a number"))?;
        let mut entry = Entry {
            path,
            link,
            kind,
            mode: (mode & 0o7777) as u32,
            uid: id(pax.uid, field::UID, "the owner is not a user id")?,
            gid: id(pax.gid, field::GID, "the group is not a group id")?,
            size: stored_bytes,
            mtime,
            device,
            xattrs: pax.take_xattrs(),
            data_offset: self.offset,
            stored_bytes,
            sparse: false,
        };
        if kind == EntryKind::File {
            self.body = Body {
                stored_bytes,
                padding_bytes: padding(stored_bytes),
                piece_bytes: stored_bytes,
                ..Body::default()
            };
            if flag == b'S' {
                let map = self.gnu_sparse_map(block, dialect, offset)?;
                self.begin_sparse(&mut entry, map);
            } else if let Some(map) = self.pax_sparse_map(&sparse, offset)? {
                self.begin_sparse(&mut entry, map);
            }
        } else if stored_bytes != 0 {
            // Some readers skip a body here, some take its first block for a header.
            return Err(malformed("an entry that has no contents gives a size"));
        }
        Ok(entry)
    }

    fn begin_sparse(&mut self, entry: &mut Entry, mut map: Map) {
        entry.size = map.real_size;
        entry.stored_bytes = self.body.stored_bytes;
        entry.data_offset = self.offset;
        entry.sparse = true;
        map.pieces.reverse();
        self.body.pieces = map.pieces;
        self.body.piece_bytes = 0;
    }

    /// The map of an old GNU sparse file: four pieces in the header, 21 in each extension block, which are not part
    /// of the size.
    fn gnu_sparse_map(&mut self, block: &Block, dialect: Dialect, offset: u64) -> Result<Map, TarError> {
        let malformed = |what| TarError::Malformed { offset, what };
        if dialect != Dialect::Gnu {
            return Err(malformed("a sparse file in a header that is not GNU's"));
        }
        let real_size = header::unsigned(&block[field::GNU_REAL_SIZE]);
        let real_size = real_size.ok_or(malformed("the size of a sparse file is not a number"))?;
        let mut pieces = Vec::new();
        let mut is_extended = sparse::extend_from_gnu(&mut pieces, block, true, offset)?;
        while is_extended {
            let block = self.block()?.ok_or(truncated(self.offset, "the map of a sparse file"))?;
            is_extended = sparse::extend_from_gnu(&mut pieces, &block, false, offset)?;
        }
        Map::checked(pieces, real_size, self.body.stored_bytes, offset)
    }

    fn pax_sparse_map(&mut self, records: &pax::SparseRecords, offset: u64) -> Result<Option<Map>, TarError> {
        let malformed = |what| TarError::Malformed { offset, what };
        let pieces = match (records.major, records.minor, &records.map) {
            (None, None, None) if records.real_size.is_none() && records.name.is_none() => return Ok(None),
            (None | Some(0), None | Some(0 | 1), Some(numbers)) => {
                sparse::check_count(numbers.len() as u64 / 2, offset)?;
                Map::pieces(numbers)
            }
            (Some(1), Some(0), None) => self.stored_sparse_map(offset)?,
            _ => return Err(malformed("an unknown form of sparse file")),
        };
        let real_size = records.real_size.ok_or(malformed("a sparse file without its size"))?;
        Map::checked(pieces, real_size, self.body.stored_bytes, offset).map(Some)
    }

    /// The map of a pax 1.0 sparse file: decimal lines at the begin of the contents, padded to a block.
    fn stored_sparse_map(&mut self, offset: u64) -> Result<Vec<Piece>, TarError> {
        let malformed = |what| TarError::Malformed { offset, what };
        let mut line = Vec::new();
        let mut numbers = Vec::new();
        let mut count = None;
        while count.is_none_or(|count| (numbers.len() as u64) < count * 2) {
            if self.body.stored_bytes < BLOCK_BYTES as u64 {
                return Err(malformed("the map of a sparse file is longer than its contents"));
            }
            let block = self.block()?.ok_or(truncated(self.offset, "the map of a sparse file"))?;
            self.body.stored_bytes -= BLOCK_BYTES as u64;
            for &byte in &block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(malformed("a sparse map is not numbers"));
                    }
                    continue;
                }
                let number = pax::decimal(&line).ok_or(malformed("a sparse map is not numbers"))?;
                line.clear();
                match count {
                    None => {
                        sparse::check_count(number, offset)?;
                        count = Some(number);
                    }
                    Some(_) => numbers.push(number),
                }
                if count.is_some_and(|count| numbers.len() as u64 == count * 2) {
                    break;
                }
            }
        }
        Ok(Map::pieces(&numbers))
    }

    /// Reads the body of a header that only describes the entry after it.
    fn meta_body(&mut self, block: &Block, offset: u64, what: &'static str, limit: u64) -> Result<Vec<u8>, TarError> {
        let size = header::unsigned(&block[field::SIZE]);
        let size = size.ok_or(TarError::Malformed { offset, what: "the size is not a number" })?;
        if size > limit {
            return Err(TarError::Limit { offset, what, limit });
        }
        let mut body = Vec::with_capacity(size as usize);
        while (body.len() as u64) < size {
            if self.start == self.end && self.fill()? == 0 {
                return Err(truncated(self.offset, what));
            }
            let len = (self.end - self.start).min(size as usize - body.len());
            body.extend_from_slice(&self.buffer[self.start..self.start + len]);
            self.consume(len);
        }
        self.skip(padding(size), what)?;
        Ok(body)
    }

    /// The next header block with a correct checksum; `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<Block>, TarError> {
        if self.is_finished {
            return Ok(None);
        }
        let offset = self.offset;
        let malformed = |what| TarError::Malformed { offset, what };
        let Some(block) = self.block()? else {
            self.is_finished = true;
            return Ok(None);
        };
        if is_zero(&block) {
            if self.block()?.is_some_and(|second| !is_zero(&second)) {
                return Err(malformed("a block of zeros is followed by more entries"));
            }
            self.is_finished = true;
            return Ok(None);
        }
        if !header::checksum_matches(&block) {
            let what = if offset == 0 { "not a tar archive" } else { "a header's checksum is wrong" };
            return Err(malformed(what));
        }
        Ok(Some(block))
    }

    fn block(&mut self) -> Result<Option<Block>, TarError> {
        while self.end - self.start < BLOCK_BYTES {
            if self.fill()? == 0 {
                if self.start == self.end {
                    return Ok(None);
                }
                return Err(truncated(self.offset, "a block"));
            }
        }
        let mut block = [0; BLOCK_BYTES];
        block.copy_from_slice(&self.buffer[self.start..self.start + BLOCK_BYTES]);
        self.consume(BLOCK_BYTES);
        Ok(Some(block))
    }

    fn skip_body(&mut self) -> Result<(), TarError> {
        let body = std::mem::take(&mut self.body);
        self.skip(body.stored_bytes, "the contents of an entry")?;
        self.skip_padding(body.padding_bytes)
    }

    /// Skips what fills the last block of an entry. Nothing can hide there: a stream may end within it, as one does that
    /// was written without the end of the archive (umoci 0.4), and GNU tar and Go's reader see the same entries.
    fn skip_padding(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 {
            if self.start == self.end && self.fill()? == 0 {
                self.is_finished = true;
                return Ok(());
            }
            let len = ((self.end - self.start) as u64).min(count);
            self.consume(len as usize);
            count -= len;
        }
        Ok(())
    }

    fn skip(&mut self, mut count: u64, within: &'static str) -> Result<(), TarError> {
        while count > 0 {
            if self.start == self.end && self.fill()? == 0 {
                return Err(truncated(self.offset, within));
            }
            let len = ((self.end - self.start) as u64).min(count);
            self.consume(len as usize);
            count -= len;
        }
        Ok(())
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
        self.offset += len as u64;
    }

    /// Reads more behind what is buffered; 0 at the end of the stream. Only called with less than a block buffered.
    fn fill(&mut self) -> Result<usize, TarError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(len) => {
                    self.end += len;
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset + (self.end - self.start) as u64;
                    return Err(TarError::Read { offset, source });
                }
            }
        }
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Skips the current entry's contents without reading them; `total_bytes` is the length of the archive.
    ///
    /// # Errors
    /// [`TarError::Truncated`] if the contents end after it; [`TarError::Read`].
    pub fn seek_contents(&mut self, total_bytes: u64) -> Result<(), TarError> {
        let body = std::mem::take(&mut self.body);
        let rest = body.stored_bytes + body.padding_bytes;
        let buffered = (self.end - self.start) as u64;
        if self.offset.checked_add(rest).is_none_or(|end| end > total_bytes) {
            return Err(truncated(total_bytes, "the contents of an entry"));
        }
        if rest <= buffered {
            return self.skip(rest, "the contents of an entry");
        }
        self.consume(self.end - self.start);
        let ahead = rest - buffered;
        let seek = SeekFrom::Current(ahead as i64);
        self.inner.seek(seek).map_err(|source| TarError::Read { offset: self.offset, source })?;
        self.offset += ahead;
        Ok(())
    }
}

/// Reads the current entry's stored contents; of a sparse file its pieces, one after the other.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.chunk(buffer.len() as u64) {
            Ok(None) => Ok(0),
            Ok(Some(chunk)) => {
                buffer[..chunk.bytes.len()].copy_from_slice(chunk.bytes);
                Ok(chunk.bytes.len())
            }
            Err(TarError::Read { source, .. }) => Err(source),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

impl Extensions {
    fn has_gnu_names(&self) -> bool {
        self.long_name.is_some() || self.long_link.is_some()
    }
}

fn kind_of(flag: u8, path: &[u8], offset: u64) -> Result<EntryKind, TarError> {
    Ok(match flag {
        // Tars older than ustar spell a directory by its name.
        0 if path.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::Hardlink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        _ => return Err(TarError::UnsupportedType { offset, flag }),
    })
}

fn header_path(block: &Block, dialect: Dialect) -> Vec<u8> {
    let name = header::text(&block[field::NAME]);
    let prefix = if dialect == Dialect::Ustar { header::text(&block[field::PREFIX]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn set_once<T>(slot: &mut Option<T>, value: T, offset: u64) -> Result<(), TarError> {
    if slot.replace(value).is_some() {
        return Err(TarError::Malformed { offset, what: "an entry has two extended headers of one kind" });
    }
    Ok(())
}

fn truncated(offset: u64, within: &'static str) -> TarError {
    TarError::Truncated { offset, within }
}

fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK_BYTES as u64) - size
}
