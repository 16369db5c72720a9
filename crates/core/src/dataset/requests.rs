//! Samples that the user asks to have fetched before they are read.
//!
//! A queue without a thread of its own: whatever changes it ([`Inner::prefetch`], a sample that arrives, one that is taken) begins
//! what there is room for. What arrives is held, within a bound of its own, until it is read; reading takes it as if it had just
//! been loaded, so that what the cache keeps does not depend on who asked first. A queue that is full drops what comes, and says so.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;
use tokio::task::JoinSet;

use super::load::{Loaded, Read, Sources};
use super::{Inner, Kept};
use crate::cache::{self, UnitId};
use crate::config::{MemoryShare, PrefetchConfig};
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
    /// Everything that is waiting, under way or held; and whether the user asked for it, not only who looks ahead.
    known: HashMap<usize, bool>,
    under_way: HashMap<usize, UnderWay>,
    held: HashMap<usize, Held>,
    /// Held samples in the order they came, and when; also some that were taken since.
    arrived: VecDeque<(usize, Duration)>,
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

impl Held {
    fn units(&self) -> u64 {
        self.units.iter().flatten().count() as u64
    }
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
        let share = MemoryShare::current();
        let bytes = match config.memory {
            Some(size) => share.granted("prefetch memory", size, share.bytes()),
            None => PrefetchConfig::default_memory(share.bytes()),
        };
        Self { queue: config.queue, bytes, state: Mutex::default() }
    }

    /// Samples that wait, and bytes under way and held.
    pub(super) fn figures(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.waiting.len() as u64, state.bytes)
    }

    /// Forgets everything, and cancels what is under way. Returns how many units were there unread.
    fn stop(&self) -> u64 {
        let mut stopped = {
            let mut state = self.state.lock();
            let run = state.run + 1;
            std::mem::replace(&mut *state, State { run, ..State::default() })
        };
        // Not under the lock: memory is freed here.
        let unused = stopped.held.values().map(Held::units).sum();
        stopped.under_way.drain().filter_map(|(_, under_way)| under_way.cancel).for_each(|cancel| cancel());
        unused
    }
}

impl State {
    /// Puts a sample into the queue; `false` when that is full.
    fn push(&mut self, sample: usize, by_hand: bool, queue: usize) -> bool {
        if let Some(known) = self.known.get_mut(&sample) {
            *known |= by_hand;
            return true;
        }
        if self.waiting.len() >= queue {
            return false;
        }
        self.known.insert(sample, by_hand);
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
        self.tidy();
        let &(sample, since) = self.arrived.front()?;
        if now.saturating_sub(since) < KEPT_FOR {
            return None;
        }
        self.arrived.pop_front();
        self.remove(sample)
    }

    /// Forgets which came first of those that are no longer there.
    fn tidy(&mut self) {
        while let Some((sample, since)) = self.arrived.front()
            && self.held.get(sample).is_none_or(|held| held.since != *since)
        {
            self.arrived.pop_front();
        }
    }

    fn remove(&mut self, sample: usize) -> Option<Held> {
        let held = self.held.remove(&sample)?;
        if !self.under_way.contains_key(&sample) {
            self.known.remove(&sample);
        }
        self.bytes -= held.bytes;
        Some(held)
    }

    /// A unit of a sample under way arrived.
    fn arrive(&mut self, unit: UnitId, fields: usize, loaded: Loaded, now: Duration) {
        let Some(under_way) = self.under_way.get_mut(&unit.sample) else { return };
        let bytes = loaded.value.tensor_bytes() as u64;
        // From now on it is charged as what it is.
        let charged = bytes.min(under_way.bytes);
        under_way.bytes -= charged;
        self.bytes += bytes - charged;
        let held = self.held.entry(unit.sample).or_insert_with(|| {
            self.arrived.push_back((unit.sample, now));
            Held { units: (0..fields).map(|_| None).collect(), bytes: 0, since: now }
        });
        held.bytes += bytes;
        held.units[unit.field] = Some(loaded);
    }

    /// Whether others than this queue hold the memory of a unit that arrived.
    fn is_shared(&mut self, unit: UnitId, is_shared: bool) {
        let held = self.held.get_mut(&unit.sample).and_then(|held| held.units[unit.field].as_mut());
        if let Some(held) = held {
            held.is_shared = is_shared;
        }
    }

    /// All that comes of a sample has come. What came of one that is not whole is let go of.
    fn is_done(&mut self, sample: usize, is_whole: bool) -> Option<Held> {
        let under_way = self.under_way.remove(&sample)?;
        self.bytes -= under_way.bytes;
        if !self.held.contains_key(&sample) {
            self.known.remove(&sample);
        }
        if is_whole { None } else { self.remove(sample) }
    }

