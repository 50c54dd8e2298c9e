//! The sorted index of a layer: every entry's metadata without a walk of its tree.
//!
//! - **File**: `layers/<diffID>/index`, beside `diff/`.
//! - **Writer**: the unpacking process, once, before the layer is published by rename; never changed afterwards.
//! - **Readers**: the union file system (cold lookups and listings), anything that wants owners and modes of a layer in
//!   single-id mode, where the tree on disk cannot have them.
//! - **Lock**: none; immutable. **Durability**: that of the layer; a missing or unreadable index is rebuilt by
//!   unpacking again.
//! - **Version**: in the header. A reader that meets another version treats the index as missing.
//!
//! ```text
//! little-endian, every part 8-byte aligned, offsets from the begin of the file
//!
//! header   0  [u8; 8]  "CRCLINDX"        8  u32 version = 1     12  u32 size of a record = 88
//!         16  u32 count of records      20  u32 zero            24  u64 offset of the records
//!         32  u64 offset of the strings 40  u64 their length    48  [u8; 16] zero
//!
//! record   0  u32 record of the parent (0 for the root, which is record 0)
//!          4  u32 name: offset in the strings     8  u16 its length
//!         10  u8 kind: 0 directory 1 file 2 symlink 3 fifo 4 whiteout
//!         11  u8 flags: 1 opaque, 2 implicit (a parent that the tar does not name: metadata is a guess)
//!         12  u32 mode (permission bits)  16  u32 uid      20  u32 gid (as in the layer, before any mapping)
//!         24  u64 size (file), length of the target (symlink)
//!         32  i64 mtime seconds           40  u32 mtime nanoseconds
//!         44  u32 link group (0: one name only; names with the same number are one file)   48  u32 count of names
//!         52  u32 zero
//!         56  u32 symlink target: offset in the strings    60  u32 its length
//!         64  u32 extended attributes: offset in the strings 68  u32 their length
//!         72  u32 record of the first child                76  u32 count of children    80  u64 zero
//!
//! xattrs   repeated: u16 length of the name, u32 length of the value, name, value; sorted by name
//! ```
//!
//! Records stand in breadth-first order, the children of a directory together and sorted by the bytes of their names:
//! a lookup is one binary search per component, a listing one slice.

mod reader;
mod writer;

pub use reader::{Index, Record};
pub use writer::Writer;
pub(crate) use writer::{Extra, Node, NodeId, ROOT};

use std::io;

const MAGIC: &[u8; 8] = b"CRCLINDX";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 88;

const FLAG_OPAQUE: u8 = 1;
const FLAG_IMPLICIT: u8 = 2;

/// What an indexed name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// Nothing: the name below is hidden.
    Whiteout,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Directory, Self::File, Self::Symlink, Self::Fifo, Self::Whiteout];

    pub(crate) fn to_byte(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The file cannot be read.
    #[error("read layer index: {}", crate::sys::reason(.0))]
    Read(#[source] io::Error),
    /// The file cannot be written.
    #[error("write layer index: {}", crate::sys::reason(.0))]
    Write(#[source] io::Error),
    /// Not an index of this version, or a damaged one.
    #[error("layer index is not usable: {0}")]
    Unusable(&'static str),
    /// More than 4 GiB of names, or more than four million of them.
    #[error("layer has more names than coracle unpacks (4194304)")]
    TooLarge,
}
