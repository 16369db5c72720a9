//! How samples are fetched that the user asks for ahead of their use.

use serde::{Deserialize, Serialize};

use super::ByteSize;

/// Default memory at most.
const DEFAULT_MEMORY: u64 = 1_000_000_000;

/// The queue of samples that the user asks to have fetched ([`Dataset::prefetch`](crate::dataset::Dataset::prefetch)). A loader's own
/// window is its own affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefetchConfig {
    /// Samples that may wait; what comes when so many do is dropped and counted. Default: 1024.
    pub queue: usize,
    /// Memory of what is under way and of what nobody has read yet. Default: the smaller of 1 GB and a sixteenth of the memory this
    /// process may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Samples that are fetched ahead of whoever reads one sample after the other by index. Default: none. Set it for a loop over
    /// indices in their order; of any other order only a sampler or the user can tell what comes.
    pub ahead: usize,
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self { queue: 1024, memory: None, ahead: 0 }
    }
}

impl PrefetchConfig {
    /// The memory it takes at most when nothing else is said, given the memory this process may use.
    pub fn default_memory(limit: u64) -> u64 {
        DEFAULT_MEMORY.min(limit / 16)
    }
}
