use proptest::prelude::*;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::eviction::by_policy;
use super::{Entry, Found, Policy, Table, UnitId};

mod flights;

/// An entry: its unit, its bytes, and a number that tells it from others of the same unit and bytes.
type Value = (UnitId, usize, u64);

/// What a table should be, told as simply as possible: entries from the least to the most recently used.
#[derive(Debug, Default)]
struct Model {
    capacity: usize,
    entries: Vec<Value>,
    /// Entries that were given up or removed while leased, and that are still.
    ghosts: Vec<Value>,
    leased: Vec<Value>,
    puts: u64,
}

impl Model {
    fn used(&self) -> usize {
        self.entries.iter().chain(&self.ghosts).map(|(_, bytes, _)| bytes).sum()
    }

    fn get(&mut self, unit: UnitId) -> bool {
        let Some(at) = self.entries.iter().position(|(known, ..)| *known == unit) else { return false };
        let entry = self.entries.remove(at);
        self.entries.push(entry);
        true
    }

    fn put(&mut self, unit: UnitId, bytes: usize, policy: Policy) -> bool {
        if self.entries.iter().any(|(known, ..)| *known == unit) || bytes > self.capacity {
            return false;
        }
        while self.used() + bytes > self.capacity {
            let Some(&oldest) = self.entries.first().filter(|_| policy == Policy::Lru) else { return false };
            if self.leased.contains(&oldest) {
                return false;
            }
            self.entries.remove(0);
        }
        self.puts += 1;
        self.entries.push((unit, bytes, self.puts));
        true
    }

    fn drop_at(&mut self, at: usize) {
        let gone = self.entries.remove(at);
        if self.leased.contains(&gone) {
            self.ghosts.push(gone);
        }
    }

    fn release(&mut self, lease: Value) {
        let at = self.leased.iter().position(|known| *known == lease).expect("leased");
        self.leased.remove(at);
        if !self.leased.contains(&lease) {
            self.ghosts.retain(|ghost| *ghost != lease);
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Get(usize),
    Put { unit: usize, charged: usize, actual: usize },
    Lease(usize),
    Release,
    Remove(usize),
    Resize(usize),
    Clear,
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..12_usize).prop_map(Op::Get),
        6 => (0..12_usize, 1..60_usize, 1..60_usize).prop_map(|(unit, charged, actual)| Op::Put { unit, charged, actual }),
        2 => (0..12_usize).prop_map(Op::Lease),
        2 => Just(Op::Release),
        1 => (0..12_usize).prop_map(Op::Remove),
        1 => (0..200_usize).prop_map(Op::Resize),
        1 => Just(Op::Clear),
    ]
}

fn unit(sample: usize) -> UnitId {
    UnitId { sample, field: 0 }
}

struct Pair {
    table: Table<Value>,
    model: Model,
    leases: Vec<Arc<Entry<Value>>>,
    policy: Policy,
}

