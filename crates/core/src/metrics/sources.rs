//! What is counted of each source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cells::{Cells, Counted};
use super::{Metric, MetricInfo, Number, Spread, Timing};
use crate::error::ErrorKind;

/// Sources that are told apart, at most: labels are bounded, whatever URIs there are.
pub(super) const MOST_SOURCES: usize = 64;
/// What the others are called.
pub(super) const OTHERS: &str = "others";

/// The live values of one source: of the rows that are told of each. What is counted here counts for the whole as well.
#[derive(Debug)]
pub struct SourceMetrics {
    name: Arc<str>,
    own: Cells,
    errors: Vec<AtomicU64>,
    all: Arc<Cells>,
}

impl SourceMetrics {
    pub(super) fn new(name: &str, all: Arc<Cells>) -> Self {
        Self {
            name: name.into(),
            own: Cells::default(),
            errors: ErrorKind::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            all,
        }
    }

    /// Which it is: its URI and, where one URI may mean several, its server; without credentials.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds to several counters at once. Durations are in nanoseconds.
    pub fn record(&self, amounts: &[(Metric, u64)]) {
        self.own.record(amounts);
        self.all.record(amounts);
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Metric, value: u64) {
        self.own.set(gauge, value);
        self.all.set(gauge, value);
    }

    /// Adds a duration.
    pub fn time(&self, timing: Timing, nanoseconds: u64) {
        self.own.time(timing, nanoseconds, 1);
        self.all.time(timing, nanoseconds, 1);
    }

    /// Counts an error by its kind.
    pub fn failed(&self, kind: ErrorKind) {
        self.errors[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.record(&[(Metric::SourceErrors, 1)]);
    }

    pub(super) fn reset(&self) {
        self.own.reset();
        self.errors.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    pub(super) fn snapshot(&self) -> SourceSnapshot {
        let errors = ErrorKind::ALL.iter().zip(&self.errors);
        let errors = errors.map(|(kind, count)| (*kind, count.load(Ordering::Relaxed))).filter(|(_, count)| *count > 0);
        SourceSnapshot { name: self.name.clone(), counted: self.own.load(), errors: errors.collect() }
    }
}

/// Values of one source at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSnapshot {
    pub(super) name: Arc<str>,
    pub(super) counted: Counted,
    pub(super) errors: Vec<(ErrorKind, u64)>,
}

impl SourceSnapshot {
    /// Which it is: its URI and, where one URI may mean several, its server; without credentials.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One metric as recorded; durations in nanoseconds.
    pub fn raw(&self, metric: Metric) -> u64 {
        self.counted.values[metric as usize]
    }

    /// The duration that a share (0 to 1) of all were not above, in seconds; `None` when there was none.
    pub fn quantile(&self, timing: Timing, share: f64) -> Option<f64> {
        self.counted.quantile(timing, share)
    }

    /// The rows of the table that are told of each source, with its values in their units.
    pub fn iter(&self) -> impl Iterator<Item = (&'static MetricInfo, Number)> + '_ {
        self.counted.rows(|info| info.is_of_sources)
    }

    /// Median and 99th percentile of every timing of sources that was taken, by name, in seconds.
    pub fn quantiles(&self) -> impl Iterator<Item = (String, f64)> + '_ {
        self.counted.quantiles(|info| info.is_of_sources)
    }

    /// How long something took each time.
    pub fn spread(&self, timing: Timing) -> &Spread {
        &self.counted.timings[timing as usize]
    }

    pub(super) fn add(&mut self, other: &Self, same_process: bool) {
        self.counted.add(&other.counted, same_process);
        for &(kind, count) in &other.errors {
            match self.errors.iter_mut().find(|(mine, _)| *mine == kind) {
                Some((_, mine)) => *mine += count,
                None => self.errors.push((kind, count)),
            }
        }
    }

    /// How many errors there were of each kind of which there were any.
    pub fn errors(&self) -> &[(ErrorKind, u64)] {
        &self.errors
    }
}
