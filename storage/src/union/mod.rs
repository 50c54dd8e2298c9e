//! Union mounts: what a stack of layers looks like, and what writing to it does.
//!
//! ```text
//! stack ← inode_table ← tree ← names ← lookup, readdir ← copy_up ← modify, rename, metadata, contents ← Union ← server
//! ```
//! Arrows never turn. The engine has no FUSE type: `server` decodes, calls, answers and decides nothing.
//!
//! **Runs in:** the union server, a child of the supervisor (or the tool `coracle fuse-overlayfs`), in the user
//! namespace that owns the layers, a few threads.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod attributes;

mod stack;

mod handles;

mod listing;

mod inode_table;

mod upper;

mod tree;

mod names;

mod lookup;

mod readdir;

mod metadata;

mod contents;

mod session;

pub mod server;

pub mod server_fuser;

#[cfg(test)]
mod tests;

pub use attributes::{
    Attributes, Caller, Changes, DirEntry, Entry, FileKind, InodeNo, NewFile, NewTime, RenameMode, Seek, Statistics,
    UnionError, XattrMode,
};
pub use stack::Lower;
pub use upper::{OpenError, Owners};

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use crate::layer::IdMap;
use tree::Tree;

/// What to mount, and how.
#[derive(Debug)]
pub struct Options {
    /// The layers below, topmost first.
    pub lowers: Vec<Lower>,
    /// Where changes go; without it the mount is read-only.
    pub upper: Option<Upper>,
    /// How owners stand on disk in the upper.
    pub owners: Owners,
    /// How ids of the container become those that the layers have: mostly the identity.
    pub lower_ids: IdMap,
    /// Nothing is ever synchronised.
    pub volatile: bool,
    /// Directories show one name, whatever is in them.
    pub static_nlink: bool,
    /// Most descriptors to keep open.
    pub max_open_files: usize,
    /// Most bytes that renaming a directory may copy; above it the answer is `EXDEV`.
    pub copy_up_cap_bytes: u64,
}

/// The directory that changes go to, and one beside it.
#[derive(Debug)]
pub struct Upper {
    /// The upper directory.
    pub upper: OwnedFd,
    /// The work directory, on the same mount.
    pub work: OwnedFd,
}

/// A mounted stack of layers.
///
/// Numbers are those that [`lookup`](Self::lookup) and its like have answered; each answer is one reference, which
/// [`forget`](Self::forget) gives back. There are no open files: a number is enough for everything.
///
/// All methods may be called by many threads at once. Errors name the operation and the object; the errno is the answer
/// that the caller of the file system gets.
#[derive(Debug)]
pub struct Union {
    tree: Tree,
}

/// What every method answers.
type Answer<T> = Result<T, UnionError>;

fn failed(operation: &'static str, object: &OsStr) -> impl FnOnce(Errno) -> UnionError {
    move |errno| UnionError { errno, operation, object: object.to_owned() }
}

fn failed_at(operation: &'static str, ino: InodeNo) -> impl FnOnce(Errno) -> UnionError {
    move |errno| UnionError { errno, operation, object: OsString::from(format!("inode {}", ino.0)) }
}

#[expect(clippy::missing_errors_doc, reason = "see the type: the errno of the system call of that name")]
impl Union {
    /// Opens the layers. Nothing is read but the roots.
    pub fn open(options: Options) -> Answer<Self> {
        Tree::open(options).map(|tree| Self { tree })
    }

    /// What a name leads to: one more reference. `ENOENT` stays true until somebody makes it.
    pub fn lookup(&self, parent: InodeNo, name: &OsStr) -> Answer<Entry> {
        self.tree.lookup(parent, name.as_bytes()).map_err(failed("lookup", name))
    }

    /// Gives references back.
    pub fn forget(&self, ino: InodeNo, count: u64) {
        self.tree.forget(ino, count);
    }

    /// What `stat` shows.
    pub fn attributes(&self, ino: InodeNo) -> Answer<Attributes> {
        self.tree.attributes(ino).map_err(failed_at("stat", ino))
    }

    /// Changes what `stat` shows, and the length.
    pub fn set_attributes(&self, ino: InodeNo, _changes: &Changes) -> Answer<Attributes> {
        Err(failed_at("setattr", ino)(Errno::EROFS))
    }

    /// A link's target.
    pub fn read_link(&self, ino: InodeNo) -> Answer<Vec<u8>> {
        self.tree.read_link(ino).map_err(failed_at("readlink", ino))
    }

    /// Makes a file of any kind but directory and link.
    pub fn make_node(
        &self,
        _parent: InodeNo,
        name: &OsStr,
        _file: NewFile,
        _kind: FileKind,
        _rdev: u64,
    ) -> Answer<Entry> {
        Err(failed("mknod", name)(Errno::EROFS))
    }

    /// Makes a directory.
    pub fn make_directory(&self, _parent: InodeNo, name: &OsStr, _file: NewFile) -> Answer<Entry> {
        Err(failed("mkdir", name)(Errno::EROFS))
    }

    /// Makes a link to a path.
    pub fn make_symlink(&self, _parent: InodeNo, name: &OsStr, _target: &OsStr, _owner: Caller) -> Answer<Entry> {
        Err(failed("symlink", name)(Errno::EROFS))
    }

