//! Memory that is used again.
//!
//! Fresh memory costs a page fault per 4 KiB, which is several times what copying into it costs. A [`BufferPool`] hands
//! out page-aligned [`Buffer`]s and takes them back when dropped, wherever that happens — also inside a tensor that torch
//! frees much later. The pool recycles and never limits: when it has nothing that fits it allocates; when it holds more
//! than it may keep, it frees. Buffers are always initialised memory, with whatever the last user left in it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::world::ProcessStamp;

const PAGE: usize = 4096;
/// A huge page. Regions of one and more are aligned to it and ask the kernel for them: copying into a region then costs a
/// fraction of the address translations.
const HUGE: usize = 2 << 20;

/// A pool of reusable, page-aligned memory. Clones share it.
#[derive(Debug, Clone)]
pub struct BufferPool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    idle: Mutex<Idle>,
    keep_bytes: usize,
    owner: ProcessStamp,
}

#[derive(Debug, Default)]
struct Idle {
    by_capacity: BTreeMap<usize, Vec<Region>>,
    bytes: usize,
    allocated: u64,
}

impl BufferPool {
    /// Creates a pool that keeps up to `keep_bytes` of idle memory.
    pub fn new(keep_bytes: usize) -> Self {
        Self(Arc::new(Shared { idle: Mutex::default(), keep_bytes, owner: ProcessStamp::current() }))
    }

    /// Takes a buffer of exactly `len` bytes, recycled where possible.
    pub fn take(&self, len: usize) -> Buffer {
        let capacity = capacity_for(len);
        let recycled = self.0.owner.is_current().then(|| {
            let mut idle = self.0.idle.lock();
            // One quarter too large is still a good fit; more would waste the memory of the large ones.
            let fit = idle.by_capacity.range(capacity..=capacity + capacity / 4).next().map(|(&fit, _)| fit);
            let region = fit.and_then(|fit| {
                let regions = idle.by_capacity.get_mut(&fit)?;
                let region = regions.pop();
                if regions.is_empty() {
                    idle.by_capacity.remove(&fit);
                }
                region
            });
            match &region {
                Some(region) => idle.bytes -= region.layout.size(),
                None => idle.allocated += 1,
            }
            region
        });
        let region = recycled.flatten().unwrap_or_else(|| Region::allocate(capacity));
        Buffer { region: Some(region), len, pool: self.0.clone() }
    }

    /// Bytes of idle memory the pool holds.
    pub fn idle_bytes(&self) -> usize {
        self.0.idle.lock().bytes
    }

    /// How many times the pool had to allocate.
    pub fn allocations(&self) -> u64 {
        self.0.idle.lock().allocated
    }
}

/// Exclusive memory on loan from a [`BufferPool`].
#[derive(Debug)]
pub struct Buffer {
    region: Option<Region>,
    len: usize,
    pool: Arc<Shared>,
}

impl Buffer {
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
        let mut idle = self.pool.idle.lock();
        if idle.bytes + region.layout.size() <= self.pool.keep_bytes {
            idle.bytes += region.layout.size();
            idle.by_capacity.entry(region.layout.size()).or_default().push(region);
        }
    }
}

/// An owned, page-aligned, initialised allocation.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

#[allow(unsafe_code)]
mod region {
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
            // SAFETY: `capacity_for` never returns zero.
            let start = unsafe { alloc_zeroed(layout) };
            let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
            if capacity >= HUGE {
                // SAFETY: the range is this region's own; the advice changes no content, and failure changes nothing.
                let _ =
                    unsafe { rustix::mm::madvise(start.as_ptr().cast(), capacity, rustix::mm::Advice::LinuxHugepage) };
            }
            Self { start, layout }
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

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: allocated in `allocate` with this very layout, and dropped once.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

/// Rounds up to one of eight steps per power of two, so that objects of nearly one size share their buffers.
fn capacity_for(len: usize) -> usize {
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
    fn does_not_serve_a_small_request_from_a_large_buffer() {
        let pool = BufferPool::new(1 << 30);
        drop(pool.take(8 << 20));
        drop(pool.take(4096));
        assert_eq!(pool.allocations(), 2);
    }
}
