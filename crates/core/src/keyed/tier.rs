//! A process's own part of a keyed cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Keyed, KeyedStats, PutOptions};
use crate::buffer::capacity_for;
use crate::cache::eviction::by_policy;
use crate::cache::{Charge, Entry, Found, Table, Waiting, WaitingRoom};
use crate::clock::Clock;
use crate::engine::{Engine, INTERRUPT_POLL, Interrupt};
use crate::error::Result;
use crate::format::record::{self, Compression};
use crate::sync::{Condvar, Mutex};
use crate::value::{Packed, Value};

/// Of the capacity, as much may be taken by what is packed behind: its plain form and room for its packed one.
const BEHIND_SHARE: usize = 8;
/// And no more than this, so that nobody waits long for it to be packed: a fraction of a second on one core.
const MOST_BEHIND: usize = 256 << 20;
/// How long whoever asks for figures waits for what is being packed.
const SETTLING: Duration = Duration::from_secs(2);

/// Values by key, and what is counted of them.
#[derive(Debug)]
pub(super) struct Tier {
    table: Table<Kept, Arc<str>>,
    ttl: Option<Duration>,
    compression: Compression,
    clock: Clock,
    behind: WaitingRoom,
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
        Self {
            table: Table::new(capacity, by_policy(keyed.policy())),
            ttl: keyed.ttl(),
            compression: keyed.compression(),
            clock: keyed.clock.clone(),
            behind: WaitingRoom::default(),
            packing: Arc::default(),
            expired: AtomicU64::new(0),
            prefetch_hits: AtomicU64::new(0),
            saved_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.table.stats().bytes
    }

