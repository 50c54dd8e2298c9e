//! The true owner of a file: an extended attribute.
//!
//! ```text
//! user.containers.override_stat      = "uid:gid:0mode[:kind]"      files and directories
//! security.coracle.override_stat     the same, of other kinds of files: the kernel has no user.* attributes there
//! ```
//! The second one is answered by the FUSE union alone; on an ordinary file system (a volume) it cannot be set, and
//! other kinds of files belong to root there. The mode in it is what the file had when the owner was recorded: the
//! file's own mode is the true one.
//!
//! Owners are cached by device and inode, and believed while the change time is the same: recording an owner moves it.
//! One that is too young to tell two changes apart is not cached.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use crate::sys::notify;

const OF_FILES: &CStr = c"user.containers.override_stat";
const OF_OTHERS: &CStr = c"security.coracle.override_stat";

/// A value is two numbers, a mode and a kind with its device number.
const MAX_VALUE_BYTES: usize = 64;

/// How coarse the clock of a file system may be.
const GRANULE: Duration = Duration::from_millis(50);

/// How many owners are remembered; then it begins anew.
const MAX_CACHED: usize = 32_768;

/// User and group of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: u32,
    pub(super) group: u32,
}

/// What tells one state of a file from another.
type Key = (u32, u32, u64);

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Owners(Mutex<HashMap<Key, (i64, u32, Owner)>>);

/// The name of a descriptor of ours for calls that take a path. It is relative: the working directory of a thread that
/// uses it is `/proc/self/fd`.
pub(super) fn name_of(fd: BorrowedFd<'_>) -> CString {
    // Digits have no NUL.
    CString::new(fd.as_raw_fd().to_string()).unwrap_or_default()
}

fn kind_of(attributes: &libc::statx) -> u32 {
    u32::from(attributes.stx_mode) & libc::S_IFMT
}

fn xattr_of(attributes: &libc::statx) -> &'static CStr {
    if matches!(kind_of(attributes), libc::S_IFREG | libc::S_IFDIR) { OF_FILES } else { OF_OTHERS }
}

impl Owners {
    /// The owner of the file behind `fd`, whose attributes are these.
    pub(super) fn of(&self, fd: BorrowedFd<'_>, attributes: &libc::statx) -> Owner {
        let key = (attributes.stx_dev_major, attributes.stx_dev_minor, attributes.stx_ino);
        let changed = (attributes.stx_ctime.tv_sec, attributes.stx_ctime.tv_nsec);
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seconds, nanoseconds, owner)) = cache.get(&key)
            && (*seconds, *nanoseconds) == changed
        {
            return *owner;
        }
        drop(cache);
        let owner = recorded(fd, attributes);
        if is_older_than_granule(changed) {
            cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= MAX_CACHED {
                cache.clear();
            }
            cache.insert(key, (changed.0, changed.1, owner));
        }
        owner
    }
}

fn is_older_than_granule((seconds, nanoseconds): (i64, u32)) -> bool {
    let changed = u64::try_from(seconds).map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::new(seconds, nanoseconds));
    SystemTime::now().duration_since(changed).is_ok_and(|age| age > GRANULE)
}

/// The owner as it stands in the attribute; what the kernel says where there is none.
fn recorded(fd: BorrowedFd<'_>, attributes: &libc::statx) -> Owner {
    let mut buffer = [MaybeUninit::uninit(); MAX_VALUE_BYTES];
    let value = notify::xattr(&name_of(fd), xattr_of(attributes), &mut buffer).ok();
    let kernels = Owner { user: attributes.stx_uid, group: attributes.stx_gid };
    value.and_then(parse).unwrap_or(kernels)
}

fn parse(value: &[u8]) -> Option<Owner> {
    let mut parts = std::str::from_utf8(value).ok()?.split(':');
    let user = parts.next()?.parse().ok()?;
    let group = parts.next()?.parse().ok()?;
    parts.next()?;
    Some(Owner { user, group })
}

/// Records an owner. A file that cannot have one keeps root, and nobody is told: programs give terminals, pipes and
/// files of `/proc` away, and go on only when it worked.
///
/// # Errors
/// `EROFS`, `ENOSPC`, `EDQUOT`, and `EPERM` for a file of the host that belongs to somebody else.
pub(super) fn record(fd: BorrowedFd<'_>, attributes: &libc::statx, owner: Owner) -> Result<(), Errno> {
    record_at(&name_of(fd), attributes, owner)
}

/// As [`record`], by a name of the descriptor.
pub(super) fn record_at(name: &CStr, attributes: &libc::statx, owner: Owner) -> Result<(), Errno> {
    let value = format!("{}:{}:0{:o}", owner.user, owner.group, u32::from(attributes.stx_mode) & 0o7777);
    match notify::set_xattr(name, xattr_of(attributes), value.as_bytes()) {
        Ok(()) => Ok(()),
        Err(errno @ (Errno::EROFS | Errno::ENOSPC | Errno::EDQUOT | Errno::EIO)) => Err(errno),
        Err(Errno::EPERM | Errno::EACCES) if attributes.stx_uid != 0 => Err(Errno::EPERM),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_two_ids_and_a_mode() {
        assert_eq!(parse(b"33:4:0644"), Some(Owner { user: 33, group: 4 }));
        assert_eq!(parse(b"33:4:0644:char-1-3"), Some(Owner { user: 33, group: 4 }));
        for wrong in [&b"33:4"[..], b"", b"a:b:c", b"33:-1:0", b"\xff"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
