//! The work directory: where things are made complete before they get their place in the upper.
//!
//! Everything of ours lies in `coracle/` below the work directory, beside the kernel driver's own `work/`. A name there
//! lives for one transaction; what a killed server left is removed when the next one opens the directory.

use super::OpenError;
use super::failpoint;
use crate::layer::remove_tree;
use crate::sys::rename::rename_at;
use crate::sys::xattr;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

const NAME: &CStr = c"coracle";

/// Longest time that leftovers may hold up a mount; what is left then waits for the next.
const SWEEP_TIME: Duration = Duration::from_secs(2);

/// How long the last server of these directories may take to be gone once its mount is: longer than its supervisor waits
/// before it kills one that hangs.
const HANDOVER_TIME: Duration = Duration::from_secs(5);

/// No tree of directories that users can make is deeper; a longer way up is a damaged file system.
const MAX_DEPTH: usize = 4096;

/// The flags every directory of ours is opened with.
pub(super) const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// An open work directory.
#[derive(Debug)]
pub(super) struct WorkDir {
    dir: OwnedFd,
    next_name: AtomicU64,
    /// Held for life: two servers of one upper or one work directory would destroy each other's files.
    _locks: [Flock<OwnedFd>; 2],
}

impl WorkDir {
    /// Checks that the two directories fit together, locks both and removes leftovers.
    pub(super) fn open(upper: BorrowedFd<'_>, work: BorrowedFd<'_>) -> Result<Self, OpenError> {
        let reopen = |dir: BorrowedFd<'_>| openat(dir, c".", DIRECTORY, Mode::empty());
        let upper = reopen(upper).map_err(|errno| OpenError::call("open upper directory", errno))?;
        let work = reopen(work).map_err(|errno| OpenError::call("open work directory", errno))?;
        check(&upper, &work)?;
        let deadline = Instant::now() + HANDOVER_TIME;
        let lock = |mut dir: OwnedFd, which| loop {
            match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                // The kernel tells nobody when a lock is given up, but those that wait for ever.
                Err((same, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                    dir = same;
                }
                Err((_, Errno::EWOULDBLOCK)) => return Err(OpenError::Busy { which }),
                Err((_, errno)) => return Err(OpenError::call("lock directory", errno)),
            }
        };
        let upper = lock(upper, "upper")?;
        let work = lock(work, "work")?;
        let dir = private_directory(work.as_fd()).map_err(|errno| OpenError::call("make work directory", errno))?;
        sweep(&dir);
        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let next_name = AtomicU64::new(u64::try_from(seed.as_nanos()).unwrap_or_default());
        Ok(Self { dir, next_name, _locks: [upper, work] })
    }

    /// The directory in which everything is made.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Makes something under a name that nothing has; it is removed again unless it finds its place.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn make<T>(
        &self,
        mut make: impl FnMut(BorrowedFd<'_>, &CStr) -> nix::Result<T>,
    ) -> nix::Result<(Temp<'_>, T)> {
        loop {
            let temp = self.unused();
            match make(self.dir(), &temp.name) {
                Ok(made) => return Ok((temp, made)),
                // A leftover that no sweep could remove.
                Err(Errno::EEXIST) => temp.forget(),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Moves `name` of `dir` out of the upper. It is removed with the answer.
    ///
    /// # Errors
    /// Those of `rename`.
    pub(super) fn take(&self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<Temp<'_>> {
        let temp = self.unused();
        rename_at(dir, name, self.dir(), temp.name(), libc::RENAME_NOREPLACE)?;
        Ok(temp)
    }

    fn unused(&self) -> Temp<'_> {
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        Temp { work: self, name: CString::new(format!("{number:x}")).unwrap_or_default(), is_ours: true }
    }
}

/// A name in the work directory; whatever has it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Temp<'a> {
    work: &'a WorkDir,
    name: CString,
    is_ours: bool,
}

impl Temp<'_> {
    pub(super) fn name(&self) -> &CStr {
        &self.name
    }

