//! The one table of metrics: what is counted, under which name it is told, and what to do about it.

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

/// What may become of a metric in a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stability {
    /// Its name and meaning stay: alerts may be built on it.
    Stable,
    /// It tells of the inner working, which may change.
    Unstable,
}

/// What a row counts the whole of, where several are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// A dataset with its loaders: those of several add up.
    Dataset,
    /// A process: each of its datasets tells the same, and those of several processes add up.
    Process,
    /// A folder on disk that all processes of a machine share.
    Folder,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MetricInfo {
    /// Name without the `headwater_` prefix, of its own: what `stats()` calls it.
    pub name: &'static str,
    /// What exporters call it, and the label that tells it from others of that name.
    pub family: &'static str,
    /// That label, with its value.
    pub label: Option<(&'static str, &'static str)>,
    /// Whether exporters tell it of each source.
    pub is_of_sources: bool,
    /// What it counts the whole of.
    pub scope: Scope,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// Unit of the exported number.
    pub unit: &'static str,
    /// Whether it stays.
    pub stability: Stability,
    /// What it counts.
    pub help: &'static str,
    /// What to do when it is bad; empty where it says nothing by itself.
    pub advice: &'static str,
    /// What to divide the recorded integer by: durations are recorded in nanoseconds and exported in seconds.
    #[serde(skip)]
    pub(super) divisor: u64,
}

impl MetricInfo {
    /// Whether exporters tell it by the kind of an error, which is their label `kind`.
    pub fn is_by_kind(&self) -> bool {
        self.name == "source_errors_total"
    }
}

const fn given_or(given: &[&'static str], default: &'static str) -> &'static str {
    if given.is_empty() { default } else { given[0] }
}

const fn first(labels: &[(&'static str, &'static str)]) -> Option<(&'static str, &'static str)> {
    if labels.is_empty() { None } else { Some(labels[0]) }
}

macro_rules! stability {
    () => {
        Stability::Stable
    };
    (unstable) => {
        Stability::Unstable
    };
}

macro_rules! scope {
    () => {
        Scope::Dataset
    };
    (process) => {
        Scope::Process
    };
    (folder) => {
        Scope::Folder
    };
}

/// A row: variant, name, then perhaps the family and its label, kind, unit, divisor, `each source` for what is told of each, `of` what it is
/// the whole, `unstable`,
/// what it counts, and what to do about it.
macro_rules! metrics {
    ($($variant:ident $name:literal $(=> $family:literal ($label:literal = $value:literal))? $kind:ident $unit:literal
        / $divisor:literal $(each $each:ident)? $(of $scope:ident)? $(+ $stability:ident)? $help:literal $(! $advice:literal)?;)*) => {
        /// A metric; its row is `METRICS[metric as usize]`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Metric { $(#[doc = $help] $variant,)* }

        /// The table of all metrics.
        pub const METRICS: &[MetricInfo] = &[$(MetricInfo {
            name: $name,
            family: given_or(&[$($family)?], $name),
            label: first(&[$(($label, $value))?]),
            is_of_sources: !given_or(&[$(stringify!($each))?], "").is_empty(),
            scope: scope!($($scope)?),
            kind: MetricKind::$kind,
            unit: $unit,
            stability: stability!($($stability)?),
            help: $help,
            advice: given_or(&[$($advice)?], ""),
            divisor: $divisor,
        },)*];
    };
}

