//! Writes answers.

use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use super::abi::{self, FopenFlags};
use crate::union::{Attributes, DirEntry, Entry, InodeNo, Statistics};

/// What all answers have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presentation {
    /// How long the kernel may believe what it is told.
    pub(crate) timeout: Duration,
    /// The owner of all files, whatever theirs is.
    pub(crate) squash_uid: Option<u32>,
    /// The group of all files.
    pub(crate) squash_gid: Option<u32>,
}

/// One answer being written, in a buffer that serves for all of them.
///
/// Its pages are touched only as far as an answer reaches.
#[derive(Debug)]
pub(crate) struct Reply {
    buffer: Box<[u8]>,
    len: usize,
    presentation: Presentation,
}

impl Reply {
    /// An empty answer, with room for the longest.
    pub(crate) fn new(presentation: Presentation) -> Self {
        Self {
            buffer: vec![0; abi::OUT_HEADER_BYTES + abi::MAX_DATA_BYTES].into_boxed_slice(),
            len: abi::OUT_HEADER_BYTES,
            presentation,
        }
    }

    /// Ends the answer and gives its bytes.
    pub(crate) fn finish(&mut self, unique: u64, result: Result<(), Errno>) -> &[u8] {
        let (len, error) = match result {
            Ok(()) => (self.len, 0),
            Err(errno) => (abi::OUT_HEADER_BYTES, -(errno as i32)),
        };
        self.len = 0;
        self.u32(len as u32);
        self.u32(error.cast_unsigned());
        self.u64(unique);
        self.buffer.get(..len).unwrap_or_default()
    }

    /// Forgets what was written.
    pub(crate) fn clear(&mut self) {
        self.len = abi::OUT_HEADER_BYTES;
    }

