//! How a loader's memory is shared out: cache, window, idle batch buffers.
//!
//! The parts add up to `memory_budget` when that is given; without, to what they come to by themselves. Checked when the loader is
//! made: a budget that cannot hold two batches is refused with the number that it would take.

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

/// Bytes for each use of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Capacity of the memory tier.
    pub cache_bytes: u64,
    /// What is under way and ready.
    pub window_bytes: u64,
    /// Buffers that lie idle between two uses.
    pub idle_bytes: u64,
}

/// What a budget is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Stored bytes of the objects of a full batch.
    pub(super) batch_bytes: u64,
    /// Memory this process may use.
    pub(super) limit: u64,
}

impl Budget {
    pub(super) fn new(loader: &LoaderConfig, cache: &CacheConfig, needs: Needs) -> Result<Self> {
        // A step is charged for what it reads and for what it becomes.
        let step = 2 * needs.batch_bytes;
        let idle_bytes = IDLE_BATCHES * needs.batch_bytes;
        let asked = loader.memory_budget.map_or(needs.limit, |budget| budget.0);
        let window_limit = loader.memory_budget.map_or(MAX_WINDOW, |budget| MAX_WINDOW.min(budget.0 / 4));
        let usual = (WINDOW_BATCHES * step).max(MIN_WINDOW).min(window_limit).max(step);
        let window_bytes = loader.window_bytes.map_or(usual, |bytes| bytes.0);
        if window_bytes < step {
            return Err(too_small("window_bytes", window_bytes, step, "one batch being read and assembled"));
        }
        let rest = asked.checked_sub(window_bytes + idle_bytes).ok_or_else(|| {
            let what =
                format!("{} for the window and {} for idle buffers", ByteSize(window_bytes), ByteSize(idle_bytes));
            too_small("memory_budget", asked, window_bytes + idle_bytes, &what)
        })?;
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
        Ok(Self { cache_bytes, window_bytes, idle_bytes })
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

    const NEEDS: Needs = Needs { batch_bytes: 50_000_000, limit: 20_000_000_000 };

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
    fn a_budget_below_two_batches_is_refused_with_the_number_needed() {
        let refused = |memory, window, cache| budget(memory, window, cache).expect_err("too small").to_string();
        let message = refused(Some(150_000_000), None, None);
        assert!(
            message.contains("memory_budget = 150 MB") && message.contains("at least 200 MB are needed"),
            "{message}"
        );
        let message = refused(None, Some(1), None);
        assert!(message.contains("window_bytes = 1 B") && message.contains("at least 100 MB"), "{message}");
        let message = refused(Some(1_000_000_000), None, Some(1_000_000_000));
        assert!(message.contains("at least 1.4 GB") && message.contains("1.0 GB of it for the cache"), "{message}");
    }

    #[test]
    fn more_cache_than_there_is_memory_is_clamped() {
        assert_eq!(budget(None, None, Some(50_000_000_000)).expect("fits").total(), NEEDS.limit);
    }
}
