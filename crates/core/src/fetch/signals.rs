//! What policies tell each other and the metrics.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{Metric, Metrics};

/// Shared by the policies around one source.
#[derive(Debug, Default)]
pub struct Signals {
    metrics: Arc<Metrics>,
    throttles: AtomicU64,
}

impl Signals {
    /// Counts into these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, throttles: AtomicU64::new(0) }
    }

    pub(super) fn count(&self, metric: Metric) {
        self.add(metric, 1);
    }

    pub(super) fn add(&self, metric: Metric, amount: u64) {
        self.metrics.record(&[(metric, amount)]);
    }

    /// Takes back what was added.
    pub(super) fn subtract(&self, metric: Metric, amount: u64) {
        self.add(metric, amount.wrapping_neg());
    }

    pub(super) fn set(&self, metric: Metric, value: u64) {
        self.metrics.set(metric, value);
    }

    /// The remote asked for fewer requests.
    pub(super) fn throttled(&self) {
        self.throttles.fetch_add(1, Ordering::Relaxed);
        self.count(Metric::SourceThrottled);
    }

    /// How often it did so far.
    pub(super) fn throttles(&self) -> u64 {
        self.throttles.load(Ordering::Relaxed)
    }
}

/// What a pause is multiplied by, so that those who began together do not go on together: from a half to one.
pub(crate) fn jitter() -> f64 {
    0.5 + 0.5 * random()
}

/// A number from 0 to 1.
fn random() -> f64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let hash = RandomState::new().hash_one(CALLS.fetch_add(1, Ordering::Relaxed));
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}
