//! What the engine and whoever serves it say to each other about files. No type here is of a FUSE library.

use std::ffi::OsString;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::stat::SFlag;
use nix::sys::statvfs::Statvfs;

/// The number of a file: what the kernel calls its node and what `st_ino` shows. Never two living files with one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeNo(pub u64);

impl InodeNo {
    /// The root directory (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// The kind as modes have it.
    pub(crate) fn to_flag(self) -> SFlag {
        match self {
            Self::File => SFlag::S_IFREG,
            Self::Directory => SFlag::S_IFDIR,
            Self::Symlink => SFlag::S_IFLNK,
            Self::Fifo => SFlag::S_IFIFO,
            Self::Socket => SFlag::S_IFSOCK,
            Self::CharDevice => SFlag::S_IFCHR,
            Self::BlockDevice => SFlag::S_IFBLK,
        }
    }
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub ino: InodeNo,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// Count of names; of a directory 2 and its subdirectories, or 1 if nobody counted them.
    pub nlink: u32,
    /// Owner as the container knows it.
    pub uid: u32,
    /// Group as the container knows it.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: SystemTime,
    /// Last modification.
    pub mtime: SystemTime,
    /// Last change of the inode.
    pub ctime: SystemTime,
}

/// A name that was found or made. The caller owes one [`forget`](super::Union::forget) for each.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What `stat` shows.
    pub attributes: Attributes,
    /// Tells files apart that had one number at different times.
    pub generation: u64,
}

/// A name in a directory.
#[derive(Clone, Debug)]
pub struct DirEntry<'a> {
    /// The name; `.` and `..` included.
    pub name: &'a [u8],
    /// The file's number.
    pub ino: InodeNo,
    /// What it is.
    pub kind: FileKind,
    /// Where to go on after this entry: stays right while names come and go.
    pub cookie: u64,
}

/// Who asks for something to be made.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its file system user id.
    pub uid: u32,
    /// Its file system group id.
    pub gid: u32,
}

/// How a new file is to be.
#[derive(Clone, Copy, Debug)]
pub struct NewFile {
    /// Whose it is; the group is the directory's where that has the setgid bit.
    pub owner: Caller,
    /// Permission bits before the umask.
    pub mode: u32,
    /// The caller's umask: counts unless the directory has a default ACL.
    pub umask: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// The time of the change.
    Now,
    /// This time.
    At(SystemTime),
}

/// What `setattr` changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<NewTime>,
    /// Last modification.
    pub mtime: Option<NewTime>,
    /// The caller may not keep setuid, setgid and file capabilities (`FATTR_KILL_SUIDGID`).
    pub kill_privileges: bool,
}

/// How [`rename`](super::Union::rename) treats what has the new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameMode {
    /// It is an error that there is something (`RENAME_NOREPLACE`).
    pub no_replace: bool,
    /// The two change places (`RENAME_EXCHANGE`).
    pub exchange: bool,
    /// A whiteout stays at the old name (`RENAME_WHITEOUT`): what overlays do that lie on top of us.
    pub whiteout: bool,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// Unit of the counts of blocks.
    pub fragment_bytes: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Free ones.
    pub blocks_free: u64,
    /// Free ones for ordinary users.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free ones.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u32,
}

impl Statistics {
    /// Those of a file system of the kernel.
    pub(crate) fn of(stat: &Statvfs) -> Self {
        let bytes = |bytes: u64| u32::try_from(bytes).unwrap_or(4096);
        Self {
            block_bytes: bytes(stat.block_size()),
            fragment_bytes: bytes(stat.fragment_size()),
            blocks: stat.blocks(),
            blocks_free: stat.blocks_free(),
            blocks_available: stat.blocks_available(),
            files: stat.files(),
            files_free: stat.files_free(),
            name_max: u32::try_from(stat.name_max()).unwrap_or(255),
        }
    }
}

/// Names of extended attributes, as `listxattr` gives them.
pub(crate) fn xattr_list<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    names.flat_map(|name| name.iter().copied().chain([0])).collect()
}

/// A part of a file that [`seek`](super::Union::seek) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// How [`set_xattr`](super::Union::set_xattr) treats an attribute that is there, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Either.
    Any,
    /// It must not be there (`XATTR_CREATE`).
    Create,
    /// It must be there (`XATTR_REPLACE`).
    Replace,
}

/// Why an operation failed. The errno is the caller's answer, the rest is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of {}: {}", .object.display(), .errno.desc().to_lowercase())]
pub struct UnionError {
    /// The answer.
    pub errno: Errno,
    /// What was to be done.
    pub operation: &'static str,
    /// With what: a name, or empty.
    pub object: OsString,
}

impl UnionError {
    /// An error of an operation on a nameless object.
    pub fn new(errno: Errno, operation: &'static str) -> Self {
        Self { errno, operation, object: OsString::new() }
    }

    /// True for what a program may ask for and be refused any day: nothing for a log.
    pub fn is_ordinary(&self) -> bool {
        !matches!(self.errno, Errno::EIO | Errno::EBADF | Errno::ESTALE | Errno::EFAULT | Errno::EUCLEAN)
    }
}
