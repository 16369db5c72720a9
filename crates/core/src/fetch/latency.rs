//! How long requests take, as observed.

use std::time::Duration;

use crate::sync::Mutex;

/// Requests of a class that are remembered.
const REMEMBERED: usize = 256;
/// Requests before which nothing is said of a class.
const TOO_FEW: usize = 20;
/// The quantile is computed anew after so many.
const RENEWED_AFTER: usize = 8;
/// Sizes of one class differ by less than fourfold: as much as a transfer's time then differs, latency included.
const CLASSES: usize = 20;

/// Times of recent requests, by the size of what was asked for, and what 95 of 100 of them stay below.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    classes: Mutex<[Class; CLASSES]>,
}

#[derive(Debug, Default)]
struct Class {
    recent: Vec<f32>,
    next: usize,
    unseen: usize,
    p95: Option<f32>,
}

fn class_of(bytes: u64) -> usize {
    ((64 - bytes.leading_zeros()) as usize / 2).min(CLASSES - 1)
}

impl Latencies {
    pub(super) fn record(&self, bytes: u64, took: Duration) {
        let mut classes = self.classes.lock();
        let class = &mut classes[class_of(bytes)];
        match class.recent.get_mut(class.next) {
            Some(slot) => *slot = took.as_secs_f32(),
            None => class.recent.push(took.as_secs_f32()),
        }
        class.next = (class.next + 1) % REMEMBERED;
        class.unseen += 1;
        if class.unseen >= RENEWED_AFTER && class.recent.len() >= TOO_FEW {
            class.unseen = 0;
            let mut sorted = [0.0; REMEMBERED];
            let sorted = &mut sorted[..class.recent.len()];
            sorted.copy_from_slice(&class.recent);
            let at = sorted.len() * 95 / 100;
            class.p95 = Some(*sorted.select_nth_unstable_by(at, f32::total_cmp).1);
        }
    }

    /// `None` until enough was seen.
    pub(super) fn p95(&self, bytes: u64) -> Option<Duration> {
        self.classes.lock()[class_of(bytes)].p95.map(Duration::from_secs_f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantile_follows_what_was_seen_last_and_sizes_apart() {
        let latencies = Latencies::default();
        let record = |bytes, range: std::ops::Range<u64>| {
            range.for_each(|n| latencies.record(bytes, Duration::from_millis(n % 100)));
        };
        record(1000, 0..19);
        assert_eq!(latencies.p95(1000), None);
        record(1000, 0..300);
        let p95 = latencies.p95(1000).expect("enough");
        assert!((92..=97).contains(&p95.as_millis()), "{p95:?}");
        assert_eq!(latencies.p95(1_000_000), None);
        for _ in 0..300 {
            latencies.record(1000, Duration::from_secs(1));
        }
        assert_eq!(latencies.p95(1000), Some(Duration::from_secs(1)));
    }
}
