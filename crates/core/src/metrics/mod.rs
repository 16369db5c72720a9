//! Counting: the one table of metrics, and snapshots of it.
//!
//! Every metric is a row of [`METRICS`]. Stages record in bulk ([`Metrics::record`]), one call per batch rather than one
//! per sample; readers take a [`Snapshot`]. Durations whose spread matters are rows of [`TIMINGS`] as well. Nothing here
//! allocates on the recording side or knows an export format.

mod histogram;

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use histogram::Histogram;

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
    SamplesSkipped "samples_skipped_total" Counter "samples" / 1 "Those that were left out of their batch.";
    SamplesSubstituted "samples_substituted_total" Counter "samples" / 1 "Those in whose place another one was taken.";
    SourceRequests "source_requests_total" Counter "requests" / 1 "Objects or ranges asked of a source.";
    SourceErrors "source_errors_total" Counter "requests" / 1 "Requests to a source that failed.";
    SourceBytes "source_read_bytes_total" Counter "bytes" / 1 "Bytes read from sources, as stored.";
    SourceSeconds "source_read_seconds_total" Counter "seconds" / 1_000_000_000 "Time spent reading from sources, summed over requests.";
    SourceRetries "source_retries_total" Counter "requests" / 1 "Further tries after a failure that may pass.";
    SourceTimeouts "source_timeouts_total" Counter "requests" / 1 "Requests given up at their deadline.";
    SourceThrottled "source_throttled_total" Counter "requests" / 1 "Answers that asked for fewer requests.";
    SourceHedges "source_hedges_total" Counter "requests" / 1 "Second requests for what took unusually long.";
    SourceHedgesWon "source_hedges_won_total" Counter "requests" / 1 "Those whose answer came first.";
    SourceReadsInParts "source_reads_in_parts_total" Counter "objects" / 1 "Large objects read as several ranges at once.";
    SourceRangesCoalesced "source_ranges_coalesced_total" Counter "requests" / 1 "Requests saved by asking for neighbouring ranges together.";
    FetchConcurrency "fetch_concurrency" Gauge "requests" / 1 "Requests that the source asked last may have under way at present.";
    ReplicaFailovers "replica_failovers_total" Counter "requests" / 1 "Objects asked of a further replica because one failed or was slow.";
    ReplicaRefused "replica_refused_total" Counter "objects" / 1 "Objects that a replica served with other content than was listed or read first.";
    ReplicaBreakerOpened "replica_breaker_opened_total" Counter "replicas" / 1 "Times that a replica was left alone for a while.";
    ReplicasOpen "replica_breakers_open" Gauge "replicas" / 1 "Replicas that are left alone at present.";
    DecodeBytes "decoded_bytes_total" Counter "bytes" / 1 "Tensor bytes that decoding produced.";
    DecodeSeconds "decode_seconds_total" Counter "seconds" / 1_000_000_000 "Time spent decompressing and decoding, summed over objects.";
    DecodeErrors "decode_errors_total" Counter "objects" / 1 "Objects that did not decode.";
    CacheEntries "cache_memory_entries" Gauge "entries" / 1 "Entries in the memory tier.";
    CacheBytes "cache_memory_bytes" Gauge "bytes" / 1 "Bytes of the memory tier's entries, of those on their way in and of those given up but still in use.";
    CacheCapacity "cache_memory_capacity_bytes" Gauge "bytes" / 1 "What the memory tier never exceeds.";
    CacheHits "cache_hits_total" Counter "units" / 1 "Units that were in the cache when looked for.";
    CacheMisses "cache_misses_total" Counter "units" / 1 "Units that were not.";
    CacheInsertions "cache_insertions_total" Counter "units" / 1 "Units that were put into the cache.";
    CacheEvictions "cache_evictions_total" Counter "units" / 1 "Entries given up for others.";
    CacheDeclined "cache_declined_total" Counter "units" / 1 "Units that the cache did not let in.";
    CacheExpired "cache_expired_total" Counter "units" / 1 "Units found in the cache that were too old to be used without asking.";
    CacheRenewed "cache_renewed_total" Counter "units" / 1 "Those whose objects turned out to be the same.";
    DiskEntries "cache_disk_entries" Gauge "entries" / 1 "Records in the disk tier's folder, of all sources.";
    DiskBytes "cache_disk_bytes" Gauge "bytes" / 1 "What they take in whole blocks, and what processes have taken to write more.";
    DiskCapacity "cache_disk_capacity_bytes" Gauge "bytes" / 1 "What the folder never exceeds.";
    DiskHits "cache_disk_hits_total" Counter "units" / 1 "Units that were on disk, be it after another process or dataset was waited for.";
    DiskMisses "cache_disk_misses_total" Counter "units" / 1 "Units that were not, or not of the listed version.";
    DiskInsertions "cache_disk_insertions_total" Counter "units" / 1 "Units that were written to disk.";
    DiskEvictions "cache_disk_evictions_total" Counter "files" / 1 "Records removed from disk for others.";
    DiskDeclined "cache_disk_declined_total" Counter "units" / 1 "Units that the disk tier did not let in.";
    DiskQuarantined "cache_disk_quarantined_total" Counter "files" / 1 "Records found damaged and put aside.";
    DiskFailures "cache_disk_failures_total" Counter "failures" / 1 "How often the disk failed.";
    DiskOff "cache_disk_off" Gauge "tiers" / 1 "1 while the disk tier is left alone because it failed.";
    DiskWaits "cache_disk_waits_total" Counter "units" / 1 "Units that another process or dataset was fetching, and that were waited for.";
    DiskWaitsInVain "cache_disk_waits_in_vain_total" Counter "units" / 1 "Those that took too long and were fetched all the same.";
    CacheBacklogFull "cache_backlog_full_total" Counter "units" / 1 "Units that were not offered to the cache because too many were waiting to be packed.";
    Batches "loader_batches_total" Counter "batches" / 1 "Batches handed to the consumer.";
    UnitsAsked "loader_units_asked_total" Counter "units" / 1 "Units of batches that the consumer asked for.";
    UnitsReady "loader_units_ready_total" Counter "units" / 1 "Those that needed no remote request any more when they were asked for.";
    UnitsReused "loader_units_reused_total" Counter "units" / 1 "Those served without a remote request because of an earlier use; pads do not count.";
    StallSource "loader_stall_source_seconds_total" Counter "seconds" / 1_000_000_000 "Time the consumer waited for sources.";
    StallDecode "loader_stall_decode_seconds_total" Counter "seconds" / 1_000_000_000 "Time the consumer waited for decoding.";
    StallCollate "loader_stall_collate_seconds_total" Counter "seconds" / 1_000_000_000 "Time the consumer waited for batches to be assembled.";
    StallTransform "loader_stall_transform_seconds_total" Counter "seconds" / 1_000_000_000 "Time the consumer waited for functions of the user's: of samples and of batches.";
    StallPlacing "loader_stall_placing_seconds_total" Counter "seconds" / 1_000_000_000 "Time the consumer waited for batches to be in page-locked memory or on their way to a device.";
    CollateBytes "collated_bytes_total" Counter "bytes" / 1 "Tensor bytes of assembled batches.";
    CollateSeconds "collate_seconds_total" Counter "seconds" / 1_000_000_000 "Time spent assembling, summed over batches.";
    TransformSeconds "transform_seconds_total" Counter "seconds" / 1_000_000_000 "Time that threads spent in functions of the user's, summed over them.";
    PackBytes "cache_pack_bytes_total" Counter "bytes" / 1 "Bytes of tensors that were packed for the cache.";
    PackedBytes "cache_packed_bytes_total" Counter "bytes" / 1 "Bytes of the records that they were packed into.";
    PackSeconds "cache_pack_seconds_total" Counter "seconds" / 1_000_000_000 "Time spent packing values for the cache.";
    PrefetchQueued "prefetch_queued_total" Counter "samples" / 1 "Samples that the user asked to have fetched ahead.";
    PrefetchDropped "prefetch_dropped_total" Counter "samples" / 1 "Those that the full queue dropped.";
    PrefetchFetched "prefetch_fetched_total" Counter "units" / 1 "Units that were fetched so.";
    PrefetchFailed "prefetch_failed_total" Counter "units" / 1 "Units that could not be.";
    PrefetchUsed "prefetch_used_total" Counter "units" / 1 "Units that were there when they were read.";
    PrefetchUnused "prefetch_unused_total" Counter "units" / 1 "Units that were given up or became too old before anybody read them.";
    PrefetchWaiting "prefetch_waiting" Gauge "samples" / 1 "Samples in the queue at present.";
    PrefetchHeld "prefetch_bytes" Gauge "bytes" / 1 "Memory of what is under way and waits to be read.";
    WindowSamples "loader_window_samples" Gauge "samples" / 1 "How far ahead of the consumer a loader may be at present.";
    WindowBytes "loader_window_bytes" Gauge "bytes" / 1 "Memory of what is under way and ready at present.";
    BufferBytes "buffer_lent_bytes" Gauge "bytes" / 1 "Memory of buffers in use in this process: by caches, windows, batches and the user's tensors.";
    BufferIdleBytes "buffer_idle_bytes" Gauge "bytes" / 1 "Memory of buffers kept for reuse in this process.";
    BufferAllocations "buffer_allocations_total" Counter "buffers" / 1 "Buffers that had to be allocated in this process, because none was there to reuse.";
    ManifestSamples "manifest_samples" Gauge "samples" / 1 "Samples in the manifest.";
    ManifestMissing "manifest_missing_objects" Gauge "objects" / 1 "Objects that samples lack, so that those samples are left out.";
    ManifestBytes "manifest_memory_bytes" Gauge "bytes" / 1 "Memory the manifest takes.";
}

