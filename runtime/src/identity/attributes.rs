//! A file's attributes as the structures that `stat` calls of each ABI fill in.
//!
//! ```text
//! x86-64, x32   struct stat        144 bytes
//! aarch64       struct stat        128 bytes, asm-generic
//! i386          struct stat64       96 bytes;  struct stat   64 bytes
//! ```
//!
//! # Source
//! `arch/x86/include/uapi/asm/stat.h`, `include/uapi/asm-generic/stat.h`, Linux 6.12.

use nix::errno::Errno;

use crate::security::seccomp::compiler::abi::Abi;

/// Which structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    X86_64,
    Generic64,
    I386,
    I386Wide,
}

impl Layout {
    /// The structure of `stat`, or with `wide` of `stat64`.
    pub(super) fn of(abi: Abi, wide: bool) -> Option<Layout> {
        match (abi, wide) {
            (Abi::X86_64 | Abi::X32, false) => Some(Layout::X86_64),
            (Abi::Aarch64, false) => Some(Layout::Generic64),
            (Abi::I386, false) => Some(Layout::I386),
            (Abi::I386, true) => Some(Layout::I386Wide),
            // 32-bit ARM: the kernel answers, with root as the owner.
            _ => None,
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// `EOVERFLOW` for what does not fit.
    pub(super) fn encode(self, from: &libc::statx) -> Result<Vec<u8>, Errno> {
        let mut out = Bytes(Vec::with_capacity(144));
        let dev = device(from.stx_dev_major, from.stx_dev_minor);
        let rdev = device(from.stx_rdev_major, from.stx_rdev_minor);
        let times = [from.stx_atime, from.stx_mtime, from.stx_ctime];
        match self {
            Layout::X86_64 => {
                out.u64(dev).u64(from.stx_ino).u64(from.stx_nlink.into());
                out.u32(from.stx_mode.into()).u32(from.stx_uid).u32(from.stx_gid).u32(0);
                out.u64(rdev).u64(from.stx_size).u64(from.stx_blksize.into()).u64(from.stx_blocks);
                for time in times {
                    out.u64(time.tv_sec as u64).u64(time.tv_nsec.into());
                }
                out.u64(0).u64(0).u64(0);
            }
            Layout::Generic64 => {
                out.u64(dev).u64(from.stx_ino).u32(from.stx_mode.into()).u32(from.stx_nlink);
                out.u32(from.stx_uid).u32(from.stx_gid).u64(rdev).u64(0).u64(from.stx_size);
                out.u32(from.stx_blksize).u32(0).u64(from.stx_blocks);
                for time in times {
                    out.u64(time.tv_sec as u64).u64(time.tv_nsec.into());
                }
                out.u32(0).u32(0);
            }
            Layout::I386Wide => {
                out.u64(dev).u32(0).u32(from.stx_ino as u32).u32(from.stx_mode.into()).u32(from.stx_nlink);
                out.u32(from.stx_uid).u32(from.stx_gid).u64(rdev).u32(0);
                out.u64(from.stx_size).u32(from.stx_blksize).u64(from.stx_blocks);
                for time in times {
                    out.u32(time.tv_sec as u32).u32(time.tv_nsec);
                }
                out.u64(from.stx_ino);
            }
            Layout::I386 => {
                let size = i32::try_from(from.stx_size).map_err(|_| Errno::EOVERFLOW)? as u32;
                let ino = u32::try_from(from.stx_ino).map_err(|_| Errno::EOVERFLOW)?;
                out.u32(dev as u32).u32(ino).u16(from.stx_mode).u16(narrow(from.stx_nlink));
                out.u16(narrow(from.stx_uid)).u16(narrow(from.stx_gid)).u32(rdev as u32).u32(size);
                out.u32(from.stx_blksize).u32(from.stx_blocks as u32);
                for time in times {
                    out.u32(time.tv_sec as u32).u32(time.tv_nsec);
                }
                out.u32(0).u32(0);
            }
        }
        Ok(out.0)
    }
}

/// An id in 16 bits: `overflowuid` stands for what does not fit.
pub(super) fn narrow(id: u32) -> u16 {
    u16::try_from(id).unwrap_or(65_534)
}

/// A device number as the kernel hands it out.
fn device(major: u32, minor: u32) -> u64 {
    u64::from(minor & 0xff) | u64::from(major) << 8 | u64::from(minor & !0xff) << 12
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_native_structure_is_what_the_kernel_writes() {
        let layout = if cfg!(target_arch = "x86_64") { Layout::X86_64 } else { Layout::Generic64 };
        for path in ["/proc/self/exe", "/dev/null", "/", "/proc/self/status"] {
            let file = std::fs::File::open(path).unwrap();
            let from = crate::sys::notify::statx(file.as_fd(), 0, libc::STATX_BASIC_STATS).unwrap();
            let kernels = crate::sys::notify::raw_fstat(file.as_fd()).unwrap();
            let ours = layout.encode(&from).unwrap();
            assert_eq!(ours, kernels[..ours.len()], "{path}");
        }
    }

    #[test]
    fn the_structures_have_the_lengths_of_their_abis() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let from = crate::sys::notify::statx(file.as_fd(), 0, libc::STATX_BASIC_STATS).unwrap();
        for (layout, length) in
            [(Layout::X86_64, 144), (Layout::Generic64, 128), (Layout::I386Wide, 96), (Layout::I386, 64)]
        {
            assert_eq!(layout.encode(&from).unwrap().len(), length, "{layout:?}");
        }
    }
}