impl Pair {
    fn find(&self, unit: UnitId) -> Option<Arc<Entry<Value>>> {
        let mut found = Vec::new();
        self.table.get_many(&[unit], &mut found);
        found.pop().flatten()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Get(sample) => {
                assert_eq!(self.find(unit(sample)).is_some(), self.model.get(unit(sample)));
            }
            Op::Put { unit: sample, charged, actual } => {
                let room = self.table.admit(&unit(sample), charged);
                // The model admits what it is charged for and then what it turned out to be, as the table does.
                let before = self.model.entries.clone();
                let admitted = self.model.put(unit(sample), charged, self.policy);
                assert_eq!(room.is_some(), admitted, "admit {charged} of {before:?}");
                let Some(charge) = room else { return };
                self.model.entries.pop();
                if actual > charged {
                    self.model.ghosts.push((unit(999), charged, 0));
                    let more = self.model.put(unit(sample), actual - charged, self.policy);
                    self.model.ghosts.retain(|(ghost, ..)| *ghost != unit(999));
                    if more {
                        self.model.entries.pop();
                        self.model.entries.push((unit(sample), actual, self.model.puts));
                    }
                } else {
                    self.model.entries.push((unit(sample), actual, self.model.puts));
                }
                self.table.fill(unit(sample), charge, actual, (unit(sample), actual, self.model.puts));
            }
            Op::Lease(sample) => {
                let found = self.find(unit(sample));
                assert_eq!(found.is_some(), self.model.get(unit(sample)));
                if let Some(entry) = found {
                    self.model.leased.push(*entry.value());
                    self.leases.push(entry);
                }
            }
            Op::Release => {
                if let Some(entry) = self.leases.pop() {
                    let lease = *entry.value();
                    drop(entry);
                    self.model.release(lease);
                }
            }
            Op::Remove(sample) => {
                let at = self.model.entries.iter().position(|(known, ..)| *known == unit(sample));
                assert_eq!(self.table.remove(&unit(sample)), at.is_some());
                if let Some(at) = at {
                    self.model.drop_at(at);
                }
            }
            Op::Clear => {
                self.table.clear();
                while !self.model.entries.is_empty() {
                    self.model.drop_at(0);
                }
            }
            Op::Resize(capacity) => {
                self.table.resize(capacity);
                self.model.capacity = capacity;
                if self.policy == Policy::Lru {
                    while self.model.used() > capacity && !self.model.entries.is_empty() {
                        self.model.drop_at(0);
                    }
                } else {
                    // Which of them go is not promised: follow the table.
                    let kept: Vec<_> =
                        self.model.entries.iter().filter(|(unit, ..)| self.is_there(*unit)).copied().collect();
                    while let Some(at) = self.model.entries.iter().position(|entry| !kept.contains(entry)) {
                        self.model.drop_at(at);
                    }
                    assert!(self.model.used() <= capacity || self.model.entries.is_empty());
                }
            }
        }
    }

    fn is_there(&self, unit: UnitId) -> bool {
        self.table.contains(&unit)
    }

    fn check(&self) {
        let stats = self.table.stats();
        assert_eq!(stats.bytes as usize, self.model.used());
        assert_eq!(stats.entries as usize, self.model.entries.len());
        assert!(self.model.entries.iter().all(|(unit, ..)| self.is_there(*unit)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn does_what_the_model_does(ops in prop::collection::vec(ops(), 1..120), keeps: bool) {
        let policy = if keeps { Policy::Keep } else { Policy::Lru };
        let table = Table::new(150, by_policy(policy));
        let model = Model { capacity: 150, ..Model::default() };
        let mut pair = Pair { table, model, leases: Vec::new(), policy };
        for op in &ops {
            pair.apply(op);
            pair.check();
        }
        pair.leases.clear();
        pair.table.clear();
        prop_assert_eq!(pair.table.stats().bytes, 0);
    }
}

/// Counts what really exists.
struct Real(Arc<AtomicUsize>, usize);
impl Drop for Real {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

#[test]
fn memory_is_never_over_capacity_under_many_threads() {
    const CAPACITY: usize = 1_000;
    let live = Arc::new(AtomicUsize::new(0));
    let table = Table::new(CAPACITY, by_policy(Policy::Lru));
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let (table, live) = (&table, &live);
            scope.spawn(move || {
                for n in 0..20_000_usize {
                    let (sample, bytes) = ((n * 7 + thread * 13) % 40, 1 + (n * 31 + thread) % 300);
                    if let Some(charge) = table.admit(&unit(sample), bytes) {
                        let now = live.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        assert!(now <= CAPACITY, "{now} bytes exist");
                        table.fill(unit(sample), charge, bytes, Real(live.clone(), bytes));
                    }
                    let mut found = Vec::new();
                    table.get_many(&[unit((n * 3) % 40)], &mut found);
                    assert!(table.stats().bytes <= CAPACITY as u64);
                }
            });
        }
    });
    table.clear();
    assert_eq!((table.stats().bytes, live.load(Ordering::SeqCst)), (0, 0));
}

