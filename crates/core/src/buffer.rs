//! Memory that is used again.
//!
//! Fresh memory costs a page fault per 4 KiB, which is several times what copying into it costs. A [`BufferPool`] hands
//! out page-aligned [`Buffer`]s and takes them back when dropped, wherever that happens — also inside a tensor that torch
//! frees much later. The pool recycles and never limits: when it has nothing that fits it allocates. But what it has lent and
//! what it keeps idle stay within its limit together, as far as that is in its hands: it gives idle memory back to the system before
//! it grows beyond, and keeps none then. Buffers are always initialised memory, with whatever the last user left in it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::sync::Mutex;
use bytes::Bytes;

use crate::world::ProcessStamp;

const PAGE: usize = 4096;
/// A huge page. Regions of one and more are mappings of their own, aligned to it, that ask the kernel for them: copying into one
/// then costs a fraction of the page faults and address translations.
const HUGE: usize = 2 << 20;

/// A pool of reusable, page-aligned memory. Clones share it.
#[derive(Debug, Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
    usage: Usage,
}

/// What memory is taken for. What is kept for long is taken from what was kept before, or fresh: it would else take the memory that
/// whoever reads has just given back and is about to ask for again, and make them wait for fresh one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Usage {
    Passing,
    Keeping,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The limit while nobody holds a [`PoolShare`].
    base_bytes: usize,
    owner: ProcessStamp,
}

#[derive(Debug, Default)]
struct State {
    idle: BTreeMap<(Usage, usize), Vec<Region>>,
    idle_bytes: usize,
    lent_bytes: usize,
    share_bytes: usize,
    allocations: u64,
}

impl State {
    /// Takes the smallest idle region that fits, if it is a good fit.
    fn recycle(&mut self, usage: Usage, capacity: usize) -> Option<Region> {
        // One quarter too large is still a good fit; more would waste the memory of the large ones. What is kept fits exactly.
        let most = capacity + if usage == Usage::Keeping { 0 } else { capacity / 4 };
        let fitting = |usage| self.idle.range((usage, capacity)..=(usage, most)).next().map(|(&fit, _)| fit);
        let fit = fitting(usage).or_else(|| fitting(Usage::Keeping))?;
        self.pop(fit)
    }

    /// Takes idle regions, the largest of those that were kept first, until no more than `allowed` bytes are idle.
    fn shed(&mut self, allowed: usize) -> Vec<Region> {
        let mut shed = Vec::new();
        while self.idle_bytes > allowed
            && let Some(largest) = self.idle.keys().next_back().copied()
        {
            shed.extend(self.pop(largest));
        }
        shed
    }

    fn pop(&mut self, place: (Usage, usize)) -> Option<Region> {
        let regions = self.idle.get_mut(&place)?;
        let region = regions.pop();
        if regions.is_empty() {
            self.idle.remove(&place);
        }
        self.idle_bytes -= region.as_ref().map_or(0, |region| region.layout.size());
        region
    }
}

impl Shared {
    fn limit(&self, state: &State) -> usize {
        if state.share_bytes > 0 {
            return state.share_bytes;
        }
        // What is lent beyond the limit is wanted again in a moment: a little of it is kept.
        self.base_bytes.max(state.lent_bytes + if self.base_bytes > 0 { state.lent_bytes / 8 } else { 0 })
    }
}

/// A right to so many bytes of a pool: while any is held, the pool's limit is the sum of them.
#[derive(Debug)]
pub struct PoolShare {
    pool: Arc<Shared>,
    bytes: usize,
}

impl Drop for PoolShare {
    fn drop(&mut self) {
        if !self.pool.owner.is_current() {
            return;
        }
        let mut state = self.pool.state.lock();
        state.share_bytes -= self.bytes;
        let allowed = self.pool.limit(&state).saturating_sub(state.lent_bytes);
        let shed = state.shed(allowed);
        drop(state);
        // Freeing large regions takes a while: not under the lock.
        drop(shed);
    }
}

impl BufferPool {
    /// Creates a pool whose limit is `base_bytes`, as long as nobody takes a share of it.
    pub fn new(base_bytes: usize) -> Self {
        let shared = Shared { state: Mutex::default(), base_bytes, owner: ProcessStamp::current() };
        Self { shared: Arc::new(shared), usage: Usage::Passing }
    }

