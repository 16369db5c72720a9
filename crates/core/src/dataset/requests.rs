//! Samples that the user asks to have fetched before they are read.
//!
//! A queue without a thread of its own: whatever changes it ([`Inner::prefetch`], a sample that arrives, one that is taken) begins
//! what there is room for. What arrives is held, within a bound of its own, until it is read; reading takes it as if it had just
//! been loaded, so that what the cache keeps does not depend on who asked first. A queue that is full drops what comes, and says so.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::load::{Loaded, Sources};
use super::{Inner, Kept};
use crate::cache::UnitId;
use crate::config::{PrefetchConfig, memory_limit};
use crate::engine::{Engine, Interrupt};
use crate::error::Result;
use crate::metrics::Metric;

/// Samples under way at once; the policies of their sources limit requests further.
const MOST_AT_ONCE: usize = 64;

/// What nobody came for in this time gives way to others.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// The queue of a dataset in one process.
#[derive(Debug)]
pub(crate) struct Requests {
    queue: usize,
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sources: Option<Sources>,
    waiting: VecDeque<usize>,
    /// Everything that is waiting, under way or held.
    known: HashSet<usize>,
    under_way: HashMap<usize, UnderWay>,
    held: HashMap<usize, Held>,
    /// Held samples in the order they came; also of some that were taken since.
    arrived: VecDeque<usize>,
    /// Of what is under way and held.
    bytes: u64,
    /// How often it was stopped: what was under way before is no longer wanted.
    run: u64,
}

struct UnderWay {
    bytes: u64,
    cancel: Option<Box<dyn FnOnce() + Send>>,
}

struct Held {
    units: Vec<Option<Loaded>>,
    bytes: u64,
    since: Duration,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.waiting.len())
            .field("under_way", &self.under_way.len())
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl Requests {
    pub(super) fn new(config: &PrefetchConfig) -> Self {
        let bytes = config.memory.map_or_else(|| PrefetchConfig::default_memory(memory_limit()), |size| size.0);
        Self { queue: config.queue, bytes, state: Mutex::default() }
    }

    /// Samples that wait, and bytes under way and held.
    pub(super) fn figures(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.waiting.len() as u64, state.bytes)
    }

    /// Forgets everything, and cancels what is under way.
    fn stop(&self) {
        let stopped = {
            let mut state = self.state.lock();
            let run = state.run + 1;
            std::mem::replace(&mut *state, State { run, ..State::default() })
        };
        // Not under the lock: memory is freed here.
        stopped.under_way.into_values().filter_map(|under_way| under_way.cancel).for_each(|cancel| cancel());
    }
}

impl State {
    /// Puts a sample into the queue; `false` when that is full.
    fn push(&mut self, sample: usize, queue: usize) -> bool {
        if self.known.contains(&sample) {
            return true;
        }
        if self.waiting.len() >= queue {
            return false;
        }
        self.known.insert(sample);
        self.waiting.push_back(sample);
        true
    }

    /// The next sample to begin, if there is room for what it takes.
    fn begin(&mut self, limit: u64, now: Duration, bytes_of: impl Fn(usize) -> u64) -> Next {
        let Some(&sample) = self.waiting.front().filter(|_| self.under_way.len() < MOST_AT_ONCE) else {
            return Next::Nothing;
        };
        let bytes = bytes_of(sample);
        let is_alone = self.under_way.is_empty() && self.held.is_empty();
        if self.bytes + bytes > limit && !is_alone {
            return self.give_up(now).map_or(Next::Nothing, Next::GivenUp);
        }
        self.waiting.pop_front();
        self.bytes += bytes;
        self.under_way.insert(sample, UnderWay { bytes, cancel: None });
        Next::Begin(sample)
    }

    /// Takes out what was held longest, if nobody came for it in time.
    fn give_up(&mut self, now: Duration) -> Option<Held> {
        while let Some(&sample) = self.arrived.front() {
            match self.held.get(&sample) {
                None => {}
                Some(held) if now.saturating_sub(held.since) >= KEPT_FOR => {
                    self.arrived.pop_front();
                    return self.remove(sample);
                }
                Some(_) => return None,
            }
            self.arrived.pop_front();
        }
        None
    }

    fn remove(&mut self, sample: usize) -> Option<Held> {
        let held = self.held.remove(&sample)?;
        self.known.remove(&sample);
        self.bytes -= held.bytes;
        Some(held)
    }

    /// A sample arrived, with what is to be held of it.
    fn arrive(&mut self, sample: usize, units: Vec<Option<Loaded>>, now: Duration) {
        let Some(under_way) = self.under_way.remove(&sample) else { return };
        self.bytes -= under_way.bytes;
        let bytes = units.iter().flatten().map(|loaded| loaded.value.tensor_bytes() as u64).sum();
        if units.iter().all(Option::is_none) {
            self.known.remove(&sample);
            return;
        }
        self.bytes += bytes;
        self.held.insert(sample, Held { units, bytes, since: now });
        self.arrived.push_back(sample);
    }

    fn take(&mut self, unit: UnitId) -> Option<Loaded> {
        let held = self.held.get_mut(&unit.sample)?;
        let taken = held.units.get_mut(unit.field).and_then(Option::take)?;
        let bytes = taken.value.tensor_bytes() as u64;
        held.bytes -= bytes;
        let is_empty = held.units.iter().all(Option::is_none);
        self.bytes -= bytes;
        if is_empty {
            self.remove(unit.sample);
        }
        Some(taken)
    }
}

