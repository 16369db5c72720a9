//! A dataset: samples by index, read from their sources and decoded.
//!
//! Opening one opens the sources, finds or makes the manifest ([`open`]) and checks that every field is there. Reading one
//! ([`read`]) asks the cache, then loads ([`load`]): the source, then decoding on the workers. A dataset is a handle: clones share
//! everything, any thread may use it, and a forked child may too — it reconnects by itself, and has a cache of its own
//! ([`kept`]).
//!
//! Cost: opening lists each source once (or not at all, when a fresh manifest is kept) and holds about 100 bytes per
//! sample of two fields; reading costs one request per field, each a single copy from the socket or page cache.

mod ahead;
mod expansion;
mod failing;
mod indexing;
mod kept;
mod load;
mod on_disk;
mod open;
mod origin;
mod packing;
mod pinned;
mod published;
mod read;
mod requests;
mod sharing;
mod summary;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use crate::cache::CacheStats;
use crate::clock::Clock;
use crate::config::{DatasetConfig, OnChanged};
use crate::engine::{Engine, Interrupt, PerProcess};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Limits;
use crate::manifest::Manifest;
use crate::metrics::{Metric, Metrics, Snapshot};
use crate::order::Order;
use crate::sample::Sample;
use crate::source::Source;

use expansion::{Expansion, Stored};
pub(crate) use failing::{Outcomes, Verdict};
pub(crate) use kept::{Claim, Kept};
pub(crate) use load::{Loaded, Sources};
pub use summary::CacheSummary;

/// Samples by index.
#[derive(Clone)]
pub struct Dataset {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles of a dataset share.
pub(crate) struct Inner {
    pub(crate) config: DatasetConfig,
    pub(crate) manifest: Manifest,
    /// Names in samples; one `data` when the dataset is a single unnamed field.
    pub(crate) names: Vec<Arc<str>>,
    is_spread: bool,
    limits: Limits,
    expansion: Expansion,
    stored: Stored,
    clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    /// Samples that were left out of batches or substituted so far.
    spared: AtomicU64,
    /// Samples to fetch ahead of whoever reads in order.
    ahead: AtomicUsize,
    /// Whether other ranks read the same samples, as whoever walks it says.
    pub(crate) has_replicas: AtomicBool,
    sources: PerProcess<Vec<Arc<dyn Source>>>,
    kept: PerProcess<Kept>,
}

impl Dataset {
    /// Opens a dataset: connects to every source, and lists them unless a manifest that is fresh enough is kept.
    ///
    /// # Errors
    /// `Invalid` for a configuration or URI that cannot be meant; `NotFound` for a place that does not exist or holds no
    /// sample; `Denied`; `Unavailable`; `Timeout`; or what `interrupt` returned.
    pub fn open(config: &DatasetConfig, interrupt: Interrupt<'_>) -> Result<Self> {
        open::open(config, Clock::default(), interrupt)
    }

    /// The same, with another clock for what expires than the process's own.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    pub fn open_by(config: &DatasetConfig, clock: Clock, interrupt: Interrupt<'_>) -> Result<Self> {
        open::open(config, clock, interrupt)
    }

