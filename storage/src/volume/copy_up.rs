//! Fills an empty volume with what the image has at its mount point.
//!
//! **Runs in:** a process that may set the owners of what it copies: root of the container's user namespace.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};

use crate::layer::ids::OVERRIDE_XATTR;
use crate::sys::xattr;

/// Something that could not be copied.
#[derive(Debug, thiserror::Error)]
#[error("cannot copy {} into the volume: {call}: {}", path.display(), crate::sys::reason(source))]
pub struct CopyUpError {
    /// The path below the mount point.
    path: PathBuf,
    call: &'static str,
    /// Why.
    source: io::Error,
}

/// Copies the directory `from` into the directory `to`, with owner, mode, modification time, extended attributes, and
/// links, hard and symbolic; the directories' own attributes as well. Does nothing, and says `false`, if `to` is not
/// empty. Sockets and devices are left out: the first are dead, the others cannot be made.
///
/// No name is resolved but below the two descriptors, and no symbolic link is followed. Nobody else may write below
/// either of them meanwhile.
///
/// # Errors
/// [`CopyUpError`]; what was copied so far stays.
pub fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool, CopyUpError> {
    let failed = |call, errno: Errno| CopyUpError { path: ".".into(), call, source: errno.into() };
    if !entries(to).map_err(|errno| failed("getdents", errno))?.is_empty() {
        return Ok(false);
    }
    let mut copy = Copy { to, links: HashMap::new(), path: Vec::new() };
    let stat = fstat(from).map_err(|errno| failed("fstat", errno))?;
    copy.children(from, to)?;
    copy.attributes(&stat, from, to).map_err(|(call, errno)| failed(call, errno))?;
    Ok(true)
}

struct Copy<'a> {
    to: BorrowedFd<'a>,
    /// Where the first name of a file with several was copied to, relative to `to`.
    links: HashMap<(u64, u64), CString>,
    path: Vec<CString>,
}

type Step<T> = Result<T, (&'static str, Errno)>;

fn step<T>(call: &'static str, result: nix::Result<T>) -> Step<T> {
    result.map_err(|errno| (call, errno))
}

impl Copy<'_> {
    fn children(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), CopyUpError> {
        let names = entries(from).map_err(|errno| self.failed("getdents", errno))?;
        for name in names {
            self.path.push(name.clone());
            self.entry(from, to, &name)?;
            self.path.pop();
        }
        Ok(())
    }

    fn failed(&self, call: &'static str, errno: Errno) -> CopyUpError {
        CopyUpError { path: self.relative().to_string_lossy().into_owned().into(), call, source: errno.into() }
    }

    fn relative(&self) -> CString {
        let bytes = self.path.iter().map(|name| name.to_bytes()).collect::<Vec<_>>().join(&b'/');
        CString::new(bytes).unwrap_or_default()
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), CopyUpError> {
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|errno| self.failed("fstatat", errno))?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            // Two descriptors per level; an image deeper than the limit on descriptors is refused, not followed.
            let (source, target) = directory(from, to, name).map_err(|(call, errno)| self.failed(call, errno))?;
            self.children(source.as_fd(), target.as_fd())?;
            return self
                .attributes(&stat, source.as_fd(), target.as_fd())
                .map_err(|(call, errno)| self.failed(call, errno));
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return linkat(self.to, first.as_c_str(), to, name, AtFlags::empty())
                    .map_err(|errno| self.failed("linkat", errno));
            }
            self.links.insert((stat.st_dev, stat.st_ino), self.relative());
        }
        let copied = match kind {
            SFlag::S_IFREG => self.regular(&stat, from, to, name),
            SFlag::S_IFLNK => symlink(&stat, from, to, name),
            SFlag::S_IFIFO => fifo(&stat, to, name),
            _ => Ok(()),
        };
        copied.map_err(|(call, errno)| self.failed(call, errno))
    }

    fn regular(&self, stat: &FileStat, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Step<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let source = step("openat", openat(from, name, flags, Mode::empty()))?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let target = step("openat", openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        let (source, target) = (File::from(source), File::from(target));
        step("copy_file_range", copy_data(&source, &target, stat.st_size))?;
        self.attributes(stat, source.as_fd(), target.as_fd())
    }

    /// Owner first, since it clears the set-id bits and capabilities; times last, since everything else changes them.
    fn attributes(&self, stat: &FileStat, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Step<()> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        step("fchown", nix::unistd::fchown(to, Some(uid), Some(gid)))?;
        step("fchmod", fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777)))?;
        for name in step("flistxattr", xattr::list(from))? {
            // The union's own bookkeeping means nothing outside of it.
            if name.to_bytes().starts_with(b"user.overlay.") || name.to_bytes().starts_with(b"trusted.") {
                continue;
            }
            let value = step("fgetxattr", xattr::get(from, &name))?;
            match xattr::set(to, &name, &value) {
                // A file system that has no such attributes keeps none.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
                Err(errno) => return Err(("fsetxattr", errno)),
            }
        }
        // Where there is one id, it is here that the owner stands, and the union does not list it.
        if let Ok(owner) = xattr::get(from, OVERRIDE_XATTR)
            && !owner.starts_with(b"0:0:")
        {
            let _ = xattr::set(to, OVERRIDE_XATTR, &owner);
        }
        let modified = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
        step("futimens", nix::sys::stat::futimens(to, &TimeSpec::UTIME_OMIT, &modified))
    }
}

fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Step<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let source = step("openat", openat(from, name, flags, Mode::empty()))?;
    step("mkdirat", mkdirat(to, name, Mode::S_IRWXU))?;
    let target = step("openat", openat(to, name, flags, Mode::empty()))?;
    Ok((source, target))
}

fn symlink(stat: &FileStat, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Step<()> {
    let target = step("readlinkat", readlinkat(from, name))?;
    step("symlinkat", symlinkat(target.as_os_str(), to, name))?;
    own_and_date(stat, to, name)
}

fn fifo(stat: &FileStat, to: BorrowedFd<'_>, name: &CStr) -> Step<()> {
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o777);
    step("mknodat", mknodat(to, name, SFlag::S_IFIFO, mode, 0))?;
    own_and_date(stat, to, name)
}

fn own_and_date(stat: &FileStat, to: BorrowedFd<'_>, name: &CStr) -> Step<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    step("fchownat", fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW))?;
    let modified = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    step("utimensat", utimensat(to, name, &TimeSpec::UTIME_OMIT, &modified, UtimensatFlags::NoFollowSymlink))
}

/// Copies the extents that hold data and leaves holes as holes.
pub(crate) fn copy_data(mut source: &File, mut target: &File, len_bytes: i64) -> nix::Result<()> {
    use nix::unistd::{Whence, ftruncate, lseek};
    use std::io::{Read, Seek, SeekFrom};
    let errno = |error: io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let mut position = 0;
    while position < len_bytes {
        let (data, end) = match lseek(source, position, Whence::SeekData) {
            Ok(data) => (data, lseek(source, data, Whence::SeekHole)?),
            // Only a hole is left.
            Err(Errno::ENXIO) => break,
            Err(_) => (position, len_bytes),
        };
        let at = SeekFrom::Start(u64::try_from(data).unwrap_or(0));
        source.seek(at).and_then(|_| target.seek(at)).map_err(errno)?;
        let extent = u64::try_from(end - data).unwrap_or(0);
        io::copy(&mut source.take(extent), &mut target).map_err(errno)?;
        position = end;
    }
    ftruncate(target, len_bytes)
}

pub(super) fn entries(dir: BorrowedFd<'_>) -> nix::Result<Vec<CString>> {
    let reopened = openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(reopened)?.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn everything_an_image_directory_holds_arrives_in_the_volume() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/file"), "content").unwrap();
        fs::hard_link(from.join("sub/file"), from.join("other")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o1751)).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"x", 1 << 29).unwrap();
        nix::unistd::mkfifo(&from.join("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
        let file = File::open(from.join("other")).unwrap();
        // Not every file system under a test has user attributes.
        let has_xattrs = xattr::set(file.as_fd(), c"user.test", b"value").is_ok();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o705)).unwrap();

        let (source, target) = (File::open(&from).unwrap(), File::open(&to).unwrap());
        assert!(copy_up(source.as_fd(), target.as_fd()).unwrap());
        assert!(!copy_up(source.as_fd(), target.as_fd()).unwrap(), "it is not empty any more");

        assert_eq!(fs::read(to.join("sub/file")).unwrap(), b"content");
        assert_eq!(fs::metadata(to.join("sub/file")).unwrap().ino(), fs::metadata(to.join("other")).unwrap().ino());
        assert_eq!(fs::read_link(to.join("link")).unwrap().to_str(), Some("/etc/passwd"));
        assert!(to.join("sub/deep").is_dir() && !to.join("socket").exists());
        let copied = fs::metadata(to.join("sparse")).unwrap();
        assert_eq!(copied.len(), 1 << 30);
        assert!(copied.blocks() * 512 < 1 << 24, "holes stay holes");
        for name in ["", "sub", "sub/file", "fifo", "sparse"] {
            let (a, b) = (fs::metadata(from.join(name)).unwrap(), fs::metadata(to.join(name)).unwrap());
            assert_eq!(
                (a.mode(), a.uid(), a.mtime(), a.mtime_nsec()),
                (b.mode(), b.uid(), b.mtime(), b.mtime_nsec()),
                "{name}"
            );
        }
        if has_xattrs {
            let copied = File::open(to.join("other")).unwrap();
            assert_eq!(xattr::get(copied.as_fd(), c"user.test").unwrap(), b"value");
        }
    }
}
