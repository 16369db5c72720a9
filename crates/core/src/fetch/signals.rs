//! What policies tell each other and the metrics.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{Metric, Metrics, SourceMetrics};

/// Shared by the policies around one source.
#[derive(Debug)]
pub struct Signals {
    metrics: Arc<Metrics>,
    source: Arc<SourceMetrics>,
    throttles: AtomicU64,
}

impl Signals {
    /// Counts into these metrics, as of the source of that name.
    pub fn new(metrics: Arc<Metrics>, name: &str) -> Self {
        let source = metrics.of_source(name);
        Self { metrics, source, throttles: AtomicU64::new(0) }
    }

    /// Where to count what is of one of several replicas.
    pub(super) fn of_replica(&self, name: &str) -> Arc<SourceMetrics> {
        self.metrics.of_source(name)
    }

    pub(super) fn count(&self, metric: Metric) {
        self.add(metric, 1);
    }

    pub(super) fn add(&self, metric: Metric, amount: u64) {
        self.source.record(&[(metric, amount)]);
    }

    pub(super) fn set(&self, metric: Metric, value: u64) {
        self.source.set(metric, value);
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
