//! A process's own part of a keyed cache.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Keyed, KeyedStats, PutOptions};
use crate::buffer::capacity_for;
use crate::cache::eviction::by_policy;
use crate::cache::{Charge, Entry, Found, Policy, Table, Waiting, WaitingRoom};
use crate::clock::Clock;
use crate::engine::{Engine, INTERRUPT_POLL, Interrupt};
use crate::error::Result;
use crate::format::record::{self, Compression};
use crate::sync::{Condvar, Mutex};
use crate::value::{Packed, Value};

/// Of the capacity, as much is for values that are being packed: their plain form and room for their packed one. What is kept has the rest,
/// so that nothing gives way for what is there for a moment.
const RESERVE_SHARE: usize = 16;
/// And no more than this, so that nobody waits long for it to be packed: a fraction of a second on one core.
const MOST_RESERVED: usize = 128 << 20;
/// How long whoever brings a value waits for others to be packed; beyond that, what is kept gives way.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long whoever asks for figures waits for what is being packed.
const SETTLING: Duration = Duration::from_secs(2);

/// Values by key, and what is counted of them.
#[derive(Debug)]
pub(super) struct Tier {
    table: Table<Kept, Arc<str>>,
    reserve: usize,
    /// Whether a newcomer may turn out to have no room.
    keeps: bool,
    ttl: Option<Duration>,
    compression: Compression,
    clock: Clock,
    room: WaitingRoom,
    packing: Arc<Packing>,
    expired: AtomicU64,
    prefetch_hits: AtomicU64,
    saved_bytes: AtomicU64,
}

/// A value as it is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) packed: Packed,
    origin: Arc<Origin>,
    /// What its memory counts as, until it is packed.
    _waiting: Option<Waiting>,
}

/// How a value came in; the same before and after it was packed, another for each time that one is put in.
#[derive(Debug)]
struct Origin {
    since: Duration,
    is_prefetched: AtomicBool,
}

/// Memory of a value that is kept as it is.
pub(super) fn plain_bytes(value: &Value) -> usize {
    Packed::charge(value, capacity_for(Packed::bytes_for(value)))
}