    /// Room for `len` bytes of data, of which `fill` says how many it wrote.
    pub(crate) fn data<E>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        let room = self.buffer.get_mut(self.len..).unwrap_or_default();
        let len = len.min(room.len());
        let filled = fill(room.get_mut(..len).unwrap_or_default())?;
        self.len += filled.min(len);
        Ok(())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(room) = self.buffer.get_mut(self.len..).and_then(|room| room.get_mut(..bytes.len())) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_ne_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_ne_bytes());
    }

    /// A count of bytes: `fuse_write_out`, `fuse_getxattr_out`.
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
        self.u32(0);
    }

    /// An offset or a wide count: `fuse_lseek_out`, `fuse_copy_file_range_out`.
    pub(crate) fn offset(&mut self, offset: u64) {
        self.u64(offset);
    }

    /// `fuse_attr_out`.
    pub(crate) fn attributes(&mut self, attributes: &Attributes) {
        let timeout = self.presentation.timeout;
        self.u64(timeout.as_secs());
        self.u32(timeout.subsec_nanos());
        self.u32(0);
        self.attr(attributes);
    }

    /// `fuse_entry_out` of a name that is there.
    pub(crate) fn entry(&mut self, entry: &Entry) {
        self.u64(entry.attributes.ino.0);
        self.u64(entry.generation);
        self.timeouts();
        self.attr(&entry.attributes);
    }

    /// `fuse_entry_out` of a name that is not there, which the kernel may remember.
    pub(crate) fn no_entry(&mut self) {
        self.u64(0);
        self.u64(0);
        self.timeouts();
        self.bytes(&[0; 88]);
    }

    /// Those of a name and of its attributes.
    fn timeouts(&mut self) {
        let timeout = self.presentation.timeout;
        self.u64(timeout.as_secs());
        self.u64(timeout.as_secs());
        self.u32(timeout.subsec_nanos());
        self.u32(timeout.subsec_nanos());
    }

    /// `fuse_open_out` of a file that has no handle.
    pub(crate) fn opened(&mut self) {
        self.u64(0);
        self.u32((FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH).bits());
        self.u32(0);
    }

    /// `fuse_statfs_out`.
    pub(crate) fn statistics(&mut self, statistics: &Statistics) {
        let s = statistics;
        for number in [s.blocks, s.blocks_free, s.blocks_available, s.files, s.files_free] {
            self.u64(number);
        }
        for number in [s.block_bytes, s.name_max, s.fragment_bytes, 0, 0, 0, 0, 0, 0, 0] {
            self.u32(number);
        }
    }

    /// `fuse_ioctl_out` of success, with what the command gives back.
    pub(crate) fn ioctl(&mut self, output: &[u8]) {
        self.bytes(&[0; 16]);
        self.bytes(output);
    }

    /// `fuse_init_out`.
    pub(crate) fn init(&mut self, minor: u32, max_readahead: u32, flags: abi::InitFlags) {
        const MAX_BACKGROUND: u16 = 64;
        self.u32(abi::MAJOR);
        self.u32(minor);
        self.u32(max_readahead);
        self.u32(flags.bits() as u32);
        self.bytes(&MAX_BACKGROUND.to_ne_bytes());
        self.bytes(&(MAX_BACKGROUND / 4 * 3).to_ne_bytes());
        self.u32(abi::MAX_DATA_BYTES as u32);
        self.u32(1); // nanoseconds in the unit of times
        self.bytes(&((abi::MAX_DATA_BYTES / 4096) as u16).to_ne_bytes());
        self.bytes(&[0; 2]);
        self.u32((flags.bits() >> 32) as u32);
        self.bytes(&[0; 28]);
    }

    /// One `fuse_dirent`, if `limit` bytes of answer have room for it.
    pub(crate) fn directory_entry(&mut self, limit: usize, entry: &DirEntry<'_>) -> bool {
        let fits = self.has_room(limit, 0, entry);
        if fits {
            self.dirent(entry);
        }
        fits
    }

    /// One `fuse_direntplus`, if `limit` bytes of answer have room for it. Without `found` the kernel learns the name
    /// alone.
    pub(crate) fn directory_entry_plus(&mut self, limit: usize, entry: &DirEntry<'_>, found: Option<&Entry>) -> bool {
        let fits = self.has_room(limit, ENTRY_BYTES, entry);
        if fits {
            match found {
                Some(found) => self.entry(found),
                None => self.bytes(&[0; ENTRY_BYTES]),
            }
            self.dirent(entry);
        }
        fits
    }

    fn has_room(&self, limit: usize, extra: usize, entry: &DirEntry<'_>) -> bool {
        let len = extra + DIRENT_BYTES + entry.name.len().next_multiple_of(8);
        self.len - abi::OUT_HEADER_BYTES + len <= limit.min(abi::MAX_DATA_BYTES)
    }

    fn dirent(&mut self, entry: &DirEntry<'_>) {
        self.u64(entry.ino.0);
        self.u64(entry.cookie);
        self.u32(entry.name.len() as u32);
        self.u32(entry.kind.to_flag().bits() >> 12);
        self.bytes(entry.name);
        let padding = entry.name.len().next_multiple_of(8) - entry.name.len();
        self.bytes([0; 8].get(..padding).unwrap_or_default());
    }

    fn attr(&mut self, attributes: &Attributes) {
        let a = attributes;
        let InodeNo(ino) = a.ino;
        // A size beyond this makes the kernel refuse the whole answer.
        let size = a.size.min(i64::MAX.cast_unsigned());
        let times = [seconds(a.atime), seconds(a.mtime), seconds(a.ctime)];
        for number in [ino, size, a.blocks] {
            self.u64(number);
        }
        for (seconds, _) in times {
            self.u64(seconds);
        }
        for (_, ns) in times {
            self.u32(ns);
        }
        let mode = a.kind.to_flag().bits() | (a.mode & 0o7777);
        let (uid, gid) = (self.presentation.squash_uid.unwrap_or(a.uid), self.presentation.squash_gid.unwrap_or(a.gid));
        for number in [mode, a.nlink, uid, gid, device(a.rdev), 4096, 0] {
            self.u32(number);
        }
    }
}

