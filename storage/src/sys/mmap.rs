//! Read-only mappings of files that nobody changes.

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;

/// A private, read-only mapping of the first bytes of a file.
///
/// The file must not be shortened while it is mapped; layer indexes are written once, renamed into place and only
/// ever unlinked.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping is read-only and owned; nothing in it belongs to a thread.
unsafe impl Send for Mapping {}

// SAFETY: shared references only ever read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file`.
    ///
    /// # Errors
    /// The kernel's errno.
    ///
    /// # Source
    /// `mmap(2)`.
    pub(crate) fn new(file: impl AsFd, len: NonZeroUsize) -> nix::Result<Self> {
        // SAFETY: the kernel chooses the address, so no memory of ours is replaced; the mapping is private.
        let address = unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) }?;
        Ok(Self { address, len: len.get() })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `address` is mapped readable for `len` bytes until drop, and files mapped here never change.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no reference to it outlives `self`. An error would mean it is gone already.
        let _ = unsafe { munmap(self.address, self.len) };
    }
}
