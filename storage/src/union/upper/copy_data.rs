//! Contents of a file into another: shared if the file system can, holes kept; and when they are safe from a power cut.

use super::failpoint;
use crate::sys::clone::{begin_write_out, clone_file, copy_file_range};
use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, fsync, ftruncate, lseek};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

const BUFFER_BYTES: usize = 1 << 18;

/// The most that one call is asked for, so that no signal waits long.
const CHUNK_BYTES: u64 = 1 << 30;

const BLOCK_BYTES: u64 = 512;

/// What a copy needs before it may get its name, so that after a power cut the name never leads to less than the file.
///
/// A shared extent is on the disk already and needs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Nothing: a power cut may take everything, or the file system lives in memory.
    None,
    /// That writing has begun. ext4 (`data=ordered`, its default) commits no name before the data that had its place on
    /// the disk by then: the rule that its own `auto_da_alloc` rests on. Costs a twentieth of waiting.
    Begun,
    /// That writing has ended.
    Done,
}

impl Durability {
    /// What files in `dir` need.
    pub(super) fn of(dir: BorrowedFd<'_>, volatile: bool) -> Self {
        match fstatfs(dir).map(|stat| stat.filesystem_type()) {
            _ if volatile => Self::None,
            Ok(TMPFS_MAGIC) => Self::None,
            Ok(EXT4_SUPER_MAGIC) => Self::Begun,
            _ => Self::Done,
        }
    }

    /// Gives a file of `bytes` copied bytes what it needs.
    ///
    /// # Errors
    /// Those of `fsync`.
    pub(super) fn secure(self, file: BorrowedFd<'_>, bytes: u64) -> nix::Result<()> {
        match self {
            _ if bytes == 0 => Ok(()),
            Self::None => Ok(()),
            Self::Begun => begin_write_out(file).or_else(|_| fsync(file)),
            Self::Done => fsync(file),
        }
    }
}

/// Copies the first `length` bytes of `from`, or all of it, into the empty file `to`, and says how many bytes are to be
/// written to the disk for that: none if they are shared.
///
/// `can_clone` remembers whether the file system of `to` shares blocks.
///
/// # Errors
/// The kernel's errno; `to` may then hold a part.
pub(super) fn copy_data(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    length: Option<u64>,
    can_clone: &AtomicBool,
) -> nix::Result<u64> {
    let stat = fstat(from)?;
    let size = stat.st_size.unsigned_abs();
    let wanted = length.unwrap_or(size);
    let copied = wanted.min(size);
    failpoint::pass("copy.data")?;
    if copied == size && size > 0 && can_clone.load(Ordering::Relaxed) {
        match clone_file(from, to) {
            Ok(()) => {
                if wanted != size {
                    ftruncate(to, signed(wanted)?)?;
                }
                return Ok(0);
            }
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => can_clone.store(false, Ordering::Relaxed),
            // Not between these two files, or not now: copying will tell.
            Err(_) => {}
        }
    }
    let has_holes = stat.st_blocks.unsigned_abs().saturating_mul(BLOCK_BYTES) < size;
    let mut end = 0;
    if has_holes {
        let mut at = 0;
        while at < copied {
            let Some(extent) = next_extent(from, at)? else { break };
            end = extent.1.min(copied);
            copy_range(from, to, extent.0, end)?;
            at = extent.1;
        }
    } else {
        copy_range(from, to, 0, copied)?;
        end = copied;
    }
    if end != wanted {
        ftruncate(to, signed(wanted)?)?;
    }
    failpoint::pass("copy.data-done")?;
    Ok(wanted)
}

/// The next run of data: begin and end.
fn next_extent(from: BorrowedFd<'_>, at: u64) -> nix::Result<Option<(u64, u64)>> {
    let begin = match lseek(from, signed(at)?, Whence::SeekData) {
        // A hole up to the end.
        Err(Errno::ENXIO) => return Ok(None),
        begin => begin?,
    };
    let end = lseek(from, begin, Whence::SeekHole)?;
    Ok(Some((begin.unsigned_abs(), end.unsigned_abs())))
}

fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, begin: u64, end: u64) -> nix::Result<()> {
    let mut at = begin;
    while at < end {
        let len = usize::try_from((end - at).min(CHUNK_BYTES)).unwrap_or(usize::MAX);
        match copy_file_range((from, signed(at)?), (to, signed(at)?), len) {
            Ok(0) => return copy_by_hand(from, to, at, end),
            Ok(count) => at += count as u64,
            Err(Errno::EINTR) => {}
            Err(Errno::EXDEV | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS | Errno::EBADF | Errno::EPERM) => {
                return copy_by_hand(from, to, at, end);
            }
            Err(errno) => return Err(errno),
        }
        failpoint::pass("copy.data-part")?;
    }
    Ok(())
}

fn copy_by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, begin: u64, end: u64) -> nix::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = begin;
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        let part = buffer.get_mut(..len).unwrap_or_default();
        let count = match pread(from, part, signed(at)?) {
            Err(Errno::EINTR) => continue,
            count => count?,
        };
        // The layer is shorter than it was: what is missing is a hole.
        if count == 0 {
            return Ok(());
        }
        let mut part = part.get(..count).unwrap_or_default();
        while !part.is_empty() {
            let written = match pwrite(to, part, signed(at)?) {
                Err(Errno::EINTR) => continue,
                written => written?,
            };
            if written == 0 {
                return Err(Errno::EIO);
            }
            at += written as u64;
            part = part.get(written..).unwrap_or_default();
        }
    }
    Ok(())
}

fn signed(offset: u64) -> nix::Result<i64> {
    i64::try_from(offset).map_err(|_| Errno::EFBIG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, MetadataExt};

    /// (data, length of the source, length asked for)
    type Case = (&'static [(u64, &'static [u8])], u64, Option<u64>);

    #[test]
    fn contents_and_holes_arrive_at_every_length() {
        let cases: &[Case] = &[
            (&[], 0, None),
            (&[(0, b"hello")], 5, None),
            (&[(0, b"hello")], 5, Some(2)),
            (&[(0, b"hello")], 5, Some(0)),
            (&[(0, b"hello")], 5, Some(9)),
            (&[(1 << 20, b"middle")], 4 << 20, None),
            (&[(1 << 20, b"middle")], 4 << 20, Some((1 << 20) + 3)),
            (&[(0, b"a"), (8 << 20, b"b")], 16 << 20, Some(12 << 20)),
            (&[], 1 << 20, None),
        ];
        for (extents, size, length) in cases {
            let from = tempfile::tempfile().unwrap();
            for (offset, data) in *extents {
                from.write_all_at(data, *offset).unwrap();
            }
            from.set_len(*size).unwrap();
            for by_hand in [false, true] {
                let to = tempfile::tempfile().unwrap();
                let wanted = length.unwrap_or(*size);
                if by_hand {
                    copy_by_hand(from.as_fd(), to.as_fd(), 0, wanted.min(*size)).unwrap();
                    to.set_len(wanted).unwrap();
                } else {
                    let written = copy_data(from.as_fd(), to.as_fd(), *length, &AtomicBool::new(true)).unwrap();
                    assert!(written == wanted || written == 0, "{written}");
                    for durability in [Durability::None, Durability::Begun, Durability::Done] {
                        durability.secure(to.as_fd(), written).unwrap();
                    }
                    assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks() + 8);
                }
                let mut expected = contents(&from);
                expected.resize(usize::try_from(wanted).unwrap(), 0);
                assert!(contents(&to) == expected, "{extents:?} {size} {length:?} {by_hand}");
            }
        }
    }

    fn contents(file: &File) -> Vec<u8> {
        use std::io::Seek;
        let (mut file, mut bytes) = (file, Vec::new());
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }
}
