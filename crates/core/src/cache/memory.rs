//! The memory tier.

use super::eviction::by_policy;
use super::{Cache, CacheStats, Charge, Item, Lease, Policy, Room, Table, UnitId};

/// Packed values in memory, within a capacity in bytes.
#[derive(Debug)]
pub struct Memory {
    table: Table<Item>,
}

impl Memory {
    /// An empty tier.
    pub fn new(capacity: usize, policy: Policy) -> Self {
        Self { table: Table::new(capacity, by_policy(policy)) }
    }

    pub(super) fn fill(&self, unit: UnitId, charge: Charge, item: Item) {
        self.table.fill(unit, charge, item.packed.bytes(), item);
    }
}

impl Cache for Memory {
    fn capacity(&self) -> usize {
        self.table.capacity()
    }

    fn get_many(&self, units: &[UnitId], found: &mut Vec<Option<Lease>>) {
        self.table.get_many(units, found);
    }

    fn contains(&self, unit: UnitId) -> bool {
        self.table.contains(&unit)
    }

    fn may_admit(&self, bytes: usize) -> bool {
        self.table.may_admit(bytes)
    }

    fn admit(&self, unit: UnitId, bytes: usize) -> Option<Room<'_>> {
        self.table.admit(&unit, bytes).map(|charge| Room { tier: self, charge, unit })
    }

    fn remove(&self, unit: UnitId) -> bool {
        self.table.remove(&unit)
    }

    fn clear(&self) {
        self.table.clear();
    }

    fn resize(&self, capacity: usize) {
        self.table.resize(capacity);
    }

    fn order_is_known(&self) {
        self.table.order_is_known();
    }

    fn stats(&self) -> CacheStats {
        self.table.stats()
    }

    fn reset_counters(&self) {
        self.table.reset_counters();
    }
}
