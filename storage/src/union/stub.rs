//! Stand-in until the engine is here.
#![allow(missing_docs, unused_variables, clippy::too_many_arguments)]
use super::*;
use nix::errno::Errno;
use std::ffi::OsStr;

#[derive(Debug)]
pub struct Union;

#[derive(Debug)]
pub struct Options {
    pub lowers: Vec<Lower>,
    pub upper: Option<Upper>,
    pub owners: Owners,
    pub lower_ids: crate::layer::IdMap,
    pub volatile: bool,
    pub static_nlink: bool,
    pub max_open_files: usize,
    pub copy_up_cap_bytes: u64,
}
#[derive(Debug)]
pub struct Lower {
    pub dir: std::os::fd::OwnedFd,
    pub index: Option<crate::layer::index::Index>,
}
#[derive(Debug)]
pub struct Upper {
    pub upper: std::os::fd::OwnedFd,
    pub work: std::os::fd::OwnedFd,
}
#[derive(Debug)]
pub enum Owners {
    Mapped(crate::layer::IdMap),
    Single,
}

impl Union {
    pub fn open(options: Options) -> Result<Union, UnionError> {
        Ok(Union)
    }
    pub fn forget(&self, ino: InodeNo, count: u64) {}
    pub fn lookup(&self, parent: InodeNo, name: &OsStr) -> Result<Entry, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn attributes(&self, ino: InodeNo) -> Result<Attributes, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn set_attributes(&self, ino: InodeNo, changes: &Changes) -> Result<Attributes, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn read_link(&self, ino: InodeNo) -> Result<Vec<u8>, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn make_node(
        &self,
        parent: InodeNo,
        name: &OsStr,
        new: NewFile,
        kind: FileKind,
        rdev: u64,
    ) -> Result<Entry, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn make_directory(&self, parent: InodeNo, name: &OsStr, new: NewFile) -> Result<Entry, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn make_symlink(
        &self,
        parent: InodeNo,
        name: &OsStr,
        target: &OsStr,
        owner: Caller,
    ) -> Result<Entry, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn make_unnamed(&self, parent: InodeNo, new: NewFile) -> Result<Entry, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn link(&self, ino: InodeNo, parent: InodeNo, name: &OsStr) -> Result<Entry, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn unlink(&self, parent: InodeNo, name: &OsStr) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn remove_directory(&self, parent: InodeNo, name: &OsStr) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn rename(
        &self,
        parent: InodeNo,
        name: &OsStr,
        new_parent: InodeNo,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn read(&self, ino: InodeNo, offset: u64, buf: &mut [u8]) -> Result<usize, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn write(&self, ino: InodeNo, offset: u64, data: &[u8], kill_privileges: bool) -> Result<usize, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn sync(&self, ino: InodeNo, data_only: bool) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn sync_all(&self) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn allocate(&self, ino: InodeNo, mode: i32, offset: u64, len: u64) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn seek(&self, ino: InodeNo, offset: u64, what: Seek) -> Result<u64, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn copy_range(
        &self,
        from: InodeNo,
        from_offset: u64,
        to: InodeNo,
        to_offset: u64,
        len: u64,
    ) -> Result<usize, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn read_directory(
        &self,
        ino: InodeNo,
        cookie: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn read_directory_plus(
        &self,
        ino: InodeNo,
        cookie: u64,
        sink: &mut dyn FnMut(DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn statistics(&self) -> Result<Statistics, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn xattr(&self, ino: InodeNo, name: &OsStr) -> Result<Vec<u8>, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn xattr_names(&self, ino: InodeNo) -> Result<Vec<u8>, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn set_xattr(
        &self,
        ino: InodeNo,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
        clear_setgid: bool,
    ) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn remove_xattr(&self, ino: InodeNo, name: &OsStr) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn inode_flags(&self, ino: InodeNo) -> Result<u32, UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
    pub fn set_inode_flags(&self, ino: InodeNo, flags: u32) -> Result<(), UnionError> {
        Err(UnionError::new(Errno::ENOSYS, "stub"))
    }
}