metrics! {
    SamplesRead "samples_read_total" Counter "samples" / 1
        "Samples handed to the user.";
    SampleErrors "sample_errors_total" Counter "samples" / 1
        "Samples that failed to read or decode."
        ! "The errors name the objects. `on_error` says what becomes of samples that cannot be read.";
    SamplesSkipped "samples_skipped_total" Counter "samples" / 1
        "Those that were left out of their batch."
        ! "Mend or remove the objects that errors name.";
    SamplesSubstituted "samples_substituted_total" Counter "samples" / 1
        "Those in whose place another one was taken."
        ! "Mend or remove the objects that errors name.";
    SourceRequests "source_requests_total" Counter "requests" / 1 each source
        "Objects or ranges asked of a source.";
    SourceErrors "source_errors_total" Counter "requests" / 1 each source
        "Requests to a source that failed."
        ! "See its `kind`: `denied` is credentials, `unavailable` and `timeout` the network or the server, `corrupt` and `not_found` the objects.";
    SourceBytes "source_read_bytes_total" Counter "bytes" / 1 each source
        "Bytes read from sources, as stored.";
    SourceSeconds "source_read_seconds_total" Counter "seconds" / 1_000_000_000 each source
        "Time spent reading from sources, summed over requests."
        ! "Divided by requests, the latency of one. If that is high, raise `max_concurrency` or move the data nearer.";
    SourceRetries "source_retries_total" Counter "requests" / 1 each source
        "Further tries after a failure that may pass."
        ! "Some are usual. Many: the server is overloaded, or `max_concurrency` is above what it grants.";
    SourceTimeouts "source_timeouts_total" Counter "requests" / 1 each source
        "Requests given up at their deadline."
        ! "Raise `deadline`, or find out why the server does not answer.";
    SourceThrottled "source_throttled_total" Counter "requests" / 1 each source
        "Answers that asked for fewer requests."
        ! "The server grants fewer requests: lower `max_concurrency`, or pack samples into fewer objects.";
    SourceHedges "source_hedges_total" Counter "requests" / 1 each source
        "Second requests for what took unusually long."
        ! "They are bounded by `hedge`. Many of them won: the server has slow stragglers.";
    SourceHedgesWon "source_hedges_won_total" Counter "requests" / 1 each source
        "Those whose answer came first.";
    SourceReadsInParts "source_reads_in_parts_total" Counter "objects" / 1 each source
        "Large objects read as several ranges at once.";
    SourceRangesCoalesced "source_ranges_coalesced_total" Counter "requests" / 1 each source
        "Requests saved by asking for neighbouring ranges together.";
    FetchConcurrency "fetch_concurrency" Gauge "requests" / 1 each source
        "Requests that the source asked last may have under way at present."
        ! "Low beside stalls for sources: the server answers slowly or refuses; see its errors.";
    ReplicaErrors "replica_errors_total" Counter "requests" / 1 each source
        "Answers of a replica that were errors, where a source has several."
        ! "Reading goes on from the others: the log says why it was left alone.";
    FetchConcurrencyMax "fetch_max_concurrency" Gauge "requests" / 1 each source
        "What it may be at most."
        ! "`max_concurrency` says it.";
    ReplicaFailovers "replica_failovers_total" Counter "requests" / 1 each source
        "Objects asked of a further replica because one failed or was slow."
        ! "The preferred replica fails or is slow: see its breaker and errors.";
    ReplicaRefused "replica_refused_total" Counter "objects" / 1 each source
        "Objects that a replica served with other content than was listed or read first."
        ! "That replica holds other content than what was listed: copy it anew.";
    ReplicaBreakerOpened "replica_breaker_opened_total" Counter "replicas" / 1 each source
        "Times that a replica was left alone for a while."
        ! "That replica failed several times in a row: see the log, which names the last error.";
    ReplicasOpen "replica_breakers_open" Gauge "replicas" / 1 each source
        "Replicas that are left alone at present."
        ! "Reading goes on from the others: mend that replica before they fail too.";
    DecodeBytes "decoded_bytes_total" Counter "bytes" / 1
        "Tensor bytes that decoding produced.";
    DecodeSeconds "decode_seconds_total" Counter "seconds" / 1_000_000_000
        "Time spent decompressing and decoding, summed over objects."
        ! "Beside stalls for decoding: raise `num_threads`, keep tensors uncompressed or as safetensors, or cache more.";
    DecodeErrors "decode_errors_total" Counter "objects" / 1
        "Objects that did not decode."
        ! "The errors name the objects: they are damaged or of another format.";
    CacheEntries "cache_memory_entries" => "cache_entries" ("tier" = "memory") Gauge "entries" / 1
        "Entries in the memory tier.";
    CacheBytes "cache_memory_bytes" => "cache_bytes" ("tier" = "memory") Gauge "bytes" / 1
        "Bytes of the memory tier's entries, of those on their way in and of those given up but still in use."
        ! "At its capacity all is well: what does not fit is read from its source again.";
    CacheCapacity "cache_memory_capacity_bytes" => "cache_capacity_bytes" ("tier" = "memory") Gauge "bytes" / 1
        "What the memory tier never exceeds."
        ! "Less than the dataset: `headwater simulate` says what more would bring.";
    CacheHits "cache_hits_total" => "cache_hits_total" ("tier" = "memory") Counter "units" / 1
        "Units that were in the cache when looked for.";
    CacheMisses "cache_misses_total" => "cache_misses_total" ("tier" = "memory") Counter "units" / 1
        "Units that were not.";
    CacheInsertions "cache_insertions_total" => "cache_insertions_total" ("tier" = "memory") Counter "units" / 1
        "Units that were put into the cache.";
    CacheEvictions "cache_evictions_total" => "cache_evictions_total" ("tier" = "memory") Counter "entries" / 1
        "Entries given up for others."
        ! "With the policy `lru` and a dataset larger than the cache, each epoch evicts what the next needs: use `policy=\"auto\"`.";
    CacheDeclined "cache_declined_total" => "cache_declined_total" ("tier" = "memory") Counter "units" / 1 + unstable
        "Units that the cache did not let in.";
    CacheExpired "cache_expired_total" Counter "units" / 1
        "Units found in the cache that were too old to be used without asking."
        ! "Many: raise `ttl`, or leave it out where objects never change.";
    CacheRenewed "cache_renewed_total" Counter "units" / 1
        "Those whose objects turned out to be the same.";
    DiskEntries "cache_disk_entries" => "cache_entries" ("tier" = "disk") Gauge "entries" / 1 of folder
        "Records in the disk tier's folder, of all sources.";
    DiskBytes "cache_disk_bytes" => "cache_bytes" ("tier" = "disk") Gauge "bytes" / 1 of folder
        "What they take in whole blocks, and what processes have taken to write more.";
    DiskCapacity "cache_disk_capacity_bytes" => "cache_capacity_bytes" ("tier" = "disk") Gauge "bytes" / 1 of folder
        "What the folder never exceeds."
        ! "Less than the dataset: `headwater simulate` says what more would bring.";
    DiskHits "cache_disk_hits_total" => "cache_hits_total" ("tier" = "disk") Counter "units" / 1
        "Units that were on disk, be it after another process or dataset was waited for.";
    DiskMisses "cache_disk_misses_total" => "cache_misses_total" ("tier" = "disk") Counter "units" / 1
        "Units that were not, or not of the listed version.";
    DiskInsertions "cache_disk_insertions_total" => "cache_insertions_total" ("tier" = "disk") Counter "units" / 1
        "Units that were written to disk.";
    DiskEvictions "cache_disk_evictions_total" => "cache_evictions_total" ("tier" = "disk") Counter "entries" / 1
        "Records removed from disk for others."
        ! "Other sources need the folder, too: raise `disk_capacity`, or remove what nobody uses with `headwater cache gc`.";
    DiskDeclined "cache_disk_declined_total" => "cache_declined_total" ("tier" = "disk") Counter "units" / 1 + unstable
        "Units that the disk tier did not let in.";
    DiskQuarantined "cache_disk_quarantined_total" Counter "files" / 1
        "Records found damaged and put aside."
        ! "The disk or its file system loses data. `headwater cache verify` looks at all records.";
    DiskFailures "cache_disk_failures_total" Counter "failures" / 1
        "How often the disk failed."
        ! "The log names the error: the disk is full, read-only or broken. Training goes on without it.";
    DiskOff "cache_disk_off" Gauge "tiers" / 1
        "1 while the disk tier is left alone because it failed."
        ! "The disk failed and is tried again every half minute: see the log.";
    DiskWaits "cache_disk_waits_total" Counter "units" / 1 + unstable
        "Units that another process or dataset was fetching, and that were waited for.";
    DiskWaitsInVain "cache_disk_waits_in_vain_total" Counter "units" / 1 + unstable
        "Those that took too long and were fetched all the same."
        ! "Other processes of this node are much slower or were stopped.";
    CacheBacklogFull "cache_backlog_full_total" Counter "units" / 1
        "Units that were not offered to the cache because too many were waiting to be packed."
        ! "Samples come faster than they can be packed, and are kept in a later epoch. More cores, or `compression=\"none\"`.";
    Batches "loader_batches_total" Counter "batches" / 1
        "Batches handed to the consumer.";
    UnitsAsked "loader_units_asked_total" Counter "units" / 1
        "Units of batches that the consumer asked for.";
    UnitsReady "loader_units_ready_total" Counter "units" / 1
        "Those that needed no remote request any more when they were asked for."
        ! "Below 70 % of those asked after the first epoch, prefetching is too late: see the stalls by stage.";
    UnitsReused "loader_units_reused_total" Counter "units" / 1
        "Those served without a remote request because of an earlier use; pads do not count."
        ! "Below capacity / dataset after the first epoch: the cache loses what it holds; see evictions, expiries and quarantine.";
    StallSource "loader_stall_source_seconds_total" => "loader_stall_seconds_total" ("stage" = "source") Counter "seconds" / 1_000_000_000
        "Time the consumer waited for sources."
        ! "See the latency and errors of sources. Raise `max_concurrency` or `window_samples`, or cache more.";
    StallDecode "loader_stall_decode_seconds_total" => "loader_stall_seconds_total" ("stage" = "decode") Counter "seconds" / 1_000_000_000
        "Time the consumer waited for decoding."
        ! "Raise `num_threads`, or store what is cheaper to decode.";
    StallCollate "loader_stall_collate_seconds_total" => "loader_stall_seconds_total" ("stage" = "collate") Counter "seconds" / 1_000_000_000
        "Time the consumer waited for batches to be assembled."
        ! "The memory of the machine is the limit, or too few threads: raise `num_threads`; smaller dtypes help most.";
    StallTransform "loader_stall_transform_seconds_total" => "loader_stall_seconds_total" ("stage" = "transform") Counter "seconds" / 1_000_000_000
        "Time the consumer waited for functions of the user's: of samples and of batches."
        ! "Make the function faster, or let it release the interpreter; raise `transform_threads` where it does.";
    StallPlacing "loader_stall_placing_seconds_total" => "loader_stall_seconds_total" ("stage" = "placing") Counter "seconds" / 1_000_000_000
        "Time the consumer waited for batches to be in page-locked memory or on their way to a device."
        ! "Copies to the device or into page-locked memory are late: see `device`.";
    Running "loader_running_seconds_total" Counter "seconds" / 1_000_000_000
        "Time of passes, from their beginning to the last batch that was taken: steps of the consumer and its waits. One less the share of stalls in it is how much of the time training runs (AU)."
        ! "A large share of stalls: see them by stage.";
    CollateBytes "collated_bytes_total" Counter "bytes" / 1
        "Tensor bytes of assembled batches.";
    CollateSeconds "collate_seconds_total" Counter "seconds" / 1_000_000_000
        "Time spent assembling, summed over batches.";
    TransformSeconds "transform_seconds_total" Counter "seconds" / 1_000_000_000
        "Time that threads spent in functions of the user's, summed over them.";
    PackBytes "cache_pack_bytes_total" Counter "bytes" / 1
        "Bytes of tensors that were packed for the cache.";
    PackedBytes "cache_packed_bytes_total" Counter "bytes" / 1
        "Bytes of the records that they were packed into.";
    PackSeconds "cache_pack_seconds_total" Counter "seconds" / 1_000_000_000
        "Time spent packing values for the cache.";
    PrefetchQueued "prefetch_queued_total" Counter "samples" / 1
        "Samples that the user asked to have fetched ahead.";
    PrefetchDropped "prefetch_dropped_total" Counter "samples" / 1
        "Those that the full queue dropped."
        ! "More was asked for than the queue holds: ask later, or for less at once.";
    PrefetchFetched "prefetch_fetched_total" Counter "units" / 1
        "Units that were fetched so.";
    PrefetchFailed "prefetch_failed_total" Counter "units" / 1
        "Units that could not be."
        ! "The error is raised when the sample is read.";
    PrefetchUsed "prefetch_used_total" Counter "units" / 1
        "Units that were there when they were read.";
    PrefetchUnused "prefetch_unused_total" Counter "units" / 1
        "Units that were given up or became too old before anybody read them."
        ! "What was fetched was not read in time: ask for less ahead.";
    PrefetchWaiting "prefetch_waiting" Gauge "samples" / 1
        "Samples in the queue at present.";
    PrefetchHeld "prefetch_bytes" Gauge "bytes" / 1 + unstable
        "Memory of what is under way and waits to be read.";
    WindowSamples "loader_window_samples" Gauge "samples" / 1
        "How far ahead of the consumer a loader may be at present."
        ! "Small beside stalls for sources: raise `window_samples` or the memory budget.";
    WindowBytes "loader_window_bytes" Gauge "bytes" / 1 + unstable
        "Memory of what is under way and ready at present."
        ! "At its limit beside stalls: raise `memory_budget`.";
    WindowSamplesLimit "loader_window_limit_samples" Gauge "samples" / 1 + unstable
        "What `window_samples` says it may be at most; 0 where nothing does.";
    WindowBytesLimit "loader_window_limit_bytes" Gauge "bytes" / 1 + unstable
        "What the memory of what is under way and ready may be at most.";
    Budget "loader_memory_budget_bytes" Gauge "bytes" / 1
        "What the loader made last may take at most: cache, window, batches and idle buffers."
        ! "`memory_budget` says it; a share of the machine by default.";
    Threads "loader_threads" Gauge "threads" / 1
        "Threads of the loader made last that decode and assemble."
        ! "`num_threads` says it; as many as cores by default.";
    BufferBytes "buffer_lent_bytes" Gauge "bytes" / 1 of process
        "Memory of buffers in use in this process: by caches, windows, batches and the user's tensors."
        ! "Near the budget: lower the cache, the window or the batch size.";
    BufferIdleBytes "buffer_idle_bytes" Gauge "bytes" / 1 of process
        "Memory of buffers kept for reuse in this process.";
    BufferAllocations "buffer_allocations_total" Counter "buffers" / 1 of process + unstable
        "Buffers that had to be allocated in this process, because none was there to reuse.";
    ManifestSamples "manifest_samples" Gauge "samples" / 1
        "Samples in the manifest.";
    ManifestMissing "manifest_missing_objects" Gauge "objects" / 1
        "Objects that samples lack, so that those samples are left out."
        ! "The log names the first: `headwater index` lists all of them.";
    ManifestBytes "manifest_memory_bytes" Gauge "bytes" / 1
        "Memory the manifest takes.";
}