enum Next {
    Begin(usize),
    /// Something was given up for it, to be freed; ask again.
    GivenUp(Held),
    Nothing,
}

impl Inner {
    /// Queues samples; returns how many of them are, or were, in the queue.
    pub(super) fn prefetch(self: &Arc<Self>, samples: &[usize], interrupt: Interrupt<'_>) -> Result<usize> {
        let engine = Engine::current()?;
        let sources = self.sources(engine, interrupt)?;
        let kept = self.kept()?;
        let accepted = {
            let mut state = kept.requests.state.lock();
            state.sources.get_or_insert_with(|| sources.into());
            samples.iter().filter(|&&sample| state.push(sample, kept.requests.queue)).count()
        };
        let dropped = (samples.len() - accepted) as u64;
        self.metrics.record(&[(Metric::PrefetchQueued, accepted as u64), (Metric::PrefetchDropped, dropped)]);
        self.begin_requests(engine, kept);
        Ok(accepted)
    }

    /// Empties the queue, cancels what is under way and lets go of what is held.
    pub(super) fn stop_prefetch(&self) {
        if let Ok(kept) = self.kept() {
            kept.requests.stop();
        }
    }

    /// What was fetched of a unit before it is asked for now, unless it has become too old.
    pub(super) fn requested(self: &Arc<Self>, kept: &Kept, unit: UnitId) -> Option<Loaded> {
        let taken = kept.requests.state.lock().take(unit)?;
        if let Ok(engine) = Engine::current() {
            self.begin_requests(engine, kept);
        }
        let is_fresh = kept.ttl.is_none_or(|ttl| taken.age(kept.clock.now()) < ttl);
        let metric = if is_fresh { Metric::PrefetchUsed } else { Metric::PrefetchUnused };
        self.metrics.record(&[(metric, 1)]);
        is_fresh.then_some(taken)
    }

    /// Begins what there is room for.
    fn begin_requests(self: &Arc<Self>, engine: &'static Engine, kept: &Kept) {
        let bytes_of = |sample| self.memory_of(sample).map_or(0, |(reading, values)| reading + values);
        loop {
            let (next, run, sources) = {
                let mut state = kept.requests.state.lock();
                let next = state.begin(kept.requests.bytes, kept.clock.now(), bytes_of);
                (next, state.run, state.sources.clone())
            };
            let (sample, sources) = match (next, sources) {
                (Next::Begin(sample), Some(sources)) => (sample, sources),
                (Next::GivenUp(held), _) => {
                    let unused = held.units.iter().flatten().count() as u64;
                    self.metrics.record(&[(Metric::PrefetchUnused, unused)]);
                    continue;
                }
                _ => return,
            };
            let inner = self.clone();
            let cancel = engine.spawn(async move {
                let Ok(kept) = inner.kept() else { return };
                let units = inner.fetch_ahead(kept, &sources, sample, engine).await;
                {
                    let mut state = kept.requests.state.lock();
                    if state.run == run {
                        state.arrive(sample, units, kept.clock.now());
                    }
                }
                inner.begin_requests(engine, kept);
            });
            // It may have arrived by now.
            let mut state = kept.requests.state.lock();
            if state.run == run {
                state.under_way.entry(sample).and_modify(|under_way| under_way.cancel = Some(Box::new(cancel)));
            }
        }
    }

    async fn fetch_unit_ahead(
        self: Arc<Self>,
        sources: Sources,
        unit: UnitId,
        engine: &'static Engine,
    ) -> Result<Loaded> {
        let workers = engine.workers();
        if !sources.iter().all(|source| source.is_local()) {
            return self.load(self.kept()?, &sources, unit, None, workers, |_| ()).await;
        }
        // As whoever reads local sources does: they wait for each other on the workers, and must not wait there for what needs another one.
        workers.run(move || self.load_now(self.kept()?, &sources, unit, None, engine.buffers())).await
    }

    /// Loads what the cache does not have of a sample. One unit that fails does not stop the others.
    async fn fetch_ahead(
        self: &Arc<Self>,
        kept: &Kept,
        sources: &Sources,
        sample: usize,
        engine: &'static Engine,
    ) -> Vec<Option<Loaded>> {
        let mut tasks = JoinSet::new();
        let fields = self.names.len();
        for unit in (0..fields).map(|field| UnitId { sample, field }).filter(|&unit| !kept.cache.contains(unit)) {
            let (inner, sources) = (self.clone(), sources.clone());
            tasks.spawn(async move { (unit.field, inner.fetch_unit_ahead(sources, unit, engine).await) });
        }
        let mut units: Vec<Option<Loaded>> = (0..fields).map(|_| None).collect();
        while let Some(joined) = tasks.join_next().await {
            match joined {
                // Whoever asked meanwhile has it already.
                Ok((_, Ok(loaded))) if loaded.was_followed() => self.metrics.record(&[(Metric::PrefetchFetched, 1)]),
                Ok((field, Ok(loaded))) => {
                    self.metrics.record(&[(Metric::PrefetchFetched, 1)]);
                    units[field] = Some(loaded);
                }
                Ok((_, Err(error))) => {
                    self.metrics.record(&[(Metric::PrefetchFailed, 1)]);
                    tracing::debug!("cannot fetch ahead: {}", error.report());
                }
                Err(_) => self.metrics.record(&[(Metric::PrefetchFailed, 1)]),
            }
        }
        units
    }
}
