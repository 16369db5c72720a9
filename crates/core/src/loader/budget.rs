//! How a loader's memory is shared out: cache, window, idle batch buffers.
//!
//! The parts add up to `memory_budget` when that is given; without, to what they come to by themselves. Checked when the loader is
//! made: a budget that cannot hold one batch on its way in and one being packed is refused with the number that it would take.
//! Compressed objects are taken to grow fourfold until one was unpacked, then as much as the one that grew most.

use crate::config::{ByteSize, CacheConfig, LoaderConfig};
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
    pub(super) limit: u64,
}

impl Budget {
    pub(super) fn new(loader: &LoaderConfig, cache: &CacheConfig, needs: Needs) -> Result<Self> {
        // One batch on its way in, and one behind its hand-over whose values wait to be packed.
        let step = needs.largest_step_bytes + needs.usual_batch_bytes;
        let asked = loader.memory_budget.map_or(needs.limit, |budget| budget.0);
        let window_limit = loader.memory_budget.map_or(MAX_WINDOW, |budget| MAX_WINDOW.min(budget.0 / 4));
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
            let name = if loader.memory_budget.is_some() { "memory_budget" } else { "memory of this process" };
            return Err(too_small(name, asked, window_bytes, "the window: what is read, assembled and packed"));
        };
        let idle_bytes = (IDLE_BATCHES * needs.usual_batch_bytes).min(rest / 2);
        let rest = rest - idle_bytes;
        let cache_bytes = match (cache.memory, loader.memory_budget) {
            (Some(size), Some(_)) if size.0 > rest => {
                let what = format!("{size} of it for the cache");
                return Err(too_small("memory_budget", asked, size.0 + window_bytes + idle_bytes, &what));
            }
            (Some(size), None) if size.0 > rest => {
                tracing::warn!("cache memory of {size} is more than there is: using {} instead", ByteSize(rest));
                rest
            }
            (Some(size), _) => size.0,
            (None, Some(_)) => rest,
            (None, None) => CacheConfig::default_memory(needs.limit).min(rest),
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

    const NEEDS: Needs =
        Needs { largest_step_bytes: 100_000_000, usual_batch_bytes: 50_000_000, limit: 20_000_000_000 };

    fn budget(memory: Option<u64>, window: Option<u64>, cache: Option<u64>) -> Result<Budget> {
        let loader = LoaderConfig {
            memory_budget: memory.map(ByteSize),
            window_bytes: window.map(ByteSize),
            ..LoaderConfig::default()
        };
        Budget::new(&loader, &CacheConfig { memory: cache.map(ByteSize), ..CacheConfig::default() }, NEEDS)
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
        assert_eq!(budget(None, None, Some(50_000_000_000)).expect("fits").total(), NEEDS.limit);
    }
}
