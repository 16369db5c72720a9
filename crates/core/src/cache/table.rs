//! Entries by key within a capacity in bytes. Keys are units of a dataset, or what else is kept.
//!
//! One lock guards the map and the policy; it is held to look up, choose and count, never to copy or free memory. Bytes are
//! charged *before* the memory they stand for is allocated, and credited *after* it is freed: a [`Charge`] travels with the
//! memory, and a newcomer takes over the charges of those that make room for it. So what the table holds, what is on its
//! way in and what was given up but is still leased together never exceed the capacity.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use super::eviction::{Eviction, Slot};
use super::sync::{Arc, AtomicUsize, Mutex, Ordering};
use super::{CacheStats, UnitId};

/// A bounded map from units to values.
pub struct Table<V, K = UnitId> {
    capacity: AtomicUsize,
    used: Arc<AtomicUsize>,
    inner: Mutex<Inner<V, K>>,
}

struct Inner<V, K> {
    slots: Vec<Option<(K, Arc<Entry<V>>)>>,
    free: Vec<Slot>,
    by_unit: HashMap<K, Slot>,
    policy: Box<dyn Eviction>,
    counters: CacheStats,
}

/// A value with the memory it was charged for.
#[derive(Debug)]
pub struct Entry<V> {
    value: V,
    charge: Charge,
}

impl<V> Entry<V> {
    /// The value.
    pub fn value(&self) -> &V {
        &self.value
    }
}

/// What is found of a unit whose value may be too old.
#[derive(Debug)]
pub enum Found<V> {
    /// Its entry.
    Good(Arc<Entry<V>>),
    /// Its entry was no longer good, and is no longer in the table.
    Stale(Arc<Entry<V>>),
    /// Nothing.
    Missing,
}

/// Bytes counted against a table for as long as this lives.
pub struct Charge {
    bytes: usize,
    used: Arc<AtomicUsize>,
}

impl Charge {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn shrink_to(&mut self, bytes: usize) {
        let given_back = self.bytes.saturating_sub(bytes);
        self.bytes -= given_back;
        self.used.fetch_sub(given_back, Ordering::SeqCst);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({})", self.bytes)
    }
}

impl<V, K: Clone + Eq + Hash> Table<V, K> {
    /// An empty table.
    pub fn new(capacity: usize, policy: Box<dyn Eviction>) -> Self {
        let inner = Inner {
            slots: Vec::new(),
            free: Vec::new(),
            by_unit: HashMap::new(),
            policy,
            counters: CacheStats::default(),
        };
        Self { capacity: AtomicUsize::new(capacity), used: Arc::new(AtomicUsize::new(0)), inner: Mutex::new(inner) }
    }

    /// The bytes it may hold.
    pub fn capacity(&self) -> usize {
        self.capacity.load(Ordering::SeqCst)
    }

    /// Looks for several units under one lock.
    pub fn get_many(&self, units: &[K], found: &mut Vec<Option<Arc<Entry<V>>>>) {
        let mut inner = self.inner.lock();
        for unit in units {
            let slot = inner.by_unit.get(unit).copied();
            match slot {
                Some(slot) => {
                    inner.policy.used(slot);
                    inner.counters.hits += 1;
                }
                None => inner.counters.misses += 1,
            }
            found.push(slot.and_then(|slot| inner.slots[slot as usize].as_ref()).map(|(_, entry)| entry.clone()));
        }
    }