    /// Gives the thing its place in the upper, over whatever non-directory has it.
    pub(super) fn replace(self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        rename_at(self.work.dir(), self.name(), dir, name, 0)?;
        self.forget();
        Ok(())
    }

    /// Gives the thing its place in the upper, where nothing may be.
    pub(super) fn place(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        rename_at(self.work.dir(), self.name(), dir, name, libc::RENAME_NOREPLACE)?;
        self.is_ours = false;
        Ok(())
    }

    /// Changes places with what has the name in the upper, which goes when this is dropped.
    pub(super) fn exchange(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        rename_at(self.work.dir(), self.name(), dir, name, libc::RENAME_EXCHANGE)
    }

    fn forget(mut self) {
        self.is_ours = false;
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.is_ours || failpoint::pass("work.discard").is_err() {
            return;
        }
        let dir = self.work.dir();
        // What cannot be removed now is swept by the next mount.
        if unlinkat(dir, self.name(), UnlinkatFlags::NoRemoveDir).is_err()
            && unlinkat(dir, self.name(), UnlinkatFlags::RemoveDir).is_err()
        {
            let _ = remove_tree(dir, self.name().to_bytes());
        }
    }
}

/// Renames go between the two: they must be separate directories of one mount.
fn check(upper: &OwnedFd, work: &OwnedFd) -> Result<(), OpenError> {
    let stat = |dir: &OwnedFd| fstat(dir).map_err(|errno| OpenError::call("stat directory", errno));
    let (upper_stat, work_stat) = (stat(upper)?, stat(work)?);
    if upper_stat.st_dev != work_stat.st_dev {
        return Err(OpenError::DifferentFileSystems);
    }
    for (inner, outer) in [(upper, &work_stat), (work, &upper_stat)] {
        if lies_in(inner, outer).map_err(|errno| OpenError::call("walk up from directory", errno))? {
            return Err(OpenError::Nested);
        }
    }
    // Two mounts of one file system look alike to stat; only a rename tells.
    // `.` is refused after that check.
    match rename_at(work.as_fd(), c".", upper.as_fd(), c".", 0) {
        Err(Errno::EXDEV) => Err(OpenError::DifferentFileSystems),
        _ => Ok(()),
    }
}

fn lies_in(dir: &OwnedFd, outer: &FileStat) -> nix::Result<bool> {
    let is_same = |a: &FileStat, b: &FileStat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = openat(dir, c".", flags, Mode::empty())?;
    let mut stat = fstat(&at)?;
    for _ in 0..MAX_DEPTH {
        if is_same(&stat, outer) {
            return Ok(true);
        }
        // A directory above that we may not search cannot be in one of ours.
        let above = match openat(&at, c"..", flags, Mode::empty()) {
            Err(Errno::EACCES) => return Ok(false),
            above => above?,
        };
        let above_stat = fstat(&above)?;
        if is_same(&stat, &above_stat) {
            return Ok(false);
        }
        (at, stat) = (above, above_stat);
    }
    Ok(false)
}

/// Opens our directory in the work directory. What users may have set on the one above must not reach new files.
fn private_directory(work: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    match mkdirat(work, NAME, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let open = || openat(work, NAME, DIRECTORY, Mode::empty());
    let dir = match open() {
        Err(Errno::EACCES) => {
            fchmodat(work, NAME, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            open()?
        }
        dir => dir?,
    };
    if fstat(&dir)?.st_mode & 0o7777 != 0o700 {
        fchmod(&dir, Mode::S_IRWXU)?;
    }
    for name in [super::acl::DEFAULT, super::acl::ACCESS] {
        xattr::remove(dir.as_fd(), name)?;
    }
    Ok(dir)
}

/// Removes what killed servers left, as far as the time goes.
fn sweep(dir: &OwnedFd) {
    let Ok(stream) = dir.try_clone().map_err(|_| Errno::EMFILE).and_then(Dir::from_fd) else { return };
    let begin = Instant::now();
    let names: Vec<CString> = stream.into_iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        if begin.elapsed() > SWEEP_TIME {
            return;
        }
        let _ = remove_tree(dir.as_fd(), name.to_bytes());
    }
}
