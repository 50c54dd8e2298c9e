//! File locks: who holds one is alive.
//!
//! # Lock order
//! A process that takes more than one takes them in this order, and gives up rather than wait against it:
//!
//! ```text
//! 0. build/lock                shared: a build runs; exclusive: prune of its cache, only ever tried
//! 0. build/mounts/*/lock       one RUN cache, by a step that wants it alone
//! 0. undo.lock                 taking something out of the trash, to bring it back or to unlink it
//! 0. images/pin.lock           shared: blobs and layers stay; exclusive: delete some; only ever tried exclusively
//! 0. images/blobs/.tmp-*       one blob; a layer's holder may wait for the configuration's, whose holder waits for none
//! 1. images/lock               index.json, lists.json
//! 2. layers/.tmp-*/lock        one unpack; only ever tried, never waited for
//! 2. auto-ids.lock             a range of ids that is chosen and not yet in a record
//! 3. <runtime>/<id>/lock       one container; its supervisor holds it for life
//! 4. names.lock               moving a name, sweeping a stale one (claiming a free one needs no lock)
//! 5. volumes.lock             removing a volume
//! 6. undo/.tmp-*/lock           an image that is being moved to the trash; only ever tried
//! 6. trash.lock                unlinking what lies in the trash
//! 7. net/leader.lock           a leader of the network namespace is started, or ends; its holder waits for nobody
//! 8. net/leader-*.alive        held by the leader for life; only ever tried
//! 9. events.lock               moving a journal that is too long aside; only ever tried
//! ```
//!
//! # Kind
//! Open file description locks. Like `flock` they belong to the open file, so that a forked supervisor keeps the lock
//! of its parent, and they fall with the last descriptor, however the process ends. Unlike `flock` they can be *asked
//! about*: `F_OFD_GETLK` tells `ps` whether a supervisor lives without taking the lock for an instant, and so without
//! making a supervisor's own attempt fail.
//!
//! # Source
//! `fcntl(2)`, "Open file description locks (non-POSIX)", Linux 3.15.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, fstat, stat};

/// A lock that could not be taken or examined.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock {}: {call}: {}", path.display(), crate::sys::reason(source))]
pub struct LockError {
    path: PathBuf,
    call: &'static str,
    /// Why.
    source: io::Error,
}

impl LockError {
    /// Whether the directory of the lock is missing.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// A held lock; dropping it, in the last process that has it, releases it.
#[derive(Debug)]
pub struct FileLock {
    file: OwnedFd,
}

#[derive(Clone, Copy)]
enum Wait {
    Yes,
    No,
}

impl FileLock {
    /// Waits for the lock at `path` and takes it for this process alone; the file is made if it is missing.
    ///
    /// # Errors
    /// [`LockError`] when the file cannot be opened or the wait is interrupted.
    pub fn exclusive(path: &Path) -> Result<Self, LockError> {
        // With `Wait::Yes` there is always a lock or an error.
        loop {
            if let Some(lock) = Self::take(path, libc::F_WRLCK, Wait::Yes)? {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock if nobody holds it, in any mode.
    ///
    /// # Errors
    /// [`LockError`] when the file cannot be opened.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, LockError> {
        Self::take(path, libc::F_WRLCK, Wait::No)
    }

    /// Waits until nobody holds the lock exclusively and takes it along with other readers.
    ///
    /// # Errors
    /// As [`FileLock::exclusive`].
    pub fn shared(path: &Path) -> Result<Self, LockError> {
        loop {
            if let Some(lock) = Self::take(path, libc::F_RDLCK, Wait::Yes)? {
                return Ok(lock);
            }
        }
    }

    /// Whether somebody holds the lock at `path`, in any mode. Takes nothing; a missing file is a free lock.
    ///
    /// # Errors
    /// [`LockError`] when the file is there and cannot be opened.
    pub fn is_held(path: &Path) -> Result<bool, LockError> {
        let failed = |call, errno: Errno| LockError { path: path.to_owned(), call, source: errno.into() };
        let file = match open(path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(false),
            Err(errno) => return Err(failed("open", errno)),
        };
        let mut answer = whole_file(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut answer)).map_err(|errno| failed("fcntl F_OFD_GETLK", errno))?;
        Ok(i32::from(answer.l_type) != libc::F_UNLCK)
    }

    fn take(path: &Path, kind: libc::c_int, wait: Wait) -> Result<Option<Self>, LockError> {
        let failed = |call, errno: Errno| LockError { path: path.to_owned(), call, source: errno.into() };
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let file = open(path, flags, Mode::from_bits_truncate(0o600)).map_err(|errno| failed("open", errno))?;
            let whole = whole_file(kind);
            let call = match wait {
                Wait::Yes => FcntlArg::F_OFD_SETLKW(&whole),
                Wait::No => FcntlArg::F_OFD_SETLK(&whole),
            };
            match fcntl(&file, call) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(failed("fcntl F_OFD_SETLK", errno)),
            }
            // The last holder may have removed the file while we waited: a lock on an unlinked file is no lock.
            let ours = fstat(&file).map_err(|errno| failed("fstat", errno))?;
            match stat(path) {
                Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Some(Self { file }));
                }
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(failed("stat", errno)),
            }
        }
    }
}

impl AsFd for FileLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<FileLock> for OwnedFd {
    fn from(lock: FileLock) -> Self {
        lock.file
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    // `l_pid` must be 0 for open file description locks, and length 0 means to the end.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_keeps_everybody_else_out_until_dropped() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        assert!(!FileLock::is_held(&path).unwrap(), "a missing file is free");
        let held = FileLock::exclusive(&path).unwrap();
        assert!(FileLock::is_held(&path).unwrap());
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(held);
        assert!(!FileLock::is_held(&path).unwrap());
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    fn shared_locks_live_together_and_count_as_held() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let one = FileLock::shared(&path).unwrap();
        let two = FileLock::shared(&path).unwrap();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(one);
        assert!(FileLock::is_held(&path).unwrap());
        drop(two);
        assert!(!FileLock::is_held(&path).unwrap());
    }

    #[test]
    fn a_duplicated_descriptor_keeps_the_lock_as_a_fork_would() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let held = FileLock::exclusive(&path).unwrap();
        let copy = held.as_fd().try_clone_to_owned().unwrap();
        drop(held);
        assert!(FileLock::is_held(&path).unwrap());
        drop(copy);
        assert!(!FileLock::is_held(&path).unwrap());
    }

    #[test]
    fn a_waiter_whose_file_was_removed_locks_the_new_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let held = FileLock::exclusive(&path).unwrap();
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || FileLock::exclusive(&path).unwrap())
        };
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::fs::remove_file(&path).unwrap();
        drop(held);
        let second = waiter.join().unwrap();
        assert!(FileLock::is_held(&path).unwrap());
        drop(second);
    }
}
