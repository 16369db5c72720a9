//! Packing what was loaded for the cache, behind whoever asked for it.
//!
//! Nobody waits for packing: a user who reads by index gets a copy at once, a batch is on its way first. What waits to be packed is
//! bounded; what comes when that is full is not offered, and counted. What is packed and waits for the disk is counted by itself:
//! memory keeps its values however slow the disk is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::load::{Loaded, Origin};
use super::{Inner, Kept};
use crate::buffer::BufferPool;
use crate::cache::disk::Flight;
use crate::cache::{Item, UnitId, Waiting, WaitingRoom};
use crate::engine::{Engine, uninterrupted};
use crate::error::Result;
use crate::format::record::{self, Compression};
use crate::metrics::Metric;
use crate::value::{Packed, Value};

/// A value takes so much of itself more at most: rounding up of memory, its tree.
const OVERHEAD: u64 = 8;
/// Of the cache's capacity, as much may wait that was read by index.
const WAITING_SHARE: usize = 8;
/// And of what goes to disk so much, whatever memory is kept; and so much of it once it is packed.
const WAITING_FOR_DISK: usize = 64 << 20;

/// From here on a copy is made behind, into memory that the cache has not used yet: touching that costs more than the copy. What a
/// local file holds is read once more for it, so that nobody waits for another copy.
const BEHIND_FROM: usize = 256 << 10;

/// What waits to be packed in one process, and how much may.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    room: WaitingRoom,
    /// What the budget of a loader has for it, and for what is packed and waits for the disk; 0 while there is no loader.
    budget: AtomicUsize,
    disk_budget: AtomicUsize,
}

impl Backlog {
    /// Notes what a loader's budget has for it.
    pub(crate) fn set_budget(&self, bytes: u64, for_disk: u64) {
        self.budget.fetch_max(bytes as usize, Ordering::Relaxed);
        self.disk_budget.fetch_max(for_disk as usize, Ordering::Relaxed);
    }

    /// Lets so many bytes wait, unless others do and that would be too much.
    fn enter(&self, kept: &Kept, bytes: usize, on_disk: bool) -> Option<Waiting> {
        self.room.enter(bytes, self.limit(kept.cache.capacity(), on_disk))
    }

    fn limit(&self, cache_bytes: usize, on_disk: bool) -> usize {
        match self.budget.load(Ordering::Relaxed) {
            0 => (cache_bytes / WAITING_SHARE).max(if on_disk { WAITING_FOR_DISK } else { 0 }),
            budget => budget,
        }
    }

