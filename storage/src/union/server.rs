//! Serves a [`Union`] on a mounted `/dev/fuse`: decodes, calls, answers; decides nothing.
//!
//! **Runs in:** the union server: the caller's thread and `threads - 1` others.
//!
//! What carries the speed are the answers that make the kernel stop asking:
//!
//! | answer | effect |
//! | --- | --- |
//! | `ENOSYS` to OPEN, OPENDIR, FLUSH | none of them, nor RELEASE, is sent again; pages and listings stay cached |
//! | `ENOSYS` to CREATE | a new file is one MKNOD, with nothing to release |
//! | `ENOSYS` to STATX, INTERRUPT, ACCESS, FSYNC of a volatile mount | not sent again, and the kernel does without |
//! | endless timeouts, of missing names too | layers never change, and nobody else writes to the upper directory |
//! | `HANDLE_KILLPRIV_V2` | no question for `security.capability` before each write |
//! | `CACHE_SYMLINKS`, `EXPLICIT_INVAL_DATA` | what was read stays |

mod log;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::session::abi::InitFlags;
use super::session::decode::{Operation, Request};
use super::session::encode::{Presentation, Reply};
use super::session::{self, Answer};
use super::{InodeNo, Union, UnionError};
pub use log::Log;

/// As long as a file system lives.
pub const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// How to serve.
#[derive(Debug)]
pub struct Settings {
    /// How many threads serve.
    pub threads: usize,
    /// Access control lists count.
    pub posix_acl: bool,
    /// Nothing is ever synced to disk: the kernel answers `fsync` itself.
    pub volatile: bool,
    /// Extended attributes can be used.
    pub xattrs: bool,
    /// How long the kernel believes what it is told. Less than for ever is for layers that somebody changes behind us.
    pub timeout: Duration,
    /// All files are shown with this owner.
    pub squash_uid: Option<u32>,
    /// All files are shown with this group.
    pub squash_gid: Option<u32>,
    /// Each request and its answer is reported.
    pub trace: bool,
    /// Where errors go that no program provoked; standard error if not given.
    pub log: Option<Log>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: 2,
            posix_acl: true,
            volatile: false,
            xattrs: true,
            timeout: FOREVER,
            squash_uid: None,
            squash_gid: None,
            trace: false,
            log: None,
        }
    }
}

/// Why the file system is not served any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The session with the kernel failed.
    #[error("serve the union file system: {0}")]
    Session(#[source] io::Error),
}

/// Serves until the file system is unmounted.
///
/// # Errors
/// [`ServeError`] if the kernel speaks another protocol or `fuse` is not the device of a mounted file system.
pub fn serve(union: Union, fuse: OwnedFd, settings: Settings) -> Result<(), ServeError> {
    let threads = settings.threads;
    union.make_room();
    session::serve(&Server { union, settings }, fuse, threads).map_err(ServeError::Session)
}

/// The engine, and how it is served.
pub(super) struct Server {
    pub(super) union: Union,
    pub(super) settings: Settings,
}

impl session::Service for Server {
    fn flags(&self) -> InitFlags {
        let flags = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_SETXATTR_EXT
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_HAS_IOCTL_DIR;
        if self.settings.posix_acl { flags | InitFlags::FUSE_POSIX_ACL } else { flags }
    }

    fn answer(&self, request: &Request<'_>, reply: &mut Reply) -> Answer {
        match &request.operation {
            Operation::Forget(count) => {
                self.union.forget(request.node, *count);
                Answer::Nothing
            }
            Operation::ForgetMany(forgets) => {
                forgets.clone().for_each(|(ino, count)| self.union.forget(ino, count));
                Answer::Nothing
            }
            operation => {
                let result = self.call(request, reply);
                if self.settings.trace {
                    let outcome = result.as_ref().map_or_else(UnionError::to_string, |()| "done".to_owned());
                    self.report(&format!("{} {} {operation:.200?}: {outcome}", request.unique, request.node.0));
                }
                Answer::Send(result.map_err(|error| self.errno(error, request.node)))
            }
        }
    }

    fn presentation(&self) -> Presentation {
        let Settings { timeout, squash_uid, squash_gid, .. } = self.settings;
        Presentation { timeout, squash_uid, squash_gid }
    }

    fn report(&self, what: &str) {
        // The log is the last resort: if it cannot be written there is nobody left to tell.
        let _ = match &self.settings.log {
            Some(log) => log.write(what),
            None => nix::unistd::write(io::stderr().as_fd(), format!("coracle: union: {what}\n").as_bytes()).map(drop),
        };
    }
}

impl Server {
    /// The errno for the kernel; what no program provoked goes to the log.
    fn errno(&self, error: UnionError, node: InodeNo) -> Errno {
        if !error.is_ordinary() {
            let place = self.union.path(node).map(|path| format!(" ({path:?})")).unwrap_or_default();
            session::Service::report(self, &format!("{error}{place}"));
        }
        error.errno
    }

