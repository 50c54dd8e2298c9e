//! Reads requests. Every length is checked before it is followed: no bytes make it panic, and what it accepts is well
//! formed (names are single components, sizes are bounded).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::stat::SFlag;

use super::abi::{self, InitFlags, RenameFlags, WriteFlags, fattr, opcode};
use crate::union::{Caller, Changes, FileKind, InodeNo, NewFile, NewTime, RenameMode, Seek, XattrMode};

/// What the kernel wants.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The number that its answer carries.
    pub(crate) unique: u64,
    /// The file it is about.
    pub(crate) node: InodeNo,
    /// Who asks.
    pub(crate) caller: Caller,
    /// What for.
    pub(crate) operation: Operation<'a>,
}

/// One operation; fields are in the order of the protocol.
#[derive(Debug)]
pub(crate) enum Operation<'a> {
    /// First of all requests.
    Init(Init),
    /// Last of all requests, of some kinds of mount.
    Destroy,
    Lookup(&'a OsStr),
    Forget(u64),
    ForgetMany(Forgets<'a>),
    Attributes,
    SetAttributes(Changes),
    ReadLink,
    MakeNode(&'a OsStr, NewFile, FileKind, u64),
    MakeDirectory(&'a OsStr, NewFile),
    MakeSymlink(&'a OsStr, &'a OsStr),
    MakeUnnamed(NewFile),
    Link(InodeNo, &'a OsStr),
    Unlink(&'a OsStr),
    RemoveDirectory(&'a OsStr),
    Rename {
        name: &'a OsStr,
        new_parent: InodeNo,
        new_name: &'a OsStr,
        mode: RenameMode,
    },
    Read {
        offset: u64,
        size: usize,
    },
    Write {
        offset: u64,
        data: &'a [u8],
        kill_privileges: bool,
    },
    Sync {
        data_only: bool,
    },
    SyncAll,
    Allocate {
        offset: u64,
        len: u64,
        mode: i32,
    },
    Seek(u64, Seek),
    CopyRange {
        from_offset: u64,
        to: InodeNo,
        to_offset: u64,
        len: u64,
        /// The count in the answer has 64 bits.
        is_wide: bool,
    },
    ReadDirectory {
        cookie: u64,
        size: usize,
        is_plus: bool,
    },
    Statistics,
    Xattr(&'a OsStr, usize),
    XattrNames(usize),
    SetXattr {
        name: &'a OsStr,
        value: &'a [u8],
        mode: XattrMode,
        clear_setgid: bool,
    },
    RemoveXattr(&'a OsStr),
    Ioctl {
        command: u32,
        input: &'a [u8],
        out_size: usize,
    },
    /// Of an unnamed file's handle: there is nothing to release.
    Release,
    /// OPEN, CREATE and all others that are answered `ENOSYS`, so that the kernel stops asking.
    Unsupported,
}

/// The kernel's side of the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Init {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: InitFlags,
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The number that an answer carries; 0 if even that is missing, or if none is expected.
    pub(crate) unique: u64,
    /// The answer.
    pub(crate) errno: Errno,
}

/// Reads one request, which is all of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Request<'_>, Malformed> {
    let nothing = Malformed { unique: 0, errno: Errno::EIO };
    let mut input = Input(bytes);
    let mut header = || Some((input.u32()?, input.u32()?, input.u64()?, input.u64()?, input.u32()?, input.u32()?));
    let (len, opcode, unique, node, uid, gid) = header().ok_or(nothing)?;
    input.take(abi::IN_HEADER_BYTES - 32).ok_or(nothing)?;
    let is_answered = !matches!(opcode, opcode::FORGET | opcode::BATCH_FORGET);
    let malformed = |errno| Malformed { unique: if is_answered { unique } else { 0 }, errno };
    if len as usize != bytes.len() {
        return Err(malformed(Errno::EIO));
    }
    let operation = operation(opcode, uid, gid, &mut input).map_err(malformed)?;
    Ok(Request { unique, node: InodeNo(node), caller: Caller { uid, gid }, operation })
}

fn operation<'a>(opcode: u32, uid: u32, gid: u32, input: &mut Input<'a>) -> Result<Operation<'a>, Errno> {
    let owner = Caller { uid, gid };
    read_operation(opcode, owner, input).unwrap_or(Err(Errno::EINVAL))
}

/// `None` if the request is too short for what it says it is. Long, since it has one arm per operation.
fn read_operation<'a>(opcode: u32, owner: Caller, input: &mut Input<'a>) -> Option<Result<Operation<'a>, Errno>> {
    let operation = match opcode {
        opcode::INIT => {
            let (major, minor, max_readahead, low) = (input.u32()?, input.u32()?, input.u32()?, input.u32()?);
            let flags = InitFlags::from_bits_retain(low.into());
            let high = if flags.contains(InitFlags::FUSE_INIT_EXT) { input.u32()? } else { 0 };
            let flags = flags | InitFlags::from_bits_retain(u64::from(high) << 32);
            Operation::Init(Init { major, minor, max_readahead, flags })
        }
        opcode::DESTROY => Operation::Destroy,
        opcode::LOOKUP => Operation::Lookup(input.name()?),
        opcode::FORGET => Operation::Forget(input.u64()?),
        opcode::BATCH_FORGET => {
            let count = input.u32()?;
            input.u32()?;
            Operation::ForgetMany(Forgets(Input(input.take((count as usize).checked_mul(16)?)?)))
        }
        opcode::GETATTR => Operation::Attributes,
        opcode::SETATTR => Operation::SetAttributes(input.changes()?),
        opcode::READLINK => Operation::ReadLink,
        opcode::MKNOD => {
            let (mode, rdev, umask, _) = (input.u32()?, input.u32()?, input.u32()?, input.u32()?);
            let Some(kind) = kind(mode) else { return Some(Err(Errno::EINVAL)) };
            Operation::MakeNode(input.name()?, new_file(owner, mode, umask), kind, device(rdev))
        }
        opcode::MKDIR => {
            let (mode, umask) = (input.u32()?, input.u32()?);
            Operation::MakeDirectory(input.name()?, new_file(owner, mode, umask))
        }
        opcode::SYMLINK => Operation::MakeSymlink(input.name()?, input.string()?),
        opcode::TMPFILE => {
            // The name that follows is the kernel's placeholder.
            let (_, mode, umask, _) = (input.u32()?, input.u32()?, input.u32()?, input.u32()?);
            Operation::MakeUnnamed(new_file(owner, mode, umask))
        }
        opcode::LINK => Operation::Link(InodeNo(input.u64()?), input.name()?),
        opcode::UNLINK => Operation::Unlink(input.name()?),
        opcode::RMDIR => Operation::RemoveDirectory(input.name()?),
        opcode::RENAME => {
            let new_parent = InodeNo(input.u64()?);
            let (name, new_name) = (input.name()?, input.name()?);
            Operation::Rename { name, new_parent, new_name, mode: RenameMode::default() }
        }
        opcode::RENAME2 => {
            let (new_parent, flags, _) = (InodeNo(input.u64()?), input.u32()?, input.u32()?);
            let (name, new_name) = (input.name()?, input.name()?);
            let Some(mode) = rename_mode(flags) else { return Some(Err(Errno::EINVAL)) };
            Operation::Rename { name, new_parent, new_name, mode }
        }
        opcode::READ => {
            let (_, offset, size) = (input.u64()?, input.u64()?, input.u32()?);
            Operation::Read { offset, size: (size as usize).min(abi::MAX_DATA_BYTES) }
        }
        opcode::WRITE => {
            let (_, offset, size, flags) = (input.u64()?, input.u64()?, input.u32()?, input.u32()?);
            input.take(16)?;
            let kill = WriteFlags::from_bits_retain(flags).contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            Operation::Write { offset, data: input.take(size as usize)?, kill_privileges: kill }
        }
        opcode::FSYNC | opcode::FSYNCDIR => {
            input.u64()?;
            Operation::Sync { data_only: input.u32()? & abi::FSYNC_FDATASYNC != 0 }
        }
        opcode::SYNCFS => Operation::SyncAll,
        opcode::FALLOCATE => {
            let (_, offset, len, mode) = (input.u64()?, input.u64()?, input.u64()?, input.u32()?);
            Operation::Allocate { offset, len, mode: mode.cast_signed() }
        }
        opcode::LSEEK => {
            let (_, offset, whence) = (input.u64()?, input.u64()?, input.u32()?.cast_signed());
            match whence {
                libc::SEEK_DATA => Operation::Seek(offset, Seek::Data),
                libc::SEEK_HOLE => Operation::Seek(offset, Seek::Hole),
                _ => return Some(Err(Errno::EINVAL)),
            }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
            let (_, from_offset, to, _) = (input.u64()?, input.u64()?, InodeNo(input.u64()?), input.u64()?);
            let (to_offset, len) = (input.u64()?, input.u64()?);
            Operation::CopyRange { from_offset, to, to_offset, len, is_wide: opcode == opcode::COPY_FILE_RANGE_64 }
        }
        opcode::READDIR | opcode::READDIRPLUS => {
            let (_, cookie, size) = (input.u64()?, input.u64()?, input.u32()?);
            let size = (size as usize).min(abi::MAX_DATA_BYTES);
            Operation::ReadDirectory { cookie, size, is_plus: opcode == opcode::READDIRPLUS }
        }
        opcode::STATFS => Operation::Statistics,
        opcode::GETXATTR => {
            let (size, _) = (input.u32()?, input.u32()?);
            Operation::Xattr(input.string()?, size as usize)
        }
        opcode::LISTXATTR => Operation::XattrNames(input.u32()? as usize),
        opcode::SETXATTR => {
            let (size, flags, more, _) = (input.u32()?, input.u32()?.cast_signed(), input.u32()?, input.u32()?);
            let mode = match flags {
                0 => XattrMode::Any,
                libc::XATTR_CREATE => XattrMode::Create,
                libc::XATTR_REPLACE => XattrMode::Replace,
                _ => return Some(Err(Errno::EINVAL)),
            };
            let clear_setgid = more & abi::SETXATTR_ACL_KILL_SGID != 0;
            Operation::SetXattr { name: input.string()?, value: input.take(size as usize)?, mode, clear_setgid }
        }
        opcode::REMOVEXATTR => Operation::RemoveXattr(input.string()?),
        opcode::IOCTL => {
            let (_, _, command, _) = (input.u64()?, input.u32()?, input.u32()?, input.u64()?);
            let (in_size, out_size) = (input.u32()?, input.u32()?);
            Operation::Ioctl { command, input: input.take(in_size as usize)?, out_size: out_size as usize }
        }
        opcode::RELEASE | opcode::RELEASEDIR => Operation::Release,
        _ => Operation::Unsupported,
    };
    Some(Ok(operation))
}

fn new_file(owner: Caller, mode: u32, umask: u32) -> NewFile {
    NewFile { owner, mode: mode & 0o7777, umask: umask & 0o777 }
}

fn kind(mode: u32) -> Option<FileKind> {
    Some(match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => FileKind::File,
        SFlag::S_IFIFO => FileKind::Fifo,
        SFlag::S_IFSOCK => FileKind::Socket,
        SFlag::S_IFCHR => FileKind::CharDevice,
        SFlag::S_IFBLK => FileKind::BlockDevice,
        _ => return None,
    })
}

/// A device number from the 32 bits that the kernel packs it into (`new_encode_dev`).
fn device(packed: u32) -> u64 {
    libc::makedev((packed & 0xf_ff00) >> 8, (packed & 0xff) | ((packed >> 12) & 0xf_ff00))
}

fn rename_mode(flags: u32) -> Option<RenameMode> {
    let flags = RenameFlags::from_bits(flags)?;
    Some(RenameMode {
        no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
        exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
        whiteout: flags.contains(RenameFlags::RENAME_WHITEOUT),
    })
}

/// The pairs of a BATCH_FORGET.
#[derive(Clone, Debug)]
pub(crate) struct Forgets<'a>(Input<'a>);