    /// How much may wait for the disk.
    pub(super) fn for_disk(&self) -> usize {
        match self.budget.load(Ordering::Relaxed) {
            0 => WAITING_FOR_DISK,
            _ => self.disk_budget.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    /// Packs a value for the tiers that want it. For the record of the unit whose `flight` it is others wait.
    pub(crate) fn offer(
        &self,
        kept: &Kept,
        unit: UnitId,
        loaded: &Loaded,
        buffers: &BufferPool,
        flight: Option<Flight>,
    ) {
        let value = &loaded.value;
        if let Origin::Disk(packed, aged) = &loaded.origin {
            if let Some(room) = kept.cache.admit(unit, packed.bytes()) {
                let (packed, now) = (Packed::clone(packed), kept.clock.now());
                room.fill(Item::new(packed, loaded.edition.clone(), now, aged.by(now)));
            }
            return;
        }
        let in_memory = self.compression(kept);
        let room = in_memory.and_then(|_| kept.cache.admit(unit, record::memory_for(value)));
        let on_disk = kept.disk_wants(unit, &loaded.origin, Packed::bytes_for(value));
        let age = match &loaded.origin {
            Origin::Source(brought) => kept.clock.now().saturating_sub(brought.asked),
            _ => Duration::ZERO,
        };
        let mut packed = None;
        if let (Some(room), Some(compression)) = (room, in_memory) {
            // What the disk does not want needs no record.
            packed = match compression {
                Compression::None if !on_disk => self.counted(value, || Packed::new(value, &buffers.for_keeping())),
                _ => self.pack(value, compression, buffers),
            };
            let Some(packed) = &packed else { return };
            room.fill(Item::new(packed.clone(), loaded.edition.clone(), kept.clock.now(), age));
        }
        if on_disk {
            // What is kept as it is in memory is compressed for the disk.
            let packed = packed.filter(|_| in_memory == Some(kept.compression));
            let Some(packed) = packed.or_else(|| self.pack(value, kept.compression, buffers)) else { return };
            let Origin::Source(brought) = &loaded.origin else { return };
            self.write_behind(kept, unit, brought, &packed, flight);
        }
    }

    /// Has a value that the disk wants packed at once, beside whoever asked for it, whom that may cost a copy of it. Returns whether
    /// it will be.
    pub(super) fn offer_behind(self: &Arc<Self>, kept: &Kept, unit: UnitId, loaded: Loaded, flight: Flight) -> bool {
        if !kept.disk_wants(unit, &loaded.origin, Packed::bytes_for(&loaded.value)) {
            return false;
        }
        let Ok(engine) = Engine::current() else { return false };
        let bytes = loaded.value.tensor_bytes();
        // What may not wait now is offered again later, and counted then.
        let Some(waiting) = kept.backlog.enter(kept, bytes, true) else { return false };
        let Some(tier) = &kept.on_disk else { return false };
        let (packing, dataset) = (tier.packing.clone(), self.clone());
        // Not on the workers, whose next jobs the batch may wait for.
        drop(engine.spawn(async move {
            let Ok(_turn) = packing.acquire_owned().await else { return };
            let packed = spawn_blocking(move || {
                if let Ok(kept) = dataset.kept() {
                    dataset.offer(kept, unit, &loaded, engine.buffers(), Some(flight));
                }
                drop((loaded, waiting));
            });
            let _ = packed.await;
        }));
        true
    }

    fn pack(&self, value: &Value, compression: Compression, buffers: &BufferPool) -> Option<Packed> {
        self.counted(value, || record::pack(value, compression, &buffers.for_keeping()))
    }

    fn counted(&self, value: &Value, pack: impl FnOnce() -> Result<Packed>) -> Option<Packed> {
        let began = Instant::now();
        // Only what is packed already can fail, and nothing that was loaded is.
        let packed = pack().ok()?;
        let bytes = packed.record().map_or_else(|| Packed::bytes_for(packed.value()), Bytes::len);
        self.metrics.record(&[
            (Metric::PackSeconds, began.elapsed().as_nanos() as u64),
            (Metric::PackBytes, value.tensor_bytes() as u64),
            (Metric::PackedBytes, bytes as u64),
        ]);
        Some(packed)
    }

    /// The value in memory that nobody else sees, while it is being packed for the cache. What is small and kept as it is, is offered
    /// at once.
    pub(crate) fn hand_out(
        self: &Arc<Self>,
        engine: &'static Engine,
        kept: &Kept,
        unit: UnitId,
        loaded: Loaded,
    ) -> Result<Value> {
        let buffers = engine.buffers();
        if loaded.is_offered {
            return loaded.into_own(buffers);
        }
        if self.is_kept_at_once(kept, unit, &loaded) {
            self.offer(kept, unit, &loaded, buffers, None);
            return loaded.into_own(buffers);
        }
        let bytes = Packed::bytes_for(&loaded.value);
        let on_disk = kept.disk_wants(unit, &loaded.origin, bytes);
        let is_wanted = on_disk || self.compression(kept).is_some() && kept.cache.may_admit(bytes);
        let bytes = loaded.value.tensor_bytes();
        let Some(waiting) = is_wanted.then(|| self.wait(kept, bytes, 1, on_disk)).flatten() else {
            return loaded.into_own(buffers);
        };
        let (dataset, packers) = (self.clone(), engine.packers()?);
        if bytes >= BEHIND_FROM && loaded.is_local() {
            packers.spawn(move || {
                // Where it can no longer be read, nothing is kept.
                let _ = dataset.offer_again(engine, unit);
                drop(waiting);
            });
            return loaded.into_own(buffers);
        }
        let own = Packed::new(&loaded.value, buffers)?.into_value();
        packers.spawn(move || {
            if let Ok(kept) = dataset.kept() {
                dataset.offer(kept, unit, &loaded, buffers, None);
            }
            drop((loaded, waiting));
        });
        Ok(own)
    }

    /// Reads a unit of a local source for the cache alone, after it was read and handed out.
    fn offer_again(&self, engine: &'static Engine, unit: UnitId) -> Result<()> {
        let (kept, sources, buffers) = (self.kept()?, self.sources(engine, uninterrupted())?, engine.buffers());
        if self.compression(kept) != Some(Compression::None) {
            let (loaded, _) = self.read_again(kept, sources, unit, buffers, buffers)?;
            self.offer(kept, unit, &loaded, buffers, None);
            return Ok(());
        }
        // What is kept as it is stays where it was read to.
        let (loaded, object) = self.read_again(kept, sources, unit, &buffers.for_keeping(), buffers)?;
        let Some(packed) = Packed::lying_in(&loaded.value, &object) else {
            self.offer(kept, unit, &loaded, buffers, None);
            return Ok(());
        };
        let (bytes, now) = (packed.bytes(), kept.clock.now());
        if let Some(room) = kept.cache.admit(unit, bytes)
            && let Some(packed) = self.counted(&loaded.value, || Ok(packed))
        {
            room.fill(Item::new(packed, loaded.edition.clone(), now, loaded.age(now)));
        }
        Ok(())
    }

    /// Whether keeping a value costs so little that it is not worth another thread's while.
    pub(crate) fn is_kept_at_once(&self, kept: &Kept, unit: UnitId, loaded: &Loaded) -> bool {
        let bytes = Packed::bytes_for(&loaded.value);
        self.compression(kept) == Some(Compression::None)
            && bytes < BEHIND_FROM
            && !kept.disk_wants(unit, &loaded.origin, bytes)
    }

    /// Lets units of so many bytes wait to be packed, unless others wait and that would be too much.
    pub(crate) fn wait(&self, kept: &Kept, bytes: usize, units: usize, on_disk: bool) -> Option<Waiting> {
        let waiting = kept.backlog.enter(kept, bytes, on_disk);
        if waiting.is_none() {
            self.metrics.record(&[(Metric::CacheBacklogFull, units as u64)]);
        }
        waiting
    }

    /// What may be done to values for the cache; `None` when nothing is kept. Where all of the dataset has room as it is,
    /// compressing would only cost.
    fn compression(&self, kept: &Kept) -> Option<Compression> {
        let capacity = kept.cache.capacity() as u64;
        if capacity == 0 {
            return None;
        }
        let memory = self.memory_of_all();
        Some(if memory + memory / OVERHEAD <= capacity { Compression::None } else { kept.compression })
    }
}