    /// Makes a file without a name (`O_TMPFILE`), which [`link`](Self::link) may give one.
    pub fn make_unnamed(&self, parent: InodeNo, _file: NewFile) -> Answer<Entry> {
        Err(failed_at("tmpfile", parent)(Errno::EROFS))
    }

    /// Gives a file one more name.
    pub fn link(&self, _ino: InodeNo, _parent: InodeNo, name: &OsStr) -> Answer<Entry> {
        Err(failed("link", name)(Errno::EROFS))
    }

    /// Takes a name from a file.
    pub fn unlink(&self, _parent: InodeNo, name: &OsStr) -> Answer<()> {
        Err(failed("unlink", name)(Errno::EROFS))
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, _parent: InodeNo, name: &OsStr) -> Answer<()> {
        Err(failed("rmdir", name)(Errno::EROFS))
    }

    /// Gives a file another name. `EXDEV` for a directory that would have to be copied and is too large for it.
    pub fn rename(
        &self,
        _parent: InodeNo,
        name: &OsStr,
        _new_parent: InodeNo,
        _new_name: &OsStr,
        _mode: RenameMode,
    ) -> Answer<()> {
        Err(failed("rename", name)(Errno::EROFS))
    }

    /// Reads contents; less than `buf` holds only at their end.
    pub fn read(&self, ino: InodeNo, offset: u64, buf: &mut [u8]) -> Answer<usize> {
        self.tree.read(ino, offset, buf).map_err(failed_at("read", ino))
    }

    /// Writes contents. `kill_privileges`: setuid, setgid and file capabilities go.
    pub fn write(&self, ino: InodeNo, _offset: u64, _bytes: &[u8], _kill_privileges: bool) -> Answer<usize> {
        Err(failed_at("write", ino)(Errno::EROFS))
    }

    /// Brings a file or directory to the disk.
    pub fn sync(&self, _ino: InodeNo, _data_only: bool) -> Answer<()> {
        Ok(())
    }

    /// Brings everything to the disk.
    pub fn sync_all(&self) -> Answer<()> {
        Ok(())
    }

    /// `fallocate`.
    pub fn allocate(&self, ino: InodeNo, _mode: i32, _offset: u64, _len: u64) -> Answer<()> {
        Err(failed_at("fallocate", ino)(Errno::EROFS))
    }

    /// Finds data or a hole.
    pub fn seek(&self, ino: InodeNo, offset: u64, to: Seek) -> Answer<u64> {
        self.tree.seek(ino, offset, to).map_err(failed_at("lseek", ino))
    }

    /// `copy_file_range`.
    pub fn copy_range(
        &self,
        _from: InodeNo,
        _from_offset: u64,
        to: InodeNo,
        _to_offset: u64,
        _len: u64,
    ) -> Answer<usize> {
        Err(failed_at("copy_file_range", to)(Errno::EROFS))
    }

    /// Lists a directory behind `cookie` (0: from its begin) until `sink` has no room.
    pub fn read_directory(&self, ino: InodeNo, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Answer<()> {
        self.tree.read_directory(ino, cookie, sink).map_err(failed_at("readdir", ino))
    }

    /// The same with what each name leads to; each that `sink` takes is one reference. `.` and `..` have none.
    pub fn read_directory_plus(
        &self,
        ino: InodeNo,
        cookie: u64,
        sink: &mut dyn FnMut(DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> Answer<()> {
        self.tree.read_directory_plus(ino, cookie, sink).map_err(failed_at("readdirplus", ino))
    }

    /// What `statfs` shows: the upper's file system, or that of the topmost layer.
    pub fn statistics(&self) -> Answer<Statistics> {
        self.tree.statistics().map_err(failed_at("statfs", InodeNo::ROOT))
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, ino: InodeNo, name: &OsStr) -> Answer<Vec<u8>> {
        self.tree.xattr(ino, name.as_bytes()).map_err(failed("getxattr", name))
    }

    /// The names of all extended attributes, each ended by a zero.
    pub fn xattr_names(&self, ino: InodeNo) -> Answer<Vec<u8>> {
        self.tree.xattr_names(ino).map_err(failed_at("listxattr", ino))
    }

    /// Sets an extended attribute. `clear_setgid`: the caller may not keep the setgid bit with this access list.
    pub fn set_xattr(
        &self,
        _ino: InodeNo,
        name: &OsStr,
        _value: &[u8],
        _mode: XattrMode,
        _clear_setgid: bool,
    ) -> Answer<()> {
        Err(failed("setxattr", name)(Errno::EROFS))
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, _ino: InodeNo, name: &OsStr) -> Answer<()> {
        Err(failed("removexattr", name)(Errno::EROFS))
    }

    /// Inode flags (`lsattr`).
    pub fn inode_flags(&self, ino: InodeNo) -> Answer<u32> {
        self.tree.inode_flags(ino).map_err(failed_at("getflags", ino))
    }

    /// Sets inode flags (`chattr`).
    pub fn set_inode_flags(&self, ino: InodeNo, _flags: u32) -> Answer<()> {
        Err(failed_at("setflags", ino)(Errno::EROFS))
    }
}
