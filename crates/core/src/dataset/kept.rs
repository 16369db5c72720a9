//! What a dataset keeps in a process: the cache, and the loads under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::buffer::BufferPool;
use crate::cache::{self, Cache, Flights, UnitId};
use crate::config::CacheConfig;
use crate::error::Result;
use crate::metrics::{Metric, Metrics};
use crate::value::{Packed, Value};

/// Values that wait to be packed may take so much; beyond, they are not offered to the cache.
const MAX_BACKLOG_BYTES: usize = 256 << 20;

/// Cache and loads of a dataset in one process.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) cache: Box<dyn Cache>,
    pub(super) flights: Arc<Flights<Result<Value>>>,
    backlog_bytes: AtomicUsize,
}

impl Kept {
    pub(super) fn new(config: &CacheConfig) -> Self {
        let cache: Box<dyn Cache> = match config.memory {
            Some(size) if size.0 == 0 => Box::new(cache::None),
            // Without a size, a loader gives it one when it begins to walk.
            size => Box::new(cache::Memory::new(size.map_or(0, |size| size.0 as usize), config.policy)),
        };
        Self { cache, flights: Arc::default(), backlog_bytes: AtomicUsize::new(0) }
    }

    /// Copies a value into the cache, if that wants it.
    pub(crate) fn offer(&self, unit: UnitId, value: &Value, buffers: &BufferPool, metrics: &Metrics) {
        let bytes = crate::buffer::capacity_for(Packed::bytes_for(value));
        if let Some(room) = self.cache.admit(unit, bytes) {
            let began = Instant::now();
            room.fill(Packed::new(value, buffers));
            metrics.record(&[(Metric::PackSeconds, began.elapsed().as_nanos() as u64)]);
        }
    }

    /// Asks to let a value of so many bytes wait for packing; whoever is let in must call [`Kept::leave_backlog`].
    pub(crate) fn enter_backlog(&self, bytes: usize) -> bool {
        let waiting = self.backlog_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > MAX_BACKLOG_BYTES {
            self.leave_backlog(bytes);
        }
        waiting <= MAX_BACKLOG_BYTES
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
