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
        in_full(buf.len(), |done| {
            let at = position(offset, done).ok_or(Errno::EINVAL)?;
            pread(&file.fd, buf.get_mut(done..).unwrap_or_default(), at)
        })
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
        let done = in_full(bytes.len(), |done| {
            let at = position(offset, done).ok_or(Errno::EFBIG)?;
            pwrite(&file.fd, bytes.get(done..).unwrap_or_default(), at)
        })?;
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
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        in_full(len, |done| {
            let at = position(from_offset, done).zip(position(to_offset, done));
            let (from_at, to_at) = at.ok_or(Errno::EINVAL)?;
            match copy_file_range((from.fd.as_fd(), from_at), (to.fd.as_fd(), to_at), len.saturating_sub(done)) {
                // The kernel copies by reading and writing then.
                Err(Errno::EXDEV | Errno::ENOSYS) => Err(Errno::EOPNOTSUPP),
                copied => copied,
            }
        })
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

/// Does something to `len` bytes in as many steps as it takes; a step is told how many are done. Gives their number, which is
/// less than `len` at the end of a file or before a failure: that is for the next request to meet.
fn in_full(len: usize, mut step: impl FnMut(usize) -> nix::Result<usize>) -> nix::Result<usize> {
    let mut done = 0;
    while done < len {
        match step(done) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// A place in a file, `done` bytes behind another.
fn position(offset: u64, done: usize) -> Option<i64> {
    i64::try_from(offset.saturating_add(done as u64)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_on_until_all_is_done_or_fails() {
        let run = |len, answers: &[nix::Result<usize>]| {
            let mut answers = answers.iter();
            in_full(len, |_| *answers.next().unwrap())
        };
        assert_eq!(run(5, &[Ok(2), Err(Errno::EINTR), Ok(3)]), Ok(5));
        assert_eq!(run(5, &[Ok(2), Ok(0)]), Ok(2));
        assert_eq!(run(5, &[Ok(2), Err(Errno::ENOSPC)]), Ok(2));
        assert_eq!(run(5, &[Err(Errno::ENOSPC)]), Err(Errno::ENOSPC));
        assert_eq!(run(0, &[]), Ok(0));
        assert_eq!((position(i64::MAX as u64, 0), position(i64::MAX as u64, 1)), (Some(i64::MAX), None));
    }
}
