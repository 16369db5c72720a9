//! No cache.

use super::{Cache, CacheStats, Lease, Room, UnitId};

/// Keeps nothing; every use reads its source.
#[derive(Debug)]
pub struct None;

impl Cache for None {
    fn capacity(&self) -> usize {
        0
    }

    fn get_many(&self, units: &[UnitId], found: &mut Vec<Option<Lease>>) {
        found.extend(units.iter().map(|_| Option::None));
    }

    fn contains(&self, _: UnitId) -> bool {
        false
    }

    fn may_admit(&self, _: usize) -> bool {
        false
    }

    fn admit(&self, _: UnitId, _: usize) -> Option<Room<'_>> {
        Option::None
    }

    fn remove(&self, _: UnitId) -> bool {
        false
    }

    fn clear(&self) {}

    fn resize(&self, _: usize) {}

    fn order_is_known(&self) {}

    fn stats(&self) -> CacheStats {
        CacheStats::default()
    }

    fn reset_counters(&self) {}
}
