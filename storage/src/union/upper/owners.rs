//! Whom files of the upper belong to: the container's numbers on one side, the disk's on the other.
//!
//! | | owner on disk | mode on disk | kinds |
//! | --- | --- | --- | --- |
//! | [`Owners::Mapped`] | the container's number moved by the map | as it is | as they are |
//! | [`Owners::Single`] | we | as it is, but always readable and writable by us | what an xattr must describe is a regular file |
//!
//! In single-id mode the truth stands in the override xattr (see [`crate::layer::ids`]) wherever the disk cannot tell
//! it. Symbolic links, pipes and sockets cannot have user xattrs: those that are not 0:0 are regular files on disk (of a
//! link the contents are the target), and so are all devices.

use super::acl;
use super::marks::Marks;
use crate::layer::ids::{IdMap, Override, Owner};
use crate::union::attributes::{Attributes, FileKind, InodeNo};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};
use std::time::{Duration, SystemTime};

/// What an id of the disk that no id of the container becomes looks like: the kernel's overflow id.
const NOBODY: u32 = 65_534;

/// How owners of the container are kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owners {
    /// The container's numbers, moved as the map says into the server's user namespace.
    Mapped(IdMap),
    /// All files belong to us; true owners, modes and kinds stand in an xattr.
    Single,
}

