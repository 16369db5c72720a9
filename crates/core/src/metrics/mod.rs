//! Counting: the one table of metrics, and snapshots of it.
//!
//! Every metric is a row of [`METRICS`]. Stages record in bulk ([`Metrics::record`]), one call per batch rather than one
//! per sample; what is of a source is counted through its [`SourceMetrics`], which counts for the whole as well. Readers take a
//! [`Snapshot`]. Durations whose spread matters are rows of [`TIMINGS`] as well. Nothing here allocates on the recording side or
//! knows an export format.

mod cells;
mod histogram;
mod sources;
mod table;

use std::sync::Arc;

use serde::Serialize;

use crate::per_process::PerProcess;
use crate::sync::Mutex;
use crate::world::ProcessStamp;
use cells::{Cells, Counted};

pub use histogram::Spread;
pub use sources::{SourceMetrics, SourceSnapshot};
pub use table::{FAMILIES, METRICS, Metric, MetricInfo, MetricKind, Scope, Stability, TIMINGS, Timing, TimingInfo};

/// The live values of every metric, in each process its own: a forked child counts from nothing.
#[derive(Debug)]
pub struct Metrics {
    first: Live,
    owner: ProcessStamp,
    of_child: PerProcess<Live>,
}

#[derive(Debug, Default)]
struct Live {
    all: Arc<Cells>,
    sources: Mutex<Vec<Arc<SourceMetrics>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { first: Live::default(), owner: ProcessStamp::current(), of_child: PerProcess::new() }
    }
}

impl Metrics {
    fn live(&self) -> &Live {
        if self.owner.is_current() {
            return &self.first;
        }
        let made = || Ok(Live { all: Arc::new(self.first.all.of_child()), sources: Mutex::default() });
        self.of_child.get_or_try_init(made).unwrap_or(&self.first)
    }

    /// Adds to several counters at once. Durations are in nanoseconds.
    pub fn record(&self, amounts: &[(Metric, u64)]) {
        self.live().all.record(amounts);
    }

    /// Adds a duration, as often as it was taken.
    pub fn time(&self, timing: Timing, nanoseconds: u64, times: u64) {
        self.live().all.time(timing, nanoseconds, times);
    }

    /// Sets a gauge, or a counter that is kept elsewhere.
    pub fn set(&self, gauge: Metric, value: u64) {
        self.live().all.set(gauge, value);
    }

    /// Where to count what is of a source, whose name has no credentials in it.
    pub fn of_source(&self, name: &str) -> Arc<SourceMetrics> {
        let live = self.live();
        let mut sources = live.sources.lock();
        let find = |sources: &[Arc<SourceMetrics>], name: &str| sources.iter().find(|it| it.name() == name).cloned();
        if let Some(known) = find(&sources, name) {
            return known;
        }
        let name = if sources.len() < sources::MOST_SOURCES { name } else { sources::OTHERS };
        find(&sources, name).unwrap_or_else(|| {
            let made = Arc::new(SourceMetrics::new(name, live.all.clone()));
            sources.push(made.clone());
            made
        })
    }

    /// Sets every counter and timing to zero; gauges stay.
    pub fn reset(&self) {
        let live = self.live();
        live.all.reset();
        live.sources.lock().iter().for_each(|source| source.reset());
    }

    /// The values now.
    pub fn snapshot(&self) -> Snapshot {
        let live = self.live();
        let sources = live.sources.lock().iter().map(|source| source.snapshot()).collect();
        Snapshot { counted: live.all.load(), sources }
    }
}

/// Values of every metric at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    counted: Counted,
    sources: Vec<SourceSnapshot>,
}

/// An exported number: whole, or in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// A duration in seconds.
    Seconds(f64),
}

impl MetricInfo {
    /// What was recorded, in the row's unit.
    fn number(&self, recorded: u64) -> Number {
        if self.divisor == 1 { Number::Whole(recorded) } else { Number::Seconds(recorded as f64 / self.divisor as f64) }
    }
}

impl Snapshot {
    /// One metric as recorded; durations in nanoseconds.
    pub fn raw(&self, metric: Metric) -> u64 {
        self.counted.values[metric as usize]
    }

    /// The duration that a share (0 to 1) of all were not above, in seconds; `None` when there was none.
    pub fn quantile(&self, timing: Timing, share: f64) -> Option<f64> {
        self.counted.quantile(timing, share)
    }

