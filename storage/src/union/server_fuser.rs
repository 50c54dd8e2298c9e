//! Serves a [`Union`] on a mounted `/dev/fuse`: decodes, calls, answers; decides nothing.
//!
//! **Runs in:** the union server: the caller's thread waits, `threads` others serve.
//!
//! What carries the speed are the answers that make the kernel stop asking:
//!
//! | answer | effect |
//! | --- | --- |
//! | `ENOSYS` to OPEN, OPENDIR, FLUSH | none of them, nor RELEASE, is ever sent again; pages and listings stay cached |
//! | `ENOSYS` to CREATE | a new file is one MKNOD, with nothing to release |
//! | endless timeouts, of missing names too | the layers never change, and nobody else writes to the upper directory |
//! | `HANDLE_KILLPRIV_V2` | no question for `security.capability` before each write |
//! | `CACHE_SYMLINKS`, no `AUTO_INVAL_DATA` | what was read stays |

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, SessionACL, TimeOrNow, WriteFlags,
};
use nix::errno::Errno;
use nix::sys::stat::SFlag;

use super::{
    Attributes, Caller, Changes, Entry, FileKind, InodeNo, NewFile, NewTime, RenameMode, Seek, Union, UnionError,
    XattrMode,
    server::{ServeError, Settings},
};

const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Serves until the file system is unmounted.
///
/// # Errors
/// [`ServeError`] if the kernel speaks another protocol or the descriptor is not that of a mounted file system.
pub fn serve(union: Union, fuse: OwnedFd, settings: Settings) -> Result<(), ServeError> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(settings.threads.max(1));
    config.clone_fd = true;
    let session = fuser::Session::from_fd(Server { union, settings }, fuse, SessionACL::All, config);
    session.and_then(fuser::Session::run).map_err(ServeError::Session)
}

struct Server {
    union: Union,
    settings: Settings,
}

impl Server {
    /// The errno for the kernel; what no program provoked goes to the log.
    fn fail(&self, error: UnionError) -> fuser::Errno {
        if !error.is_ordinary() {
            let line = format!("coracle: union: {error}\n");
            // The log is the last resort: if it cannot be written there is nobody left to tell.
            let _ = match &self.settings.log {
                Some(log) => nix::unistd::write(log.as_fd(), line.as_bytes()),
                None => nix::unistd::write(io::stderr().as_fd(), line.as_bytes()),
            };
        }
        fuser::Errno::from_i32(error.errno as i32)
    }