/// A duration whose spread is kept; its row is `TIMINGS[timing as usize]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Timing {
    /// One unit from the cache into its batch.
    Hit,
    /// One unit from its request to its decoded value.
    Miss,
    /// The consumer's wait for one batch.
    Wait,
    /// Handing one batch over, once it is ready.
    HandOver,
}

/// The names of all timings; `_p50` and `_p99` are appended. In seconds.
pub const TIMINGS: &[&str] = &["hit_seconds", "miss_seconds", "loader_wait_seconds", "loader_hand_over_seconds"];

/// The live values of every metric.
#[derive(Debug)]
pub struct Metrics {
    values: Vec<AtomicU64>,
    timings: Vec<Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            values: METRICS.iter().map(|_| AtomicU64::new(0)).collect(),
            timings: TIMINGS.iter().map(|_| Histogram::default()).collect(),
        }
    }
}

impl Metrics {
    /// Adds to several counters at once. Durations are in nanoseconds.
    pub fn record(&self, amounts: &[(Metric, u64)]) {
        for &(metric, amount) in amounts {
            self.values[metric as usize].fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Adds a duration, as often as it was taken.
    pub fn time(&self, timing: Timing, nanoseconds: u64, times: u64) {
        self.timings[timing as usize].record(nanoseconds, times);
    }

    /// Sets a gauge, or a counter that is kept elsewhere.
    pub fn set(&self, gauge: Metric, value: u64) {
        self.values[gauge as usize].store(value, Ordering::Relaxed);
    }

    /// Sets every counter and timing to zero; gauges stay.
    pub fn reset(&self) {
        let counters = METRICS.iter().zip(&self.values).filter(|(info, _)| info.kind == MetricKind::Counter);
        counters.for_each(|(_, value)| value.store(0, Ordering::Relaxed));
        self.timings.iter().for_each(Histogram::reset);
    }

    /// The values now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            values: self.values.iter().map(|value| value.load(Ordering::Relaxed)).collect(),
            timings: self.timings.iter().map(Histogram::load).collect(),
        }
    }
}

