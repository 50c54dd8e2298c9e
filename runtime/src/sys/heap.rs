//! The heap of a command: most end within milliseconds, and some stay for days.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::mman::{MmapAdvise, madvise};

/// What a command needs before it waits for anything: the tree of the command line above all.
const ARENA: usize = 1 << 20;
/// So much of it is asked of the kernel at once: a fault for every page costs more than the page.
const CHUNK: usize = 64 << 10;
/// The smallest page of any machine. Where pages are larger, none is given back.
const PAGE: usize = 4096;
/// Every block begins at a multiple of this.
const ALIGN: usize = 16;
/// What is larger has a mapping of its own in any heap.
const LARGEST: usize = 128 << 10;
const CLASSES: usize = 32 + 4 * 8;

/// The heap of the whole program.
///
/// musl's own maps and unmaps memory for nearly every group of blocks, more than two hundred calls in a short command, and
/// gives everything back. So the first thread begins on a piece of memory that is never given back, and is nobody else's:
/// no lock, no call but the few that fill it. Other threads, what does not fit, and everything after [`stays`] are musl's.
/// Blocks are counted for each page, so that a process that stays can give back what its beginning left.
pub struct Heap;

#[repr(align(4096))]
struct Arena(UnsafeCell<[u8; ARENA]>);

// SAFETY: the bytes are handed out as blocks, each to one owner; nothing is read here but the links in blocks that are free,
// and these only by the first thread (`Start` is thread-local).
unsafe impl Sync for Arena {}

static ARENA_BYTES: Arena = Arena(UnsafeCell::new([0; ARENA]));

/// How many blocks in use touch each page.
static IN_USE: [AtomicU16; ARENA / PAGE] = [const { AtomicU16::new(0) }; ARENA / PAGE];

/// The first thread's view of the arena.
struct Start {
    is_open: Cell<bool>,
    /// Where the part begins that was never in use.
    next: Cell<usize>,
    /// Where the part begins that was not asked for yet.
    filled: Cell<usize>,
    /// The first free block of each class, by its place plus one; it holds the next one's.
    free: [Cell<usize>; CLASSES],
}

thread_local! {
    static START: Start = const {
        Start { is_open: Cell::new(false), next: Cell::new(0), filled: Cell::new(0), free: [const { Cell::new(0) }; CLASSES] }
    };
}

/// From here on the calling thread, which must be the first one, has its blocks from the arena.
pub fn begins() {
    START.with(|start| start.is_open.set(true));
}

/// This process is there to stay: what it allocates from here on is in a heap that gives memory back.
pub fn stays() {
    START.with(|start| start.is_open.set(false));
}

/// The index of the smallest class that holds `size` bytes, and the size of its blocks: steps of 16 bytes at first, then four
/// for every doubling.
fn class(size: usize) -> (usize, usize) {
    let size = size.max(1);
    if size <= 512 {
        let index = size.div_ceil(ALIGN);
        return (index - 1, index * ALIGN);
    }
    let doubling = (size - 1).ilog2() as usize;
    let step = 1 << (doubling - 2);
    let index = (size - (1 << doubling)).div_ceil(step);
    (32 + 4 * (doubling - 9) + index - 1, (1 << doubling) + index * step)
}

