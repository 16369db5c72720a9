//! Reading ahead of whoever takes one sample after the other by index.
//!
//! Two steps in a row to the next index are taken for an order; of any other order only a sampler knows what comes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Dataset, Inner};
use crate::cache::Cache;
use crate::engine::Interrupt;

/// So many indices in a row are an order.
const IN_A_ROW: usize = 2;

/// What was read last, by one or several threads: who is wrong about it fetches a little too much or too little.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The index that comes next in their order, and how many have come in that order.
    next: AtomicUsize,
    in_a_row: AtomicUsize,
    /// Up to where samples were asked for.
    until: AtomicUsize,
}

impl Ahead {
    /// What to fetch, so many samples ahead, now that one of `count` is read.
    fn after(&self, index: usize, samples: usize, count: usize) -> Range<usize> {
        if self.next.swap(index + 1, Ordering::Relaxed) != index {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
            return 0..0;
        }
        if self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 < IN_A_ROW {
            return 0..0;
        }
        let until = (index + 1).saturating_add(samples).min(count);
        self.until.fetch_max(until, Ordering::Relaxed).max(index + 1)..until
    }
}

impl Dataset {
    /// From now on, has so many samples fetched ahead of whoever reads one after the other by index.
    pub fn read_ahead(&self, samples: usize) {
        self.inner.ahead.store(samples, Ordering::Relaxed);
    }
}

impl Inner {
    /// Has fetched what comes after a sample that is read by its index, if that is what comes next. What cannot be fetched is raised
    /// when it is read.
    pub(super) fn read_ahead(self: &Arc<Self>, index: usize, interrupt: Interrupt<'_>) {
        let samples = self.ahead.load(Ordering::Relaxed);
        let Some(kept) = self.kept().ok().filter(|_| samples > 0) else { return };
        let is_cached = |cache: &dyn Cache, index| self.units_of([index]).into_iter().all(|unit| cache.contains(unit));
        let coming = kept.ahead.after(index, samples, self.manifest.len());
        let missing: Vec<_> = coming.filter(|&index| !is_cached(kept.cache.as_ref(), index)).collect();
        if !missing.is_empty() {
            let _ = self.prefetch(&missing, false, interrupt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    #[test]
    fn two_steps_in_a_row_are_an_order_and_each_sample_is_asked_for_once() {
        let ahead = Ahead::default();
        let after = |index| ahead.after(index, 3, 8).collect::<Vec<_>>();
        assert_eq!(after(0), NONE);
        assert_eq!(after(1), [2, 3, 4]);
        assert_eq!(after(2), [5]);
        assert_eq!(after(3), [6]);
        assert_eq!(after(6), NONE, "a jump");
        assert_eq!(after(7), NONE, "the first step after it");
        assert_eq!(after(0), NONE);
        assert_eq!(after(2), NONE);
        assert_eq!(after(3), NONE);
        assert_eq!(after(4), [5, 6, 7]);
        assert_eq!(after(5), NONE, "up to the end");
    }

    #[test]
    fn random_indices_are_no_order() {
        let ahead = Ahead::default();
        for index in [5, 1, 2, 7, 3, 4, 0] {
            assert!(ahead.after(index, 3, 8).is_empty(), "{index}");
        }
    }
}
