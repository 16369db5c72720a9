//! What a dataset keeps in a process: the cache, and the loads under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::Inner;
use crate::buffer::{BufferPool, capacity_for};
use crate::cache::{self, Cache, Flights, UnitId};
use crate::config::{CacheConfig, Compression};
use crate::error::Result;
use crate::format::record;
use crate::metrics::{Metric, Metrics};
use crate::value::{Packed, Value};
use crate::world::ProcessStamp;

/// What shrinks by less stays as it is in memory: a copy is faster than unpacking.
const WORTH_UNPACKING: f64 = 1.25;

/// A value takes so much of itself more at most: rounding up of memory, its tree.
const OVERHEAD: u64 = 8;

/// Cache and loads of a dataset in one process.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) cache: Box<dyn Cache>,
    compression: record::Compression,
    pub(super) flights: Arc<Flights<Result<Value>>>,
    backlog_bytes: AtomicUsize,
    claims: Mutex<Claims>,
}

impl Kept {
    pub(super) fn new(config: &CacheConfig) -> Self {
        let cache: Box<dyn Cache> = match config.memory {
            Some(size) if size.0 == 0 => Box::new(cache::None),
            // Without a size, a loader gives it one when it begins to walk.
            size => Box::new(cache::Memory::new(size.map_or(0, |size| size.0 as usize), config.policy)),
        };
        let compression = match config.compression {
            Compression::Auto => record::Compression::AtLeast(WORTH_UNPACKING),
            Compression::None => record::Compression::None,
        };
        Self {
            cache,
            compression,
            flights: Arc::default(),
            backlog_bytes: AtomicUsize::new(0),
            claims: Mutex::default(),
        }
    }

    /// Packs a value for the cache, if that wants it; `compression` is what may be done to it.
    fn offer(
        &self,
        unit: UnitId,
        value: &Value,
        compression: record::Compression,
        buffers: &BufferPool,
        metrics: &Metrics,
    ) {
        let bytes = capacity_for(Packed::bytes_for(value));
        let Some(room) = self.cache.admit(unit, bytes) else { return };
        let began = Instant::now();
        // Only what is packed already can fail, and nothing that was loaded is.
        let Ok(packed) = record::pack(value, compression, buffers) else { return };
        metrics.record(&[
            (Metric::PackSeconds, began.elapsed().as_nanos() as u64),
            (Metric::PackBytes, value.tensor_bytes() as u64),
            (Metric::PackedBytes, packed.record().map_or(0, |record| record.len() as u64)),
        ]);
        room.fill(packed);
    }

    /// Asks to let a value of so many bytes wait for packing while no more than `limit` do; whoever is let in must call
    /// [`Kept::leave_backlog`].
    pub(crate) fn enter_backlog(&self, bytes: usize, limit: usize) -> bool {
        let waiting = self.backlog_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > limit {
            self.leave_backlog(bytes);
        }
        waiting <= limit
    }

    pub(crate) fn leave_backlog(&self, bytes: usize) {
        self.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Copies the cache's own figures to where they are read from.
    pub(super) fn report(&self, metrics: &Metrics) {
        let stats = self.cache.stats();
        for (metric, value) in [
            (Metric::CacheEntries, stats.entries),
            (Metric::CacheBytes, stats.bytes),
            (Metric::CacheCapacity, stats.capacity),
            (Metric::CacheHits, stats.hits),
            (Metric::CacheMisses, stats.misses),
            (Metric::CacheInsertions, stats.insertions),
            (Metric::CacheEvictions, stats.evictions),
            (Metric::CacheDeclined, stats.declined),
        ] {
            metrics.set(metric, value);
        }
    }
}

impl Inner {
    /// Packs a value for the cache, if that wants it. Where all of the dataset has room as it is, compressing would only cost.
    pub(crate) fn offer(&self, kept: &Kept, unit: UnitId, value: &Value, buffers: &BufferPool) {
        let capacity = kept.cache.capacity() as u64;
        if capacity > 0 {
            let memory = self.memory_of_all();
            let has_room = memory + memory / OVERHEAD <= capacity;
            let compression = if has_room { record::Compression::None } else { kept.compression };
            kept.offer(unit, value, compression, buffers, &self.metrics);
        }
    }
}

/// The capacities that loaders of a dataset want its cache to have.
#[derive(Debug, Default)]
struct Claims {
    next: u64,
    bytes: Vec<(u64, usize)>,
}

/// A loader's wish for the cache's capacity, for as long as it lives: the largest of all holds.
#[derive(Debug)]
pub(crate) struct Claim {
    dataset: Arc<Inner>,
    number: u64,
    owner: ProcessStamp,
}

impl Claim {
    /// Claims so many bytes.
    pub(crate) fn new(dataset: &Arc<Inner>, bytes: usize) -> Result<Self> {
        let kept = dataset.kept()?;
        let mut claims = kept.claims.lock();
        let number = claims.next;
        claims.next += 1;
        claims.bytes.push((number, bytes));
        kept.cache.resize(claims.largest().unwrap_or(bytes));
        drop(claims);
        Ok(Self { dataset: dataset.clone(), number, owner: ProcessStamp::current() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(kept) = self.dataset.kept().ok().filter(|_| self.owner.is_current()) else { return };
        let mut claims = kept.claims.lock();
        claims.bytes.retain(|(number, _)| *number != self.number);
        // The last one leaves the cache as it is, for whoever comes next.
        if let Some(largest) = claims.largest() {
            kept.cache.resize(largest);
        }
    }
}

impl Claims {
    fn largest(&self) -> Option<usize> {
        self.bytes.iter().map(|(_, bytes)| *bytes).max()
    }
}
