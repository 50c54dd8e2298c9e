//! Entries of an open directory, read with its own descriptor: no copy of it, no stream.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

const BUFFER_BYTES: usize = 32 * 1024;

/// Before the name: number, offset, length of the record, kind.
const HEADER_BYTES: usize = 19;

/// Calls `visit` with name, number and kind (`DT_…`) of every entry from the first on, `.` and `..` included.
///
/// # Errors
/// Those of `getdents64(2)` and of `visit`.
///
/// # Source
/// `getdents(2)`; `nix` has it only with a stream of the C library's.
pub(crate) fn for_each(
    dir: BorrowedFd<'_>,
    mut visit: impl FnMut(&[u8], u64, u8) -> nix::Result<()>,
) -> nix::Result<()> {
    lseek(dir, 0, Whence::SeekSet)?;
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    loop {
        // SAFETY: the pointer and the length describe `buffer`, which outlives the call.
        let len = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
        let len = Errno::result(len)?.unsigned_abs() as usize;
        let mut rest = buffer.get(..len).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while let Some(header) = rest.get(..HEADER_BYTES) {
            let number = header.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            let (Some(low), Some(high), Some(kind)) = (header.get(16), header.get(17), header.get(18)) else { break };
            let len = usize::from(u16::from_ne_bytes([*low, *high]));
            let Some(name) = rest.get(HEADER_BYTES..len) else { break };
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            visit(name, number, *kind)?;
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn every_name_comes_once_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let expected: BTreeSet<String> = (0..2000).map(|at| format!("{}-{at}", "x".repeat(at % 200))).collect();
        for name in &expected {
            File::create(dir.path().join(name)).unwrap();
        }
        let file = File::open(dir.path()).unwrap();
        for _ in 0..2 {
            let mut seen = BTreeSet::new();
            for_each(file.as_fd(), |name, _, kind| {
                let name = String::from_utf8(name.to_vec()).unwrap();
                assert!(name.starts_with('.') || kind == libc::DT_REG || kind == libc::DT_UNKNOWN);
                assert!(seen.insert(name));
                Ok(())
            })
            .unwrap();
            assert!(seen.remove(".") && seen.remove(".."));
            assert_eq!(seen, expected);
        }
    }
}