impl Owners {
    /// True if everything on disk is ours and the truth stands in xattrs.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self, Self::Single)
    }

    /// The disk's number of a user of the container.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub(crate) fn uid_on_disk(&self, uid: u32) -> nix::Result<u32> {
        match self {
            Self::Single => Ok(0),
            Self::Mapped(map) => map.uid_on_disk(uid).ok_or(Errno::EINVAL),
        }
    }

    /// The disk's number of a group of the container.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub(crate) fn gid_on_disk(&self, gid: u32) -> nix::Result<u32> {
        match self {
            Self::Single => Ok(0),
            Self::Mapped(map) => map.gid_on_disk(gid).ok_or(Errno::EINVAL),
        }
    }

    /// The container's numbers of an owner on disk.
    pub(crate) fn in_container(&self, uid: u32, gid: u32) -> Owner {
        match self {
            Self::Single => Owner { uid: 0, gid: 0 },
            Self::Mapped(map) => {
                Owner { uid: map.uid_in_layer(uid).unwrap_or(NOBODY), gid: map.gid_in_layer(gid).unwrap_or(NOBODY) }
            }
        }
    }

    /// The permission bits on disk. What belongs to us alone must stay readable and removable by us.
    pub(crate) fn mode_on_disk(&self, mode: u32, kind: FileKind) -> u32 {
        match (self, kind) {
            (Self::Mapped(_), _) => mode,
            (Self::Single, FileKind::Directory) => mode | 0o700,
            (Self::Single, _) => mode | 0o600,
        }
    }

    /// What the disk has to show for a file of this kind and owner.
    pub(crate) fn kind_on_disk(&self, kind: FileKind, uid: u32, gid: u32) -> FileKind {
        match (self, kind) {
            (Self::Mapped(_), _) | (Self::Single, FileKind::File | FileKind::Directory) => kind,
            (Self::Single, FileKind::CharDevice | FileKind::BlockDevice) => FileKind::File,
            (Self::Single, FileKind::Symlink | FileKind::Fifo | FileKind::Socket) => {
                if (uid, gid) == (0, 0) {
                    kind
                } else {
                    FileKind::File
                }
            }
        }
    }

    /// The override that a file needs; `None` if the disk tells the truth.
    pub(crate) fn override_for(&self, uid: u32, gid: u32, mode: u32, kind: FileKind, device: u64) -> Option<Override> {
        if !self.is_single() {
            return None;
        }
        let on_disk = self.kind_on_disk(kind, uid, gid);
        let is_told = on_disk == kind && (uid, gid, mode) == (0, 0, self.mode_on_disk(mode, kind));
        // A link has no mode to speak of, and a special file's stands on disk.
        let cannot_have_one = !matches!(on_disk, FileKind::File | FileKind::Directory);
        if is_told || cannot_have_one {
            return None;
        }
        let kind = (on_disk != kind).then(|| kind.to_flag());
        Some(Override { uid, gid, mode, kind, device: if kind.is_some() { device } else { 0 } })
    }

    /// What a file of the upper is: the override's word if it has one, else the disk's.
    pub(crate) fn recorded(&self, stat: &FileStat, marks: &Marks) -> Recorded {
        let on_disk = kind_of(stat.st_mode);
        let owner = self.in_container(stat.st_uid, stat.st_gid);
        let from_disk = Recorded {
            uid: owner.uid,
            gid: owner.gid,
            mode: stat.st_mode & 0o7777,
            kind: on_disk,
            device: stat.st_rdev,
        };
        match (self, marks.override_stat) {
            (Self::Single, Some(Override { uid, gid, mode, kind, device })) => {
                // Only a regular file can stand for something else.
                let kind = kind.filter(|_| on_disk == FileKind::File).map_or(on_disk, |flag| kind_of(flag.bits()));
                Recorded { uid, gid, mode, kind, device }
            }
            _ => from_disk,
        }
    }

    /// What `stat` shows of a file of the upper.
    ///
    /// In single-id mode the owner is 0:0, the only one that the mount's user namespace knows; the true one is
    /// [`recorded`](Self::recorded).
    pub(crate) fn attributes(&self, ino: InodeNo, stat: &FileStat, marks: &Marks) -> Attributes {
        let Recorded { uid, gid, mode, kind, device } = self.recorded(stat, marks);
        let (uid, gid) = if self.is_single() { (0, 0) } else { (uid, gid) };
        Attributes {
            ino,
            kind,
            mode,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid,
            gid,
            rdev: device,
            size: stat.st_size.unsigned_abs(),
            blocks: stat.st_blocks.unsigned_abs(),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// A value of an extended attribute that names ids, as it goes to disk; others stay what they are.
    ///
    /// # Errors
    /// `EINVAL` for an id that the disk has no number for; `EOPNOTSUPP` for access lists in single-id mode, which has no
    /// others to give access to.
    pub(crate) fn xattr_to_disk(&self, name: &[u8], value: Vec<u8>) -> nix::Result<Vec<u8>> {
        match (self, name) {
            (Self::Single, acl::ACCESS_NAME | acl::DEFAULT_NAME) => Err(Errno::EOPNOTSUPP),
            (Self::Mapped(map), acl::ACCESS_NAME | acl::DEFAULT_NAME) if !map.is_identity() => {
                acl::translate(value, |uid| map.uid_on_disk(uid), |gid| map.gid_on_disk(gid))
            }
            (Self::Mapped(map), CAPABILITY_NAME) if !map.is_identity() => {
                let root = capability_root(&value).unwrap_or(0);
                Ok(with_capability_root(value, map.uid_on_disk(root).ok_or(Errno::EINVAL)?))
            }
            _ => Ok(value),
        }
    }

    /// One of the extended attributes that a layer's index tells of a file, as the container sees it.
    pub(crate) fn told_xattr<'a>(
        &self,
        told: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        name: &[u8],
    ) -> nix::Result<Vec<u8>> {
        let (_, value) = told.into_iter().find(|(known, _)| *known == name).ok_or(Errno::ENODATA)?;
        Ok(self.xattr_in_container(name, value.to_vec()))
    }

    /// A value of an extended attribute that names ids, as the container sees it; others stay what they are.
    pub(crate) fn xattr_in_container(&self, name: &[u8], value: Vec<u8>) -> Vec<u8> {
        match (self, name) {
            (Self::Mapped(map), acl::ACCESS_NAME | acl::DEFAULT_NAME) if !map.is_identity() => {
                let uid = |uid| Some(map.uid_in_layer(uid).unwrap_or(NOBODY));
                let gid = |gid| Some(map.gid_in_layer(gid).unwrap_or(NOBODY));
                acl::translate(value, uid, gid).unwrap_or_default()
            }
            (Self::Mapped(map), CAPABILITY_NAME) if !map.is_identity() => {
                let root = capability_root(&value).unwrap_or(0);
                with_capability_root(value, map.uid_in_layer(root).unwrap_or(NOBODY))
            }
            _ => value,
        }
    }
}

/// What a file is to the container, with its true owner in every mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits, at most `0o7777`.
    pub(crate) mode: u32,
    pub(crate) kind: FileKind,
    pub(crate) device: u64,
}

impl Recorded {
    /// The number of a device; 0 of anything else.
    pub(crate) fn shown_device(self) -> u64 {
        if matches!(self.kind, FileKind::CharDevice | FileKind::BlockDevice) { self.device } else { 0 }
    }

    /// The value of the override xattr that says this.
    pub(crate) fn to_value(self) -> String {
        let Self { uid, gid, mode, kind, device } = self;
        Override { uid, gid, mode, kind: Some(kind.to_flag()), device }.to_value()
    }
}

/// File capabilities; version 3 names the root user of the namespace they count in.
pub(crate) const CAPABILITY_NAME: &[u8] = b"security.capability";

const CAPABILITY_BYTES: usize = 20;
const CAPABILITY_REVISION: u32 = 0xff00_0000;

fn capability_root(value: &[u8]) -> Option<u32> {
    let root = value.get(CAPABILITY_BYTES..CAPABILITY_BYTES + 4)?;
    Some(u32::from_le_bytes(root.try_into().ok()?))
}