    pub(super) fn get(&self, key: &str, was_prefetched: bool) -> Option<Arc<Entry<Kept>>> {
        let now = self.clock.now();
        match self.table.find(&key.into(), |kept| self.is_good(kept, now)) {
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

    pub(super) fn peek(&self, key: &str) -> Option<Arc<Entry<Kept>>> {
        let now = self.clock.now();
        self.table.peek(&key.into()).filter(|entry| self.is_good(entry.value(), now))
    }

    fn is_good(&self, kept: &Kept, now: Duration) -> bool {
        self.ttl.is_none_or(|ttl| now.saturating_sub(kept.origin.since) < ttl)
    }

    pub(super) fn put(self: &Arc<Self>, key: &str, value: &Value, options: PutOptions) -> Result<bool> {
        let engine = Engine::current()?;
        let is_prefetched = AtomicBool::new(options.is_prefetched);
        let newcomer =
            Newcomer { key: key.into(), value, origin: Arc::new(Origin { since: self.clock.now(), is_prefetched }) };
        // First of all: it makes room, and is not to be found when the newcomer is declined.
        self.table.remove(&newcomer.key);
        if !options.compress || self.compression == Compression::None {
            return self.put_plain(engine, &newcomer);
        }
        match self.put_and_pack_behind(engine, &newcomer)? {
            Some(is_in) => Ok(is_in),
            None => self.put_packed(engine, &newcomer),
        }
    }

    fn put_plain(&self, engine: &Engine, newcomer: &Newcomer<'_>) -> Result<bool> {
        let Some(charge) = self.table.admit(&newcomer.key, plain_bytes(newcomer.value)) else { return Ok(false) };
        let packed = Packed::new(newcomer.value, engine.buffers())?;
        Ok(self.fill(newcomer, charge, packed))
    }

    fn put_packed(&self, engine: &Engine, newcomer: &Newcomer<'_>) -> Result<bool> {
        let most = record::memory_for(newcomer.value);
        let Some(charge) = self.table.admit(&newcomer.key, most) else { return Ok(false) };
        let packed = record::pack(newcomer.value, self.compression, engine.buffers())?;
        let saved = plain_bytes(newcomer.value).saturating_sub(packed.bytes());
        let is_in = self.fill(newcomer, charge, packed);
        self.saved_bytes.fetch_add(if is_in { saved as u64 } else { 0 }, Ordering::Relaxed);
        Ok(is_in)
    }

    fn fill(&self, newcomer: &Newcomer<'_>, charge: Charge, packed: Packed) -> bool {
        let bytes = packed.bytes();
        let kept = Kept { packed, origin: newcomer.origin.clone() };
        self.table.fill(newcomer.key.clone(), charge, bytes, kept)
    }

    /// `None` when there is no place for it there.
    fn put_and_pack_behind(
        self: &Arc<Self>,
        engine: &'static Engine,
        newcomer: &Newcomer<'_>,
    ) -> Result<Option<bool>> {
        let (plain, packed) = (plain_bytes(newcomer.value), record::memory_for(newcomer.value));
        let limit = (self.capacity() / BEHIND_SHARE).min(MOST_BEHIND);
        if plain + packed > limit {
            return Ok(None);
        }
        let Some(waiting) = self.behind.enter(plain + packed, limit) else { return Ok(None) };
        let Some(mut charge) = self.table.admit(&newcomer.key, plain + packed) else { return Ok(None) };
        let room = charge.split_off(packed);
        let copy = Packed::new(newcomer.value, engine.buffers())?;
        if !self.fill(newcomer, charge, copy) {
            return Ok(Some(false));
        }
        let job = Job { tier: Arc::downgrade(self), key: newcomer.key.clone(), origin: newcomer.origin.clone(), room };
        let begun = Packing::begin(&self.packing);
        engine.workers().spawn(move || job.run(engine, (waiting, begun)));
        Ok(Some(true))
    }

    pub(super) fn remove(&self, key: &str) -> bool {
        self.table.remove(&key.into())
    }

    pub(super) fn clear(&self) {
        self.table.clear();
    }

    pub(super) fn stats(&self, interrupt: Interrupt<'_>) -> Result<KeyedStats> {
        self.packing.settle(interrupt)?;
        let now = self.clock.now();
        let expired = self.table.retain(|kept| self.is_good(kept, now)) as u64;
        let expired = self.expired.fetch_add(expired, Ordering::Relaxed) + expired;
        let stats = self.table.stats();
        Ok(KeyedStats {
            entries: stats.entries,
            bytes: stats.bytes,
            capacity: stats.capacity,
            hits: stats.hits,
            misses: stats.misses,
            evictions: stats.evictions,
            declined: stats.declined,
            expired,
            prefetch_hits: self.prefetch_hits.load(Ordering::Relaxed),
            saved_bytes: self.saved_bytes.load(Ordering::Relaxed),
        })
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
    tier: std::sync::Weak<Tier>,
    key: Arc<str>,
    origin: Arc<Origin>,
    room: Charge,
}

impl Job {
    /// Puts the packed value in the place of the plain one, if that is still there and larger.
    fn run(self, engine: &Engine, _until_done: (Waiting, Begun)) {
        let Some(tier) = self.tier.upgrade() else { return };
        let is_it = |entry: &Arc<Entry<Kept>>| Arc::ptr_eq(&entry.value().origin, &self.origin);
        let Some(plain) = tier.table.peek(&self.key).filter(is_it) else { return };
        let before = plain.value().packed.bytes();
        // A plain value is not damaged.
        let Ok(packed) = record::pack(plain.value().packed.value(), tier.compression, engine.buffers()) else { return };
        let bytes = packed.bytes();
        if bytes > self.room.bytes() || bytes >= before {
            return;
        }
        let kept = Kept { packed, origin: self.origin };
        if tier.table.exchange(&self.key, &plain, self.room, bytes, kept) {
            tier.saved_bytes.fetch_add((before - bytes) as u64, Ordering::Relaxed);
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
        let mut count = self.count.lock();
        while *count > 0 && Instant::now() < ends {
            count = self.changed.wait_for(count, INTERRUPT_POLL).0;
            drop(count);
            interrupt()?;
            count = self.count.lock();
        }
        Ok(())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.changed.notify_all();
    }
}
