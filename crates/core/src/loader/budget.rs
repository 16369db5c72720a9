//! How a loader's memory is shared out: cache, window, idle batch buffers.
//!
//! The parts add up to `memory_budget` when that is given; without, to what they come to by themselves. Checked when the loader is
//! made: a budget that cannot hold one batch on its way in and one being packed is refused with the number that it would take.
//! Compressed objects are taken to grow fourfold until one was unpacked, then as much as the one that grew most.

use crate::config::{ByteSize, CacheConfig, LoaderConfig, MemoryShare};
use crate::error::{Error, ErrorKind, Result};

/// Default of the window: room for so many batches,
const WINDOW_BATCHES: u64 = 16;
/// but neither less than this, so that many small requests can be under way,
const MIN_WINDOW: u64 = 64_000_000;
/// nor more than this.
const MAX_WINDOW: u64 = 1_000_000_000;
/// Batches whose buffers may lie idle: the one being filled while the consumer lets go of the last one.
const IDLE_BATCHES: u64 = 2;
/// Values that wait to be packed; beyond, they are not offered to the cache.
const MAX_BACKLOG: u64 = 256_000_000;

/// Bytes for each use of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Capacity of the memory tier.
    pub cache_bytes: u64,
    /// What is under way and ready.
    pub window_bytes: u64,
    /// Part of the window that values may take which wait to be packed for the cache, their batch being handed over already.
    pub backlog_bytes: u64,
    /// Part of the window that records may take which wait to be written to disk; one may always.
    pub disk_backlog_bytes: u64,
    /// Buffers that lie idle between two uses.
    pub idle_bytes: u64,
}

/// What a budget is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// What the largest batch takes while it is read, unpacked and assembled.
    pub(super) largest_step_bytes: u64,
    /// Tensors of a batch of usual size.
    pub(super) usual_batch_bytes: u64,
    /// Memory this process may use.
    pub(super) share: MemoryShare,
}

impl Budget {
    pub(super) fn new(loader: &LoaderConfig, cache: &CacheConfig, needs: Needs) -> Result<Self> {
        // One batch on its way in, and one behind its hand-over whose values wait to be packed.
        let step = needs.largest_step_bytes + needs.usual_batch_bytes;
        let share = needs.share;
        let asked =
            loader.memory_budget.map_or(share.bytes(), |budget| share.granted("memory_budget", budget, share.bytes()));
        let window_limit = MAX_WINDOW.min(asked / 4);
        let usual = (WINDOW_BATCHES * step).max(MIN_WINDOW).min(window_limit).max(step);
        let window_bytes = loader.window_bytes.map_or(usual, |bytes| bytes.0);
        if window_bytes < step {
            return Err(too_small(
                "window_bytes",
                window_bytes,
                step,
                "one batch being read and assembled, one being packed",
            ));
        }
        let Some(rest) = asked.checked_sub(window_bytes) else {
            let name = match (loader.memory_budget, share.sharers) {
                (Some(_), _) => "memory_budget",
                (None, 1) => "memory of this process",
                (None, sharers) => &format!("memory of this process, one of {sharers}"),
            };
            return Err(too_small(name, asked, window_bytes, "the window: what is read, assembled and packed"));
        };
        let idle_bytes = (IDLE_BATCHES * needs.usual_batch_bytes).min(rest / 2);
        let rest = rest - idle_bytes;
        let cache_bytes = match (cache.memory, loader.memory_budget) {
            // Where less was granted than asked for, all of it is less.
            (Some(size), Some(budget)) if size.0 > rest && asked == budget.0 => {
                let what = format!("{size} of it for the cache");
                return Err(too_small("memory_budget", asked, size.0 + window_bytes + idle_bytes, &what));
            }
            (Some(size), _) => share.granted("cache memory", size, rest),
            (None, Some(_)) => rest,
            (None, None) => (CacheConfig::default_memory(share.limit) / share.sharers).min(rest),
        };
        let more = ((window_bytes - step) / 4).min(MAX_BACKLOG);
        let backlog_bytes = needs.usual_batch_bytes + more;
        let disk_backlog_bytes = if cache.disk.is_some() { more } else { 0 };
        Ok(Self { cache_bytes, window_bytes, backlog_bytes, disk_backlog_bytes, idle_bytes })
    }

    /// What batches may take until they are handed over.
    pub(super) fn in_window(&self) -> u64 {
        self.window_bytes - self.backlog_bytes - self.disk_backlog_bytes
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.cache_bytes + self.window_bytes + self.idle_bytes
    }
}