    /// One arm per operation that has an answer.
    fn call(&self, request: &Request<'_>, reply: &mut Reply) -> Result<(), UnionError> {
        let (union, node, caller) = (&self.union, request.node, request.caller);
        match &request.operation {
            Operation::Lookup(name) => match union.lookup(node, name) {
                Ok(entry) => reply.entry(&entry),
                Err(UnionError { errno: Errno::ENOENT, .. }) => reply.no_entry(),
                Err(error) => return Err(error),
            },
            Operation::Attributes => reply.attributes(&union.attributes(node)?),
            Operation::SetAttributes(changes) => reply.attributes(&union.set_attributes(node, changes)?),
            Operation::ReadLink => reply.bytes(&union.read_link(node)?),
            Operation::MakeNode(name, new, kind, rdev) => {
                reply.entry(&union.make_node(node, name, *new, *kind, *rdev)?)
            }
            Operation::MakeDirectory(name, new) => reply.entry(&union.make_directory(node, name, *new)?),
            Operation::MakeSymlink(name, target) => reply.entry(&union.make_symlink(node, name, target, caller)?),
            Operation::MakeUnnamed(new) => {
                reply.entry(&union.make_unnamed(node, *new)?);
                reply.opened();
            }
            Operation::Link(ino, name) => reply.entry(&union.link(*ino, node, name)?),
            Operation::Unlink(name) => union.unlink(node, name)?,
            Operation::RemoveDirectory(name) => union.remove_directory(node, name)?,
            Operation::Rename { name, new_parent, new_name, mode } => {
                union.rename(node, name, *new_parent, new_name, *mode)?;
            }
            Operation::Read { offset, size } => reply.data(*size, |buffer| union.read(node, *offset, buffer))?,
            Operation::Write { offset, data, kill_privileges } => {
                reply.count(union.write(node, *offset, data, *kill_privileges)?);
            }
            Operation::Sync { .. } if self.settings.volatile => return Err(unsupported()),
            Operation::Sync { data_only } => union.sync(node, *data_only)?,
            Operation::SyncAll => union.sync_all()?,
            Operation::Allocate { offset, len, mode } => union.allocate(node, *mode, *offset, *len)?,
            Operation::Seek(offset, what) => reply.offset(union.seek(node, *offset, *what)?),
            Operation::CopyRange { from_offset, to, to_offset, len, is_wide } => {
                // The narrow answer holds 32 bits; no caller expects all of what it asks for.
                let len = (*len).min(1 << 30);
                let count = union.copy_range(node, *from_offset, *to, *to_offset, len)?;
                if *is_wide { reply.offset(count as u64) } else { reply.count(count) }
            }
            Operation::ReadDirectory { cookie, size, is_plus: false } => {
                union.read_directory(node, *cookie, &mut |entry| reply.directory_entry(*size, &entry))?;
            }
            Operation::ReadDirectory { cookie, size, is_plus: true } => {
                union.read_directory_plus(node, *cookie, &mut |entry, found| {
                    reply.directory_entry_plus(*size, &entry, found)
                })?;
            }
            Operation::Statistics => reply.statistics(&union.statistics()?),
            Operation::Xattr(..)
            | Operation::XattrNames(_)
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr(_)
                if !self.settings.xattrs =>
            {
                return Err(unsupported());
            }
            Operation::Xattr(name, size) => sized(reply, &union.xattr(node, name)?, *size)?,
            Operation::XattrNames(size) => sized(reply, &union.xattr_names(node)?, *size)?,
            Operation::SetXattr { name, value, mode, clear_setgid } => {
                union.set_xattr(node, name, value, *mode, *clear_setgid)?;
            }
            Operation::RemoveXattr(name) => union.remove_xattr(node, name)?,
            Operation::Ioctl { command, input, out_size } => self.ioctl(node, *command, input, *out_size, reply)?,
            Operation::Destroy | Operation::Release => {}
            Operation::Init(_) => return Err(UnionError::new(Errno::EPROTO, "begin a session twice")),
            Operation::Forget(_) | Operation::ForgetMany(_) | Operation::Unsupported => return Err(unsupported()),
        }
        Ok(())
    }

    /// The ioctls behind `lsattr` and `chattr`, which the kernel has checked and taken apart.
    fn ioctl(
        &self,
        node: InodeNo,
        command: u32,
        input: &[u8],
        out_size: usize,
        reply: &mut Reply,
    ) -> Result<(), UnionError> {
        use session::ioctl::{self, Command};
        match Command::parse(command, input) {
            Some(Command::GetFlags) => {
                let flags = self.union.inode_flags(node)?;
                let bytes = u64::from(flags).to_ne_bytes();
                reply.ioctl(bytes.get(..out_size.min(bytes.len())).unwrap_or_default());
            }
            Some(Command::SetFlags(flags)) => {
                self.union.set_inode_flags(node, flags)?;
                reply.ioctl(&[]);
            }
            Some(Command::GetExtended) => {
                let bytes = ioctl::extended(self.union.inode_flags(node)?);
                reply.ioctl(bytes.get(..out_size.min(bytes.len())).unwrap_or_default());
            }
            Some(Command::SetExtended(flags)) => {
                self.union.set_inode_flags(node, flags)?;
                reply.ioctl(&[]);
            }
            None => return Err(UnionError::new(Errno::ENOTTY, "ioctl")),
        }
        Ok(())
    }
}

/// The answer that makes the kernel stop asking.
fn unsupported() -> UnionError {
    UnionError::new(Errno::ENOSYS, "do what is not supported")
}

/// A value, or its length if there is no room for one.
fn sized(reply: &mut Reply, value: &[u8], size: usize) -> Result<(), UnionError> {
    match size {
        0 => reply.count(value.len()),
        _ if value.len() > size => return Err(UnionError::new(Errno::ERANGE, "read extended attributes")),
        _ => reply.bytes(value),
    }
    Ok(())
}

#[cfg(any(test, feature = "fuzzing"))]
pub mod harness;

#[cfg(test)]
mod fuzz;