    fn entry(&self, result: Result<Entry, UnionError>, reply: ReplyEntry) {
        match result {
            Ok(entry) => reply.entry(&FOREVER, &attr(&entry.attributes), Generation(entry.generation)),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn empty(&self, result: Result<(), UnionError>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn attr(&self, result: Result<Attributes, UnionError>, reply: ReplyAttr) {
        match result {
            Ok(attributes) => reply.attr(&FOREVER, &attr(&attributes)),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn sized(&self, result: Result<Vec<u8>, UnionError>, size: u32, reply: ReplyXattr) {
        match result {
            Ok(value) if size == 0 => reply.size(value.len() as u32),
            Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(error) => reply.error(self.fail(error)),
        }
    }
}

fn ino(number: INodeNo) -> InodeNo {
    InodeNo(number.0)
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

fn attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: attributes.atime,
        mtime: attributes.mtime,
        ctime: attributes.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(attributes.kind),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

fn time(time: TimeOrNow) -> NewTime {
    match time {
        TimeOrNow::Now => NewTime::Now,
        TimeOrNow::SpecificTime(time) => NewTime::At(time),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_MAX_PAGES;
        if self.settings.posix_acl {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.union.lookup(ino(parent), name) {
            Err(UnionError { errno: Errno::ENOENT, .. }) => {
                reply.entry(&FOREVER, &attr(&MISSING), Generation(0));
            }
            result => self.entry(result, reply),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.union.forget(ino(number), count);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(self.union.attributes(ino(number)), reply);
    }

    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mode = mode.map(|mode| mode & 0o7777);
        let (atime, mtime) = (atime.map(time), mtime.map(time));
        // fuser hides FATTR_KILL_SUIDGID; whoever truncates or gives away loses the bits, root as well.
        let kill_privileges = size.is_some() || uid.is_some() || gid.is_some();
        let changes = Changes { mode, uid, gid, size, atime, mtime, kill_privileges };
        self.attr(self.union.set_attributes(ino(number), &changes), reply);
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        match self.union.read_link(ino(number)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFIFO => FileKind::Fifo,
            SFlag::S_IFSOCK => FileKind::Socket,
            SFlag::S_IFCHR => FileKind::CharDevice,
            SFlag::S_IFBLK => FileKind::BlockDevice,
            _ => FileKind::File,
        };
        let new = NewFile { owner: caller(request), mode: mode & 0o7777, umask };
        self.entry(self.union.make_node(ino(parent), name, new, kind, rdev.into()), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let new = NewFile { owner: caller(request), mode: mode & 0o7777, umask };
        self.entry(self.union.make_directory(ino(parent), name, new), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(self.union.unlink(ino(parent), name), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(self.union.remove_directory(ino(parent), name), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.entry(self.union.make_symlink(ino(parent), name, target.as_os_str(), caller(request)), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = RenameMode {
            no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
            whiteout: flags.contains(RenameFlags::RENAME_WHITEOUT),
        };
        self.empty(self.union.rename(ino(parent), name, ino(new_parent), new_name, mode), reply);
    }

    fn link(&self, _request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(self.union.link(ino(number), ino(parent), name), reply);
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; (size as usize).min(1 << 20)];
        match self.union.read(ino(number), offset, &mut buffer) {
            Ok(length) => reply.data(buffer.get(..length).unwrap_or_default()),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill_privileges = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.union.write(ino(number), offset, data, kill_privileges) {
            Ok(length) => reply.written(length as u32),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn flush(&self, _request: &Request, _number: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _request: &Request, number: INodeNo, _handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        if self.settings.volatile {
            return reply.error(fuser::Errno::ENOSYS);
        }
        self.empty(self.union.sync(ino(number), data_only), reply);
    }

    fn opendir(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectory,
    ) {
        let result = self.union.read_directory(ino(number), cookie, &mut |entry| {
            !reply.add(INodeNo(entry.ino.0), entry.cookie, kind(entry.kind), OsStr::from_bytes(entry.name))
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let result = self.union.read_directory_plus(ino(number), cookie, &mut |entry, found| {
            let name = OsStr::from_bytes(entry.name);
            let full = match found {
                Some(found) => reply.add(
                    INodeNo(found.attributes.ino.0),
                    entry.cookie,
                    name,
                    &FOREVER,
                    &attr(&found.attributes),
                    Generation(found.generation),
                ),
                None => {
                    let mut bare = attr(&MISSING);
                    bare.ino = INodeNo(entry.ino.0);
                    bare.kind = kind(entry.kind);
                    reply.add(INodeNo(0), entry.cookie, name, &Duration::ZERO, &bare, Generation(0))
                }
            };
            !full
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn fsyncdir(&self, request: &Request, number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.fsync(request, number, handle, data_only, reply);
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        match self.union.statistics() {
            Ok(s) => reply.statfs(
                s.blocks,
                s.blocks_free,
                s.blocks_available,
                s.files,
                s.files_free,
                s.block_bytes,
                s.name_max,
                s.fragment_bytes,
            ),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Any,
        };
        self.empty(self.union.set_xattr(ino(number), name, value, mode, false), reply);
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.sized(self.union.xattr(ino(number), name), size, reply);
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.sized(self.union.xattr_names(ino(number)), size, reply);
    }

    fn removexattr(&self, _request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(self.union.remove_xattr(ino(number), name), reply);
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.empty(self.union.allocate(ino(number), mode, offset, length), reply);
    }

    fn lseek(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = if whence == libc::SEEK_HOLE { Seek::Hole } else { Seek::Data };
        match self.union.seek(ino(number), offset.max(0) as u64, what) {
            Ok(offset) => reply.offset(offset as i64),
            Err(error) => reply.error(self.fail(error)),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        from: INodeNo,
        _from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_handle: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        match self.union.copy_range(ino(from), from_offset, ino(to), to_offset, len) {
            Ok(length) => reply.written(length as u32),
            Err(error) => reply.error(self.fail(error)),
        }
    }
}

const MISSING: Attributes = Attributes {
    ino: InodeNo(0),
    kind: FileKind::File,
    mode: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    size: 0,
    blocks: 0,
    atime: SystemTime::UNIX_EPOCH,
    mtime: SystemTime::UNIX_EPOCH,
    ctime: SystemTime::UNIX_EPOCH,
};
