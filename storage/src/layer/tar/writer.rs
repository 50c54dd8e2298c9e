//! The writer: ustar where it suffices, a pax header where it does not; the same tree gives the same bytes.

use super::header::{Block, field};
use super::{BLOCK_BYTES, Entry, EntryKind};
use std::io::{self, Read, Write};

/// Largest number in an eleven-digit octal field.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// Largest number in a seven-digit octal field.
const MAX_OCTAL_7: u64 = 0o7_777_777;

/// Writes an archive entry by entry.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
}

impl<W: Write> Writer<W> {
    /// Writes an archive to `inner`, which should be buffered.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes one entry with `entry.size` bytes from `contents`; holes are written as zeros.
    ///
    /// A directory's path gets a trailing slash. The fields `data_offset`, `stored_bytes` and `sparse` are ignored.
    ///
    /// # Errors
    /// What `contents` or the stream below report; `UnexpectedEof` if `contents` is shorter than `entry.size` (a file
    /// that shrank while it was archived); `InvalidInput` if something other than a file has a size.
    pub fn append(&mut self, entry: &Entry, contents: impl Read) -> io::Result<()> {
        self.header(entry)?;
        let copied = io::copy(&mut contents.take(entry.size), &mut self.inner)?;
        if copied != entry.size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was read"));
        }
        self.pad(entry.size)
    }

    /// Writes one entry without contents.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_empty(&mut self, entry: &Entry) -> io::Result<()> {
        self.append(entry, io::empty())
    }

    /// Writes the two blocks of zeros and returns the stream.
    ///
    /// # Errors
    /// What the stream below reports.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK_BYTES])?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn header(&mut self, entry: &Entry) -> io::Result<()> {
        if entry.size != 0 && entry.kind != EntryKind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an entry that is no file has contents"));
        }
        let mut path = entry.path.clone();
        if entry.kind == EntryKind::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let mut block = [0; BLOCK_BYTES];
        let mut pax = Vec::new();
        if !set_path(&mut block, &path) {
            push_record(&mut pax, b"path", &path);
        }
        if !set_text(&mut block[field::LINK], &entry.link) {
            push_record(&mut pax, b"linkpath", &entry.link);
        }
        let mut number = |key: &[u8], range: std::ops::Range<usize>, value: u64, max| {
            set_octal(&mut block[range], value.min(max));
            if value > max {
                push_record(&mut pax, key, value.to_string().as_bytes());
            }
        };
        number(b"uid", field::UID, u64::from(entry.uid), MAX_OCTAL_7);
        number(b"gid", field::GID, u64::from(entry.gid), MAX_OCTAL_7);
        number(b"size", field::SIZE, entry.size, MAX_OCTAL_11);
        let whole_secs = u64::try_from(entry.mtime.secs).ok().filter(|secs| *secs <= MAX_OCTAL_11);
        set_octal(&mut block[field::MTIME], whole_secs.unwrap_or(0));
        if whole_secs.is_none() || entry.mtime.nanos != 0 {
            push_record(&mut pax, b"mtime", pax_time(entry.mtime).as_bytes());
        }
        set_octal(&mut block[field::MODE], u64::from(entry.mode & 0o7777));
        if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            set_octal(&mut block[field::MAJOR], u64::from(entry.device.0));
            set_octal(&mut block[field::MINOR], u64::from(entry.device.1));
        }
        for (name, value) in &entry.xattrs {
            push_record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        block[field::TYPE] = match entry.kind {
            EntryKind::File => b'0',
            EntryKind::Hardlink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::CharDevice => b'3',
            EntryKind::BlockDevice => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
        };
        if !pax.is_empty() {
            self.pax_header(&pax)?;
        }
        self.block(block)
    }

    fn pax_header(&mut self, records: &[u8]) -> io::Result<()> {
        let mut block = [0; BLOCK_BYTES];
        set_text(&mut block[field::NAME], b"PaxHeaders.0/entry");
        set_octal(&mut block[field::MODE], 0o644);
        set_octal(&mut block[field::UID], 0);
        set_octal(&mut block[field::GID], 0);
        set_octal(&mut block[field::SIZE], records.len() as u64);
        set_octal(&mut block[field::MTIME], 0);
        block[field::TYPE] = b'x';
        self.block(block)?;
        self.inner.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn block(&mut self, mut block: Block) -> io::Result<()> {
        block[field::MAGIC].copy_from_slice(b"ustar\x0000");
        block[field::CHECKSUM].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        // Six digits, NUL, space: the form all writers use.
        set_octal(&mut block[field::CHECKSUM.start..field::CHECKSUM.end - 1], sum);
        self.inner.write_all(&block)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        self.inner.write_all(&[0; BLOCK_BYTES][..padding as usize])
    }
}

