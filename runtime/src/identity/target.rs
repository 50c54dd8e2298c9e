//! The process that made a call: its memory, its descriptors, and paths as it would resolve them.
//!
//! Everything here is done with the notifier's rights, which the target may not have. What keeps that harmless: a path
//! is resolved by the kernel itself, from the target's root, working directory and descriptors and with links as it has
//! them, so only what the target can name is reached; links that mean a descriptor or directory of some process
//! (`/proc/PID/root`) are not followed, since they are where rights count.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

use super::owner::name_of;
use super::serve::Surroundings;
use crate::sys::notify::{self, Notification};

/// `PATH_MAX`, with the NUL.
const MAX_PATH_BYTES: usize = 4096;

/// A first read that is enough for most paths.
const USUAL_PATH_BYTES: usize = 256;

/// What is known of a call that waits.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) surroundings: &'a Surroundings,
    pub(super) listener: BorrowedFd<'a>,
    groups: &'a Mutex<Vec<u32>>,
    pub(super) call: Notification,
    /// Its root directory has been entered, if it is not the container's.
    entered: bool,
}

/// Where a last component is, and the component.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) parent: OwnedFd,
    pub(super) name: CString,
}

impl<'a> Target<'a> {
    pub(super) fn new(
        surroundings: &'a Surroundings,
        listener: BorrowedFd<'a>,
        groups: &'a Mutex<Vec<u32>>,
        call: Notification,
    ) -> Target<'a> {
        Target { surroundings, listener, groups, call, entered: false }
    }

    /// The groups that the process was announced with, once.
    pub(super) fn announced_groups(&self) -> Vec<u32> {
        std::mem::take(&mut self.groups.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Argument `index`, whole.
    pub(super) fn word(&self, index: usize) -> u64 {
        self.call.arguments.get(index).copied().unwrap_or_default()
    }

    /// Argument `index` as an `int`, an id, a descriptor.
    pub(super) fn int(&self, index: usize) -> u32 {
        self.word(index) as u32
    }

    /// Whether it is this process that made the call: its thread id cannot have become another's before this.
    pub(super) fn still_waits(&self) -> Result<(), Errno> {
        if notify::is_valid(self.listener, self.call.id) { Ok(()) } else { Err(Errno::ESRCH) }
    }

    /// Memory that must be there whole.
    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let wanted = buffer.len();
        match notify::read_memory(self.call.pid, address, buffer)? {
            got if got == wanted => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Writes memory of the target.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.still_waits()?;
        notify::write_memory(self.call.pid, address, bytes)
    }

    /// The path that argument `index` points to.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`.
    pub(super) fn path(&self, index: usize) -> Result<CString, Errno> {
        let path = self.string(self.word(index))?;
        self.still_waits()?;
        Ok(path)
    }

    fn string(&self, address: u64) -> Result<CString, Errno> {
        let mut small = [0; USUAL_PATH_BYTES];
        let got = notify::read_memory(self.call.pid, address, &mut small)?;
        let bytes = small.get(..got).unwrap_or_default();
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            return CString::new(bytes.get(..end).unwrap_or_default()).map_err(|_| Errno::EFAULT);
        }
        let mut large = vec![0; MAX_PATH_BYTES];
        let got = notify::read_memory(self.call.pid, address, &mut large)?;
        large.truncate(got);
        match large.iter().position(|byte| *byte == 0) {
            Some(end) => {
                large.truncate(end);
                CString::new(large).map_err(|_| Errno::EFAULT)
            }
            None if got == MAX_PATH_BYTES => Err(Errno::ENAMETOOLONG),
            None => Err(Errno::EFAULT),
        }
    }

    /// Opens an entry of the target's directory in `/proc`, whatever it links to.
    fn own(&self, entry: &str) -> Result<OwnedFd, Errno> {
        let path = format!("{}/{entry}", self.call.pid);
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let fd = openat(self.surroundings.proc.as_fd(), path.as_str(), flags, Mode::empty())?;
        // Only now is it certain whose it was.
        self.still_waits()?;
        Ok(fd)
    }

    /// What a descriptor of the target leads to.
    ///
    /// # Errors
    /// `EBADF`.
    pub(super) fn descriptor(&self, number: u32) -> Result<OwnedFd, Errno> {
        let number = i32::try_from(number).map_err(|_| Errno::EBADF)?;
        self.own(&format!("fd/{number}")).map_err(|errno| if errno == Errno::ENOENT { Errno::EBADF } else { errno })
    }

    /// The directory that a relative path begins at: `AT_FDCWD` or a descriptor.
    fn directory(&self, number: u32) -> Result<OwnedFd, Errno> {
        if number as i32 == libc::AT_FDCWD { self.own("cwd") } else { self.descriptor(number) }
    }

    /// Makes the root of this thread the target's; until [`Self::leave`].
    pub(super) fn enter(&mut self, moved: bool) -> Result<(), Errno> {
        if moved {
            let root = self.own("root")?;
            self.entered = true;
            nix::unistd::chroot(name_of(root.as_fd()).as_c_str())?;
        }
        Ok(())
    }

    /// Makes the root of this thread the container's again.
    pub(super) fn leave(&mut self) -> Result<(), Errno> {
        if std::mem::take(&mut self.entered) {
            nix::unistd::chroot(name_of(self.surroundings.root.as_fd()).as_c_str())?;
        }
        Ok(())
    }

    /// Opens what the target would reach by `path` from `dir`, without opening the file itself.
    pub(super) fn resolve(&self, dir: u32, path: &CString, follow: bool) -> Result<OwnedFd, Errno> {
        let flags = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        self.open(dir, path, OFlag::O_PATH | flags, Mode::empty())
    }

    fn open(&self, dir: u32, path: &CString, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        if path.as_bytes().first() == Some(&b'/') {
            // The root of this thread is the target's.
            open_in(self.surroundings.root.as_fd(), path, flags, mode)
        } else {
            open_in(self.directory(dir)?.as_fd(), path, flags, mode)
        }
    }

    /// Finds the directory in which the last component of `path` is or would be, and that component. Slashes at the end
    /// are passed over; `None` for a path that ends in `..` or is nothing but slashes.
    pub(super) fn position(&self, dir: u32, path: &CString) -> Result<Option<Position>, Errno> {
        let bytes = path.as_bytes();
        let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let bytes = bytes.get(..end).unwrap_or_default();
        let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (before, name) = bytes.split_at_checked(start).unwrap_or_default();
        if name.is_empty() || name == b"." || name == b".." {
            return Ok(None);
        }
        let before = if before.is_empty() { b"." } else { before };
        let before = CString::new(before).map_err(|_| Errno::EINVAL)?;
        let parent = self.open(dir, &before, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        Ok(Some(Position { parent, name: CString::new(name).map_err(|_| Errno::EINVAL)? }))
    }

    /// A line of the target's `/proc/PID/status`.
    pub(super) fn status(&self, key: &str) -> Result<String, Errno> {
        status_of(self.surroundings.proc.as_fd(), self.call.pid, key).inspect(|_| ())
    }
}

/// The value of a line of `/proc/PID/status`.
pub(super) fn status_of(proc: BorrowedFd<'_>, pid: u32, key: &str) -> Result<String, Errno> {
    let path = format!("{pid}/status");
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = std::fs::File::from(openat(proc, path.as_str(), flags, Mode::empty())?);
    let text =
        std::io::read_to_string(file).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned()).ok_or(Errno::ENOENT)
}

/// Opens a path that the target names.
pub(super) fn open_in(dir: BorrowedFd<'_>, path: &CString, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        match openat2(dir, OsStr::from_bytes(path.as_bytes()), how) {
            // A rename somewhere while `..` was looked up.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}
