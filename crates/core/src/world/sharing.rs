//! How many processes share this machine, and the cores that this one may keep busy.
//!
//! The ranks of a run that are on one machine, and the workers of torch's `DataLoader` that each of them has, would each fill
//! the machine if they thought they were alone. Nobody counts them here: whoever knows says so, and the environment of launchers counts
//! where nobody does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use super::Ranks;

/// Ranks on this machine; 0 until somebody says.
static RANKS: AtomicUsize = AtomicUsize::new(0);
/// Workers of this process's rank, of which it is one; 0 where it is none.
static WORKERS: AtomicUsize = AtomicUsize::new(0);

/// Says how many ranks of the run are on this machine.
pub fn share_among_ranks(count: usize) {
    RANKS.store(count, Ordering::Relaxed);
}

/// Says how many workers of its rank there are, of which this process is one.
pub fn share_among_workers(count: usize) {
    WORKERS.store(count, Ordering::Relaxed);
}

/// Processes that share this machine, this one included, as far as is known: at least 1.
pub fn sharers() -> usize {
    ranks().saturating_mul(workers())
}

/// Cores that this process may keep busy: its share of what there is for all who share the machine, at least 1.
pub fn cores() -> usize {
    Cores::seen().of_one(ranks(), workers())
}

fn ranks() -> usize {
    match RANKS.load(Ordering::Relaxed) {
        // An environment that contradicts itself is refused where ranks matter.
        0 => Ranks::find(None, None, None).map_or(1, |ranks| ranks.local_world_size),
        ranks => ranks,
    }
}

fn workers() -> usize {
    WORKERS.load(Ordering::Relaxed).max(1)
}

/// Cores, as a process sees them.
#[derive(Debug, Clone, Copy)]
struct Cores {
    /// Of the machine.
    online: usize,
    /// Those that the process may be on: a launcher may have given each rank cores of its own.
    allowed: usize,
    /// The same, or what a control group lets all of its processes use together where that is less.
    granted: usize,
}

impl Cores {
    fn seen() -> Self {
        let granted = available_parallelism().map_or(1, usize::from);
        let own = rustix::thread::sched_getaffinity(None).map_or(granted, |own| own.count() as usize);
        Self { online: online().unwrap_or(own), allowed: own, granted }
    }

    /// What one worker of one rank has of them. A control group is around all ranks; cores that a rank was bound to are its own.
    fn of_one(self, ranks: usize, workers: usize) -> usize {
        let together = if self.granted < self.allowed { self.granted } else { self.online };
        self.allowed.min(together.div_ceil(ranks)).div_ceil(workers).max(1)
    }
}

#[allow(unsafe_code)]
fn online() -> Option<usize> {
    // SAFETY: it takes a number and returns one.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_one(online: usize, allowed: usize, granted: usize, ranks: usize, workers: usize) -> usize {
        Cores { online, allowed, granted }.of_one(ranks, workers)
    }

    #[test]
    fn ranks_of_a_machine_and_their_workers_divide_its_cores() {
        assert_eq!(of_one(64, 64, 64, 1, 1), 64);
        assert_eq!(of_one(64, 64, 64, 8, 1), 8);
        assert_eq!(of_one(64, 64, 64, 8, 4), 2);
        assert_eq!(of_one(2, 2, 2, 8, 8), 1);
    }

    #[test]
    fn what_a_control_group_grants_is_for_all_of_its_ranks() {
        assert_eq!(of_one(128, 128, 32, 1, 1), 32);
        assert_eq!(of_one(128, 128, 32, 8, 1), 4);
    }

    #[test]
    fn cores_that_a_rank_was_bound_to_are_not_divided_again() {
        assert_eq!(of_one(64, 8, 8, 8, 1), 8);
        assert_eq!(of_one(64, 8, 8, 8, 4), 2, "but among its workers they are");
        assert_eq!(of_one(64, 32, 32, 8, 1), 8, "never more than one in so many of the machine");
    }

    #[test]
    fn there_is_at_least_one_core_and_not_more_than_the_machine_has() {
        let seen = Cores::seen();
        assert!((1..=seen.online).contains(&seen.of_one(1, 1)), "{seen:?}");
        assert!(seen.granted <= seen.allowed && seen.allowed <= seen.online, "{seen:?}");
    }
}