/// The same capabilities for another root user: version 2 for 0, which means the reader's own namespace.
fn with_capability_root(mut value: Vec<u8>, root: u32) -> Vec<u8> {
    let Some(magic) = value.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic)) else { return value };
    if value.len() < CAPABILITY_BYTES {
        return value;
    }
    value.truncate(CAPABILITY_BYTES);
    let revision = if root == 0 { 0x0200_0000 } else { 0x0300_0000 };
    if let Some(first) = value.first_chunk_mut::<4>() {
        *first = (magic & !CAPABILITY_REVISION | revision).to_le_bytes();
    }
    if root != 0 {
        value.extend_from_slice(&root.to_le_bytes());
    }
    value
}

/// The kind in a mode of `stat`.
pub(crate) fn kind_of(mode: u32) -> FileKind {
    match SFlag::from_bits_truncate(mode & libc::S_IFMT) {
        SFlag::S_IFDIR => FileKind::Directory,
        SFlag::S_IFLNK => FileKind::Symlink,
        SFlag::S_IFIFO => FileKind::Fifo,
        SFlag::S_IFSOCK => FileKind::Socket,
        SFlag::S_IFCHR => FileKind::CharDevice,
        SFlag::S_IFBLK => FileKind::BlockDevice,
        _ => FileKind::File,
    }
}

/// A time of `stat`; before 1970 as well.
pub(crate) fn time(secs: i64, nanos: i64) -> SystemTime {
    let nanos = Duration::from_nanos(nanos.unsigned_abs());
    let whole = Duration::from_secs(secs.unsigned_abs());
    let begin =
        if secs < 0 { SystemTime::UNIX_EPOCH.checked_sub(whole) } else { SystemTime::UNIX_EPOCH.checked_add(whole) };
    begin.and_then(|begin| begin.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::ids::IdRange;

    fn keep_id() -> Owners {
        let ranges = vec![
            IdRange { from: 0, to: 1, length: 1000 },
            IdRange { from: 1000, to: 0, length: 1 },
            IdRange { from: 1001, to: 1001, length: 100 },
        ];
        Owners::Mapped(IdMap::new(ranges.clone(), ranges))
    }

    #[test]
    fn ids_move_both_ways_and_strangers_are_nobody() {
        let owners = keep_id();
        assert_eq!((owners.uid_on_disk(0), owners.gid_on_disk(1000)), (Ok(1), Ok(0)));
        assert_eq!(owners.uid_on_disk(5000), Err(Errno::EINVAL));
        assert_eq!(owners.in_container(0, 1), Owner { uid: 1000, gid: 0 });
        assert_eq!(owners.in_container(5000, 0), Owner { uid: NOBODY, gid: 1000 });
    }

    #[test]
    fn capabilities_follow_the_root_user() {
        let owners = keep_id();
        let mut version2 = 0x0200_0001_u32.to_le_bytes().to_vec();
        version2.extend_from_slice(&[7; 16]);
        let on_disk = owners.xattr_to_disk(CAPABILITY_NAME, version2.clone()).unwrap();
        assert_eq!(on_disk.len(), 24);
        assert_eq!(capability_root(&on_disk), Some(1));
        assert_eq!(on_disk[..4], 0x0300_0001_u32.to_le_bytes());
        assert_eq!(owners.xattr_in_container(CAPABILITY_NAME, on_disk), version2);
        assert_eq!(owners.xattr_to_disk(CAPABILITY_NAME, vec![1]).unwrap(), [1]);
    }

    #[test]
    fn single_mode_records_what_the_disk_cannot_show() {
        use FileKind::{CharDevice, Directory, Fifo, File, Symlink};
        let value = |uid, mode, kind, device| {
            Owners::Single.override_for(uid, 0, mode, kind, device).map(Override::to_value).unwrap_or_default()
        };
        let cases = [
            (0, 0o644, File, 0, ""),
            (0, 0o444, File, 0, "0:0:0444"),
            (7, 0o644, File, 0, "7:0:0644"),
            (0, 0o555, Directory, 0, "0:0:0555"),
            (0, 0o777, Symlink, 0, ""),
            (7, 0o777, Symlink, 0, "7:0:0777:symlink"),
            (7, 0o600, Fifo, 0, "7:0:0600:pipe"),
            (0, 0o600, Fifo, 0, ""),
            (0, 0o666, CharDevice, 0x103, "0:0:0666:char-1-3"),
        ];
        for (uid, mode, kind, device, expected) in cases {
            assert_eq!(value(uid, mode, kind, device), expected, "{uid} {mode:o} {kind:?}");
        }
        assert_eq!(keep_id().override_for(7, 7, 0o444, File, 0), None);
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let before = time(-2, 500_000_000);
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(before).unwrap(), Duration::from_millis(1500));
    }
}