/// Puts a path into name and prefix; false (and a cut name, for readers without pax) if it does not fit.
fn set_path(block: &mut Block, path: &[u8]) -> bool {
    if set_text(&mut block[field::NAME], path) {
        return true;
    }
    let fits = |slash: &usize| *slash <= 155 && path.len() - slash - 1 <= 100 && *slash + 1 < path.len();
    let slash = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).find(fits);
    if let Some(slash) = slash
        && slash > 0
    {
        block[field::NAME].fill(0);
        set_text(&mut block[field::NAME], &path[slash + 1..]);
        return set_text(&mut block[field::PREFIX], &path[..slash]);
    }
    false
}

/// Copies what fits; false if something was cut off or is no plain ASCII, which ustar does not define.
fn set_text(field: &mut [u8], text: &[u8]) -> bool {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
    len == text.len() && text.is_ascii()
}

/// Zero-padded octal with a NUL at the end.
fn set_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    for (at, byte) in field[..digits].iter_mut().rev().enumerate() {
        let digit = (value >> (3 * at)) & 7;
        *byte = b'0' + digit as u8;
    }
    field[digits] = 0;
}

/// Appends `"length key=value\n"`, where the length counts its own digits.
pub(super) fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn pax_time(time: super::Timestamp) -> String {
    let (sign, secs, nanos) = match (time.secs, time.nanos) {
        (secs, 0) if secs < 0 => ("-", secs.unsigned_abs(), 0),
        (secs, nanos) if secs < 0 => ("-", (secs + 1).unsigned_abs(), 1_000_000_000 - nanos),
        (secs, nanos) => ("", secs.unsigned_abs(), nanos),
    };
    let text = format!("{sign}{secs}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Reader, Timestamp};
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
        let name = prop_oneof![
            "[a-z/]{1,300}[a-z]",
            proptest::collection::vec(1_u8..=255, 1..40).prop_map(|mut name| {
                name.push(b'x');
                String::from_utf8_lossy(&name).into_owned()
            })
        ];
        let kind = prop_oneof![
            Just(EntryKind::File),
            Just(EntryKind::Hardlink),
            Just(EntryKind::Symlink),
            Just(EntryKind::CharDevice),
            Just(EntryKind::Directory),
            Just(EntryKind::Fifo)
        ];
        let time = (-(1_i64 << 40)..(1_i64 << 40), 0..1_000_000_000_u32);
        let xattrs =
            proptest::collection::btree_map("[a-z.]{1,20}", proptest::collection::vec(any::<u8>(), 0..50), 0..3);
        (
            name,
            kind,
            0..0o10000_u32,
            0..u32::MAX,
            0..u32::MAX,
            time,
            xattrs,
            proptest::collection::vec(any::<u8>(), 0..2000),
        )
            .prop_map(|(path, kind, mode, uid, gid, (secs, nanos), xattrs, data)| {
                let data = if kind == EntryKind::File { data } else { Vec::new() };
                let is_link = matches!(kind, EntryKind::Hardlink | EntryKind::Symlink);
                let path = path.into_bytes();
                let entry = Entry {
                    link: if is_link { path.clone() } else { Vec::new() },
                    path,
                    kind,
                    mode,
                    uid,
                    gid,
                    size: data.len() as u64,
                    mtime: Timestamp { secs, nanos },
                    device: if kind == EntryKind::CharDevice { (uid & 0o777_777, gid & 0o777_777) } else { (0, 0) },
                    xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
                    data_offset: 0,
                    stored_bytes: data.len() as u64,
                    sparse: false,
                };
                (entry, data)
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entries in proptest::collection::vec(entry(), 0..8)) {
            let mut writer = Writer::new(Vec::new());
            for (entry, data) in &entries {
                writer.append(entry, data.as_slice()).unwrap();
            }
            let archive = writer.finish().unwrap();
            let mut reader = Reader::new(archive.as_slice());
            for (written, data) in &entries {
                let mut read = reader.next_entry().unwrap().unwrap();
                let mut contents = Vec::new();
                reader.read_to_end(&mut contents).unwrap();
                prop_assert_eq!(&contents, data);
                read.data_offset = 0;
                if written.kind == EntryKind::Directory && !written.path.ends_with(b"/") {
                    prop_assert_eq!(read.path.pop(), Some(b'/'));
                }
                prop_assert_eq!(&read, written);
            }
            prop_assert!(reader.next_entry().unwrap().is_none());
            prop_assert_eq!(reader.drain().unwrap(), 0);
        }
    }
}
