//! Batches of a dataset, in order, ahead of their consumer.
//!
//! A [`Loader`] walks the epochs of a dataset: [`order`](crate::order) says which samples come, a
//! [`Prefetcher`](crate::prefetch::Prefetcher) keeps steps under way ([`prepare`]), [`Batches`] hands them out and counts what
//! was handed out, which is the loader's [`State`]. What it hands out depends on the configuration and the state alone, never
//! on threads, cache or speed.
//!
//! ```no_run
//! use headwater::config::{DatasetConfig, LoaderConfig};
//! use headwater::dataset::Dataset;
//! use headwater::engine::uninterrupted;
//! use headwater::Loader;
//!
//! let config = DatasetConfig::from_json(r#"{"fields": {"latents": "s3://bucket/latents"}}"#)?;
//! let dataset = Dataset::open(&config, uninterrupted())?;
//! let loader = Loader::new(&dataset, LoaderConfig { batch_size: 8, shuffle: true, ..LoaderConfig::default() })?;
//! for epoch in 0..3 {
//!     for batch in loader.batches(uninterrupted())? {
//!         println!("{epoch}: {:?}", batch?.field("latents"));
//!     }
//! }
//! # Ok::<(), headwater::Error>(())
//! ```

mod batch;
mod batches;
mod budget;
mod mending;
mod prepare;
mod sampler;
mod transforms;
mod waits;
mod watching;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::sync::Mutex;

use crate::buffer::PoolShare;
use crate::config::{DatasetConfig, LoaderConfig, MemoryShare};
use crate::dataset::{Claim, Dataset};
use crate::engine::{Engine, Interrupt, PerProcess, Workers};
use crate::error::Result;
use crate::metrics::{Metric, Snapshot};
use crate::state::State;
use crate::verdict::Verdict;
use crate::world::Ranks;

pub use batch::{Batch, Content, HostValue};
pub use batches::{Batches, Behind};
pub use budget::Budget;
use budget::Needs;
pub use sampler::{Draw, Sampler, Walk};
use transforms::{CALL_DEADLINE, Transforms};
pub use transforms::{Given, Task, Tasks};
pub use waits::{Stage, Wait};

/// Walks the epochs of a dataset. A handle: clones share position and figures.
#[derive(Debug, Clone)]
pub struct Loader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dataset: Dataset,
    config: LoaderConfig,
    sampler: Sampler,
    budget: Budget,
    /// How far ahead the last pass came to be: where the next one begins.
    window_samples: AtomicUsize,
    /// How the youngest pass prepares its batches.
    preparing: Mutex<Weak<prepare::Prepare>>,
    /// Threads of its own, and its share of the buffer pool.
    held: PerProcess<Held>,
    /// What was counted at moments of the last minute.
    watching: watching::Watching,
}

#[derive(Debug)]
struct Held {
    workers: Workers,
    packers: Workers,
    _claim: Claim,
    _share: PoolShare,
}

impl Loader {
    /// Prepares to walk a dataset.
    ///
    /// # Errors
    /// `Invalid` for numbers that cannot be meant, and for a memory budget that is too small, with the number that is needed.
    pub fn new(dataset: &Dataset, config: LoaderConfig) -> Result<Self> {
        let ranks = Ranks::find(config.rank, config.world_size, None)?;
        let config = LoaderConfig { rank: Some(ranks.rank), world_size: Some(ranks.world_size), ..config };
        let sampler = Sampler::new(dataset, &config)?;
        config.check()?;
        let needs = needs(dataset, config.batch_size)?;
        let budget = Budget::new(&config, &dataset.config().cache, needs)?;
        let held = PerProcess::new();
        Ok(Self {
            inner: Arc::new(Inner {
                dataset: dataset.clone(),
                config,
                sampler,
                budget,
                window_samples: AtomicUsize::new(0),
                preparing: Mutex::default(),
                held,
                watching: watching::Watching::default(),
            }),
        })
    }

    /// Opens the dataset that a configuration describes and a loader as its `loader` table says.
    ///
    /// # Errors
    /// Those of [`Dataset::open`] and [`Loader::new`].
    pub fn open(config: &DatasetConfig, interrupt: Interrupt<'_>) -> Result<Self> {
        let loader = config.loader.clone().unwrap_or_default();
        let ranks = Ranks::find(loader.rank, loader.world_size, None)?;
        let dataset = Dataset::open(&config.clone().of_rank(ranks.rank), interrupt)?;
        Self::new(&dataset, loader)
    }

    /// The dataset it walks.
    pub fn dataset(&self) -> &Dataset {
        &self.inner.dataset
    }

    /// How it walks.
    pub fn config(&self) -> &LoaderConfig {
        &self.inner.config
    }

    /// How its memory is shared out.
    pub fn budget(&self) -> Budget {
        self.inner.budget
    }

    /// Which samples come, and where it stands.
    pub fn sampler(&self) -> &Sampler {
        &self.inner.sampler
    }

