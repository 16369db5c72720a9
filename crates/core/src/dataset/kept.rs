//! What a dataset keeps in a process: the cache, and the loads under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sync::Mutex;
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

use super::Inner;
use super::ahead::Ahead;
use super::failing::ASKED_AT_ONCE;
use super::load::Read;
use super::on_disk::OnDisk;
use super::packing::Backlog;
use super::requests::Requests;
use crate::cache::{self, Cache, Flights, Lease, UnitId};
use crate::clock::Clock;
use crate::config::{CacheConfig, Compression, MemoryShare, PrefetchConfig};
use crate::error::Result;
use crate::format::record;
use crate::metrics::{Metric, Metrics};
use crate::source::Source;
use crate::world::ProcessStamp;

/// What shrinks by less stays as it is in memory: a copy is faster than unpacking.
const WORTH_UNPACKING: f64 = 1.25;

/// On disk, what shrinks by less.
const WORTH_READING_LESS: f64 = 1.1;

/// Ahead of their use, values are asked about before they expire: by this share of the time at most.
const EARLY: f64 = 0.1;

/// Cache and loads of a dataset in one process.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) cache: Box<dyn Cache>,
    pub(super) compression: record::Compression,
    pub(super) clock: Clock,
    pub(super) ttl: Option<Duration>,
    /// Where values outlive this process.
    pub(super) on_disk: Option<OnDisk>,
    is_ordered: AtomicBool,
    pub(super) flights: Arc<Flights<Result<Read>>>,
    pub(crate) backlog: Backlog,
    /// What the user asked to have fetched.
    pub(super) requests: Requests,
    /// What is fetched ahead of whoever reads in order.
    pub(super) ahead: Ahead,
    /// Turns to ask the user's `on_error`.
    pub(super) asking: Semaphore,
    claims: Mutex<Claims>,
}

impl Kept {
    pub(super) fn new(config: &CacheConfig, prefetch: &PrefetchConfig, clock: Clock) -> Self {
        let cache: Box<dyn Cache> = match config.memory {
            Some(size) if size.0 == 0 => Box::new(cache::None),
            // Without a size, a loader gives it one when it begins to walk.
            size => {
                let capacity = size.map_or(0, |size| {
                    let share = MemoryShare::current();
                    share.granted("cache memory", size, share.bytes())
                });
                Box::new(cache::Memory::new(capacity as usize, config.policy))
            }
        };
        // The same record goes to both tiers, and from a disk every byte counts.
        let worth = if config.disk.is_some() { WORTH_READING_LESS } else { WORTH_UNPACKING };
        let compression = match config.compression {
            Compression::Auto => record::Compression::AtLeast(worth),
            Compression::None => record::Compression::None,
        };
        let on_disk = OnDisk::open(config, &clock);
        Self {
            cache,
            compression,
            clock,
            ttl: config.ttl.map(|ttl| ttl.0),
            on_disk,
            is_ordered: AtomicBool::new(false),
            flights: Arc::default(),
            backlog: Backlog::default(),
            requests: Requests::new(prefetch),
            ahead: Ahead::default(),
            asking: Semaphore::new(ASKED_AT_ONCE),
            claims: Mutex::default(),
        }
    }

    /// Tells that a loader walks epochs from now on.
    pub(crate) fn order_is_known(&self) {
        self.is_ordered.store(true, Ordering::Relaxed);
        self.cache.order_is_known();
        self.on_disk.iter().for_each(OnDisk::order_is_known);
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.is_ordered.load(Ordering::Relaxed)
    }

    pub(super) fn reset_counters(&self) {
        self.cache.reset_counters();
        self.on_disk.iter().for_each(|tier| tier.disk().reset_counters());
    }

    /// Takes out what is too old to be used without asking: the same number of places, or none at all. `ahead` of its use, that is
    /// asked a little earlier, each unit at another time.
    pub(crate) fn take_stale(
        &self,
        sources: &[Arc<dyn Source>],
        units: &[UnitId],
        leases: &mut [Option<Lease>],
        ahead: bool,
    ) -> Vec<Option<Lease>> {
        let Some(ttl) = self.ttl else { return Vec::new() };
        let now = self.clock.now();
        let is_stale = |unit: &UnitId, lease: &Lease| {
            let share = if ahead { EARLY * unit_share(*unit) } else { 0.0 };
            !Inner::source_of(sources, unit.field).is_pinned() && lease.value().age(now) >= ttl.mul_f64(1.0 - share)
        };
        let taken = units.iter().zip(leases).map(|(unit, lease)| lease.take_if(|lease| is_stale(unit, lease)));
        taken.collect()
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
        let (waiting, held) = self.requests.figures();
        metrics.set(Metric::PrefetchWaiting, waiting);
        metrics.set(Metric::PrefetchHeld, held);
        let Some(tier) = &self.on_disk else { return };
        let stats = tier.disk().stats();
        for (metric, value) in [
            (Metric::DiskEntries, stats.entries),
            (Metric::DiskBytes, stats.bytes),
            (Metric::DiskCapacity, stats.capacity),
            (Metric::DiskHits, stats.hits),
            (Metric::DiskMisses, stats.misses),
            (Metric::DiskInsertions, stats.insertions),
            (Metric::DiskEvictions, stats.evictions),
            (Metric::DiskDeclined, stats.declined),
            (Metric::DiskQuarantined, stats.quarantined),
            (Metric::DiskFailures, stats.failures),
            (Metric::DiskOff, u64::from(stats.is_off)),
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

/// From 0 to 1, another for each unit.
fn unit_share(unit: UnitId) -> f64 {
    let hash = xxh3_64(&[unit.sample.to_le_bytes(), unit.field.to_le_bytes()].concat());
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}
