//! This process's share of the memory that there is.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::{ByteSize, memory_limit};
use crate::world;

/// What was warned of, a bit for each: every process of a machine opens the same dataset again and again. No lock, which a fork
/// might leave locked.
static WARNED: AtomicU64 = AtomicU64::new(0);

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
        Self { limit: memory_limit(), sharers: world::sharers() as u64 }
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