const ENTRY_BYTES: usize = 40 + 88;
const DIRENT_BYTES: usize = 24;

/// A device number as the kernel packs it into 32 bits (`new_encode_dev`).
fn device(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Seconds and nanoseconds since the epoch, as the protocol has them: negative seconds as their 64 bits.
fn seconds(time: SystemTime) -> (u64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (since.as_secs(), since.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            match before.subsec_nanos() {
                0 => (before.as_secs().wrapping_neg(), 0),
                ns => (before.as_secs().wrapping_add(1).wrapping_neg(), 1_000_000_000 - ns),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::union::FileKind;

    fn reply() -> Reply {
        Reply::new(Presentation { timeout: Duration::from_millis(1500), squash_uid: None, squash_gid: Some(7) })
    }

    #[test]
    fn entries_stop_where_the_kernels_buffer_ends() {
        let mut reply = reply();
        let entry = DirEntry { name: b"a name", ino: InodeNo(2), kind: FileKind::File, cookie: 1 };
        let taken = (0..).take_while(|_| reply.directory_entry(100, &entry)).count();
        assert_eq!(taken, 3); // 24 + 8 bytes each
        assert_eq!(reply.finish(1, Ok(())).len(), 16 + 96);
        reply.clear();
        assert!(!reply.directory_entry_plus(100, &entry, None));
        assert!(reply.directory_entry_plus(160, &entry, None));
    }

    #[test]
    fn times_before_the_epoch_count_down() {
        let at = |ms| seconds(SystemTime::UNIX_EPOCH - Duration::from_millis(ms));
        assert_eq!(at(1000), ((-1i64).cast_unsigned(), 0));
        assert_eq!(at(1500), ((-2i64).cast_unsigned(), 500_000_000));
    }

    #[test]
    fn structures_have_the_length_that_the_kernel_expects() {
        let attributes = Attributes {
            ino: InodeNo(2),
            kind: FileKind::File,
            mode: 0o644,
            nlink: 1,
            uid: 1,
            gid: 2,
            rdev: 0,
            size: u64::MAX,
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
        };
        let mut reply = reply();
        let mut len = |write: &dyn Fn(&mut Reply)| {
            reply.clear();
            write(&mut reply);
            reply.finish(1, Ok(())).len() - abi::OUT_HEADER_BYTES
        };
        assert_eq!(len(&|reply| reply.attributes(&attributes)), 104);
        assert_eq!(len(&|reply| reply.entry(&Entry { attributes, generation: 0 })), 128);
        assert_eq!(len(&|reply| reply.no_entry()), 128);
        assert_eq!(len(&|reply| reply.opened()), 16);
        assert_eq!(len(&|reply| reply.init(45, 0, abi::InitFlags::empty())), 64);
        let statistics = Statistics {
            block_bytes: 0,
            fragment_bytes: 0,
            blocks: 0,
            blocks_free: 0,
            blocks_available: 0,
            files: 0,
            files_free: 0,
            name_max: 255,
        };
        assert_eq!(len(&|reply| reply.statistics(&statistics)), 80);
    }

    #[test]
    fn an_error_has_no_body() {
        let mut reply = reply();
        reply.count(5);
        let bytes = reply.finish(9, Err(Errno::ENOENT));
        assert_eq!(bytes.len(), abi::OUT_HEADER_BYTES);
        assert_eq!(bytes[4..8], (-2i32).to_ne_bytes());
    }

    #[test]
    fn devices_are_packed_as_the_kernel_unpacks_them() {
        assert_eq!(device(libc::makedev(8, 1)), 0x801);
        assert_eq!(device(libc::makedev(0x123, 0x45678)), 0x4561_2378);
    }
}