    /// Median and 99th percentile of every timing that was taken, by name, in seconds.
    pub fn quantiles(&self) -> impl Iterator<Item = (String, f64)> + '_ {
        self.counted.quantiles(|_| true)
    }

    /// Every row of the table with its value in the row's unit.
    pub fn iter(&self) -> impl Iterator<Item = (&'static MetricInfo, Number)> + '_ {
        self.counted.rows(|_| true)
    }

    /// How long something took each time.
    pub fn spread(&self, timing: Timing) -> &Spread {
        &self.counted.timings[timing as usize]
    }

    /// Puts what was counted of something else beside it, of another dataset of this process or of another process.
    pub fn add(&mut self, other: &Self, same_process: bool) {
        self.counted.add(&other.counted, same_process);
        for theirs in &other.sources {
            match self.sources.iter_mut().find(|mine| mine.name == theirs.name) {
                Some(mine) => mine.add(theirs, same_process),
                None => self.sources.push(theirs.clone()),
            }
        }
    }

    /// The sources that were counted, each by itself.
    pub fn sources(&self) -> &[SourceSnapshot] {
        &self.sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn exports_durations_in_seconds_and_counts_as_integers() {
        let metrics = Metrics::default();
        metrics.record(&[(Metric::SourceSeconds, 1_500_000_000), (Metric::SamplesRead, 3), (Metric::SamplesRead, 4)]);
        metrics.set(Metric::ManifestSamples, 9);
        let snapshot = metrics.snapshot();
        let get = |name: &str| snapshot.iter().find(|(info, _)| info.name == name).map(|(_, number)| number);
        assert_eq!(get("source_read_seconds_total"), Some(Number::Seconds(1.5)));
        assert_eq!(get("samples_read_total"), Some(Number::Whole(7)));
        assert_eq!(get("manifest_samples"), Some(Number::Whole(9)));
        metrics.time(Timing::Hit, 1_000_000, 3);
        let names: Vec<_> = metrics.snapshot().quantiles().map(|(name, _)| name).collect();
        assert_eq!(names, ["hit_seconds_p50", "hit_seconds_p99"]);
        metrics.reset();
        let snapshot = metrics.snapshot();
        assert_eq!((snapshot.raw(Metric::SamplesRead), snapshot.raw(Metric::ManifestSamples)), (0, 9));
        assert_eq!(snapshot.quantile(Timing::Hit, 0.5), None);
    }

    #[test]
    fn what_is_of_a_source_counts_for_the_whole_and_labels_are_bounded() {
        let metrics = Metrics::default();
        for number in 0..1000 {
            let source = metrics.of_source(&format!("s3://bucket/{number}"));
            source.record(&[(Metric::SourceRequests, 1)]);
            source.failed(ErrorKind::Timeout);
            source.time(Timing::Request, 1_000_000);
        }
        metrics.of_source("s3://bucket/0").failed(ErrorKind::Denied);
        let snapshot = metrics.snapshot();
        assert_eq!((snapshot.raw(Metric::SourceRequests), snapshot.raw(Metric::SourceErrors)), (1000, 1001));
        let sources = snapshot.sources();
        assert_eq!((sources.len(), sources[0].name(), sources[64].name()), (65, "s3://bucket/0", "others"));
        assert_eq!(sources[0].errors(), [(ErrorKind::Denied, 1), (ErrorKind::Timeout, 1)]);
        assert_eq!(sources.iter().map(|source| source.raw(Metric::SourceRequests)).sum::<u64>(), 1000);
        assert!(sources[1].quantile(Timing::Request, 0.5).is_some_and(|seconds| (0.001..0.0012).contains(&seconds)));
        metrics.reset();
        assert!(metrics.snapshot().sources().iter().all(|source| source.errors().is_empty()));
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for (at, info) in METRICS.iter().enumerate() {
            assert_eq!(info.name.ends_with("_total"), info.kind == MetricKind::Counter, "{}", info.name);
            assert!(METRICS[..at].iter().all(|other| other.name != info.name), "{} twice", info.name);
            assert_eq!(info.family.ends_with("_total"), info.kind == MetricKind::Counter, "{}", info.family);
            assert_eq!(
                info.label.is_some(),
                FAMILIES.iter().any(|(family, _)| *family == info.family),
                "{}",
                info.name
            );
            let same = METRICS[..at].iter().find(|other| other.family == info.family);
            assert!(
                same.is_none_or(|other| {
                    (other.kind, other.unit, other.label.map(|it| it.0))
                        == (info.kind, info.unit, info.label.map(|it| it.0))
                        && other.label != info.label
                }),
                "{}",
                info.name
            );
        }
    }
}