impl Iterator for Forgets<'_> {
    type Item = (InodeNo, u64);

    fn next(&mut self) -> Option<Self::Item> {
        Some((InodeNo(self.0.u64()?), self.0.u64()?))
    }
}

/// What is left of a request; numbers are in the machine's byte order.
#[derive(Clone, Debug)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*taken))
    }

    fn u64(&mut self) -> Option<u64> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*taken))
    }

    /// Bytes up to a zero, which is taken too.
    fn string(&mut self) -> Option<&'a OsStr> {
        let len = self.0.iter().position(|byte| *byte == 0)?;
        let string = self.take(len)?;
        self.take(1)?;
        Some(OsStr::from_bytes(string))
    }

    /// A string that can be the name of a file in a directory.
    fn name(&mut self) -> Option<&'a OsStr> {
        let name = self.string()?;
        let is_component = !matches!(name.as_bytes(), b"" | b"." | b"..") && !name.as_bytes().contains(&b'/');
        is_component.then_some(name)
    }

    fn changes(&mut self) -> Option<Changes> {
        let (valid, _, _, size, _) = (self.u32()?, self.u32()?, self.u64()?, self.u64()?, self.u64()?);
        let (atime, mtime, _) = (self.u64()?, self.u64()?, self.u64()?);
        let (atime_ns, mtime_ns, _, mode) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let (_, uid, gid) = (self.u32()?, self.u32()?, self.u32()?);
        let has = |bit| valid & bit != 0;
        let time = |set, now, seconds: u64, ns| match (has(now), has(set)) {
            (true, _) => Some(NewTime::Now),
            (false, true) => Some(NewTime::At(time(seconds.cast_signed(), ns))),
            (false, false) => None,
        };
        Some(Changes {
            mode: has(fattr::MODE).then_some(mode & 0o7777),
            uid: has(fattr::UID).then_some(uid),
            gid: has(fattr::GID).then_some(gid),
            size: has(fattr::SIZE).then_some(size),
            atime: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_ns),
            mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_ns),
            // Of a truncation the kernel says whether its caller may keep the bits; who gives a file away never may.
            kill_privileges: has(fattr::KILL_SUIDGID) || has(fattr::UID) || has(fattr::GID),
        })
    }
}

