//! How long things took, as quantiles.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets per doubling: a quantile is at most 9 % above the true one.
const PER_OCTAVE: u32 = 8;
/// From one nanosecond to about 18 minutes.
const OCTAVES: u32 = 40;
const BUCKETS: usize = (OCTAVES * PER_OCTAVE) as usize;

/// Counts of durations in buckets that grow geometrically. Recording is one atomic addition.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: Box<[AtomicU64]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Histogram {
    pub(super) fn record(&self, nanoseconds: u64, times: u64) {
        self.counts[bucket_of(nanoseconds)].fetch_add(times, Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    pub(super) fn load(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// The duration that a share of all were not above, in nanoseconds; `None` when nothing was recorded.
pub(super) fn quantile(counts: &[u64], share: f64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    let wanted = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        seen >= wanted
    })?;
    (total > 0).then(|| upper_bound(bucket))
}

fn bucket_of(nanoseconds: u64) -> usize {
    let octave = nanoseconds.max(1).ilog2();
    // The three bits below the highest one.
    let within = ((nanoseconds << 3) >> octave) as u32 & (PER_OCTAVE - 1);
    ((octave * PER_OCTAVE + within) as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    let (octave, within) = (bucket as u32 / PER_OCTAVE, bucket as u64 % u64::from(PER_OCTAVE));
    ((u64::from(PER_OCTAVE) + within + 1) << octave) >> 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_an_eighth_above_the_truth() {
        let histogram = Histogram::default();
        (1..=100_000).for_each(|microseconds| histogram.record(microseconds * 1000, 1));
        let counts = histogram.load();
        for share in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let (found, truth) = (quantile(&counts, share).expect("some") as f64, share * 1e8);
            assert!(found >= truth && found <= truth * 1.126, "{share}: {found} for {truth}");
        }
        assert_eq!(quantile(&Histogram::default().load(), 0.5), None);
    }

    #[test]
    fn any_duration_has_a_bucket() {
        for nanoseconds in [0, 1, 2, 3, 7, 8, 9, u64::MAX] {
            assert!(bucket_of(nanoseconds) < BUCKETS);
        }
    }
}
