//! What caching and fetching ahead have been worth, in few numbers.

use super::Dataset;
use crate::metrics::Metric;

/// What the cache of this process holds, and what was found when it was looked for. Units, of which a sample has one per field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheSummary {
    /// Values in the memory tier.
    pub entries: u64,
    /// What they take.
    pub bytes: u64,
    /// What they may take.
    pub capacity: u64,
    /// Units that were there when they were asked for: in memory, on disk, or fetched ahead.
    pub hits: u64,
    /// Of those, the ones that were fetched ahead.
    pub prefetch_hits: u64,
    /// Units that were not there.
    pub misses: u64,
    /// Values given up for others.
    pub evictions: u64,
    /// What values that were packed take less than they would otherwise.
    pub saved_bytes: u64,
}

impl Dataset {
    /// Sums up what was counted since the metrics were reset.
    pub fn cache_summary(&self) -> CacheSummary {
        let snapshot = self.snapshot();
        let count = |metric| snapshot.raw(metric);
        let elsewhere = count(Metric::DiskHits) + count(Metric::PrefetchUsed);
        // What was found, and turned out not to be the right one any more.
        let replaced = count(Metric::CacheExpired).saturating_sub(count(Metric::CacheRenewed));
        CacheSummary {
            entries: count(Metric::CacheEntries),
            bytes: count(Metric::CacheBytes),
            capacity: count(Metric::CacheCapacity),
            hits: (count(Metric::CacheHits) + elsewhere).saturating_sub(replaced),
            prefetch_hits: count(Metric::PrefetchUsed),
            misses: (count(Metric::CacheMisses) + replaced).saturating_sub(elsewhere),
            evictions: count(Metric::CacheEvictions),
            saved_bytes: count(Metric::PackBytes).saturating_sub(count(Metric::PackedBytes)),
        }
    }
}
