//! The contents of files. Without names: a request for contents takes a descriptor and nothing else.

use nix::errno::Errno;
use nix::sys::uio::pread;
use nix::unistd::{Whence, lseek};

use super::attributes::{InodeNo, Seek};
use super::tree::Tree;

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
}
