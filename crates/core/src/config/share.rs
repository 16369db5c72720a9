//! This process's share of the memory that there is.
//!
//! Every process keeps a cache and a window of its own: the ranks of a run that are on one machine, and the workers of torch's
//! `DataLoader` that each of them has. Nobody counts them here: whoever knows says so, and the environment of launchers counts
//! where nobody does.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::{ByteSize, Ranks, memory_limit};

/// Ranks on this machine; 0 until somebody says.
static RANKS: AtomicUsize = AtomicUsize::new(0);
/// Workers of this process's rank, of which it is one; 0 where it is none.
static WORKERS: AtomicUsize = AtomicUsize::new(0);
/// What was warned of, a bit for each: every process of a machine opens the same dataset again and again. No lock, which a fork
/// might leave locked.
static WARNED: AtomicU64 = AtomicU64::new(0);

/// Says how many ranks of the run are on this machine.
pub fn share_memory_among_ranks(count: usize) {
    RANKS.store(count, Ordering::Relaxed);
}

/// Says how many workers of its rank there are, of which this process is one.
pub fn share_memory_among_workers(count: usize) {
    WORKERS.store(count, Ordering::Relaxed);
}

/// Memory, and how many processes it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShare {
    /// What all of them may use together, in bytes.
    pub limit: u64,
    /// How many they are: at least 1.
    pub sharers: u64,
}

impl MemoryShare {
    /// That of this process, as far as is known.
    pub fn current() -> Self {
        let ranks = match RANKS.load(Ordering::Relaxed) {
            // An environment that contradicts itself is refused where ranks matter.
            0 => Ranks::find(None, None, None).map_or(1, |ranks| ranks.local_world_size),
            ranks => ranks,
        };
        let workers = WORKERS.load(Ordering::Relaxed).max(1);
        Self { limit: memory_limit(), sharers: ranks.saturating_mul(workers).max(1) as u64 }
    }

    /// Bytes of it for one process.
    pub fn bytes(self) -> u64 {
        self.limit / self.sharers
    }

    /// What is granted of a size that was asked for: at most `most`, with a warning.
    pub(crate) fn granted(self, what: &str, asked: ByteSize, most: u64) -> u64 {
        if asked.0 <= most {
            return asked.0;
        }
        let warning = xxh3_64(format!("{what} {}", asked.0).as_bytes());
        let bit = 1 << (warning % 64);
        if WARNED.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let (limit, most) = (ByteSize(self.limit), ByteSize(most));
            match self.sharers {
                1 => tracing::warn!("{what} of {asked} is more than there is of {limit}: using {most} instead"),
                sharers => tracing::warn!(
                    "{what} of {asked} is more than this process's share of {limit}, which {sharers} of this machine use: \
                     using {most} instead"
                ),
            }
        }
        most
    }
}
