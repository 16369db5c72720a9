//! Counts the memory a thread holds, so that a suite can tell what a call took at its height.
//!
//! A test binary installs it once: `#[global_allocator] static ALLOCATOR: Counting = Counting;`.

#![allow(unsafe_code)] // an allocator is

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting by thread.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    /// What this thread allocated less what it freed, and the most that was. Memory freed by another thread stays counted.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The most that `work` held at a time beyond what the thread held before, in bytes.
pub fn height_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let made = work();
    (HELD.get().1.abs_diff(before), made)
}

/// Whether the binary installed [`Counting`].
pub fn is_counted() -> bool {
    height_of(|| drop(std::hint::black_box(vec![1_u8; 1000]))).0 >= 1000
}

fn count(bytes: isize) {
    // A thread that is ending has no count any more.
    let _ = HELD.try_with(|held| {
        let (now, height) = held.get();
        held.set((now + bytes, height.max(now + bytes)));
    });
}

// SAFETY: every call is handed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(memory, layout) }
    }
}
