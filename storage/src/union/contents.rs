//! The contents of files. Without names: a request for contents takes a descriptor and nothing else.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, fdatasync, fsync, lseek, syncfs};

use super::attributes::{FileKind, InodeNo, Seek};
use super::handles::Handle;
use super::inode_table::Node;
use super::tree::{Tree, reopen};
use crate::sys::clone::copy_file_range;

impl Tree {
    pub(super) fn read(&self, ino: InodeNo, offset: u64, buf: &mut [u8]) -> nix::Result<usize> {
        let file = self.data(&self.node(ino)?)?;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = i64::try_from(offset.saturating_add(done as u64)).map_err(|_| Errno::EINVAL)?;
            match pread(&file.fd, rest, at) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    pub(super) fn seek(&self, ino: InodeNo, offset: u64, to: Seek) -> nix::Result<u64> {
        let file = self.data(&self.node(ino)?)?;
        let whence = match to {
            Seek::Data => Whence::SeekData,
            Seek::Hole => Whence::SeekHole,
        };
        let offset = i64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        lseek(&file.fd, offset, whence).map(i64::unsigned_abs)
    }

    /// A regular file of the upper, open for writing; it is copied up if it must be.
    pub(super) fn writable(&self, node: &Arc<Node>) -> nix::Result<Handle> {
        match node.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        self.copy_up(node, None)?;
        let file = self.data(node)?;
        // Immutable: the kernel has seen that too, unless it became so a moment ago.
        if file.writable { Ok(file) } else { Err(Errno::EPERM) }
    }

    pub(super) fn write(&self, ino: InodeNo, offset: u64, bytes: &[u8], kill_privileges: bool) -> nix::Result<usize> {
        let node = self.node(ino)?;
        let file = self.writable(&node)?;
        let mut killed = None;
        if kill_privileges && !node.privileges.are_none() {
            let _names = self.names();
            killed = Some(node.privileges.changes());
            self.with_target(&node, |upper, target| upper.kill_privileges(target))?;
        }
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = i64::try_from(offset.saturating_add(done as u64)).map_err(|_| Errno::EFBIG)?;
            match pwrite(&file.fd, rest, at) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        // Capabilities go by the write itself.
        if let Some(changes) = killed.filter(|_| done > 0) {
            node.privileges.have_gone(changes);
        }
        Ok(done)
    }

    pub(super) fn allocate(&self, ino: InodeNo, mode: i32, offset: u64, len: u64) -> nix::Result<()> {
        let file = self.writable(&self.node(ino)?)?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        let (offset, len) = (i64::try_from(offset), i64::try_from(len));
        let (Ok(offset), Ok(len)) = (offset, len) else { return Err(Errno::EFBIG) };
        loop {
            match fallocate(&file.fd, mode, offset, len) {
                Err(Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    pub(super) fn copy_range(
        &self,
        from: InodeNo,
        from_offset: u64,
        to: InodeNo,
        to_offset: u64,
        len: u64,
    ) -> nix::Result<usize> {
        let (from, to) = (self.node(from)?, self.node(to)?);
        let to = self.writable(&to)?;
        let from = self.data(&from)?;
        let (Ok(mut from_offset), Ok(mut to_offset)) = (i64::try_from(from_offset), i64::try_from(to_offset)) else {
            return Err(Errno::EINVAL);
        };
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        let mut done = 0;
        while left > 0 {
            match copy_file_range((from.fd.as_fd(), from_offset), (to.fd.as_fd(), to_offset), left) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    from_offset = from_offset.saturating_add(count as i64);
                    to_offset = to_offset.saturating_add(count as i64);
                    left = left.saturating_sub(count);
                }
                Err(Errno::EINTR) => {}
                Err(_) if done > 0 => break,
                // The kernel copies by reading and writing then.
                Err(Errno::EXDEV | Errno::ENOSYS) => return Err(Errno::EOPNOTSUPP),
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    pub(super) fn sync(&self, ino: InodeNo, data_only: bool) -> nix::Result<()> {
        let node = self.node(ino)?;
        if self.volatile || !node.lock().in_upper() {
            return Ok(());
        }
        match node.kind {
            FileKind::File => {
                let file = self.data(&node)?;
                if data_only { fdatasync(&file.fd) } else { fsync(&file.fd) }
            }
            FileKind::Directory => {
                let dir = {
                    let _names = self.names();
                    self.upper_dir(&node)?
                };
                fsync(reopen(dir.fd.as_fd(), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn sync_all(&self) -> nix::Result<()> {
        match &self.upper {
            Some(upper) if !self.volatile => syncfs(upper.root()),
            _ => Ok(()),
        }
    }
}
