//! The tar format as layers use it: an own strict streaming reader and a reproducible writer.
//!
//! Reads ustar, GNU (long names, old sparse files, base-256 numbers) and pax (local and global headers, sparse 0.0,
//! 0.1 and 1.0, extended attributes). Where readers in the field disagree about an archive, and an entry could be
//! smuggled past one of them, this one refuses it: a `size` from pax always wins, entries without a body must say
//! size 0, a malformed pax record is an error and never skipped.
//!
//! Bounds: one buffer of 128 KiB; names 64 KiB, a pax header 1 MiB, 512 extended attributes per entry, 262,144 pieces
//! of a sparse file.
//!
//! # Source
//! POSIX.1-2024 `pax`, "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual, "Basic Tar Format",
//! "Storing Sparse Files"; `tar(5)` of libarchive.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{Chunk, Reader};
pub use writer::Writer;

use std::io;

/// The unit of the format.
pub(crate) const BLOCK_BYTES: usize = 512;

/// Longest name or link target.
pub(crate) const MAX_NAME_BYTES: u64 = 64 * 1024;

/// Largest pax header, local or global.
pub(crate) const MAX_PAX_BYTES: u64 = 1024 * 1024;

/// Most extended attributes of one entry.
pub(crate) const MAX_XATTRS: usize = 512;

/// Most pieces of one sparse file.
pub(crate) const MAX_SPARSE_PIECES: u64 = 262_144;

/// What a tar entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file, sparse or not.
    File,
    /// Another name of a file that the archive already holds.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A point in time: seconds since 1970 (negative before) and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// An extended attribute: name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// One entry of an archive, every extension already applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as the archive has it: neither cleaned nor checked; never empty, no NUL.
    pub path: Vec<u8>,
    /// Target of a symbolic link or hard link; empty for all other kinds.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of the file's contents, holes included; 0 unless a file.
    pub size: u64,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Device number (major, minor); 0 unless a device.
    pub device: (u32, u32),
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Where the stored contents begin in the archive.
    pub data_offset: u64,
    /// How many bytes are stored (less than `size` for a sparse file).
    pub stored_bytes: u64,
    /// The contents are stored in pieces with holes between them.
    pub sparse: bool,
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The stream below failed (network, decompression, disk).
    #[error("read tar at offset {offset}: {}", crate::sys::reason(source))]
    Read {
        /// Where in the uncompressed archive.
        offset: u64,
        /// The stream's own error.
        source: io::Error,
    },
    /// The stream ended too early.
    #[error("tar is truncated at offset {offset}: it ends within {within}")]
    Truncated {
        /// Where in the uncompressed archive.
        offset: u64,
        /// What was being read.
        within: &'static str,
    },
    /// The bytes are not a tar archive, or one that readers would understand differently.
    #[error("malformed tar at offset {offset}: {what}")]
    Malformed {
        /// Where the header or record begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A field is larger than any honest archive needs.
    #[error("tar at offset {offset}: {what} is larger than the limit of {limit}")]
    Limit {
        /// Where the header or record begins.
        offset: u64,
        /// Which field.
        what: &'static str,
        /// The largest accepted value.
        limit: u64,
    },
    /// An entry type that no layer has (volume labels, multi-volume pieces, vendor types).
    #[error("tar at offset {offset}: entry type {} is not supported", char::from(*.flag).escape_debug())]
    UnsupportedType {
        /// Where the header begins.
        offset: u64,
        /// The type byte.
        flag: u8,
    },
}
