//! What is made of locks in the cache — its table, loads that several wait for, and the room where values wait to be packed — under a
//! scheduler that decides at every lock and atomic who goes on.
//!
//! Their very sources are compiled a second time, over shuttle's locks instead of the real ones.

use headwater::cache::eviction::by_policy;
use headwater::cache::{CacheStats, Policy, UnitId, eviction};
use shuttle::future::block_on;
use shuttle::thread;

mod sync {
    pub(super) use shuttle::sync::Arc;
    pub(super) use shuttle::sync::atomic::{AtomicUsize, Ordering};

    /// With the manners of the real one: `lock` gives a guard.
    pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().expect("not poisoned")
        }
    }
}

#[allow(dead_code, unreachable_pub, clippy::must_use_candidate)] // the crate uses and exports all of it, this test a part
#[path = "../../src/cache/table.rs"]
mod table;

#[allow(dead_code, unreachable_pub)] // the same
#[path = "../../src/cache/flights.rs"]
mod flights;

#[allow(dead_code, unreachable_pub)] // the same
#[path = "../../src/cache/waiting.rs"]
mod waiting;

use flights::{Flight, Flights};
use sync::{Arc, AtomicUsize, Ordering};
use table::Table;
use waiting::WaitingRoom;

const CAPACITY: usize = 100;
const SCHEDULES: usize = 3_000;

fn unit(sample: usize) -> UnitId {
    UnitId { sample, field: 0 }
}

/// Memory that exists, counted.
struct Real {
    live: Arc<AtomicUsize>,
    bytes: usize,
}

impl Real {
    fn allocate(live: &Arc<AtomicUsize>, bytes: usize) -> Self {
        let now = live.fetch_add(bytes, Ordering::SeqCst) + bytes;
        assert!(now <= CAPACITY, "{now} bytes exist");
        Self { live: live.clone(), bytes }
    }
}