    /// Looks for one unit whose value has to be good; what is not any more is taken out, and counts as a miss.
    pub fn find<Q>(&self, unit: &Q, is_good: impl FnOnce(&V) -> bool) -> Found<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut inner = self.inner.lock();
        let found = inner.entry(unit).map(|(slot, entry)| (slot, entry.clone()));
        match found {
            Some((slot, entry)) if is_good(&entry.value) => {
                inner.policy.used(slot);
                inner.counters.hits += 1;
                Found::Good(entry)
            }
            Some((slot, entry)) => {
                inner.take(slot);
                inner.counters.misses += 1;
                Found::Stale(entry)
            }
            None => {
                inner.counters.misses += 1;
                Found::Missing
            }
        }
    }

    /// A unit's entry. Counts as no use.
    pub fn peek<Q>(&self, unit: &Q) -> Option<Arc<Entry<V>>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.inner.lock().entry(unit).map(|(_, entry)| entry.clone())
    }

    /// Whether a unit has an entry. Counts as no use.
    pub fn contains(&self, unit: &K) -> bool {
        self.inner.lock().by_unit.contains_key(unit)
    }

    /// Whether there is room for so many bytes, or might be made.
    pub fn may_admit(&self, bytes: usize) -> bool {
        let capacity = self.capacity();
        bytes <= capacity
            && (self.used.load(Ordering::SeqCst) + bytes <= capacity || self.inner.lock().policy.victim().is_some())
    }

    /// Makes room for so many bytes; `None` when the unit is there already or the policy would rather keep what is.
    pub fn admit(&self, unit: &K, bytes: usize) -> Option<Charge> {
        let mut inner = self.inner.lock();
        if inner.by_unit.contains_key(unit) {
            return None;
        }
        let room = self.make_room(&mut inner, bytes);
        inner.counters.declined += u64::from(room.is_none());
        drop(inner);
        room.map(|(charge, _given_up)| charge)
    }

    /// Makes room for so many bytes of a value that is to replace what the unit has. That stays while there is room for both, gives way
    /// first where there is not, and is gone where there is no room at all.
    pub fn admit_anew(&self, unit: &K, bytes: usize) -> Option<Charge> {
        let mut inner = self.inner.lock();
        if self.used.load(Ordering::SeqCst) + bytes > self.capacity() {
            let slot = inner.by_unit.get(unit).copied();
            let replaced = slot.and_then(|slot| inner.take(slot));
            drop(inner);
            // Freed and credited before others are looked at.
            drop(replaced);
            inner = self.inner.lock();
        }
        let room = self.make_room(&mut inner, bytes);
        inner.counters.declined += u64::from(room.is_none());
        drop(inner);
        room.map(|(charge, _given_up)| charge)
    }

    /// Puts a value in that takes `bytes`, which may be other than what was charged for it; whether it is in. What is there stays.
    pub fn fill(&self, unit: K, charge: Charge, bytes: usize, value: V) -> bool {
        self.insert(unit, charge, bytes, value, false)
    }

    /// Puts a value in as [`fill`](Self::fill) does, in the place of what is there.
    pub fn fill_anew(&self, unit: K, charge: Charge, bytes: usize, value: V) -> bool {
        self.insert(unit, charge, bytes, value, true)
    }

    fn insert(&self, unit: K, mut charge: Charge, bytes: usize, value: V, replaces: bool) -> bool {
        charge.shrink_to(bytes);
        let mut inner = self.inner.lock();
        let mut room = None;
        let mut is_in = true;
        if bytes > charge.bytes() {
            room = self.make_room(&mut inner, bytes - charge.bytes());
            is_in = room.is_some();
            inner.counters.declined += u64::from(!is_in);
            charge.bytes += room.as_mut().map_or(0, |(more, _)| std::mem::take(&mut more.bytes));
        }
        let known = inner.by_unit.get(&unit).copied();
        let replaced = known.filter(|_| replaces).and_then(|slot| inner.take(slot));
        is_in &= known.is_none() || replaces;
        if is_in {
            inner.insert(unit, Arc::new(Entry { value, charge }));
        }
        drop(inner);
        drop((room, replaced));
        is_in
    }

    /// Puts a value that takes `bytes` in the place of an entry, unless that is gone by now. It is no more recently used than what it
    /// replaces; where no room can be made for it, neither of them is kept.
    pub fn exchange(&self, unit: &K, old: &Arc<Entry<V>>, bytes: usize, value: V) -> bool {
        let mut inner = self.inner.lock();
        let Some(slot) = inner.entry(unit).filter(|(_, entry)| Arc::ptr_eq(entry, old)).map(|(slot, _)| slot) else {
            return false;
        };
        // It does not make room for itself: `old` leases it.
        let Some((charge, given_up)) = self.make_room(&mut inner, bytes) else {
            inner.counters.declined += 1;
            let taken = inner.take(slot);
            drop(inner);
            drop(taken);
            return false;
        };
        let place = inner.slots[slot as usize].as_mut();
        let replaced = place.map(|(_, entry)| std::mem::replace(entry, Arc::new(Entry { value, charge })));
        drop(inner);
        drop((replaced, given_up));
        true
    }

    /// Removes an entry; whether there was one.
    pub fn remove<Q>(&self, unit: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut inner = self.inner.lock();
        let slot = inner.by_unit.get(unit).copied();
        let entry = slot.and_then(|slot| inner.take(slot));
        drop(inner);
        entry.is_some()
    }

    /// Removes the entries that are not good; how many they were.
    pub fn retain(&self, is_good: impl Fn(&V) -> bool) -> usize {
        let mut inner = self.inner.lock();
        let is_stale =
            |place: &Option<(K, Arc<Entry<V>>)>| place.as_ref().is_some_and(|(_, entry)| !is_good(&entry.value));
        let stale = inner.slots.iter().enumerate().filter(|(_, place)| is_stale(place));
        let slots: Vec<_> = stale.map(|(slot, _)| slot as Slot).collect();
        let entries: Vec<_> = slots.into_iter().map(|slot| inner.take(slot)).collect();
        drop(inner);
        entries.len()
    }

    /// Removes every entry.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        let slots: Vec<_> = inner.by_unit.values().copied().collect();
        let entries: Vec<_> = slots.into_iter().map(|slot| inner.take(slot)).collect();
        drop(inner);
        drop(entries);
    }

    /// Sets the capacity; entries that do not fit any more are given up, whatever the policy.
    pub fn resize(&self, capacity: usize) {
        let mut given_up = Vec::new();
        let mut freed = 0;
        let mut inner = self.inner.lock();
        self.capacity.store(capacity, Ordering::SeqCst);
        while self.used.load(Ordering::SeqCst).saturating_sub(freed) > capacity {
            let Some(slot) = inner.policy.victim().or_else(|| inner.by_unit.values().next().copied()) else { break };
            let Some(entry) = inner.give_up(slot) else { break };
            freed += if Arc::strong_count(&entry) == 1 { entry.charge.bytes } else { 0 };
            given_up.push(entry);
        }
        drop(inner);
        drop(given_up);
    }

    /// Tells the policy that units are used once per pass.
    pub fn order_is_known(&self) {
        self.inner.lock().policy.order_is_known();
    }

    /// What happened so far, and what there is.
    pub fn stats(&self) -> CacheStats {
        let inner = self.inner.lock();
        CacheStats {
            entries: inner.by_unit.len() as u64,
            bytes: self.used.load(Ordering::SeqCst) as u64,
            capacity: self.capacity.load(Ordering::SeqCst) as u64,
            ..inner.counters
        }
    }

    /// Sets the counters to zero.
    pub fn reset_counters(&self) {
        self.inner.lock().counters = CacheStats::default();
    }

    fn make_room(&self, inner: &mut Inner<V, K>, bytes: usize) -> Option<(Charge, GivenUp<V>)> {
        let capacity = self.capacity.load(Ordering::SeqCst);
        if bytes > capacity {
            return None;
        }
        let mut given_up = GivenUp { entries: Vec::new(), surplus: Charge { bytes: 0, used: self.used.clone() } };
        while self.used.load(Ordering::SeqCst) + bytes > capacity + given_up.surplus.bytes {
            let slot = inner.policy.victim()?;
            let (_, entry) = inner.slots[slot as usize].as_ref()?;
            // Giving up what is leased would free nothing now, and what comes behind it was used even later.
            if Arc::strong_count(entry) > 1 {
                return None;
            }
            let mut entry = inner.give_up(slot)?;
            given_up.surplus.bytes +=
                Arc::get_mut(&mut entry).map_or(0, |entry| std::mem::take(&mut entry.charge.bytes));
            given_up.entries.push(entry);
        }
        let taken_over = given_up.surplus.bytes.min(bytes);
        given_up.surplus.bytes -= taken_over;
        self.used.fetch_add(bytes - taken_over, Ordering::SeqCst);
        Some((Charge { bytes, used: self.used.clone() }, given_up))
    }
}