#[test]
fn auto_is_lru_until_an_order_is_known_and_keeps_from_then_on() {
    let table = Table::new(2, by_policy(Policy::Auto));
    let put = |sample| table.admit(&unit(sample), 1).map(|charge| table.fill(unit(sample), charge, 1, ())).is_some();
    assert!(put(0) && put(1) && put(2), "the oldest gave way");
    assert!(!table.remove(&unit(0)));
    table.order_is_known();
    assert!(!put(3));
    let stats = table.stats();
    assert_eq!((stats.entries, stats.insertions, stats.evictions, stats.declined), (2, 3, 1, 1));
}

#[test]
fn what_is_no_longer_good_is_taken_out_and_is_a_miss() {
    let table = Table::new(2, by_policy(Policy::Lru));
    for sample in 0..2 {
        let charge = table.admit(&unit(sample), 1).expect("room");
        assert!(table.fill(unit(sample), charge, 1, sample));
    }
    assert!(matches!(table.find(&unit(1), |&value| value == 1), Found::Good(_)));
    assert!(matches!(table.find(&unit(0), |_| false), Found::Stale(_)));
    assert!(matches!(table.find(&unit(0), |_| true), Found::Missing));
    assert_eq!(table.retain(|_| false), 1);
    let stats = table.stats();
    assert_eq!((stats.entries, stats.bytes, stats.hits, stats.misses, stats.evictions), (0, 0, 1, 2, 0));
}

#[test]
fn an_exchange_keeps_the_place_in_the_order_and_never_revives_what_is_gone() {
    let table = Table::new(4, by_policy(Policy::Lru));
    let put = |sample, value| {
        let charge = table.admit(&unit(sample), 1).expect("room");
        assert!(table.fill(unit(sample), charge, 1, value));
    };
    put(0, "plain");
    put(1, "other");
    let old = table.peek(&unit(0)).expect("there");
    assert!(table.exchange(&unit(0), &old, 2, "packed"));
    assert!(!table.exchange(&unit(0), &old, 1, "late"), "it is another one by now");
    assert_eq!(table.stats().bytes, 4, "what is leased counts");
    drop(old);
    assert_eq!((table.stats().bytes, *table.peek(&unit(0)).expect("there").value()), (3, "packed"));
    put(2, "newer");
    put(3, "newest");
    assert!(!table.contains(&unit(0)) && table.contains(&unit(1)), "the first one is still the oldest");
    let old = table.peek(&unit(1)).expect("there");
    assert!(!table.exchange(&unit(1), &old, 5, "too large"));
    assert!(!table.contains(&unit(1)));
}

/// FACTS: reuse in steady state, once per epoch in a new random order.
#[test]
fn keeping_reuses_what_fits_and_lru_far_less() {
    const SAMPLES: u64 = 400;
    let reuse = |policy| {
        let table = Table::new(SAMPLES as usize / 2, by_policy(policy));
        for epoch in 0..12 {
            if epoch == 4 {
                table.reset_counters();
            }
            let permutation = shuffled(SAMPLES as usize, epoch);
            for sample in permutation {
                let mut found = Vec::new();
                table.get_many(&[unit(sample)], &mut found);
                if found[0].is_none()
                    && let Some(charge) = table.admit(&unit(sample), 1)
                {
                    table.fill(unit(sample), charge, 1, ());
                }
            }
        }
        let stats = table.stats();
        stats.hits as f64 / (stats.hits + stats.misses) as f64
    };
    let (keep, lru) = (reuse(Policy::Keep), reuse(Policy::Lru));
    assert!((keep - 0.5).abs() < 1e-9, "{keep}");
    assert!((lru - 0.153).abs() < 0.02, "c + (1 - c) ln(1 - c) = 0.153 for c = 0.5; here {lru}");
}

/// A Fisher–Yates shuffle; the cache's tests do not lean on the order's code.
fn shuffled(len: usize, seed: u64) -> Vec<usize> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut order: Vec<usize> = (0..len).collect();
    for at in (1..len).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(at, (state >> 33) as usize % (at + 1));
    }
    order
}