/// A time since the epoch; times that cannot be told become the epoch.
fn time(seconds: i64, ns: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let rounded =
        if seconds < 0 { SystemTime::UNIX_EPOCH.checked_sub(whole) } else { SystemTime::UNIX_EPOCH.checked_add(whole) };
    let exact = rounded.and_then(|time| time.checked_add(Duration::from_nanos(ns.into())));
    exact.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = (abi::IN_HEADER_BYTES + body.len()) as u32;
        let mut bytes = Vec::new();
        bytes.extend(len.to_ne_bytes());
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(1u64.to_ne_bytes());
        for id in [1000u32, 100, 42, 0] {
            bytes.extend(id.to_ne_bytes());
        }
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_name_is_one_component() {
        for (name, is_accepted) in
            [("a", true), ("...", true), ("", false), (".", false), ("..", false), ("a/b", false)]
        {
            let bytes = request(opcode::LOOKUP, format!("{name}\0").as_bytes());
            assert_eq!(decode(&bytes).is_ok(), is_accepted, "{name}");
        }
        let unterminated = request(opcode::LOOKUP, b"a");
        assert_eq!(decode(&unterminated).unwrap_err(), Malformed { unique: 7, errno: Errno::EINVAL });
    }

    #[test]
    fn a_request_shorter_than_it_says_is_refused() {
        let mut bytes = request(opcode::WRITE, &[0; 40]);
        bytes[abi::IN_HEADER_BYTES + 16] = 1; // says one byte of data, brings none
        assert_eq!(decode(&bytes).unwrap_err().errno, Errno::EINVAL);
        bytes.pop();
        assert_eq!(decode(&bytes).unwrap_err().errno, Errno::EIO);
        assert_eq!(decode(&bytes[..20]).unwrap_err().unique, 0);
    }

    #[test]
    fn forgetting_has_no_answer_even_if_malformed() {
        let bytes = request(opcode::BATCH_FORGET, &[255; 8]);
        assert_eq!(decode(&bytes).unwrap_err().unique, 0);
    }

    #[test]
    fn who_gives_a_file_away_cannot_keep_its_privileges() {
        let mut body = vec![0; 88];
        body[0] = fattr::UID as u8;
        let bytes = request(opcode::SETATTR, &body);
        let Operation::SetAttributes(changes) = decode(&bytes).unwrap().operation else { panic!() };
        assert!(changes.kill_privileges && changes.uid == Some(0) && changes.size.is_none());
    }

    #[test]
    fn devices_are_unpacked_as_the_kernel_packs_them() {
        assert_eq!(device(0x801), libc::makedev(8, 1));
        assert_eq!(device(0x4561_2378), libc::makedev(0x123, 0x45678));
    }

    #[test]
    fn times_that_cannot_be_told_do_no_harm() {
        assert_eq!(time(-1, 500_000_000), SystemTime::UNIX_EPOCH - Duration::from_millis(500));
        for seconds in [i64::MIN, i64::MAX] {
            time(seconds, u32::MAX);
        }
    }
}