    /// Opens a dataset and lists its sources, whatever is kept of them; `listed` counts the objects as they are found.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    pub fn index(config: &DatasetConfig, listed: &Arc<AtomicU64>, interrupt: Interrupt<'_>) -> Result<Self> {
        open::index(config, listed, interrupt)
    }

    /// Makes sure that a manifest can be left at a place ([`Dataset::publish`]), without asking it.
    ///
    /// # Errors
    /// `Unsupported` where nothing can be written; `Invalid` for a malformed URI.
    pub fn check_place(config: &DatasetConfig, place: &str) -> Result<()> {
        published::check_place(config, place)
    }

    /// Leaves the manifest at a place for others to open the dataset by ([`DatasetConfig::manifest`]): a path, a URI of an
    /// object, or `published` for beside the data. Says where that is.
    ///
    /// # Errors
    /// `Unsupported` where nothing can be written, `Denied`, `Io`, `Unavailable`.
    pub fn publish(&self, place: &str, interrupt: Interrupt<'_>) -> Result<String> {
        let engine = Engine::current()?;
        let sources = self.inner.sources(engine, interrupt)?;
        published::publish(engine, &self.inner.config, sources, &self.inner.manifest, place, interrupt)
    }

    /// Opens the dataset that [`Dataset::pinned`] described, in another process: the same samples under the same indices.
    ///
    /// # Errors
    /// Those of [`Dataset::open`], and `Changed` when the samples are not the same any more.
    pub fn reopen(pinned: &str, interrupt: Interrupt<'_>) -> Result<Self> {
        pinned::reopen(pinned, interrupt)
    }

    /// Describes this dataset for another process of this machine: configuration, manifest, fingerprints.
    ///
    /// # Errors
    /// `Invalid` when there are explicit credentials and `secrets` refuses them.
    pub fn pinned(&self, secrets: crate::config::Secrets) -> Result<String> {
        pinned::pin(self, secrets)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.inner.manifest.len()
    }

    /// Whether there is no sample; an opened dataset has at least one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the fields, in order. A dataset that is one unnamed field says `data`, whatever its values turn out to be.
    pub fn field_names(&self) -> &[Arc<str>] {
        &self.inner.names
    }

    /// Whether the dataset is one unnamed field, whose dict values become the samples themselves.
    pub fn is_spread(&self) -> bool {
        self.inner.is_spread
    }

    /// Key of a sample.
    ///
    /// # Errors
    /// `OutOfRange`.
    pub fn key(&self, index: usize) -> Result<String> {
        self.inner.manifest.key(index).map(str::to_owned)
    }

    /// Turns an index that may count from the end into one that counts from the start.
    ///
    /// # Errors
    /// `OutOfRange`.
    pub fn resolve(&self, index: i64) -> Result<usize> {
        let from_start = if index < 0 { index.checked_add_unsigned(self.len() as u64) } else { Some(index) };
        from_start.and_then(|index| usize::try_from(index).ok()).filter(|&index| index < self.len()).ok_or_else(|| {
            Error::new(ErrorKind::OutOfRange, "take sample", index)
                .because(format_args!("the dataset has {} samples", self.len()))
        })
    }

    /// Reads one sample.
    ///
    /// # Errors
    /// `OutOfRange`; those of the source, naming the object; `Corrupt` or `Unsupported`, naming object and offset;
    /// `Changed` when an object was replaced since it was listed; or what `interrupt` returned.
    pub fn get(&self, index: usize, interrupt: Interrupt<'_>) -> Result<Sample> {
        let mut samples = self.get_many(&[index], interrupt)?;
        self.inner.read_ahead(index, interrupt);
        samples.pop().ok_or_else(|| Error::new(ErrorKind::Internal, "take sample", index).because("nothing was read"))
    }

    /// Reads several samples concurrently and returns them in the order asked for.
    ///
    /// # Errors
    /// The first of those of [`Dataset::get`]; what was not yet begun is then left out.
    pub fn get_many(&self, indices: &[usize], interrupt: Interrupt<'_>) -> Result<Vec<Sample>> {
        read::read_many(&self.inner, indices, interrupt)
    }

    /// Reads the samples of a batch, in the order asked for, as the dataset's [`OnError`](crate::config::OnError) says: fewer than
    /// were asked for where some are skipped, but at least one; others in the place of those that are substituted.
    ///
    /// # Errors
    /// Those of [`Dataset::get_many`].
    pub fn get_batch(&self, indices: &[usize], interrupt: Interrupt<'_>) -> Result<Vec<Sample>> {
        read::read_batch(&self.inner, indices, interrupt)
    }

    /// Has samples fetched, in this order, for whoever reads them next: returns at once. What is cached is not fetched, what is queued
    /// already not again, and what the queue has no room for is dropped: how many were not, is returned.
    /// [`PrefetchConfig`](crate::config::PrefetchConfig) bounds it.
    ///
    /// # Errors
    /// `OutOfRange`; those of connecting to the sources in this process. A sample that cannot be fetched is no error here: reading
    /// it is.
    pub fn prefetch(&self, indices: &[usize], interrupt: Interrupt<'_>) -> Result<usize> {
        for &index in indices {
            self.inner.manifest.key(index)?;
        }
        self.inner.prefetch(indices, true, interrupt)
    }

    /// Ends all of [`Dataset::prefetch`]: empties the queue, cancels what is under way, and lets go of what nobody has read.
    pub fn stop_prefetch(&self) {
        self.inner.stop_prefetch();
    }

    /// Index of the sample with a key.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn index_of(&self, key: &str) -> Result<usize> {
        self.inner.manifest.index_of(key).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "find sample", key)
                .because(format_args!("none of the dataset's {} samples has that key", self.len()))
        })
    }

    /// Reads one sample after the other, in an order.
    pub fn samples<'a>(
        &'a self,
        order: &'a dyn Order,
        interrupt: Interrupt<'a>,
    ) -> impl Iterator<Item = Result<Sample>> + 'a {
        (0..order.len()).map(move |position| self.get(order.index_at(position), interrupt))
    }

    /// What was counted so far, in this process.
    pub fn snapshot(&self) -> Snapshot {
        if let Ok(kept) = self.inner.kept() {
            kept.report(&self.inner.metrics);
        }
        if let Ok(engine) = Engine::current() {
            let buffers = engine.buffers();
            self.inner.metrics.set(Metric::BufferBytes, buffers.lent_bytes() as u64);
            self.inner.metrics.set(Metric::BufferIdleBytes, buffers.idle_bytes() as u64);
            self.inner.metrics.set(Metric::BufferAllocations, buffers.allocations());
        }
        self.inner.metrics.snapshot()
    }

    /// Begins to count anew; what is cached stays.
    pub fn reset_metrics(&self) {
        self.inner.metrics.reset();
        if let Ok(kept) = self.inner.kept() {
            kept.reset_counters();
        }
    }

    /// What the cache of this process holds, and what happened in it.
    pub fn cache_stats(&self) -> CacheStats {
        self.inner.kept().map(|kept| kept.cache.stats()).unwrap_or_default()
    }

    /// Empties the cache of this process.
    pub fn clear_cache(&self) {
        if let Ok(kept) = self.inner.kept() {
            kept.cache.clear();
        }
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &DatasetConfig {
        &self.inner.config
    }

    /// Identifies field names and keys.
    pub fn order_fingerprint(&self) -> &str {
        self.inner.manifest.order_fingerprint()
    }

    /// Identifies sizes and versions of the objects.
    pub fn content_fingerprint(&self) -> &str {
        self.inner.manifest.content_fingerprint()
    }

    /// What the manifest was made of ([`Manifest::origin`]), as JSON; empty where it does not say.
    pub fn origin(&self) -> String {
        self.inner.manifest.origin().and_then(|origin| serde_json::to_string(origin).ok()).unwrap_or_default()
    }

    /// Identifies the sizes of the objects, whether or not versions are known ([`Dataset::has_entity_tags`]).
    pub fn size_fingerprint(&self) -> String {
        self.inner.manifest.size_fingerprint()
    }

    /// Whether every object has an entity tag: files have none, nor has what a replica listed.
    pub fn has_entity_tags(&self) -> bool {
        self.inner.manifest.has_entity_tags()
    }
}

impl Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("samples", &self.manifest.len())
            .field("sources", &self.config.sources())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Cache and loads of this process.
    pub(crate) fn kept(&self) -> Result<&Kept> {
        self.kept.get_or_try_init(|| Ok(Kept::new(&self.config.cache, &self.config.prefetch, self.clock.clone())))
    }

    /// One source per field, connected in this process.
    pub(crate) fn sources(&self, engine: &'static Engine, interrupt: Interrupt<'_>) -> Result<&[Arc<dyn Source>]> {
        self.sources
            .get_or_try_init(|| open::connect(engine, &self.config, &self.metrics, interrupt))
            .map(Vec::as_slice)
    }

    fn source_of(sources: &[Arc<dyn Source>], field: usize) -> &Arc<dyn Source> {
        // Fields that are folders of one source share it.
        &sources[field.min(sources.len() - 1)]
    }

    fn accepts_changes(&self) -> bool {
        self.config.on_changed == OnChanged::Reload
    }
}