fn count(place: usize, len: usize, add: bool) {
    for page in IN_USE.iter().take((place + len - 1) / PAGE + 1).skip(place / PAGE) {
        if add {
            page.fetch_add(1, Ordering::Relaxed);
        } else {
            page.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn base() -> *mut u8 {
    ARENA_BYTES.0.get().cast()
}

/// Where in the arena a block is.
fn place_of(block: *mut u8) -> Option<usize> {
    let place = block.addr().wrapping_sub(base().addr());
    (place < ARENA).then_some(place)
}

impl Start {
    /// A block of the arena, and whether it was never in use, so that it is zero.
    fn take(&self, layout: Layout) -> Option<(*mut u8, bool)> {
        if !self.is_open.get() || layout.align() > ALIGN || layout.size() > LARGEST {
            return None;
        }
        let (class, len) = class(layout.size());
        let head = self.free.get(class)?;
        if let Some(place) = head.get().checked_sub(1) {
            let block = base().wrapping_add(place);
            // SAFETY: the block is free, so that it is nobody's; `give` wrote this link, and blocks are aligned for it.
            head.set(unsafe { block.cast::<usize>().read() });
            count(place, len, true);
            return Some((block, false));
        }
        let place = self.next.get();
        if len > ARENA - place {
            return None;
        }
        self.reach(place + len);
        count(place, len, true);
        Some((base().wrapping_add(place), true))
    }

    /// Moves the end of what was in use.
    fn reach(&self, end: usize) {
        self.next.set(end);
        let filled = self.filled.get();
        if end > filled {
            let end = (end.div_ceil(CHUNK) * CHUNK).min(ARENA);
            self.filled.set(end);
            let Some(first) = NonNull::new(base().wrapping_add(filled).cast::<c_void>()) else { return };
            // SAFETY: the bytes are the arena's; to fill pages changes nothing in them. A kernel before 5.14 refuses it, and
            // they come one at a time.
            let _ = unsafe { madvise(first, end - filled, MmapAdvise::MADV_POPULATE_WRITE) };
        }
    }

    /// Takes a block back.
    fn give(&self, block: *mut u8, place: usize, size: usize) {
        let (class, len) = class(size);
        count(place, len, false);
        if !self.is_open.get() {
            return;
        }
        if let Some(head) = self.free.get(class) {
            // SAFETY: the block is the caller's no more, and nobody else's: it has room for a link, and is aligned for it.
            unsafe { block.cast::<usize>().write(head.get()) };
            head.set(place + 1);
        }
    }

    /// Makes a block larger or smaller where it is.
    fn resize(&self, place: usize, old: usize, new: usize) -> bool {
        let (old, new) = (class(old).1, class(new).1);
        if old == new {
            return true;
        }
        if !self.is_open.get() || place + old != self.next.get() || new < old || new > ARENA - place || new > LARGEST {
            return false;
        }
        count(place, old, false);
        self.reach(place + new);
        count(place, new, true);
        true
    }
}

// SAFETY: a block comes from the arena or from `System`, and where it lies says to whom it goes back. Blocks of the arena
// overlap no other: fresh ones end where `next` goes on, free ones are in one list only. Only the thread that opened the
// arena takes from it (`is_open` is thread-local); others that free its blocks touch the counts alone, which are atomic.
unsafe impl GlobalAlloc for Heap {
    // Whoever allocates is told where, and not given a copy of this: those make the program a tenth larger.
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match START.with(|start| start.take(layout)) {
            Some((block, _)) => block,
            // SAFETY: the caller's contract is the same.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match START.with(|start| start.take(layout)) {
            Some((block, true)) => block,
            Some((block, false)) => {
                // SAFETY: the block has room for the layout.
                unsafe { ptr::write_bytes(block, 0, layout.size()) };
                block
            }
            // SAFETY: the caller's contract is the same.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match place_of(block) {
            Some(place) => START.with(|start| start.give(block, place, layout.size())),
            // SAFETY: what is not the arena's came from `System`, by the same layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(place) = place_of(block) else {
            // SAFETY: what is not the arena's came from `System`, by the same layout.
            return unsafe { System.realloc(block, layout, new_size) };
        };
        if START.with(|start| start.resize(place, layout.size(), new_size)) {
            return block;
        }
        // SAFETY: the caller promises that the new size is no overflow of this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the caller promises that it has a size.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both have room for the smaller of the sizes, and they are two blocks.
            unsafe { ptr::copy_nonoverlapping(block, new, layout.size().min(new_size)) };
            // SAFETY: the caller's contract is the same, and nobody has the old block any more.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}

/// So much of the stack was once needed, at most.
const DEEPEST: usize = 512 << 10;
/// And so much of it is needed by what gives it up.
const CALLS: usize = 16 << 10;

/// Gives the kernel what the start of a process that [`stays`] has left: pages of the arena without a block in use, and what
/// is free of the stack.
///
/// # Source
/// madvise(2), `MADV_DONTNEED`.
pub fn give_back() {
    stays();
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    if page != Some(PAGE as _) {
        return;
    }
    give_up_stack();
    let mut first = 0;
    while first < IN_USE.len() {
        let is_free = |page: &&AtomicU16| page.load(Ordering::Relaxed) == 0;
        let free = IN_USE.iter().skip(first).take_while(is_free).count();
        let start = base().wrapping_add(first * PAGE).cast::<c_void>();
        if let Some(start) = NonNull::new(start).filter(|_| free > 0) {
            // SAFETY: no block in use touches these pages, and none will: the arena is closed.
            let _ = unsafe { madvise(start, free * PAGE, MmapAdvise::MADV_DONTNEED) };
        }
        first += free + 1;
    }
}

/// Gives up what lies below the frames of the first thread. Nothing else is there: the kernel keeps more distance than that
/// between a stack that grows and whatever comes before it.
#[inline(never)]
fn give_up_stack() {
    if nix::unistd::gettid() != nix::unistd::getpid() {
        return;
    }
    let here = 0_u8;
    let here = std::hint::black_box(&raw const here).cast::<c_void>().cast_mut();
    let end = here.wrapping_byte_sub(CALLS + here.addr() % PAGE);
    let start = end.wrapping_byte_sub(DEEPEST - CALLS);
    let Some(first) = NonNull::new(start) else { return };
    // SAFETY: no frame that is alive reaches below this one but those of the call itself, which fit into what is left out.
    // What is not mapped is passed over.
    let _ = unsafe { madvise(first, DEEPEST - CALLS, MmapAdvise::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_their_sizes_and_waste_a_fifth_at_most() {
        let mut last = (0, 16);
        for size in 1..=LARGEST {
            let (index, len) = class(size);
            assert!(index < CLASSES && len >= size && len % ALIGN == 0, "{size}: {index} {len}");
            assert!((index, len) == last || (index == last.0 + 1 && size == last.1 + 1), "{size}: {index} {len}");
            assert!(len - size < 16.max(size / 4 + 1), "{size}: {len}");
            last = (index, len);
        }
    }

    /// One test has the arena: it is the thread's, and there is one.
    #[test]
    fn blocks_overlap_no_other_and_keep_their_bytes() {
        begins();
        let heap = Heap;
        let mut held: Vec<(*mut u8, Layout, u8)> = Vec::with_capacity(512);
        let mut seed = 1_u32;
        for round in 0..20_000_u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let size = 1 + (seed >> 8) as usize % if seed & 15 == 0 { 200_000 } else { 700 };
            let fill = round as u8;
            let check = |block: *mut u8, layout: Layout, fill: u8| {
                for at in 0..layout.size() {
                    // SAFETY: within the block.
                    assert_eq!(unsafe { block.wrapping_add(at).read() }, fill);
                }
            };
            if held.len() > 300 || (seed & 3 == 0 && !held.is_empty()) {
                let (block, layout, fill) = held.swap_remove(seed as usize % held.len());
                check(block, layout, fill);
                // SAFETY: it was allocated by this layout, and is in the list no more.
                unsafe { heap.dealloc(block, layout) };
            } else if seed & 3 == 1 && !held.is_empty() {
                let at = seed as usize % held.len();
                let (block, layout, fill) = held.swap_remove(at);
                check(block, layout, fill);
                let new = Layout::from_size_align(size, layout.align()).unwrap();
                // SAFETY: allocated by this layout.
                let block = unsafe { heap.realloc(block, layout, size) };
                check(block, Layout::from_size_align(size.min(layout.size()), 1).unwrap(), fill);
                // SAFETY: as large as this.
                unsafe { ptr::write_bytes(block, fill, size) };
                held.push((block, new, fill));
            } else {
                let layout = Layout::from_size_align(size, 1 << (seed >> 4 & 5)).unwrap();
                let zeroed = seed & 2 == 0;
                let block = if zeroed {
                    // SAFETY: the layout has a size.
                    unsafe { heap.alloc_zeroed(layout) }
                } else {
                    // SAFETY: the layout has a size.
                    unsafe { heap.alloc(layout) }
                };
                assert_eq!(block.addr() % layout.align(), 0);
                if zeroed {
                    check(block, layout, 0);
                }
                // SAFETY: as large as this.
                unsafe { ptr::write_bytes(block, fill, size) };
                held.push((block, layout, fill));
            }
        }
        assert!(held.iter().any(|(block, ..)| place_of(*block).is_some()));
        // What is in use stays when the rest is given back, and may be freed afterwards, by others too.
        stays();
        give_back();
        for (block, layout, fill) in held {
            // SAFETY: within the block.
            assert!((0..layout.size()).all(|at| unsafe { block.wrapping_add(at).read() } == fill));
            let block = block.expose_provenance();
            // SAFETY: it was allocated by this layout.
            std::thread::spawn(move || unsafe { Heap.dealloc(ptr::with_exposed_provenance_mut(block), layout) })
                .join()
                .unwrap();
        }
        assert!(IN_USE.iter().all(|page| page.load(Ordering::Relaxed) == 0));
    }
}