/// Entries that made room for another, to be freed outside the lock and before the newcomer is allocated.
struct GivenUp<V> {
    entries: Vec<Arc<Entry<V>>>,
    /// What they were charged beyond what the newcomer took over. Dropped after them: credited once they are freed.
    surplus: Charge,
}

impl<V, K: Clone + Eq + Hash> Inner<V, K> {
    fn entry<Q>(&self, unit: &Q) -> Option<(Slot, &Arc<Entry<V>>)>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let slot = *self.by_unit.get(unit)?;
        self.slots[slot as usize].as_ref().map(|(_, entry)| (slot, entry))
    }

    fn insert(&mut self, unit: K, entry: Arc<Entry<V>>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as Slot
        });
        self.slots[slot as usize] = Some((unit.clone(), entry));
        self.by_unit.insert(unit, slot);
        self.policy.inserted(slot);
        self.counters.insertions += 1;
    }

    fn take(&mut self, slot: Slot) -> Option<Arc<Entry<V>>> {
        let (unit, entry) = self.slots[slot as usize].take()?;
        self.by_unit.remove(&unit);
        self.policy.removed(slot);
        self.free.push(slot);
        Some(entry)
    }

    fn give_up(&mut self, slot: Slot) -> Option<Arc<Entry<V>>> {
        let entry = self.take(slot)?;
        self.counters.evictions += 1;
        Some(entry)
    }
}

impl<V, K> fmt::Debug for Table<V, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("used", &self.used.load(Ordering::SeqCst)).finish_non_exhaustive()
    }
}
