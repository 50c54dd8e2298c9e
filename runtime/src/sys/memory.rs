//! Memory that was freed, and is still this process' own.

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// The sizes of free blocks that are looked for, in KiB, and how many of each. The smallest have a whole page in them more
/// often than not. The largest come last: where there were fewer of the small ones, new ones were cut from a large one.
const BLOCKS: [(usize, usize); 7] = [(6, 48), (8, 32), (16, 16), (32, 8), (64, 4), (128, 2), (256, 2)];

/// So much of the stack was once needed, at most.
const DEEPEST_KIB: usize = 512;

/// And so much of it is needed by what gives it up.
const CALLS_KIB: usize = 16;

const KIB: usize = 1024;

/// Gives the kernel what was freed of the heap, and what is free of the stack: an allocator keeps that for later, and a
/// process that was busy at its start and then waits for days has no later.
///
/// Takes the free blocks from the allocator, gives up the pages in them, and hands them back: no page is touched by that.
/// Where there is no free block of a size, a new one is mapped, and unmapped again.
///
/// # Source
/// madvise(2), `MADV_DONTNEED`.
pub fn give_back_free() {
    let Ok(Some(page)) = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) else { return };
    let Ok(page) = usize::try_from(page) else { return };
    give_up_stack(page);
    for (kib, count) in BLOCKS {
        let mut held: Vec<Vec<u8>> = Vec::with_capacity(count);
        for _ in 0..count {
            let mut block: Vec<u8> = Vec::with_capacity(kib * KIB);
            give_up(block.spare_capacity_mut(), page);
            held.push(block);
        }
    }
}

/// Gives up what lies below the frames of the first thread. Nothing else is there: the kernel keeps more distance than that
/// between a stack that grows and whatever comes before it.
#[inline(never)]
fn give_up_stack(page: usize) {
    if nix::unistd::gettid() != nix::unistd::getpid() {
        return;
    }
    let here = 0_u8;
    let here = std::hint::black_box(&raw const here).cast::<c_void>().cast_mut();
    let end = here.wrapping_byte_sub(CALLS_KIB * KIB + here.addr() % page);
    let start = end.wrapping_byte_sub((DEEPEST_KIB - CALLS_KIB) * KIB);
    let Some(first) = NonNull::new(start) else { return };
    // SAFETY: no frame that is alive reaches below this one but those of the call itself, which fit into what is left out.
    // What is not mapped is passed over.
    let _ = unsafe { madvise(first, (DEEPEST_KIB - CALLS_KIB) * KIB, MmapAdvise::MADV_DONTNEED) };
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
        give_back_free();
        assert_eq!(vec.iter().filter(|byte| **byte == 7).count(), page + 100);
    }
}
