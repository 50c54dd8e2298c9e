//! The numbers of the FUSE protocol that [`super::decode`] and [`super::encode`] speak.
//!
//! Flags with a public type in `fuser` are taken from there and named nowhere else; this file is the only one that
//! knows it. What stands here is what `fuser` 0.18 keeps to itself or does not have.
//!
//! # Source
//! Linux `include/uapi/linux/fuse.h`, protocol 7.45.

pub(crate) use fuser::{FopenFlags, InitFlags, RenameFlags, WriteFlags};

/// Major version of the protocol; another one cannot be spoken.
pub(crate) const MAJOR: u32 = 7;

/// Minor version that is spoken at most.
pub(crate) const MINOR: u32 = 45;

/// Oldest minor version that is spoken (`HANDLE_KILLPRIV_V2` and the extended `setxattr`, Linux 5.11).
pub(crate) const MINOR_MIN: u32 = 33;

/// Bytes before each request: length, opcode, unique, node, uid, gid, pid, lengths of extensions.
pub(crate) const IN_HEADER_BYTES: usize = 40;

/// Where the asking thread's number stands in them.
pub(crate) const IN_HEADER_PID: std::ops::Range<usize> = 32..36;

/// Bytes before each answer: length, negative errno, unique.
pub(crate) const OUT_HEADER_BYTES: usize = 16;

/// Bytes of file data in one request or answer.
pub(crate) const MAX_DATA_BYTES: usize = 1 << 20;

/// What a request asks for.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;
}

/// Which fields of a SETATTR count.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// FSYNC: the data only.
pub(crate) const FSYNC_FDATASYNC: u32 = 1 << 0;

/// SETXATTR: setting the access list takes the setgid bit away.
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