/// Values of every metric at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    values: Vec<u64>,
    timings: Vec<Vec<u64>>,
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

    /// The duration that a share (0 to 1) of all were not above, in seconds; `None` when there was none.
    pub fn quantile(&self, timing: Timing, share: f64) -> Option<f64> {
        histogram::quantile(&self.timings[timing as usize], share).map(|nanoseconds| nanoseconds as f64 / 1e9)
    }

    /// Median and 99th percentile of every timing that was taken, by name, in seconds.
    pub fn quantiles(&self) -> impl Iterator<Item = (String, f64)> + '_ {
        TIMINGS.iter().zip(&self.timings).flat_map(|(name, counts)| {
            [("p50", 0.5), ("p99", 0.99)].into_iter().filter_map(move |(suffix, share)| {
                let nanoseconds = histogram::quantile(counts, share)?;
                Some((format!("{name}_{suffix}"), nanoseconds as f64 / 1e9))
            })
        })
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
        metrics.time(Timing::Hit, 1_000_000, 3);
        let names: Vec<_> = metrics.snapshot().quantiles().map(|(name, _)| name).collect();
        assert_eq!(names, ["hit_seconds_p50", "hit_seconds_p99"]);
        metrics.reset();
        let snapshot = metrics.snapshot();
        assert_eq!((snapshot.raw(Metric::SamplesRead), snapshot.raw(Metric::ManifestSamples)), (0, 9));
        assert_eq!(snapshot.quantile(Timing::Hit, 0.5), None);
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for (at, info) in METRICS.iter().enumerate() {
            assert_eq!(info.name.ends_with("_total"), info.kind == MetricKind::Counter, "{}", info.name);
            assert!(METRICS[..at].iter().all(|other| other.name != info.name), "{} twice", info.name);
        }
    }
}