impl Tier {
    pub(super) fn new(capacity: usize, keyed: &Keyed) -> Self {
        let reserve = match keyed.compression() {
            Compression::None => 0,
            Compression::AtLeast(_) => (capacity / RESERVE_SHARE).min(MOST_RESERVED),
        };
        Self {
            table: Table::new(capacity - reserve, by_policy(keyed.policy())),
            reserve,
            keeps: keyed.policy() == Policy::Keep,
            ttl: keyed.ttl(),
            compression: keyed.compression(),
            clock: keyed.clock.clone(),
            room: WaitingRoom::default(),
            packing: Arc::default(),
            expired: AtomicU64::new(0),
            prefetch_hits: AtomicU64::new(0),
            saved_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.table.capacity() + self.reserve
    }

    pub(super) fn bytes(&self) -> u64 {
        self.table.stats().bytes + self.room.bytes() as u64
    }

    pub(super) fn get(&self, key: &str, was_prefetched: bool) -> Option<Arc<Entry<Kept>>> {
        let now = self.clock.now();
        match self.table.find(key, |kept| self.is_good(kept, now)) {
            Found::Good(entry) => {
                let is_first_use = entry.value().origin.is_prefetched.swap(false, Ordering::Relaxed);
                self.prefetch_hits.fetch_add(u64::from(is_first_use || was_prefetched), Ordering::Relaxed);
                Some(entry)
            }
            Found::Stale(_) => {
                self.expired.fetch_add(1, Ordering::Relaxed);
                None
            }
            Found::Missing => None,
        }
    }

    pub(super) fn get_awaited(&self, key: &str) -> Option<Arc<Entry<Kept>>> {
        let entry = self.peek(key)?;
        entry.value().origin.is_prefetched.store(false, Ordering::Relaxed);
        Some(entry)
    }

    pub(super) fn peek(&self, key: &str) -> Option<Arc<Entry<Kept>>> {
        let now = self.clock.now();
        self.table.peek(key).filter(|entry| self.is_good(entry.value(), now))
    }

    fn is_good(&self, kept: &Kept, now: Duration) -> bool {
        self.ttl.is_none_or(|ttl| now.saturating_sub(kept.origin.since) < ttl)
    }

    pub(super) fn put(
        self: &Arc<Self>,
        key: &str,
        value: &Value,
        options: PutOptions,
        interrupt: Interrupt<'_>,
    ) -> Result<bool> {
        let engine = Engine::current()?;
        let is_prefetched = AtomicBool::new(options.is_prefetched);
        let newcomer =
            Newcomer { key: key.into(), value, origin: Arc::new(Origin { since: self.clock.now(), is_prefetched }) };
        if !options.compress || self.compression == Compression::None {
            return self.put_plain(engine, &newcomer);
        }
        let (plain, packed) = (plain_bytes(value), record::memory_for(value));
        if plain + packed > self.reserve {
            return self.put_large(engine, &newcomer, packed);
        }
        let ends = Instant::now() + PATIENCE;
        loop {
            let room = |bytes| self.room.enter(bytes, self.reserve);
            if !self.keeps
                && let Some(waiting) = room(plain)
                && let Some(room) = room(packed)
            {
                return self.put_and_pack_behind(engine, newcomer, waiting, room);
            }
            if let Some(_room) = room(packed) {
                return self.put_packed(engine, &newcomer);
            }
            if !self.packing.wait_until(ends, interrupt)? {
                return self.put_large(engine, &newcomer, packed);
            }
        }
    }

    fn put_plain(&self, engine: &Engine, newcomer: &Newcomer<'_>) -> Result<bool> {
        let Some(charge) = self.table.admit_anew(&newcomer.key, plain_bytes(newcomer.value)) else { return Ok(false) };
        let plain = Packed::new(newcomer.value, &engine.buffers().for_keeping())?;
        Ok(self.fill(newcomer, charge, plain, None))
    }

    /// Packs in memory that is charged already.
    fn put_packed(&self, engine: &Engine, newcomer: &Newcomer<'_>) -> Result<bool> {
        let packed = record::pack(newcomer.value, self.compression, &engine.buffers().for_keeping())?;
        let Some(charge) = self.table.admit_anew(&newcomer.key, packed.bytes()) else { return Ok(false) };
        Ok(self.fill_packed(newcomer, charge, packed))
    }

    /// Packs in memory that what is kept gives way for.
    fn put_large(&self, engine: &Engine, newcomer: &Newcomer<'_>, most: usize) -> Result<bool> {
        let Some(charge) = self.table.admit_anew(&newcomer.key, most) else { return Ok(false) };
        let packed = record::pack(newcomer.value, self.compression, &engine.buffers().for_keeping())?;
        Ok(self.fill_packed(newcomer, charge, packed))
    }

    fn fill_packed(&self, newcomer: &Newcomer<'_>, charge: Charge, packed: Packed) -> bool {
        let saved = plain_bytes(newcomer.value).saturating_sub(packed.bytes());
        let is_in = self.fill(newcomer, charge, packed, None);
        self.saved_bytes.fetch_add(if is_in { saved as u64 } else { 0 }, Ordering::Relaxed);
        is_in
    }

    /// Puts a value in; what is charged elsewhere is free here.
    fn fill(&self, newcomer: &Newcomer<'_>, charge: Charge, packed: Packed, waiting: Option<Waiting>) -> bool {
        let bytes = if waiting.is_some() { 0 } else { packed.bytes() };
        let kept = Kept { packed, origin: newcomer.origin.clone(), _waiting: waiting };
        self.table.fill_anew(newcomer.key.clone(), charge, bytes, kept)
    }

    /// Puts a plain copy in that `waiting` counts, and has a worker pack it in memory that `room` does.
    fn put_and_pack_behind(
        self: &Arc<Self>,
        engine: &'static Engine,
        newcomer: Newcomer<'_>,
        waiting: Waiting,
        room: Waiting,
    ) -> Result<bool> {
        let workers = engine.workers()?;
        let Some(charge) = self.table.admit_anew(&newcomer.key, 0) else { return Ok(false) };
        let copy = Packed::new(newcomer.value, engine.buffers())?;
        if !self.fill(&newcomer, charge, copy, Some(waiting)) {
            return Ok(false);
        }
        let job = Job { tier: Arc::downgrade(self), key: newcomer.key, origin: newcomer.origin };
        let begun = Packing::begin(&self.packing);
        workers.spawn(move || job.run(engine, (room, begun)));
        Ok(true)
    }

    pub(super) fn remove(&self, key: &str) -> bool {
        self.table.remove(key)
    }

    pub(super) fn clear(&self) {
        self.table.clear();
    }

    pub(super) fn settle(&self, interrupt: Interrupt<'_>) -> Result<()> {
        self.packing.settle(interrupt)
    }

    pub(super) fn stats(&self) -> KeyedStats {
        let now = self.clock.now();
        let expired = self.table.retain(|kept| self.is_good(kept, now)) as u64;
        self.expired.fetch_add(expired, Ordering::Relaxed);
        self.counters()
    }

    pub(super) fn counters(&self) -> KeyedStats {
        let stats = self.table.stats();
        KeyedStats {
            entries: stats.entries,
            bytes: self.bytes(),
            capacity: self.capacity() as u64,
            hits: stats.hits,
            misses: stats.misses,
            evictions: stats.evictions,
            declined: stats.declined,
            expired: self.expired.load(Ordering::Relaxed),
            prefetch_hits: self.prefetch_hits.load(Ordering::Relaxed),
            saved_bytes: self.saved_bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn reset_counters(&self) {
        self.table.reset_counters();
        for counter in [&self.expired, &self.prefetch_hits, &self.saved_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// A value on its way in.
struct Newcomer<'a> {
    key: Arc<str>,
    value: &'a Value,
    origin: Arc<Origin>,
}

/// Packing a value that is there already.
struct Job {
    tier: Weak<Tier>,
    key: Arc<str>,
    origin: Arc<Origin>,
}

impl Job {
    /// Puts the packed value in the place of the plain one, if that is still there.
    fn run(self, engine: &Engine, _until_done: (Waiting, Begun)) {
        let Some(tier) = self.tier.upgrade() else { return };
        let is_it = |entry: &Arc<Entry<Kept>>| Arc::ptr_eq(&entry.value().origin, &self.origin);
        let Some(plain) = tier.table.peek(&self.key).filter(is_it) else { return };
        let value = plain.value().packed.value();
        // A plain value is not damaged.
        let Ok(packed) = record::pack(value, tier.compression, &engine.buffers().for_keeping()) else { return };
        let (bytes, saved) = (packed.bytes(), plain_bytes(value).saturating_sub(packed.bytes()));
        let kept = Kept { packed, origin: self.origin.clone(), _waiting: None };
        if tier.table.exchange(&self.key, &plain, bytes, kept) {
            tier.saved_bytes.fetch_add(saved as u64, Ordering::Relaxed);
        }
    }
}

/// How many values are being packed behind, or wait for it.
#[derive(Debug, Default)]
struct Packing {
    count: Mutex<usize>,
    changed: Condvar,
}

/// One of them.
struct Begun(Arc<Packing>);

impl Packing {
    fn begin(packing: &Arc<Self>) -> Begun {
        *packing.count.lock() += 1;
        Begun(packing.clone())
    }

    /// Waits until there are none, but not for ever.
    fn settle(&self, interrupt: Interrupt<'_>) -> Result<()> {
        let ends = Instant::now() + SETTLING;
        while *self.count.lock() > 0 && self.wait_until(ends, interrupt)? {}
        Ok(())
    }

    /// Waits a moment for one to be done; whether there is time left.
    fn wait_until(&self, ends: Instant, interrupt: Interrupt<'_>) -> Result<bool> {
        let count = self.count.lock();
        // What others pack themselves is not counted, and soon done.
        let patience = if *count > 0 { INTERRUPT_POLL } else { Duration::from_millis(1) };
        drop(self.changed.wait_for(count, patience));
        interrupt()?;
        Ok(Instant::now() < ends)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.changed.notify_all();
    }
}
