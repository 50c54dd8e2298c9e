//! Requests of the kernel, answered from the tree.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::pread;
use nix::unistd::{Whence, lseek};

use super::tree::{Answer, LazyTree, Stop};
use crate::union::attributes::{DirEntry, FileKind, InodeNo, Seek};
use crate::union::server::{FOREVER, Log};
use crate::union::session::abi::InitFlags;
use crate::union::session::decode::{Operation, Request};
use crate::union::session::encode::{Presentation, Reply};
use crate::union::session::ioctl::{self, Command};
use crate::union::session::parking::Patient;
use crate::union::session::{self};

/// `.` and `..` come before the names.
const DOTS: u64 = 2;

/// The tree, served.
pub(super) struct Server {
    pub(super) tree: LazyTree,
    pub(super) log: Option<Log>,
    /// The supervisor's, who asks before it believes that its container has succeeded.
    pub(super) confirm: Option<OwnedFd>,
}

impl Patient for Server {
    fn flags(&self) -> InitFlags {
        InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_HAS_IOCTL_DIR
    }

    fn presentation(&self) -> Presentation {
        Presentation { timeout: FOREVER, squash_uid: None, squash_gid: None }
    }

    fn answer(&mut self, request: &Request<'_>, reply: &mut Reply) -> Option<session::Answer> {
        match &request.operation {
            // Numbers say where files are: there is nothing to forget.
            Operation::Forget(_) | Operation::ForgetMany(_) => Some(session::Answer::Nothing),
            _ => match self.call(request, reply) {
                Ok(()) => Some(session::Answer::Send(Ok(()))),
                Err(Stop::Errno(errno)) => Some(session::Answer::Send(Err(errno))),
                Err(Stop::Wait) => None,
            },
        }
    }

    fn bell(&self) -> BorrowedFd<'_> {
        self.tree.inotify().as_fd()
    }

    fn look(&mut self, is_rung: bool) -> io::Result<()> {
        if is_rung {
            self.tree.drain();
        }
        self.tree.refresh();
        match self.tree.contradiction() {
            None => Ok(()),
            Some(path) => Err(io::Error::other(format!(
                "a layer of the image has '{path}' twice, so it cannot be used before it is whole: pull it first"
            ))),
        }
    }

    fn question(&self) -> Option<BorrowedFd<'_>> {
        self.confirm.as_ref().map(AsFd::as_fd)
    }

    fn confirm(&mut self) -> io::Result<()> {
        let Some(confirm) = self.confirm.take() else { return Ok(()) };
        let mut byte = [0];
        if !matches!(nix::unistd::read(&confirm, &mut byte), Ok(1)) {
            // Nobody will ask any more.
            return Ok(());
        }
        self.look(true)?;
        let _ = nix::unistd::write(&confirm, &byte);
        self.confirm = Some(confirm);
        Ok(())
    }

    fn report(&self, what: &str) {
        // Without a log there is nobody to tell.
        let _ = self.log.as_ref().map(|log| log.write(what));
    }
}