fn too_small(name: &str, given: u64, needed: u64, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, "use", format_args!("{name} = {}", ByteSize(given)))
        .because(format_args!("at least {} are needed ({what}); raise it, or lower the batch size", ByteSize(needed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        largest_step_bytes: 100_000_000,
        usual_batch_bytes: 50_000_000,
        share: MemoryShare { limit: 20_000_000_000, sharers: 1 },
    };

    fn budget(memory: Option<u64>, window: Option<u64>, cache: Option<u64>) -> Result<Budget> {
        shared(1, memory, window, cache)
    }

    fn shared(sharers: u64, memory: Option<u64>, window: Option<u64>, cache: Option<u64>) -> Result<Budget> {
        let loader = LoaderConfig {
            memory_budget: memory.map(ByteSize),
            window_bytes: window.map(ByteSize),
            ..LoaderConfig::default()
        };
        Budget::new(
            &loader,
            &CacheConfig { memory: cache.map(ByteSize), ..CacheConfig::default() },
            Needs { share: MemoryShare { sharers, ..NEEDS.share }, ..NEEDS },
        )
    }

    #[test]
    fn without_a_budget_the_parts_have_their_defaults() {
        let budget = budget(None, None, None).expect("fits");
        assert_eq!(
            (budget.cache_bytes, budget.window_bytes, budget.idle_bytes),
            (4_000_000_000, 1_000_000_000, 100_000_000)
        );
    }

    #[test]
    fn a_budget_is_used_up_and_not_exceeded() {
        let one = budget(Some(2_000_000_000), None, None).expect("fits");
        assert_eq!((one.total(), one.window_bytes), (2_000_000_000, 500_000_000));
        let given = budget(Some(2_000_000_000), Some(200_000_000), Some(1_000_000_000)).expect("fits");
        assert_eq!((given.cache_bytes, given.window_bytes), (1_000_000_000, 200_000_000));
    }

    #[test]
    fn a_budget_that_holds_no_batch_is_refused_with_the_number_needed() {
        let refused = |memory, window, cache| budget(memory, window, cache).expect_err("too small").to_string();
        let message = refused(Some(140_000_000), None, None);
        assert!(
            message.contains("memory_budget = 140 MB") && message.contains("at least 150 MB are needed"),
            "{message}"
        );
        let message = refused(None, Some(1), None);
        assert!(message.contains("window_bytes = 1 B") && message.contains("at least 150 MB"), "{message}");
        let message = refused(None, Some(100_000_000_000), None);
        assert!(message.contains("memory of this process = 20.0 GB"), "{message}");
        let message = refused(Some(1_000_000_000), None, Some(1_000_000_000));
        assert!(message.contains("at least 1.4 GB") && message.contains("1.0 GB of it for the cache"), "{message}");
    }

    #[test]
    fn more_cache_than_there_is_memory_is_clamped() {
        assert_eq!(budget(None, None, Some(50_000_000_000)).expect("fits").total(), NEEDS.share.limit);
        let both = budget(Some(80_000_000_000), None, Some(50_000_000_000)).expect("fits");
        assert_eq!(both.total(), NEEDS.share.limit);
    }

    #[test]
    fn those_who_share_memory_do_not_use_more_than_there_is() {
        for sharers in [1, 2, 8, 16, 64] {
            let together = |budget: Budget| budget.total() * sharers;
            let share = NEEDS.share.limit / sharers;
            let by_default = shared(sharers, None, None, None).expect("fits");
            assert!(by_default.cache_bytes * sharers <= 4_000_000_000 && by_default.cache_bytes > 0);
            assert!(by_default.window_bytes <= (share / 4).max(150_000_000));
            let asked = shared(sharers, Some(90_000_000_000), None, None).expect("fits");
            let kept = shared(sharers, None, None, Some(90_000_000_000)).expect("fits");
            let both = shared(sharers, Some(90_000_000_000), None, Some(90_000_000_000)).expect("fits");
            for budget in [by_default, asked, kept, both] {
                assert!(together(budget) <= NEEDS.share.limit, "{sharers}: {budget:?}");
            }
            // What fits is granted as asked.
            let small = shared(sharers, Some(300_000_000), None, Some(50_000_000)).expect("fits");
            assert_eq!(small.cache_bytes, 50_000_000);
        }
        let message = shared(200, None, None, None).expect_err("too many").to_string();
        assert!(message.contains("memory of this process, one of 200 = 100 MB"), "{message}");
    }
}
