//! A value made once per process, that a forked child makes anew.

#![allow(unsafe_code)]

use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::error::Result;
use crate::world::ProcessStamp;

/// A slot for a value that is tied to the process that made it: threads, sockets, locks.
///
/// There is no lock, since a lock might have been held by another thread at the moment of a fork; for the same reason nothing that
/// a child finds may be a `OnceLock` of the standard library, whose first user others wait for. In a child the parent's
/// value is neither used nor dropped: its destructor would wait for threads that do not exist.
pub struct PerProcess<T> {
    slot: AtomicPtr<Made<T>>,
}

struct Made<T> {
    stamp: ProcessStamp,
    value: T,
}

impl<T> PerProcess<T> {
    /// Creates an empty slot.
    pub const fn new() -> Self {
        Self { slot: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value of this process. Threads that arrive together may each run `init`; one result is kept.
    ///
    /// # Errors
    /// Those of `init`; the slot stays as it was.
    pub fn get_or_try_init(&self, init: impl FnOnce() -> Result<T>) -> Result<&T> {
        let seen = self.slot.load(Ordering::Acquire);
        if let Some(value) = Self::current(seen) {
            return Ok(value);
        }
        let made = Box::into_raw(Box::new(Made { stamp: ProcessStamp::current(), value: init()? }));
        match self.slot.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: `made` came from `Box::into_raw` and now lives until the slot is dropped or the process forks.
            Ok(_) => Ok(unsafe { &(*made).value }),
            Err(theirs) => {
                // SAFETY: `made` was never shared.
                drop(unsafe { Box::from_raw(made) });
                // SAFETY: only this process writes the slot after the fork, so the winner's value is current and non-null.
                Ok(unsafe { &(*theirs).value })
            }
        }
    }

    /// Puts a value that was made beforehand.
    pub fn with(value: T) -> Self {
        let made = Box::new(Made { stamp: ProcessStamp::current(), value });
        Self { slot: AtomicPtr::new(Box::into_raw(made)) }
    }

    fn current<'a>(made: *mut Made<T>) -> Option<&'a T> {
        // SAFETY: a non-null pointer in the slot is only freed when the slot is dropped.
        unsafe { made.as_ref() }.filter(|made| made.stamp.is_current()).map(|made| &made.value)
    }
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let made = *self.slot.get_mut();
        if Self::current(made).is_some() {
            // SAFETY: non-null, from `Box::into_raw`, and nobody can hold a reference while the slot is dropped.
            drop(unsafe { Box::from_raw(made) });
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = !self.slot.load(Ordering::Relaxed).is_null();
        f.debug_struct("PerProcess").field("made", &made).finish_non_exhaustive()
    }
}

// SAFETY: a shared slot hands out `&T` on any thread, and any thread may drop what another made.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}
// SAFETY: the slot owns its value.
unsafe impl<T: Send> Send for PerProcess<T> {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn makes_the_value_once_and_drops_it_with_the_slot() {
        let value = Arc::new(());
        let slot = PerProcess::new();
        let failed = slot.get_or_try_init(|| Err(Error::new(ErrorKind::Io, "make", "it")));
        assert!(failed.is_err());
        slot.get_or_try_init(|| Ok(value.clone())).expect("made");
        slot.get_or_try_init(|| unreachable!()).expect("already there");
        assert_eq!(Arc::strong_count(&value), 2);
        drop(slot);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn threads_that_race_agree() {
        let slot = PerProcess::new();
        let seen: Vec<usize> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..8)
                .map(|n| {
                    scope.spawn({
                        let slot = &slot;
                        move || *slot.get_or_try_init(|| Ok(n)).expect("value")
                    })
                })
                .collect();
            handles.into_iter().map(|handle| handle.join().expect("joins")).collect()
        });
        assert!(seen.iter().all(|&n| n == seen[0]), "{seen:?}");
    }
}
