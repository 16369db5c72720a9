//! Counting: the one table of metrics, and snapshots of it.
//!
//! Every metric is a row of [`METRICS`]. Stages record in bulk ([`Metrics::record`]), one call per batch rather than one
//! per sample; readers take a [`Snapshot`]. Nothing here allocates on the recording side or knows an export format.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Whether a metric only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MetricInfo {
    /// Name without the `headwater_` prefix.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// Unit of the exported number.
    pub unit: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// What to divide the recorded integer by: durations are recorded in nanoseconds and exported in seconds.
    #[serde(skip)]
    divisor: u64,
}

macro_rules! metrics {
    ($($variant:ident $name:literal $kind:ident $unit:literal / $divisor:literal $help:literal;)*) => {
        /// A metric; its row is `METRICS[metric as usize]`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Metric { $(#[doc = $help] $variant,)* }

        /// The table of all metrics.
        pub const METRICS: &[MetricInfo] = &[$(MetricInfo {
            name: $name, kind: MetricKind::$kind, unit: $unit, help: $help, divisor: $divisor,
        },)*];
    };
}

metrics! {
    SamplesRead "samples_read_total" Counter "samples" / 1 "Samples handed to the user.";
    SampleErrors "sample_errors_total" Counter "samples" / 1 "Samples that failed to read or decode.";
    SourceRequests "source_requests_total" Counter "requests" / 1 "Objects or ranges asked of a source.";
    SourceErrors "source_errors_total" Counter "requests" / 1 "Requests to a source that failed.";
    SourceBytes "source_read_bytes_total" Counter "bytes" / 1 "Bytes read from sources, as stored.";
    SourceSeconds "source_read_seconds_total" Counter "seconds" / 1_000_000_000 "Time spent reading from sources, summed over requests.";
    DecodeBytes "decoded_bytes_total" Counter "bytes" / 1 "Tensor bytes that decoding produced.";
    DecodeSeconds "decode_seconds_total" Counter "seconds" / 1_000_000_000 "Time spent decompressing and decoding, summed over objects.";
    DecodeErrors "decode_errors_total" Counter "objects" / 1 "Objects that did not decode.";
    ManifestSamples "manifest_samples" Gauge "samples" / 1 "Samples in the manifest.";
    ManifestMissing "manifest_missing_objects" Gauge "objects" / 1 "Objects that samples lack, so that those samples are left out.";
    ManifestBytes "manifest_memory_bytes" Gauge "bytes" / 1 "Memory the manifest takes.";
}

/// The live values of every metric.
#[derive(Debug)]
pub struct Metrics {
    values: Vec<AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { values: METRICS.iter().map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Metrics {
    /// Adds to several counters at once. Durations are in nanoseconds.
    pub fn record(&self, amounts: &[(Metric, u64)]) {
        for &(metric, amount) in amounts {
            self.values[metric as usize].fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Metric, value: u64) {
        self.values[gauge as usize].store(value, Ordering::Relaxed);
    }

    /// The values now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { values: self.values.iter().map(|value| value.load(Ordering::Relaxed)).collect() }
    }
}

/// Values of every metric at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    values: Vec<u64>,
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

impl Snapshot {
    /// One metric as recorded; durations in nanoseconds.
    pub fn raw(&self, metric: Metric) -> u64 {
        self.values[metric as usize]
    }

    /// Every row of the table with its value in the row's unit.
    pub fn iter(&self) -> impl Iterator<Item = (&'static MetricInfo, Number)> + '_ {
        METRICS.iter().zip(&self.values).map(|(info, &value)| {
            let number = if info.divisor == 1 {
                Number::Whole(value)
            } else {
                Number::Seconds(value as f64 / info.divisor as f64)
            };
            (info, number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for (at, info) in METRICS.iter().enumerate() {
            assert_eq!(info.name.ends_with("_total"), info.kind == MetricKind::Counter, "{}", info.name);
            assert!(METRICS[..at].iter().all(|other| other.name != info.name), "{} twice", info.name);
        }
    }
}
