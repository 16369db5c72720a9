//! What a dataset keeps in a process: the cache, and the loads under way.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;

use super::Inner;
use crate::cache::{self, Cache, Flights};
use crate::config::{CacheConfig, Compression};
use crate::error::Result;
use crate::format::record;
use crate::metrics::{Metric, Metrics};
use crate::value::Value;
use crate::world::ProcessStamp;

/// What shrinks by less stays as it is in memory: a copy is faster than unpacking.
const WORTH_UNPACKING: f64 = 1.25;

/// Cache and loads of a dataset in one process.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) cache: Box<dyn Cache>,
    pub(super) compression: record::Compression,
    pub(super) flights: Arc<Flights<Result<Value>>>,
    pub(super) backlog_bytes: AtomicUsize,
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