impl Real {
    /// As a record is shorter than the room for it.
    fn shrink_to(&mut self, bytes: usize) {
        self.live.fetch_sub(self.bytes - bytes, Ordering::SeqCst);
        self.bytes = bytes;
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

fn hammer(policy: Policy) {
    let table = Arc::new(Table::new(CAPACITY, by_policy(policy)));
    let live = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..3_usize)
        .map(|thread| {
            let (table, live) = (table.clone(), live.clone());
            thread::spawn(move || {
                for round in 0..3_usize {
                    let (sample, bytes) = ((thread + round) % 4, 20 + 10 * (thread + round));
                    if let Some(charge) = table.admit(&unit(sample), bytes) {
                        let mut real = Real::allocate(&live, bytes);
                        let packed = if round == 1 { bytes / 2 } else { bytes };
                        real.shrink_to(packed);
                        table.fill(unit(sample), charge, packed, real);
                    }
                    let mut found = Vec::new();
                    table.get_many(&[unit(round), unit(3)], &mut found);
                    for lease in found.iter().flatten() {
                        assert!(lease.value().bytes >= 15);
                    }
                    match (thread, round) {
                        (0, 1) => drop(table.remove(&unit(1))),
                        (1, 2) => table.clear(),
                        _ => {}
                    }
                    assert!(table.stats().bytes <= CAPACITY as u64);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("joins"));
    let stats = table.stats();
    assert_eq!(stats.bytes, live.load(Ordering::SeqCst) as u64, "what is charged is what exists");
    table.clear();
    assert_eq!((table.stats().bytes, live.load(Ordering::SeqCst)), (0, 0));
}

#[test]
fn no_interleaving_lets_memory_exceed_the_capacity() {
    shuttle::check_random(|| hammer(Policy::Lru), SCHEDULES);
    shuttle::check_random(|| hammer(Policy::Keep), SCHEDULES);
    // Few preemptions at the worst places find what many random ones do not.
    shuttle::check_pct(|| hammer(Policy::Lru), SCHEDULES, 3);
}

/// Resizing gives up entries outside the lock as well.
#[test]
fn no_interleaving_of_resizing_and_admitting_loses_count() {
    let run = || {
        let table = Arc::new(Table::new(CAPACITY, by_policy(Policy::Lru)));
        let other = table.clone();
        let thread = thread::spawn(move || (0..4).for_each(|round| other.resize([60, 100, 0, 80][round])));
        for sample in 0..4 {
            if let Some(charge) = table.admit(&unit(sample), 40) {
                table.fill(unit(sample), charge, 40, ());
            }
        }
        thread.join().expect("joins");
        let stats = table.stats();
        assert_eq!(stats.bytes, 40 * stats.entries);
    };
    shuttle::check_random(run, SCHEDULES);
}

/// A value is put in for nothing, and exchanged for one that takes room, while others want that room or take it out.
#[test]
fn no_interleaving_of_exchanging_loses_count() {
    let run = || {
        let table = Arc::new(Table::new(CAPACITY, by_policy(Policy::Lru)));
        let other = table.clone();
        let put = |table: &Table<usize>, sample, bytes| {
            if let Some(charge) = table.admit(&unit(sample), bytes) {
                table.fill(unit(sample), charge, bytes, bytes);
            }
        };
        let thread = thread::spawn(move || {
            for sample in 1..4 {
                put(&other, sample, 40);
                if sample == 2 {
                    other.remove(&unit(0));
                }
            }
        });
        for _ in 0..2 {
            put(&table, 0, 0);
            if let Some(old) = table.peek(&unit(0)) {
                table.exchange(&unit(0), &old, 30, 30);
            }
            assert!(table.stats().bytes <= CAPACITY as u64);
        }
        thread.join().expect("joins");
        let held: usize = (0..4).filter_map(|sample| table.peek(&unit(sample))).map(|entry| *entry.value()).sum();
        assert_eq!(table.stats().bytes, held as u64);
    };
    shuttle::check_random(run, SCHEDULES);
    shuttle::check_pct(run, SCHEDULES, 3);
}

/// A cache that loads what it lacks, as a dataset does.
struct Loading {
    table: Table<usize>,
    flights: Arc<Flights<usize>>,
    /// How many load each unit at this moment.
    under_way: [AtomicUsize; 2],
    /// Leaders that are to leave before they land.
    leaving: AtomicUsize,
}

impl Loading {
    fn get(&self, sample: usize) -> usize {
        loop {
            let mut found = Vec::new();
            self.table.get_many(&[unit(sample)], &mut found);
            if let Some(Some(lease)) = found.pop() {
                return *lease.value();
            }
            match self.flights.join(unit(sample)) {
                Flight::Lead(leader) => {
                    assert_eq!(self.under_way[sample].fetch_add(1, Ordering::SeqCst), 0, "two load unit {sample}");
                    let leaves =
                        self.leaving.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                    self.under_way[sample].fetch_sub(1, Ordering::SeqCst);
                    if leaves.is_ok() {
                        continue;
                    }
                    let value = 10 + sample;
                    if let Some(charge) = self.table.admit(&unit(sample), 60) {
                        self.table.fill(unit(sample), charge, 60, value);
                    }
                    leader.land(&value);
                    return value;
                }
                Flight::Follow(result) => {
                    if let Ok(value) = block_on(result) {
                        return value;
                    }
                }
            }
        }
    }
}

/// Also where a leader leaves without a result, and where the table has room for one unit alone. Who waited for ever would be found.
#[test]
fn no_interleaving_loads_a_unit_twice_at_once_or_leaves_anybody_without_it() {
    let run = || {
        let loading = Arc::new(Loading {
            table: Table::new(CAPACITY, by_policy(Policy::Lru)),
            flights: Arc::new(Flights::default()),
            under_way: [AtomicUsize::new(0), AtomicUsize::new(0)],
            leaving: AtomicUsize::new(2),
        });
        let threads: Vec<_> = (0..3_usize)
            .map(|number| {
                let loading = loading.clone();
                thread::spawn(move || {
                    for sample in [number % 2, 1 - number % 2] {
                        assert_eq!(loading.get(sample), 10 + sample);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("joins"));
        assert!(loading.flights.is_empty(), "{:?}", loading.flights);
        assert_eq!(loading.table.stats().bytes, 60 * loading.table.stats().entries);
    };
    shuttle::check_random(run, SCHEDULES);
    shuttle::check_pct(run, SCHEDULES, 3);
}

const LIMIT: usize = 50;

#[test]
fn no_interleaving_lets_more_wait_than_may() {
    let run = || {
        // What waits, counted after it entered and before it leaves.
        let (room, inside) = (Arc::new(WaitingRoom::default()), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = [30_usize, 20, 80]
            .into_iter()
            .map(|bytes| {
                let (room, inside) = (room.clone(), inside.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        let Some(waiting) = room.enter(bytes, LIMIT) else { continue };
                        let all = inside.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        assert!(all <= LIMIT || all == bytes, "{all} bytes wait");
                        inside.fetch_sub(bytes, Ordering::SeqCst);
                        drop(waiting);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("joins"));
        let alone = room.enter(10 * LIMIT, LIMIT).expect("nobody else waits");
        assert!(room.enter(1, LIMIT).is_none() && room.enter(usize::MAX, LIMIT).is_none(), "beside that one");
        drop(alone);
        let both = (room.enter(LIMIT / 2, LIMIT), room.enter(LIMIT / 2, LIMIT));
        assert!(both.0.is_some() && both.1.is_some() && room.enter(1, LIMIT).is_none());
    };
    shuttle::check_random(run, SCHEDULES);
    shuttle::check_pct(run, SCHEDULES, 3);
}

#[test]
fn no_interleaving_turns_anybody_away_for_one_who_is_turned_away() {
    let run = || {
        let room = Arc::new(WaitingRoom::default());
        let first = room.enter(30, LIMIT).expect("nobody else waits");
        let other = room.clone();
        let large = thread::spawn(move || assert!(other.enter(LIMIT, LIMIT).is_none()));
        assert!(room.enter(20, LIMIT).is_some(), "there is room");
        large.join().expect("joins");
        drop(first);
    };
    shuttle::check_random(run, SCHEDULES);
}