    /// Somebody reads a sample, or nobody will: it need not be fetched any more.
    fn is_read(&mut self, sample: usize) {
        if self.known.contains_key(&sample)
            && let Some(at) = self.waiting.iter().position(|&waiting| waiting == sample)
        {
            self.waiting.remove(at);
            self.known.remove(&sample);
        }
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
            self.tidy();
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
    pub(crate) fn prefetch(
        self: &Arc<Self>,
        samples: &[usize],
        by_hand: bool,
        interrupt: Interrupt<'_>,
    ) -> Result<usize> {
        let engine = Engine::current()?;
        let sources = self.sources(engine, interrupt)?;
        let kept = self.kept()?;
        let accepted = {
            let mut state = kept.requests.state.lock();
            state.sources.get_or_insert_with(|| sources.into());
            samples.iter().filter(|&&sample| state.push(sample, by_hand, kept.requests.queue)).count()
        };
        let dropped = (samples.len() - accepted) as u64;
        self.metrics.record(&[(Metric::PrefetchQueued, accepted as u64), (Metric::PrefetchDropped, dropped)]);
        self.begin_requests(engine, kept);
        Ok(accepted)
    }

    /// Empties the queue, cancels what is under way and lets go of what is held.
    pub(super) fn stop_prefetch(&self) {
        if let Ok(kept) = self.kept() {
            self.metrics.record(&[(Metric::PrefetchUnused, kept.requests.stop())]);
        }
    }

    /// Takes samples out of the queue again, under way or held, that nobody but who looks ahead asked for.
    pub(crate) fn forget_ahead(&self, samples: &[usize]) {
        let Ok(kept) = self.kept() else { return };
        for &sample in samples {
            let (held, under_way) = {
                let mut state = kept.requests.state.lock();
                if state.known.get(&sample) != Some(&false) {
                    continue;
                }
                state.is_read(sample);
                let under_way = state.under_way.remove(&sample);
                state.bytes -= under_way.as_ref().map_or(0, |under_way| under_way.bytes);
                let held = state.remove(sample);
                state.known.remove(&sample);
                state.tidy();
                (held, under_way)
            };
            self.metrics.record(&[(Metric::PrefetchUnused, held.as_ref().map_or(0, Held::units))]);
            if let Some(cancel) = under_way.and_then(|under_way| under_way.cancel) {
                cancel();
            }
        }
    }

    /// What was fetched of a unit before it is asked for now, unless it has become too old.
    pub(super) fn requested(self: &Arc<Self>, kept: &Kept, unit: UnitId) -> Option<Loaded> {
        let taken = {
            let mut state = kept.requests.state.lock();
            if state.known.is_empty() {
                return None;
            }
            let taken = state.take(unit);
            if taken.is_none() {
                state.is_read(unit.sample);
            }
            taken?
        };
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
                    self.metrics.record(&[(Metric::PrefetchUnused, held.units())]);
                    continue;
                }
                _ => return,
            };
            let inner = self.clone();
            let cancel = engine.spawn(async move {
                let Ok(kept) = inner.kept() else { return };
                let is_whole = inner.fetch_ahead(&sources, sample, run, engine).await;
                let left = {
                    let mut state = kept.requests.state.lock();
                    if state.run == run { state.is_done(sample, is_whole) } else { None }
                };
                drop(left);
                inner.begin_requests(engine, kept);
            });
            // It may have arrived by now.
            let mut state = kept.requests.state.lock();
            if state.run == run {
                state.under_way.entry(sample).and_modify(|under_way| under_way.cancel = Some(Box::new(cancel)));
            }
        }
    }

    /// Loads what the cache does not have of a sample. Returns whether all of it could be.
    async fn fetch_ahead(
        self: &Arc<Self>,
        sources: &Sources,
        sample: usize,
        run: u64,
        engine: &'static Engine,
    ) -> bool {
        let mut tasks = JoinSet::new();
        for unit in (0..self.names.len()).map(|field| UnitId { sample, field }) {
            let (inner, sources) = (self.clone(), sources.clone());
            tasks.spawn(async move {
                let fetched = inner.fetch_unit_ahead(sources, unit, run, engine).await;
                let (metric, count) = match fetched {
                    Ok(count) => (Metric::PrefetchFetched, count),
                    Err(error) => {
                        tracing::debug!("cannot fetch ahead: {}", error.report());
                        (Metric::PrefetchFailed, 1)
                    }
                };
                inner.metrics.record(&[(metric, count)]);
                metric == Metric::PrefetchFetched
            });
        }
        let mut is_whole = true;
        while let Some(fetched) = tasks.join_next().await {
            is_whole &= fetched.unwrap_or(false);
        }
        is_whole
    }

    /// Loads a unit and holds it, unless it is there or others are loading it: they have it then. Returns how many were loaded.
    async fn fetch_unit_ahead(
        self: &Arc<Self>,
        sources: Sources,
        unit: UnitId,
        run: u64,
        engine: &'static Engine,
    ) -> Result<u64> {
        let kept = self.kept()?;
        if kept.cache.contains(unit) {
            return Ok(0);
        }
        let workers = engine.workers()?;
        if sources.iter().all(|source| source.is_local()) {
            let inner = self.clone();
            // From the first on a worker: whoever follows waits on another one, and must not wait for what still needs one.
            let fetch = move || {
                let kept = inner.kept()?;
                let cache::Flight::Lead(leader) = kept.flights.join(unit) else { return Ok(0) };
                let read = inner.read_now(kept, &sources, unit, engine.buffers());
                inner.hold_and_land(kept, unit, run, leader, read)
            };
            return workers.run(fetch).await;
        }
        let cache::Flight::Lead(leader) = kept.flights.join(unit) else { return Ok(0) };
        let read = self.lead(kept, &sources, unit, None, workers, &mut |_| ()).await;
        self.hold_and_land(kept, unit, run, leader, read)
    }

    /// What was read is held before it lands: whoever looks for it finds one of the two.
    fn hold_and_land(
        &self,
        kept: &Kept,
        unit: UnitId,
        run: u64,
        leader: cache::Leader<Result<Read>>,
        read: Result<Read>,
    ) -> Result<u64> {
        if let Ok(read) = read.clone() {
            let mut state = kept.requests.state.lock();
            if state.run == run {
                state.arrive(unit, self.names.len(), Loaded::from((read, true)), kept.clock.now());
            }
        }
        let had_followers = leader.land(&read);
        let loaded = Loaded::from((read?, had_followers));
        let mut state = kept.requests.state.lock();
        // Those who followed have it.
        let taken = if state.run != run {
            None
        } else if had_followers {
            state.take(unit)
        } else {
            state.is_shared(unit, loaded.is_shared);
            None
        };
        drop(state);
        drop(taken);
        Ok(1)
    }
}