/// What families of several rows count; of others it is what their row does.
pub const FAMILIES: &[(&str, &str)] = &[
    (
        "cache_entries",
        "What a tier of the cache holds: entries in memory, records in the disk's folder, of all sources.",
    ),
    ("cache_bytes", "What it takes, with what is on its way in or still in use."),
    ("cache_capacity_bytes", "What a tier never exceeds."),
    ("cache_hits_total", "Units that were in a tier when looked for."),
    ("cache_misses_total", "Units that were not."),
    ("cache_insertions_total", "Units that were put into a tier."),
    ("cache_evictions_total", "What a tier gave up for others."),
    ("cache_declined_total", "Units that a tier did not let in."),
    ("loader_stall_seconds_total", "Time the consumer waited, by what for."),
];

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
    /// One object or range, from asking a source to its bytes, with all retries.
    Request,
    /// One answer of a replica.
    Answer,
}

impl Timing {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 6] = [Self::Hit, Self::Miss, Self::Wait, Self::HandOver, Self::Request, Self::Answer];
}

/// What is told of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TimingInfo {
    /// Name without the `headwater_` prefix; `stats()` appends `_p50` and `_p99`. In seconds.
    pub name: &'static str,
    /// Whether exporters tell it of each source.
    pub is_of_sources: bool,
    /// What takes so long.
    pub help: &'static str,
}

/// The table of all timings.
pub const TIMINGS: &[TimingInfo] = &[
    TimingInfo { name: "hit_seconds", is_of_sources: false, help: "One unit from the cache into its batch." },
    TimingInfo { name: "miss_seconds", is_of_sources: false, help: "One unit from its request to its decoded value." },
    TimingInfo { name: "loader_wait_seconds", is_of_sources: false, help: "The consumer's wait for one batch." },
    TimingInfo {
        name: "loader_hand_over_seconds",
        is_of_sources: false,
        help: "Handing one batch over, once it is ready.",
    },
    TimingInfo {
        name: "source_request_seconds",
        is_of_sources: true,
        help: "One object or range, from asking a source to its bytes, with all retries.",
    },
    TimingInfo {
        name: "replica_answer_seconds",
        is_of_sources: true,
        help: "One answer of a replica, where a source has several.",
    },
];
