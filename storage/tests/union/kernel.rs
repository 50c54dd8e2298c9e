//! A mounted union (the kernel's overlay, or a tool's), asked by system calls.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, OpenHow, ResolveFlag, fallocate, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, Whence, fchownat, linkat, lseek, symlinkat, unlinkat};

use crate::driver::{Answer, Driver, Kind, LONG_AGO, Status};
use crate::scenario::{How, Presence, Room, SLOTS};
use crate::sys;

pub(crate) struct Kernel {
    root: OwnedFd,
    path: PathBuf,
    held: [Option<File>; SLOTS],
}

impl Kernel {
    pub(crate) fn new(path: &Path) -> Self {
        let root = File::open(path).expect("the mount point is there").into();
        Self { root, path: path.to_owned(), held: [const { None }; SLOTS] }
    }

    /// The parent and the last name. No symlink on the way means anything here.
    fn parent<'a>(&self, path: &'a str) -> Answer<(OwnedFd, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        Ok((
            self.open_with(parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?,
            if name.is_empty() { "." } else { name },
        ))
    }

    fn open_with(&self, path: &str, flags: OFlag, mode: Mode) -> Answer<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
        openat2(&self.root, if path.is_empty() { "." } else { path }, how)
    }

    fn open(&self, path: &str, flags: OFlag) -> Answer<File> {
        Ok(self.open_with(path, flags | OFlag::O_NONBLOCK, Mode::empty())?.into())
    }

    /// For calls that take no descriptor: the descriptor's own path.
    fn path_of(&self, path: &str) -> Answer<PathBuf> {
        let (dir, name) = self.parent(path)?;
        Ok(Path::new("/proc/self/fd")
            .join(dir.as_raw_fd().to_string())
            .read_link()
            .expect("/proc is mounted")
            .join(name))
    }

    fn stat(&self, path: &str) -> Answer<FileStat> {
        let (dir, name) = self.parent(path)?;
        fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }
}

fn kind_of(stat: &FileStat) -> Kind {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Symlink,
        SFlag::S_IFIFO => Kind::Fifo,
        SFlag::S_IFSOCK => Kind::Socket,
        _ => Kind::Device,
    }
}

fn status_of(stat: &FileStat) -> Status {
    let kind = kind_of(stat);
    Status {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == Kind::Directory { 0 } else { stat.st_size.unsigned_abs() },
        nlink: if kind == Kind::Directory { 0 } else { u32::try_from(stat.st_nlink).unwrap_or(u32::MAX) },
        mtime: (stat.st_mtime < LONG_AGO).then_some(stat.st_mtime),
    }
}

impl Driver for Kernel {
    fn status(&mut self, path: &str) -> Answer<Status> {
        self.stat(path).map(|stat| status_of(&stat))
    }

    fn number(&mut self, path: &str) -> Answer<u64> {
        self.stat(path).map(|stat| stat.st_ino)
    }

    fn read_link(&mut self, path: &str) -> Answer<Vec<u8>> {
        let (dir, name) = self.parent(path)?;
        readlinkat(&dir, name).map(|target| target.as_bytes().to_vec())
    }

    fn list(&mut self, path: &str) -> Answer<Vec<(String, Kind, u64)>> {
        let fd = self.open_with(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        let again = fd.try_clone().map_err(errno)?;
        let mut dir = Dir::from_fd(fd)?;
        let mut entries = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = entry.file_name().to_str().expect("the tests' names").to_owned();
            let kind = match entry.file_type() {
                Some(Type::File) => Kind::File,
                Some(Type::Directory) => Kind::Directory,
                Some(Type::Symlink) => Kind::Symlink,
                Some(Type::Fifo) => Kind::Fifo,
                Some(Type::Socket) => Kind::Socket,
                _ => Kind::Device,
            };
            // A whiteout in a directory that only one layer has is listed by overlay, though it is not there.
            let is_there = |name: &str| fstatat(&again, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
            if name != "." && name != ".." && (kind != Kind::Device || is_there(&name)) {
                entries.push((name, kind, entry.ino()));
            }
        }
        Ok(entries)
    }

    fn create(&mut self, path: &str, mode: u32) -> Answer<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        self.open_with(path, flags, Mode::from_bits_truncate(mode)).map(drop)
    }