    /// Seed of what functions of the user's draw at random about a sample in an epoch ([`order::sample_seed`](crate::order::sample_seed())).
    pub fn sample_seed(&self, epoch: u64, index: u64) -> u64 {
        crate::order::sample_seed(self.inner.config.seed, epoch, index)
    }

    /// Batches of this rank in a whole epoch: the same number on every rank.
    pub fn len(&self) -> usize {
        self.inner.sampler.len()
    }

    /// Whether an epoch has no batch; it always has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins a pass: from where a restored state or [`Loader::set_epoch`] says, else the next epoch from its start.
    ///
    /// # Errors
    /// Those of connecting to the sources in this process; what `interrupt` returned.
    pub fn batches(&self, interrupt: Interrupt<'_>) -> Result<Batches> {
        Batches::begin(&self.inner, None, interrupt)
    }

    /// Begins a pass whose batches are what functions of the host language's make of the samples: what [`Tasks`] ask for is to be done
    /// by [`LoaderConfig::threads_for_transforms`] threads of the host's. With `each_sample` they are asked for something of each
    /// sample first, then for a batch of those; without, for a batch of the samples.
    ///
    /// # Errors
    /// Those of [`Loader::batches`]; `Invalid` when the loader does not leave samples apart.
    pub fn transformed(&self, each_sample: bool, interrupt: Interrupt<'_>) -> Result<(Batches, Tasks)> {
        let transforms = Transforms::new(&self.inner, each_sample, CALL_DEADLINE)?;
        let batches = Batches::begin(&self.inner, Some(transforms.clone()), interrupt)?;
        Ok((batches, Tasks::of(transforms)))
    }

    /// Whether something was handed out of the youngest pass.
    pub fn is_used(&self) -> bool {
        self.inner.sampler.is_used()
    }

    /// Chooses the epoch of the next pass. A state restored for that very epoch stays where it is.
    pub fn set_epoch(&self, epoch: u64) {
        let _ = self.inner.sampler.set_epoch(epoch);
    }

    /// Where the loader stands: the batches handed out so far, and no others, are behind it.
    pub fn state(&self) -> State {
        self.inner.sampler.state()
    }

    /// Makes the next pass begin where `state` was taken, under any batch size, world size and number of threads.
    ///
    /// # Errors
    /// `Invalid` when it was taken of other samples or another order, saying what differs; `Changed` when objects were replaced since
    /// and the dataset is to refuse that.
    pub fn restore(&self, state: &State) -> Result<()> {
        self.inner.sampler.restore(state).map(|_| ())
    }

    /// What the youngest pass waits for at present, the next batch first: empty while nothing is under way.
    pub fn waits(&self) -> Vec<Wait> {
        // In a forked child somebody who is no more may hold it.
        let preparing = self.inner.preparing.try_lock_for(Duration::from_millis(100));
        let prepare = preparing.and_then(|preparing| preparing.upgrade());
        prepare.map(|prepare| prepare.waits()).unwrap_or_default()
    }

    /// Why training waits, in the last minute: the stage that most of the waiting was for, and the change that would help most.
    pub fn verdict(&self) -> Verdict {
        self.inner.watching.verdict(&self.snapshot())
    }

    /// What was counted so far, in this process, of the dataset and all its loaders.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.dataset.snapshot()
    }
}

/// What batches take: the largest that can come, and one of usual size.
fn needs(dataset: &Dataset, batch_size: usize) -> Result<Needs> {
    let sizes = (0..dataset.len()).map(|index| dataset.inner.memory_of(index));
    let mut steps =
        sizes.map(|sizes| sizes.map(|(reading, values)| (reading + values, values))).collect::<Result<Vec<_>>>()?;
    let batch = batch_size.min(steps.len());
    let usual_batch_bytes = steps.iter().map(|(_, values)| values).sum::<u64>() / steps.len() as u64 * batch as u64;
    steps.select_nth_unstable_by(batch - 1, |a, b| b.cmp(a));
    let largest_step_bytes = steps[..batch].iter().map(|(step, _)| step).sum();
    Ok(Needs { largest_step_bytes, usual_batch_bytes, share: MemoryShare::current() })
}

impl Inner {
    fn held(&self, engine: &Engine) -> Result<&Held> {
        self.held.get_or_try_init(|| {
            let (workers, packers) = match self.config.num_threads {
                Some(threads) => (Workers::start(threads)?, Workers::start_behind(threads.div_ceil(2))?),
                None => (engine.workers()?.clone(), engine.packers()?.clone()),
            };
            let claim = Claim::new(&self.dataset.inner, self.budget.cache_bytes as usize)?;
            self.dataset.inner.kept()?.order_is_known();
            let share = engine.buffers().share(self.budget.total() as usize);
            let metrics = &self.dataset.inner.metrics;
            metrics.set(Metric::Budget, self.budget.total());
            metrics.set(Metric::Threads, workers.threads() as u64);
            Ok(Held { workers, packers, _claim: claim, _share: share })
        })
    }
}
