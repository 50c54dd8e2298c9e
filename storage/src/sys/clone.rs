//! Contents from file to file without passing through us.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Gives `to` all of `from`'s contents without copying them.
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV`, `EINVAL` and `ENOTTY` where the file system cannot do this; others are real.
///
/// # Source
/// `ioctl_ficlone(2)`, Linux 4.5.
pub(crate) fn clone_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: FICLONE takes a descriptor by value and touches no memory of ours.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE as _, from.as_raw_fd()) };
    Errno::result(result).map(drop)
}

/// Copies up to `len` bytes at an offset of `from` to one of `to`, and says how many that were.
///
/// # Errors
/// Those of `copy_file_range(2)`.
///
/// # Source
/// `copy_file_range(2)`, Linux 4.5; `nix` has it for glibc only.
pub(crate) fn copy_file_range(
    (from, mut from_offset): (BorrowedFd<'_>, i64),
    (to, mut to_offset): (BorrowedFd<'_>, i64),
    len: usize,
) -> nix::Result<usize> {
    let (from_at, to_at) = (&raw mut from_offset, &raw mut to_offset);
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: both offsets live on this stack for the time of the call; 0 is the only flag there is.
    let count = unsafe { libc::syscall(libc::SYS_copy_file_range, from, from_at, to, to_at, len, 0_u32) };
    Errno::result(count).map(|count| usize::try_from(count).unwrap_or(0))
}

/// Begins to write a file's dirty pages to the disk, and with that gives them their place there, without waiting.
///
/// # Errors
/// Those of `sync_file_range(2)`.
///
/// # Source
/// `sync_file_range(2)`, `SYNC_FILE_RANGE_WRITE`.
pub(crate) fn begin_write_out(file: BorrowedFd<'_>) -> nix::Result<()> {
    let (offset, all) = (0_i64, 0_i64);
    // SAFETY: the call takes numbers only.
    let result =
        unsafe { libc::syscall(libc::SYS_sync_file_range, file.as_raw_fd(), offset, all, libc::SYNC_FILE_RANGE_WRITE) };
    Errno::result(result).map(drop)
}

/// How much one call of [`dedupe_range`] may be asked for: what btrfs does at once.
pub(crate) const MAX_DEDUPE_BYTES: u64 = 16 << 20;

/// Lets `len` bytes of `to` be those of `from`, at the same offset, if they are equal: the kernel compares. Gives how many
/// bytes are shared; none if they differ.
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV`, `EINVAL` and `ENOTTY` where the file system cannot do this; others are real.
///
/// # Source
/// `ioctl_fideduperange(2)`, Linux 4.5. The file need not be open for writing by whoever may write it.
pub(crate) fn dedupe_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, offset: u64, len: u64) -> nix::Result<u64> {
    /// `struct file_dedupe_range` with one `file_dedupe_range_info`.
    #[repr(C)]
    struct Range {
        src_offset: u64,
        src_length: u64,
        dest_count: u16,
        reserved1: u16,
        reserved2: u32,
        dest_fd: i64,
        dest_offset: u64,
        bytes_deduped: u64,
        status: i32,
        reserved: u32,
    }
    /// `_IOWR(0x94, 54, struct file_dedupe_range)`, whose 24 bytes are those before the list.
    const FIDEDUPERANGE: u64 = 0xc018_9436;
    let mut range = Range {
        src_offset: offset,
        src_length: len,
        dest_count: 1,
        reserved1: 0,
        reserved2: 0,
        dest_fd: to.as_raw_fd().into(),
        dest_offset: offset,
        bytes_deduped: 0,
        status: 0,
        reserved: 0,
    };
    let argument = &raw mut range;
    // SAFETY: the kernel reads and writes the head and the one entry that `dest_count` announces, which `range` has.
    let result = unsafe { libc::ioctl(from.as_raw_fd(), FIDEDUPERANGE as _, argument) };
    Errno::result(result)?;
    match range.status {
        0 => Ok(range.bytes_deduped),
        // FILE_DEDUPE_RANGE_DIFFERS
        1 => Ok(0),
        errno => Err(Errno::from_raw(-errno)),
    }
}