    fn create_unnamed(&mut self, directory: &str, name: &str, mode: u32, content: &[u8]) -> Answer<()> {
        let dir = self.open_with(directory, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        let file =
            openat(&dir, ".", OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC, Mode::from_bits_truncate(mode))?;
        let file = File::from(file);
        file.write_all_at(content, 0).map_err(errno)?;
        sys::link_descriptor(file.as_fd(), dir.as_fd(), name)
    }

    fn make_directory(&mut self, path: &str, mode: u32) -> Answer<()> {
        let (dir, name) = self.parent(path)?;
        mkdirat(&dir, name, Mode::from_bits_truncate(mode))
    }

    fn symlink(&mut self, path: &str, target: &str) -> Answer<()> {
        let (dir, name) = self.parent(path)?;
        symlinkat(target, &dir, name)
    }

    fn make_node(&mut self, path: &str, kind: Kind, mode: u32) -> Answer<()> {
        let (dir, name) = self.parent(path)?;
        let kind = match kind {
            Kind::Fifo => SFlag::S_IFIFO,
            Kind::Socket => SFlag::S_IFSOCK,
            _ => SFlag::S_IFCHR,
        };
        mknodat(&dir, name, kind, Mode::from_bits_truncate(mode), 0)
    }

    fn link(&mut self, from: &str, to: &str) -> Answer<()> {
        let (from, name) = self.parent(from)?;
        let stat = fstatat(&from, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let (to, new_name) = match (stat, self.parent(to)) {
            (Err(errno), _) | (_, Err(errno)) => return Err(errno),
            (Ok(_), Ok(to)) => to,
        };
        linkat(&from, name, &to, new_name, AtFlags::empty())
    }

    fn unlink(&mut self, path: &str) -> Answer<()> {
        let (dir, name) = self.parent(path)?;
        unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir)
    }

    fn remove_directory(&mut self, path: &str) -> Answer<()> {
        let (dir, name) = self.parent(path)?;
        unlinkat(&dir, name, UnlinkatFlags::RemoveDir)
    }

    fn rename(&mut self, from: &str, to: &str, how: How) -> Answer<()> {
        let flags = match how {
            How::Plain => 0,
            How::NoReplace => libc::RENAME_NOREPLACE,
            How::Exchange => libc::RENAME_EXCHANGE,
        };
        let ((from, name), (to, new_name)) = (self.parent(from)?, self.parent(to)?);
        sys::rename(from.as_fd(), name, to.as_fd(), new_name, flags)
    }

    fn change_mode(&mut self, path: &str, mode: u32) -> Answer<()> {
        let mode = Mode::from_bits_truncate(mode);
        let (dir, name) = self.parent(path)?;
        fchmodat(&dir, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
    }

    fn change_owner(&mut self, path: &str, uid: Option<u32>, gid: Option<u32>) -> Answer<()> {
        let (dir, name) = self.parent(path)?;
        fchownat(&dir, name, uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    fn set_times(&mut self, path: &str, seconds: i64) -> Answer<()> {
        let (dir, name) = self.parent(path)?;
        let time = TimeSpec::new(seconds, 0);
        utimensat(&dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
    }

    fn truncate(&mut self, path: &str, size: u64) -> Answer<()> {
        self.open(path, OFlag::O_WRONLY)?.set_len(size).map_err(errno)
    }

    fn write(&mut self, path: &str, offset: u64, data: &[u8]) -> Answer<()> {
        self.open(path, OFlag::O_WRONLY)?.write_all_at(data, offset).map_err(errno)
    }

    fn read(&mut self, path: &str, offset: u64, size: usize) -> Answer<Vec<u8>> {
        read_at(&self.open(path, OFlag::O_RDONLY)?, offset, size)
    }

    fn allocate(&mut self, path: &str, offset: u64, size: u64, how: Room) -> Answer<()> {
        let flags = match how {
            Room::Plain => FallocateFlags::empty(),
            Room::KeepSize => FallocateFlags::FALLOC_FL_KEEP_SIZE,
            Room::PunchHole => FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
            Room::ZeroRange => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        };
        fallocate(self.open(path, OFlag::O_WRONLY)?, flags, offset.cast_signed(), size.cast_signed())
    }

    fn seek(&mut self, path: &str, offset: u64, is_data: bool) -> Answer<u64> {
        let whence = if is_data { Whence::SeekData } else { Whence::SeekHole };
        lseek(self.open(path, OFlag::O_RDONLY)?, offset.cast_signed(), whence).map(i64::unsigned_abs)
    }

    fn copy_range(&mut self, from: &str, to: &str, size: usize) -> Answer<usize> {
        let (from, to) = (self.open(from, OFlag::O_RDONLY)?, self.open(to, OFlag::O_WRONLY)?);
        sys::copy_range(from.as_fd(), to.as_fd(), size)
    }

    fn sync(&mut self, path: &str) -> Answer<()> {
        self.open(path, OFlag::O_RDONLY)?.sync_all().map_err(errno)
    }

    fn xattr(&mut self, path: &str, name: &str) -> Answer<Vec<u8>> {
        sys::get_xattr(self.path_of(path)?.as_os_str(), name)
    }

    fn xattr_names(&mut self, path: &str) -> Answer<Vec<String>> {
        sys::list_xattrs(self.path_of(path)?.as_os_str())
    }

    fn set_xattr(&mut self, path: &str, name: &str, value: &[u8], how: Presence) -> Answer<()> {
        let flags = match how {
            Presence::Any => 0,
            Presence::Create => libc::XATTR_CREATE,
            Presence::Replace => libc::XATTR_REPLACE,
        };
        sys::set_xattr(self.path_of(path)?.as_os_str(), name, value, flags)
    }

    fn remove_xattr(&mut self, path: &str, name: &str) -> Answer<()> {
        sys::remove_xattr(self.path_of(path)?.as_os_str(), name)
    }

    fn hold(&mut self, slot: usize, path: &str) -> Answer<()> {
        self.held[slot] = Some(self.open(path, OFlag::O_RDWR)?);
        Ok(())
    }

    fn held_write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Answer<()> {
        self.held[slot].as_ref().ok_or(Errno::EBADF)?.write_all_at(data, offset).map_err(errno)
    }

    fn held_read(&mut self, slot: usize) -> Answer<Vec<u8>> {
        read_at(self.held[slot].as_ref().ok_or(Errno::EBADF)?, 0, 100_000)
    }

    fn held_status(&mut self, slot: usize) -> Answer<Status> {
        fstat(self.held[slot].as_ref().ok_or(Errno::EBADF)?).map(|stat| status_of(&stat))
    }

    fn release(&mut self, slot: usize) {
        self.held[slot] = None;
    }
}

fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn read_at(file: &File, offset: u64, size: usize) -> Answer<Vec<u8>> {
    let mut buffer = vec![0; size];
    let mut at = 0;
    while at < size {
        match file.read_at(&mut buffer[at..], offset + at as u64).map_err(errno)? {
            0 => break,
            count => at += count,
        }
    }
    buffer.truncate(at);
    Ok(buffer)
}

impl Kernel {
    /// The mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
