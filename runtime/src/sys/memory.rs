//! Memory that was freed, and is still this process' own.

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// The sizes of free blocks that are looked for, and how many of each: the largest first, as the allocator would use them.
const BLOCKS: [(usize, usize); 6] = [(256, 1), (128, 2), (64, 4), (32, 8), (16, 16), (8, 24)];

const KIB: usize = 1024;

/// Gives the kernel what was freed of the heap: an allocator keeps that for later, and a process that was busy at its start
/// and then waits for days has no later.
///
/// Takes the free blocks from the allocator, gives up the pages in them, and hands them back: no page is touched by that.
/// Where there is no free block of a size, a new one is mapped, and unmapped again.
///
/// # Source
/// madvise(2), `MADV_DONTNEED`.
pub fn give_back_freed() {
    let Ok(Some(page)) = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) else { return };
    let Ok(page) = usize::try_from(page) else { return };
    let count = BLOCKS.iter().map(|(_, count)| count).sum();
    let mut held: Vec<Vec<u8>> = Vec::with_capacity(count);
    for (kib, count) in BLOCKS {
        for _ in 0..count {
            let mut block: Vec<u8> = Vec::with_capacity(kib * KIB);
            give_up(block.spare_capacity_mut(), page);
            held.push(block);
        }
    }
}

/// Gives up the whole pages of memory that holds nothing.
fn give_up(memory: &mut [std::mem::MaybeUninit<u8>], page: usize) {
    let start = memory.as_mut_ptr().cast::<c_void>();
    let before = start.align_offset(page);
    let pages = memory.len().saturating_sub(before) / page * page;
    let Some(first) = NonNull::new(start.wrapping_byte_add(before)).filter(|_| pages > 0) else { return };
    // SAFETY: the pages are within `memory`, which is borrowed for writing and of which nobody expects any contents.
    let _ = unsafe { madvise(first, pages, MmapAdvise::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_memory_that_is_given_up_stays() {
        let page = 4096;
        let mut vec: Vec<u8> = vec![7; 10 * page];
        vec.truncate(page + 100);
        give_up(vec.spare_capacity_mut(), page);
        assert!(vec.iter().all(|byte| *byte == 7));
        vec.resize(10 * page, 1);
        assert_eq!(vec.iter().filter(|byte| **byte == 1).count(), 9 * page - 100);
        give_back_freed();
        assert_eq!(vec.iter().filter(|byte| **byte == 7).count(), page + 100);
    }
}