impl Server {
    /// One arm per operation that has an answer.
    fn call(&mut self, request: &Request<'_>, reply: &mut Reply) -> Answer<()> {
        let (tree, node) = (&mut self.tree, request.node);
        match &request.operation {
            Operation::Lookup(name) => match tree.lookup(node, name.as_encoded_bytes())? {
                Some(entry) => reply.entry(&entry),
                None => reply.no_entry(),
            },
            Operation::Attributes => reply.attributes(&tree.attributes(node)?),
            Operation::ReadLink => reply.bytes(&tree.read_link(node)?),
            Operation::Read { .. } if LazyTree::is_placeholder(node) => {}
            Operation::Read { offset, .. } if *offset >= tree.attributes(node)?.size => {}
            Operation::Read { offset, size } => {
                let file = tree.data(node, *offset, *size as u64)?;
                reply.data(*size, |buffer| read(file.as_fd(), buffer, *offset))?;
            }
            Operation::Seek(offset, to) => {
                if !tree.is_here(node)? {
                    // One without holes, as far as anybody knows.
                    let size = tree.attributes(node)?.size;
                    if *offset >= size {
                        return Err(Errno::ENXIO.into());
                    }
                    reply.offset(if matches!(to, Seek::Data) { *offset } else { size });
                    return Ok(());
                }
                let file = tree.data(node, 0, u64::MAX)?;
                let whence = match to {
                    Seek::Data => Whence::SeekData,
                    Seek::Hole => Whence::SeekHole,
                };
                let offset = i64::try_from(*offset).map_err(|_| Stop::Errno(Errno::ENXIO))?;
                reply.offset(lseek(&file, offset, whence)?.unsigned_abs());
            }
            Operation::ReadDirectory { cookie, size, is_plus } => self.list(node, *cookie, (*size, *is_plus), reply)?,
            Operation::Statistics => reply.statistics(&tree.statistics()?),
            Operation::Xattr(name, size) => sized(reply, &tree.xattr(node, name.as_encoded_bytes())?, *size)?,
            Operation::XattrNames(size) => sized(reply, &tree.xattr_names(node)?, *size)?,
            Operation::Ioctl { command, input, out_size } => match Command::parse(*command, input) {
                // Layers have no such flags.
                Some(Command::GetFlags) => reply.ioctl([0; 8].get(..(*out_size).min(8)).unwrap_or_default()),
                Some(Command::GetExtended) => {
                    let bytes = ioctl::extended(0);
                    reply.ioctl(bytes.get(..(*out_size).min(bytes.len())).unwrap_or_default());
                }
                Some(_) => return Err(Errno::EROFS.into()),
                None => return Err(Errno::ENOTTY.into()),
            },
            Operation::SyncAll | Operation::Sync { .. } | Operation::Destroy | Operation::Release => {}
            Operation::Init(_) => return Err(Errno::EPROTO.into()),
            Operation::Forget(_) | Operation::ForgetMany(_) | Operation::Unsupported => {
                return Err(Errno::ENOSYS.into());
            }
            // The mount is read-only: the kernel asks for none of these.
            Operation::SetAttributes(_)
            | Operation::MakeNode(..)
            | Operation::MakeDirectory(..)
            | Operation::MakeSymlink(..)
            | Operation::MakeUnnamed(_)
            | Operation::Link(..)
            | Operation::Unlink(_)
            | Operation::RemoveDirectory(_)
            | Operation::Rename { .. }
            | Operation::Write { .. }
            | Operation::Allocate { .. }
            | Operation::CopyRange { .. }
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr(_) => return Err(Errno::EROFS.into()),
        }
        Ok(())
    }

    fn list(&mut self, node: InodeNo, cookie: u64, (size, is_plus): (usize, bool), reply: &mut Reply) -> Answer<()> {
        let listing = self.tree.list(node)?;
        let dots: [(&[u8], InodeNo); 2] = [(b".", node), (b"..", self.tree.parent(node))];
        for ((name, ino), its_cookie) in dots.into_iter().zip(1..).skip(usize::try_from(cookie).unwrap_or(2).min(2)) {
            let entry = DirEntry { name, ino, kind: FileKind::Directory, cookie: its_cookie };
            let is_taken = match is_plus {
                true => reply.directory_entry_plus(size, &entry, None),
                false => reply.directory_entry(size, &entry),
            };
            if !is_taken {
                return Ok(());
            }
        }
        let first = usize::try_from(cookie.saturating_sub(DOTS)).unwrap_or(usize::MAX);
        for (listed, its_cookie) in listing.iter().zip(DOTS + 1..).skip(first) {
            let entry = DirEntry { name: &listed.name, ino: listed.ino, kind: listed.kind, cookie: its_cookie };
            let is_taken = match is_plus {
                true => {
                    // What cannot be told of it yet is asked when somebody wants it.
                    let found = self.tree.lookup(node, &listed.name).ok().flatten();
                    reply.directory_entry_plus(size, &entry, found.as_ref())
                }
                false => reply.directory_entry(size, &entry),
            };
            if !is_taken {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Reads as much as there is.
fn read(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Answer<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let at = i64::try_from(offset.saturating_add(done as u64)).map_err(|_| Stop::Errno(Errno::EINVAL))?;
        match pread(file, buffer.get_mut(done..).unwrap_or_default(), at) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// A value, or its length if there is no room for one.
fn sized(reply: &mut Reply, value: &[u8], size: usize) -> Answer<()> {
    match size {
        0 => reply.count(value.len()),
        _ if value.len() > size => return Err(Errno::ERANGE.into()),
        _ => reply.bytes(value),
    }
    Ok(())
}
