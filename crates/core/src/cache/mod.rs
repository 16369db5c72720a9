//! Values kept for their next use.
//!
//! A [`Cache`] is asked before anything is read and told after something was used. It knows units by number, never where they
//! come from or how they decode; the dataset brings the two together. One implementation per file; [`None`] is the one that
//! keeps nothing. What a full cache gives up is [`eviction`]'s choice; that one unit is not loaded twice at the same time is
//! [`Flights`]' work, and that no more waits to be kept than may, the [`WaitingRoom`]'s.

pub mod disk;
pub mod eviction;
mod flights;
mod memory;
mod none;
mod sync;
mod table;
mod waiting;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::source::Edition;
use crate::value::{Packed, Value};

pub use flights::{Flight, Flights, Leader};
pub use memory::Memory;
pub use none::None;
pub use table::{Charge, Entry, Found, Table};
pub use waiting::{Waiting, WaitingRoom};

/// One value of the dataset: field `field` of sample `sample`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnitId {
    /// Index of the sample in the manifest.
    pub sample: usize,
    /// Number of the field.
    pub field: usize,
}

/// How a full cache chooses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// `keep` once a loader walks epochs, `lru` before.
    #[default]
    Auto,
    /// The least recently used entry goes.
    Lru,
    /// Nothing goes: newcomers are declined.
    Keep,
}

/// An entry in use: as long as it is held its memory counts against the cache, even when the entry has been given up.
pub type Lease = Arc<Entry<Item>>;

/// What a cache keeps of a unit: a value, of which edition of its object it is, and when that was last known to be the right one.
#[derive(Debug)]
pub struct Item {
    packed: Packed,
    edition: Edition,
    /// Nanoseconds of the cache's clock; before its beginning, where the value is older than the process.
    since: AtomicI64,
}

impl Item {
    /// A value that was last known to be right so long ago.
    pub fn new(packed: Packed, edition: Edition, now: Duration, age: Duration) -> Self {
        Self { packed, edition, since: AtomicI64::new(nanoseconds(now) - nanoseconds(age)) }
    }

    /// The value. Its tensors are views of memory that others may share: copy before handing them to a user.
    pub fn value(&self) -> &Value {
        self.packed.value()
    }

    /// Which edition of its object it is, as far as the source can tell.
    pub fn edition(&self) -> &Edition {
        &self.edition
    }

    /// How long ago it was last known to be right.
    pub fn age(&self, now: Duration) -> Duration {
        Duration::from_nanos((nanoseconds(now) - self.since.load(Ordering::Relaxed)).max(0).cast_unsigned())
    }

    /// It is right at a time.
    pub fn renew(&self, now: Duration) {
        self.since.fetch_max(nanoseconds(now), Ordering::Relaxed);
    }
}

/// A century at most.
fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

/// What happened in a cache so far, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Entries now.
    pub entries: u64,
    /// Bytes of entries, of room reserved for entries on their way, and of entries that are still leased.
    pub bytes: u64,
    /// What `bytes` never exceeds.
    pub capacity: u64,
    /// Units that were there when asked for.
    pub hits: u64,
    /// Units that were not.
    pub misses: u64,
    /// Entries that were put in.
    pub insertions: u64,
    /// Entries given up for others.
    pub evictions: u64,
    /// Values that were not let in.
    pub declined: u64,
}

/// Keeps values for their next use.
pub trait Cache: Debug + Send + Sync {
    /// Bytes that it may hold at present.
    fn capacity(&self) -> usize;

    /// Whether it may ever hold anything at its present capacity.
    fn is_open(&self) -> bool {
        self.capacity() > 0
    }

    /// Looks for several units at once; appends one answer each to `found`.
    fn get_many(&self, units: &[UnitId], found: &mut Vec<Option<Lease>>);

    /// Whether it has a unit. Counts as no use.
    fn contains(&self, unit: UnitId) -> bool;

    /// Whether a value of so many bytes would be let in now. Nothing is promised.
    fn may_admit(&self, bytes: usize) -> bool;

    /// Asks to put in a value that will take so many bytes; room is made and kept for it. `None` declines.
    fn admit(&self, unit: UnitId, bytes: usize) -> Option<Room<'_>>;

    /// Removes a unit's entry; whether there was one.
    fn remove(&self, unit: UnitId) -> bool;

    /// Removes every entry.
    fn clear(&self);

    /// Sets the capacity, giving up entries that do not fit any more.
    fn resize(&self, capacity: usize);

    /// Tells that a loader walks epochs from now on: every unit is used once per pass.
    fn order_is_known(&self);

    /// What happened so far.
    fn stats(&self) -> CacheStats;

    /// Sets the counters to zero; entries stay.
    fn reset_counters(&self);
}

/// Room in a cache for one value on its way; given back when dropped unused.
#[derive(Debug)]
pub struct Room<'a> {
    tier: &'a Memory,
    charge: Charge,
    unit: UnitId,
}

impl Room<'_> {
    /// Puts the value in. When it turns out larger than the room kept for it, and there is no more, it is declined.
    pub fn fill(self, item: Item) {
        self.tier.fill(self.unit, self.charge, item);
    }
}

#[cfg(test)]
mod tests;
