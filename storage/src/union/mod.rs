//! Union mounts: what a stack of layers looks like, and what writing to it does.
//!
//! ```text
//! stack ← inode_table ← tree ← names ← lookup, readdir ← links ← copy_up ← metadata, contents,
//! modify, rename ← Union ← server
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

mod counts;

mod readdir;

mod links;

mod copy_up;

mod metadata;

mod contents;

mod modify;

mod rename;

mod session;

mod confine;

pub mod lazy;

pub mod server;

#[cfg(test)]
mod tests;

pub use attributes::{
    Attributes, Caller, Changes, DirEntry, Entry, FileKind, InodeNo, NewFile, NewTime, RenameMode, Seek, Statistics,
    UnionError, XattrMode,
};
pub use confine::{can_confine, confine};
pub use stack::Lower;
pub use upper::{OpenError, Owners};

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

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
    /// Where a file was found, for a log; nothing for one that has no name any more.
    pub fn path(&self, ino: InodeNo) -> Option<PathBuf> {
        self.tree.path(ino).map(|path| OsString::from_vec(path).into())
    }

    /// Opens the layers. Nothing is read but the roots.
    pub fn open(options: Options) -> Answer<Self> {
        Tree::open(options).map(|tree| Self { tree })
    }

    /// Has the kernel make its table of this process's descriptors as large as the mount will need it, which is to be done
    /// while the process has a single thread, and after it has been forked.
    ///
    /// The table doubles when it is full. For a process with several threads that waits for a grace period of RCU, 5 to
    /// 20 ms in which nobody can open anything: seven times until the first 6,000 files are open.
    pub fn make_room(&self) {
        self.tree.make_room();
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
    pub fn set_attributes(&self, ino: InodeNo, changes: &Changes) -> Answer<Attributes> {
        self.tree.set_attributes(ino, changes).map_err(failed_at("setattr", ino))
    }

    /// A link's target.
    pub fn read_link(&self, ino: InodeNo) -> Answer<Vec<u8>> {
        self.tree.read_link(ino).map_err(failed_at("readlink", ino))
    }

    /// Makes a file of any kind but directory and link.
    pub fn make_node(&self, parent: InodeNo, name: &OsStr, file: NewFile, kind: FileKind, rdev: u64) -> Answer<Entry> {
        self.tree.make_node(parent, name.as_bytes(), file, kind, rdev).map_err(failed("mknod", name))
    }

    /// Makes a directory.
    pub fn make_directory(&self, parent: InodeNo, name: &OsStr, file: NewFile) -> Answer<Entry> {
        self.tree.make_directory(parent, name.as_bytes(), file).map_err(failed("mkdir", name))
    }

    /// Makes a link to a path.
    pub fn make_symlink(&self, parent: InodeNo, name: &OsStr, target: &OsStr, owner: Caller) -> Answer<Entry> {
        self.tree.make_symlink(parent, name.as_bytes(), target, owner).map_err(failed("symlink", name))
    }

    /// Makes a file without a name (`O_TMPFILE`), which [`link`](Self::link) may give one.
    pub fn make_unnamed(&self, parent: InodeNo, file: NewFile) -> Answer<Entry> {
        self.tree.make_unnamed(parent, file).map_err(failed_at("tmpfile", parent))
    }

    /// Gives a file one more name.
    pub fn link(&self, ino: InodeNo, parent: InodeNo, name: &OsStr) -> Answer<Entry> {
        self.tree.link(ino, parent, name.as_bytes()).map_err(failed("link", name))
    }

    /// Takes a name from a file.
    pub fn unlink(&self, parent: InodeNo, name: &OsStr) -> Answer<()> {
        self.tree.unlink(parent, name.as_bytes()).map_err(failed("unlink", name))
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, parent: InodeNo, name: &OsStr) -> Answer<()> {
        self.tree.remove_directory(parent, name.as_bytes()).map_err(failed("rmdir", name))
    }

    /// Gives a file another name. `EXDEV` for a directory that would have to be copied and is too large for it.
    pub fn rename(
        &self,
        parent: InodeNo,
        name: &OsStr,
        new_parent: InodeNo,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> Answer<()> {
        self.tree.rename(parent, name.as_bytes(), new_parent, new_name.as_bytes(), mode).map_err(failed("rename", name))
    }

    /// Reads contents; less than `buf` holds only at their end.
    pub fn read(&self, ino: InodeNo, offset: u64, buf: &mut [u8]) -> Answer<usize> {
        self.tree.read(ino, offset, buf).map_err(failed_at("read", ino))
    }

    /// Writes contents. `kill_privileges`: setuid, setgid and file capabilities go.
    pub fn write(&self, ino: InodeNo, offset: u64, bytes: &[u8], kill_privileges: bool) -> Answer<usize> {
        self.tree.write(ino, offset, bytes, kill_privileges).map_err(failed_at("write", ino))
    }

    /// Brings a file or directory to the disk.
    pub fn sync(&self, ino: InodeNo, data_only: bool) -> Answer<()> {
        self.tree.sync(ino, data_only).map_err(failed_at("fsync", ino))
    }

    /// Brings everything to the disk.
    pub fn sync_all(&self) -> Answer<()> {
        self.tree.sync_all().map_err(failed_at("syncfs", InodeNo::ROOT))
    }

    /// `fallocate`.
    pub fn allocate(&self, ino: InodeNo, mode: i32, offset: u64, len: u64) -> Answer<()> {
        self.tree.allocate(ino, mode, offset, len).map_err(failed_at("fallocate", ino))
    }

    /// Finds data or a hole.
    pub fn seek(&self, ino: InodeNo, offset: u64, to: Seek) -> Answer<u64> {
        self.tree.seek(ino, offset, to).map_err(failed_at("lseek", ino))
    }

    /// `copy_file_range`.
    pub fn copy_range(&self, from: InodeNo, from_offset: u64, to: InodeNo, to_offset: u64, len: u64) -> Answer<usize> {
        self.tree.copy_range(from, from_offset, to, to_offset, len).map_err(failed_at("copy_file_range", to))
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
        ino: InodeNo,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
        clear_setgid: bool,
    ) -> Answer<()> {
        self.tree.set_xattr(ino, name.as_bytes(), value, mode, clear_setgid).map_err(failed("setxattr", name))
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, ino: InodeNo, name: &OsStr) -> Answer<()> {
        self.tree.remove_xattr(ino, name.as_bytes()).map_err(failed("removexattr", name))
    }

    /// Inode flags (`lsattr`).
    pub fn inode_flags(&self, ino: InodeNo) -> Answer<u32> {
        self.tree.inode_flags(ino).map_err(failed_at("getflags", ino))
    }

    /// Sets inode flags (`chattr`).
    pub fn set_inode_flags(&self, ino: InodeNo, flags: u32) -> Answer<()> {
        self.tree.set_inode_flags(ino, flags).map_err(failed_at("setflags", ino))
    }
}