    /// The same pool, for memory that is kept for long, as by a cache: taken fresh where no kept memory of that size was given back,
    /// so that readers find what they gave back.
    #[must_use]
    pub fn for_keeping(&self) -> Self {
        Self { shared: self.shared.clone(), usage: Usage::Keeping }
    }

    /// Takes a buffer of exactly `len` bytes, recycled where possible.
    pub fn take(&self, len: usize) -> Buffer {
        let capacity = capacity_for(len);
        let mut recycled = None;
        if self.shared.owner.is_current() {
            let mut state = self.shared.state.lock();
            recycled = state.recycle(self.usage, capacity);
            let mut shed = Vec::new();
            if recycled.is_none() {
                state.allocations += 1;
                let allowed = self.shared.limit(&state).saturating_sub(state.lent_bytes + capacity);
                shed = state.shed(allowed);
            }
            state.lent_bytes += recycled.as_ref().map_or(capacity, |region| region.layout.size());
            drop(state);
            drop(shed);
        }
        let region = recycled.unwrap_or_else(|| Region::allocate(capacity));
        Buffer { region: Some(region), len, usage: self.usage, pool: self.shared.clone() }
    }

    /// Raises the pool's limit by so many bytes while the share is held.
    pub fn share(&self, bytes: usize) -> PoolShare {
        self.shared.state.lock().share_bytes += bytes;
        PoolShare { pool: self.shared.clone(), bytes }
    }

    /// Bytes of idle memory the pool holds.
    pub fn idle_bytes(&self) -> usize {
        self.shared.state.lock().idle_bytes
    }

    /// Bytes of memory that buffers hold at present.
    pub fn lent_bytes(&self) -> usize {
        self.shared.state.lock().lent_bytes
    }

    /// How many times the pool had to allocate.
    pub fn allocations(&self) -> u64 {
        self.shared.state.lock().allocations
    }
}

/// Exclusive memory on loan from a [`BufferPool`].
#[derive(Debug)]
pub struct Buffer {
    region: Option<Region>,
    len: usize,
    usage: Usage,
    pool: Arc<Shared>,
}

impl Buffer {
    /// Bytes of memory it holds: its length, rounded up.
    pub fn capacity(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.layout.size())
    }

    /// Shortens the buffer to `len` bytes; longer is ignored.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Turns the buffer into shared bytes; the memory returns to the pool when the last of them is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.region.as_ref().map_or(&[], |region| &region.as_slice()[..self.len])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.region.as_mut().map_or(&mut [], |region| &mut region.as_mut_slice()[..len])
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(region) = self.region.take() else { return };
        // In a forked child the lock may have been held by a thread that does not exist here.
        if !self.pool.owner.is_current() {
            return;
        }
        let size = region.layout.size();
        let mut state = self.pool.state.lock();
        state.lent_bytes -= size;
        if state.lent_bytes + state.idle_bytes + size <= self.pool.limit(&state) {
            state.idle_bytes += size;
            state.idle.entry((self.usage, size)).or_default().push(region);
        } else {
            drop(state);
            drop(region);
        }
    }
}

/// An owned, page-aligned, initialised allocation.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    layout: Layout,
    is_mapped: bool,
}

#[allow(unsafe_code)]
mod region {
    use std::ptr;

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    use super::{HUGE, Layout, NonNull, PAGE, Region, alloc_zeroed, dealloc, handle_alloc_error};

    // SAFETY: a region is plain owned memory; only its owner reaches it.
    unsafe impl Send for Region {}
    // SAFETY: shared access only reads.
    unsafe impl Sync for Region {}

    impl Region {
        pub(super) fn allocate(capacity: usize) -> Self {
            let Ok(layout) = Layout::from_size_align(capacity, if capacity >= HUGE { HUGE } else { PAGE }) else {
                handle_alloc_error(Layout::new::<u8>())
            };
            // A process may have so many mappings and no more.
            if capacity >= HUGE
                && let Some(start) = map_huge(capacity)
            {
                return Self { start, layout, is_mapped: true };
            }
            // SAFETY: `capacity_for` never returns zero.
            let start = NonNull::new(unsafe { alloc_zeroed(layout) });
            let Some(start) = start else { handle_alloc_error(layout) };
            Self { start, layout, is_mapped: false }
        }

        pub(super) fn as_slice(&self) -> &[u8] {
            // SAFETY: `start` is valid and initialised for `layout.size()` bytes while `self` lives.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
        }

        pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
            // SAFETY: as in `as_slice`, and `&mut self` makes it exclusive.
            unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
        }
    }

    /// Zeroes from the kernel, aligned to huge pages: an allocator would write the zeroes itself.
    fn map_huge(capacity: usize) -> Option<NonNull<u8>> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), capacity + HUGE, protection, flags) }.ok()?;
        let mapped = mapped.cast::<u8>();
        let before = mapped.align_offset(HUGE);
        // SAFETY: what is given back, the region's own pages and those after it make up the mapping, and nobody knows it yet. The
        // advice changes no content, and failures change nothing.
        unsafe {
            let start = mapped.add(before);
            if before > 0 {
                let _ = munmap(mapped.cast(), before);
            }
            if before < HUGE {
                let _ = munmap(start.add(capacity).cast(), HUGE - before);
            }
            let _ = madvise(start.cast(), capacity, Advice::LinuxHugepage);
            NonNull::new(start)
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            if self.is_mapped {
                // SAFETY: mapped in `allocate` with this very size, and given back once.
                let _ = unsafe { munmap(self.start.as_ptr().cast(), self.layout.size()) };
            } else {
                // SAFETY: allocated in `allocate` with this very layout, and dropped once.
                unsafe { dealloc(self.start.as_ptr(), self.layout) }
            }
        }
    }
}

/// Rounds up to one of eight steps per power of two, so that objects of nearly one size share their buffers.
pub(crate) fn capacity_for(len: usize) -> usize {
    let len = len.max(PAGE);
    let step = (len.next_power_of_two() / 16).max(PAGE);
    len.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_the_same_memory_out_again() {
        let pool = BufferPool::new(1 << 20);
        let first = pool.take(10_000).freeze();
        let address = first.as_ptr();
        assert!(address.addr().is_multiple_of(PAGE));
        let view = first.slice(5..7);
        drop(first);
        assert_eq!(pool.idle_bytes(), 0, "a view keeps the buffer out of the pool");
        drop(view);
        let second = pool.take(9_000);
        assert_eq!(second.as_ptr(), address);
        assert_eq!((second.len(), pool.allocations()), (9_000, 1));
    }

    #[test]
    fn keeps_no_more_than_it_may() {
        let pool = BufferPool::new(64 << 10);
        let buffers: Vec<_> = (0..32).map(|_| pool.take(8 << 10)).collect();
        drop(buffers);
        assert_eq!(pool.idle_bytes(), 64 << 10);
    }

    #[test]
    fn lent_and_idle_memory_stay_within_the_shares_together() {
        let pool = BufferPool::new(1 << 30);
        let share = pool.share(64 << 10);
        drop((pool.take(32 << 10), pool.take(32 << 10)));
        assert_eq!(pool.idle_bytes(), 64 << 10);
        let other = pool.take(16 << 10);
        assert_eq!((pool.lent_bytes(), pool.idle_bytes()), (16 << 10, 32 << 10), "idle memory gave way");
        drop(pool.take(32 << 10));
        let more = pool.share(8 << 10);
        drop(share);
        assert_eq!((pool.lent_bytes(), pool.idle_bytes()), (16 << 10, 0), "the limit fell below what is lent");
        drop(other);
        assert_eq!(pool.idle_bytes(), 0);
        drop(more);
        drop(pool.take(16 << 10));
        assert_eq!(pool.idle_bytes(), 16 << 10, "without shares the base holds again");
    }

    #[test]
    fn what_is_kept_leaves_readers_what_they_gave_back() {
        let pool = BufferPool::new(1 << 30);
        let keeping = pool.for_keeping();
        drop(pool.take(1 << 20));
        let kept = keeping.take(1 << 20);
        assert_eq!(pool.allocations(), 2);
        drop(pool.take(1 << 20));
        assert_eq!(pool.allocations(), 2, "it is still there");
        drop(kept);
        drop(keeping.take(1 << 20));
        drop((pool.take(1 << 20), pool.take(1 << 20)));
        assert_eq!((pool.allocations(), pool.idle_bytes()), (2, 2 << 20), "what was kept serves both");
        drop(keeping.take((1 << 20) - (200 << 10)));
        assert_eq!(pool.allocations(), 3, "what is kept takes no more than it needs");
    }

    #[test]
    fn does_not_serve_a_small_request_from_a_large_buffer() {
        let pool = BufferPool::new(1 << 30);
        drop(pool.take(8 << 20));
        drop(pool.take(4096));
        assert_eq!(pool.allocations(), 2);
    }
}
