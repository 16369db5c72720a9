//! How long things took: how often how long, and in all.

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
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(super) fn record(&self, nanoseconds: u64, times: u64) {
        self.counts[bucket_of(nanoseconds)].fetch_add(times, Ordering::Relaxed);
        self.sum.fetch_add(nanoseconds * times, Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        self.counts.iter().chain([&self.sum]).for_each(|count| count.store(0, Ordering::Relaxed));
    }

    pub(super) fn load(&self) -> Spread {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Spread { counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// How long something took each time, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    counts: Vec<u64>,
    sum: u64,
}

impl Spread {
    /// How many times.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long in all, in nanoseconds.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The duration that a share (0 to 1) of all were not above, in nanoseconds; `None` when nothing was recorded.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let total = self.count();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        (total > 0).then(|| upper_bound(bucket))
    }

    /// How many times it was below powers of two of nanoseconds, from a microsecond to a minute: bound and count.
    pub fn cumulated(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let octaves = self.counts.chunks(PER_OCTAVE as usize).map(|octave| octave.iter().sum::<u64>());
        let mut below = 0;
        let bounds = octaves.enumerate().map(move |(octave, count)| {
            below += count;
            (2_u64 << octave, below)
        });
        bounds.filter(|(bound, _)| (1 << 10..=1 << 36).contains(bound))
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.sum += other.sum;
    }
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
        let spread = histogram.load();
        assert_eq!((spread.count(), spread.sum()), (100_000, 5_000_050_000_000));
        for share in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let (found, truth) = (spread.quantile(share).expect("some") as f64, share * 1e8);
            assert!(found >= truth && found <= truth * 1.126, "{share}: {found} for {truth}");
        }
        assert_eq!(Histogram::default().load().quantile(0.5), None);
    }

    #[test]
    fn bounds_are_powers_of_two_and_counts_grow() {
        let histogram = Histogram::default();
        for nanoseconds in [10, 2000, 3000, 5000, 1 << 40] {
            histogram.record(nanoseconds, 2);
        }
        let cumulated: Vec<_> = histogram.load().cumulated().collect();
        assert_eq!(cumulated[..4], [(1024, 2), (2048, 4), (4096, 6), (8192, 8)]);
        assert_eq!(
            (cumulated.len(), cumulated.last()),
            (27, Some(&(1 << 36, 8))),
            "what took longer is in the count alone"
        );
    }

    #[test]
    fn any_duration_has_a_bucket() {
        for nanoseconds in [0, 1, 2, 3, 7, 8, 9, u64::MAX] {
            assert!(bucket_of(nanoseconds) < BUCKETS);
        }
    }
}
