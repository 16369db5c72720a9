//! Where counts are kept: one atomic for each row of the tables.

use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::{Histogram, Spread};
use super::{METRICS, Metric, MetricInfo, MetricKind, Number, Scope, TIMINGS, Timing, TimingInfo};

/// Live values.
#[derive(Debug)]
pub(super) struct Cells {
    values: Vec<AtomicU64>,
    timings: Vec<Histogram>,
}

impl Default for Cells {
    fn default() -> Self {
        Self {
            values: METRICS.iter().map(|_| AtomicU64::new(0)).collect(),
            timings: TIMINGS.iter().map(|_| Histogram::default()).collect(),
        }
    }
}

impl Cells {
    pub(super) fn record(&self, amounts: &[(Metric, u64)]) {
        for &(metric, amount) in amounts {
            self.values[metric as usize].fetch_add(amount, Ordering::Relaxed);
        }
    }

    pub(super) fn time(&self, timing: Timing, nanoseconds: u64, times: u64) {
        self.timings[timing as usize].record(nanoseconds, times);
    }

    pub(super) fn set(&self, gauge: Metric, value: u64) {
        self.values[gauge as usize].store(value, Ordering::Relaxed);
    }

    /// Sets every counter and timing to zero; gauges stay.
    pub(super) fn reset(&self) {
        let counters = METRICS.iter().zip(&self.values).filter(|(info, _)| info.kind == MetricKind::Counter);
        counters.for_each(|(_, value)| value.store(0, Ordering::Relaxed));
        self.timings.iter().for_each(Histogram::reset);
    }

    /// What a forked child begins with: nothing counted yet, and gauges as they are.
    pub(super) fn of_child(&self) -> Self {
        let child = Self::default();
        for ((info, mine), theirs) in METRICS.iter().zip(&child.values).zip(&self.values) {
            if info.kind == MetricKind::Gauge {
                mine.store(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        child
    }

    pub(super) fn load(&self) -> Counted {
        Counted {
            values: self.values.iter().map(|value| value.load(Ordering::Relaxed)).collect(),
            timings: self.timings.iter().map(Histogram::load).collect(),
        }
    }
}

/// Values at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) values: Vec<u64>,
    pub(super) timings: Vec<Spread>,
}

impl Counted {
    /// Puts those of something else beside them, of the same process or of another one.
    pub(super) fn add(&mut self, other: &Self, same_process: bool) {
        for ((info, mine), &theirs) in METRICS.iter().zip(&mut self.values).zip(&other.values) {
            let is_the_same = match info.scope {
                Scope::Dataset => false,
                Scope::Process => same_process,
                Scope::Folder => true,
            };
            *mine = if is_the_same { theirs.max(*mine) } else { *mine + theirs };
        }
        self.timings.iter_mut().zip(&other.timings).for_each(|(mine, theirs)| mine.add(theirs));
    }

    /// The rows of the table that are wanted, with their values in the rows' units.
    pub(super) fn rows(
        &self,
        wanted: impl Fn(&MetricInfo) -> bool,
    ) -> impl Iterator<Item = (&'static MetricInfo, Number)> {
        METRICS
            .iter()
            .zip(&self.values)
            .filter(move |(info, _)| wanted(info))
            .map(|(info, &value)| (info, info.number(value)))
    }

    /// Median and 99th percentile of the timings that are wanted and were taken, by name, in seconds.
    pub(super) fn quantiles(&self, wanted: impl Fn(&TimingInfo) -> bool) -> impl Iterator<Item = (String, f64)> {
        let timings = TIMINGS.iter().zip(&self.timings).filter(move |(info, _)| wanted(info));
        timings.flat_map(|(info, spread)| {
            [("p50", 0.5), ("p99", 0.99)].into_iter().filter_map(move |(suffix, share)| {
                let nanoseconds = spread.quantile(share)?;
                Some((format!("{}_{suffix}", info.name), nanoseconds as f64 / 1e9))
            })
        })
    }

    pub(super) fn quantile(&self, timing: Timing, share: f64) -> Option<f64> {
        self.timings[timing as usize].quantile(share).map(|nanoseconds| nanoseconds as f64 / 1e9)
    }
}
