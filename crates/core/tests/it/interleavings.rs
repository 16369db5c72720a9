//! The cache's table under a scheduler that decides at every lock and atomic who goes on.
//!
//! The very source of the table is compiled a second time, over shuttle's locks instead of the real ones.

use headwater::cache::eviction::by_policy;
use headwater::cache::{CacheStats, Policy, UnitId, eviction};
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

use sync::{Arc, AtomicUsize, Ordering};
use table::Table;

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
                    if let Some(charge) = table.admit(unit(sample), bytes) {
                        let real = Real::allocate(&live, bytes);
                        table.fill(unit(sample), charge, bytes, real);
                    }
                    let mut found = Vec::new();
                    table.get_many(&[unit(round), unit(3)], &mut found);
                    for lease in found.iter().flatten() {
                        assert!(lease.value().bytes >= 20);
                    }
                    match (thread, round) {
                        (0, 1) => drop(table.remove(unit(1))),
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
            if let Some(charge) = table.admit(unit(sample), 40) {
                table.fill(unit(sample), charge, 40, ());
            }
        }
        thread.join().expect("joins");
        let stats = table.stats();
        assert_eq!(stats.bytes, 40 * stats.entries);
    };
    shuttle::check_random(run, SCHEDULES);
}
