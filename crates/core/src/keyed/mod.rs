//! Values under keys of anybody's choice, kept in memory: a cache that belongs to no dataset.
//!
//! The table, the policies, the packed form and the memory are the dataset cache's. What differs is who brings the values: the user
//! does, with [`Keyed::put`], and [`Keyed::get`] answers from memory or not at all. A value is copied once on its way in and once on its
//! way out, so that nobody sees memory of the cache; copies come from the engine's buffers.
//!
//! Compressing does not delay whoever brings a value. It is there as soon as it is copied, and is packed behind, by a worker. A part of the
//! capacity is for that, so that nothing gives way for memory that is needed for a moment only; when it is used up whoever brings a
//! value packs it himself, so that bringing is never faster than packing for long. A value too large for that part has others give way.
//!
//! A forked child has a cache of its own, empty: the parent's locks may be held for ever there.

mod tier;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Entry, Policy};
use crate::clock::Clock;
use crate::config::{ByteSize, CacheConfig, Compression, MemoryShare};
use crate::engine::{Engine, Interrupt, PerProcess};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record;
use crate::value::{Packed, Value};

use tier::{Kept, Tier};

/// What shrinks by less stays as it is: a copy is faster than unpacking.
const WORTH_UNPACKING: f64 = 1.25;

/// A cache of values by key, for any number of threads.
#[derive(Debug)]
pub struct Keyed {
    config: CacheConfig,
    clock: Clock,
    tier: PerProcess<Arc<Tier>>,
}

/// How a value is put in.
#[derive(Debug, Clone, Copy)]
pub struct PutOptions {
    /// Whether it may be kept compressed, as the cache's configuration says.
    pub compress: bool,
    /// Whether it was fetched ahead of its use: its first use then counts as a prefetch hit.
    pub is_prefetched: bool,
}

/// What a cache holds, and what happened in it since its counters were reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyedStats {
    /// Values now.
    pub entries: u64,
    /// Bytes of memory they take, as they are kept, and of what is on its way in.
    pub bytes: u64,
    /// What `bytes` never exceeds.
    pub capacity: u64,
    /// Values that were there when asked for.
    pub hits: u64,
    /// Those that were not.
    pub misses: u64,
    /// Values given up for others.
    pub evictions: u64,
    /// Values that were not let in.
    pub declined: u64,
    /// Values that were there for too long.
    pub expired: u64,
    /// Hits on what was fetched ahead.
    pub prefetch_hits: u64,
    /// Bytes by which packing made values smaller.
    pub saved_bytes: u64,
}

/// A value that was found. Its memory counts against the cache for as long as this is held.
#[derive(Debug)]
pub struct Lease(Arc<Entry<Kept>>);

impl Lease {
    /// Bytes of its tensors once unpacked.
    pub fn tensor_bytes(&self) -> usize {
        self.0.value().packed.value().tensor_bytes()
    }

    /// The value in memory of the caller's own.
    ///
    /// # Errors
    /// `Corrupt` when its memory was damaged.
    pub fn to_own(&self) -> Result<Value> {
        Packed::new(self.0.value().packed.value(), Engine::current()?.buffers()).map(Packed::into_value)
    }
}

impl Keyed {
    /// An empty cache. Of its memory no more is granted than this process may use, with a warning.
    ///
    /// # Errors
    /// `Invalid` when a disk is asked for.
    pub fn new(config: CacheConfig, clock: Clock) -> Result<Self> {
        if config.disk.is_some() || config.disk_capacity.is_some() {
            let error = Error::new(ErrorKind::Invalid, "use", "disk");
            return Err(error.because("values that belong to no dataset are kept in memory alone"));
        }
        let keyed = Self { config, clock, tier: PerProcess::new() };
        keyed.tier()?;
        Ok(keyed)
    }

    /// Looks for a value; `None` when there is none, or it is too old. `was_prefetched` has a hit counted as one on what was fetched
    /// ahead, as it is by itself for the first use of what was put in so.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn get(&self, key: &str, was_prefetched: bool) -> Result<Option<Lease>> {
        Ok(self.tier()?.get(key, was_prefetched).map(Lease))
    }

    /// A value for whoever looked for it before and waited until it was put in: counted as what it was then, and its next use as one of
    /// what is there for another reason than having been fetched ahead.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn get_awaited(&self, key: &str) -> Result<Option<Lease>> {
        Ok(self.tier()?.get_awaited(key).map(Lease))
    }

    /// Whether there is a value that is not too old. Counts as no use.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn contains(&self, key: &str) -> Result<bool> {
        Ok(self.tier()?.peek(key).is_some())
    }

    /// Puts a copy of a value in, in the place of what was there. Returns whether it was let in; if not, nothing is there any more.
    ///
    /// # Errors
    /// `Corrupt` when the value is packed itself and damaged, or what `interrupt` returned.
    pub fn put(&self, key: &str, value: &Value, options: PutOptions, interrupt: Interrupt<'_>) -> Result<bool> {
        self.tier()?.put(key, value, options, interrupt)
    }

    /// Removes a value; whether there was one.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn remove(&self, key: &str) -> Result<bool> {
        Ok(self.tier()?.remove(key))
    }

    /// Removes all values.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn clear(&self) -> Result<()> {
        self.tier()?.clear();
        Ok(())
    }

    /// Waits a moment for what is being packed, so that figures are those of what is kept.
    ///
    /// # Errors
    /// What `interrupt` returned.
    pub fn settle(&self, interrupt: Interrupt<'_>) -> Result<()> {
        self.tier()?.settle(interrupt)
    }

    /// What it holds and what happened. What is too old is not held any more.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn stats(&self) -> Result<KeyedStats> {
        Ok(self.tier()?.stats())
    }

    /// What happened, without a look at what it holds.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn counters(&self) -> Result<KeyedStats> {
        Ok(self.tier()?.counters())
    }

    /// Sets the counters to zero; values stay.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn reset_counters(&self) -> Result<()> {
        self.tier()?.reset_counters();
        Ok(())
    }

    /// Bytes that it may hold in this process.
    ///
    /// # Errors
    /// Those of starting the engine.
    pub fn capacity(&self) -> Result<u64> {
        Ok(self.tier()?.capacity() as u64)
    }

    fn tier(&self) -> Result<&Arc<Tier>> {
        self.tier.get_or_try_init(|| Ok(Arc::new(Tier::new(self.capacity_here(), self))))
    }

    fn capacity_here(&self) -> usize {
        let share = MemoryShare::current();
        let asked = self.config.memory.unwrap_or_else(|| ByteSize(CacheConfig::default_memory(share.limit)));
        share.granted("cache size", asked, share.bytes()) as usize
    }

    fn ttl(&self) -> Option<Duration> {
        self.config.ttl.map(|ttl| ttl.0)
    }

    fn policy(&self) -> Policy {
        self.config.policy
    }

    fn compression(&self) -> record::Compression {
        match self.config.compression {
            Compression::Auto => record::Compression::AtLeast(WORTH_UNPACKING),
            Compression::None => record::Compression::None,
        }
    }
}

/// Memory that a value takes at most, however it is kept.
pub fn memory_for(value: &Value) -> usize {
    tier::plain_bytes(value).max(record::memory_for(value))
}
