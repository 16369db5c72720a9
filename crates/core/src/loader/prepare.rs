//! Preparing one step: look in the cache, load what is not there, assemble, pack.
//!
//! Everything is driven by the last unit to arrive: it assembles the batch on the thread it arrived on, or on a worker when all
//! units were cached. Only then, with the batch on its way to the consumer, are the loaded values packed for the cache.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::sync::Mutex;

use super::sampler::Step;
use super::transforms::Transforms;
use super::waits::Arrivals;
use super::{Batch, Content};
use crate::cache::{Lease, UnitId};
use crate::collate::{Collation, Column, collate};
use crate::dataset::{Inner, Loaded, Outcomes, Sources};
use crate::engine::{Engine, Workers};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Metric, Timing};
use crate::prefetch::{Place, Preparation, Ticket};
use crate::value::{Packed, Value};
use crate::world::ProcessStamp;

/// A job on a worker reads at least so much: less is read faster than another thread is woken.
const MIN_JOB_BYTES: u64 = 256 << 10;

/// What a step becomes.
pub(super) struct Made {
    pub(super) batch: Batch,
    /// Where the epoch stands behind it.
    pub(super) next: usize,
    pub(super) outcomes: Outcomes,
}

/// How the steps of one pass are prepared.
pub(super) struct Prepare {
    pub(super) engine: &'static Engine,
    pub(super) dataset: Arc<Inner>,
    pub(super) sources: Sources,
    /// The process that it is of.
    pub(super) owner: ProcessStamp,
    /// What substitutes are drawn from.
    pub(super) seed: u64,
    pub(super) are_local: bool,
    pub(super) workers: Workers,
    pub(super) packers: Workers,
    pub(super) collation: Collation,
    /// What is still done to samples that are read.
    pub(super) transforms: Option<Arc<Transforms>>,
    /// What the last batch came to, for charging the next.
    pub(super) last_batch_bytes: AtomicU64,
    /// Steps under way, for messages.
    pub(super) under_way: Mutex<Vec<std::sync::Weak<UnderWay>>>,
}

/// A unit of a step that is there.
pub(super) enum Part {
    Cached(Lease),
    Loaded(Box<Loaded>),
}

impl Part {
    fn value(&self) -> &Value {
        match self {
            Part::Cached(lease) => lease.value().value(),
            Part::Loaded(loaded) => &loaded.value,
        }
    }
}

/// A step whose units are arriving.
pub(super) struct UnderWay {
    pub(super) prepare: Arc<Prepare>,
    pub(super) step: Step,
    pub(super) units: Vec<UnitId>,
    /// What the cache has of units, too old to be used without asking.
    stale: Mutex<Vec<Option<Lease>>>,
    pub(super) parts: Mutex<Vec<Option<Part>>>,
    /// What came instead of a unit, by its place.
    failed: Mutex<Vec<(usize, Error)>>,
    missing: AtomicUsize,
    ticket: Mutex<Option<Ticket<Prepare>>>,
    pub(super) arrivals: Arrivals,
    /// Which of the steps under way it is.
    pub(super) place: Place<Prepare>,
    /// Whether it is being decided how it goes on without samples that could not be read.
    pub(super) mended: AtomicBool,
    /// The first object that could not be read.
    pub(super) first_failed: OnceLock<String>,
}

impl Preparation for Prepare {
    type Step = Step;
    type Batch = Made;

    fn samples_of(&self, step: &Step) -> usize {
        step.rows.len()
    }

    fn bytes_of(&self, step: &Step) -> usize {
        let (mut reading, mut values) = (0, 0);
        for index in step.indices() {
            let (more, others) = self.dataset.memory_of(index).unwrap_or_default();
            reading += more;
            values += others;
        }
        // Padding may make more of it.
        (reading + self.last_batch_bytes.load(Ordering::Relaxed).max(values)) as usize
    }

    fn begin(self: Arc<Self>, step: Step, ticket: Ticket<Self>) {
        let parts = (0..step.rows.len() * self.dataset.names.len()).map(|_| None).collect();
        self.gather(step, parts, ticket);
    }

    fn describe(&self) -> String {
        self.say_waits()
    }
}

impl Prepare {
    /// Gets the parts of a step that are not there yet.
    pub(super) fn gather(self: Arc<Self>, step: Step, mut parts: Vec<Option<Part>>, ticket: Ticket<Self>) {
        let units = self.dataset.units_of(step.indices());
        let wanted: Vec<usize> = (0..units.len()).filter(|&at| parts[at].is_none()).collect();
        let stale = match self.look_up(&units, &wanted, &mut parts) {
            Ok(stale) => stale,
            Err(error) => return ticket.complete(Err(error)),
        };
        let fields = self.dataset.names.len();
        let is_reused = |at: &&usize| parts[**at].is_some() && !step.rows[*at / fields].is_pad;
        let reused = wanted.iter().filter(is_reused).count();
        let missing: Vec<usize> = wanted.into_iter().filter(|&at| parts[at].is_none()).collect();
        let remote = if self.are_local { 0 } else { missing.len() };
        match ticket.progress().units() {
            0 => ticket.progress().begin(units.len(), reused, remote),
            _ => ticket.progress().go_on(remote),
        }
        let (arrivals, place) = (Arrivals::new(units.len()), ticket.place());
        let under_way = Arc::new(UnderWay {
            prepare: self.clone(),
            step,
            units,
            stale: Mutex::new(stale),
            parts: Mutex::new(parts),
            failed: Mutex::default(),
            missing: AtomicUsize::new(missing.len()),
            ticket: Mutex::new(Some(ticket)),
            arrivals,
            place,
            mended: AtomicBool::new(false),
            first_failed: OnceLock::new(),
        });
        self.remember(&under_way);
        match missing.is_empty() {
            true => self.workers.spawn(move || under_way.assemble()),
            false if self.are_local => self.load_local(&under_way, &missing),
            false => self.load_remote(&under_way, &missing),
        }
    }

    /// Takes what the cache has of the units wanted; returns, by their places, what it has that is too old.
    fn look_up(&self, units: &[UnitId], wanted: &[usize], parts: &mut [Option<Part>]) -> Result<Vec<Option<Lease>>> {
        let kept = self.dataset.kept()?;
        let asked: Vec<UnitId> = wanted.iter().map(|&at| units[at]).collect();
        let mut leases = Vec::with_capacity(asked.len());
        kept.cache.get_many(&asked, &mut leases);
        let taken = kept.take_stale(&self.sources, &asked, &mut leases, true);
        for (&at, lease) in wanted.iter().zip(leases) {
            parts[at] = lease.map(Part::Cached);
        }
        if taken.is_empty() {
            return Ok(taken);
        }
        let mut stale: Vec<Option<Lease>> = units.iter().map(|_| None).collect();
        for (&at, lease) in wanted.iter().zip(taken) {
            stale[at] = lease;
        }
        Ok(stale)
    }

    fn remember(&self, step: &Arc<UnderWay>) {
        let mut under_way = self.under_way.lock();
        under_way.retain(|known| known.strong_count() > 0);
        under_way.push(Arc::downgrade(step));
    }

    /// Reads local units in jobs of a worthwhile size.
    fn load_local(&self, under_way: &Arc<UnderWay>, missing: &[usize]) {
        let mut job = Vec::new();
        let mut job_bytes = 0;
        for (number, &at) in missing.iter().enumerate() {
            let unit = under_way.units[at];
            job_bytes += self.dataset.manifest.object_size(unit.sample, unit.field).unwrap_or_default();
            job.push(at);
            if job_bytes >= MIN_JOB_BYTES || number + 1 == missing.len() {
                let (under_way, job) = (under_way.clone(), std::mem::take(&mut job));
                job_bytes = 0;
                self.workers.spawn(move || job.into_iter().for_each(|at| under_way.load_now(at)));
            }
        }
    }

    /// Asks for all remote units at once; their source's policies limit how many are under way.
    fn load_remote(&self, under_way: &Arc<UnderWay>, missing: &[usize]) {
        let progress = under_way.ticket.lock().as_ref().map(|ticket| ticket.progress().clone());
        let Some(progress) = progress else { return };
        for &at in missing {
            let (under_way, told) = (under_way.clone(), progress.clone());
            let cancel = self.engine.spawn(async move {
                let prepare = &under_way.prepare;
                let loaded = match prepare.dataset.kept() {
                    Ok(kept) => {
                        let is_pad = under_way.is_pad(at);
                        let fetched = |is_reused: bool| {
                            under_way.arrivals.mark_fetched(at);
                            if is_reused && !is_pad {
                                told.mark_reused();
                            }
                            told.mark_fetched(true);
                        };
                        let (dataset, unit) = (&prepare.dataset, under_way.units[at]);
                        let stale = under_way.take_stale(at);
                        dataset.load(kept, &prepare.sources, unit, stale, &prepare.workers, fetched).await
                    }
                    Err(error) => Err(error),
                };
                told.mark_decoded();
                let workers = prepare.workers.clone();
                // The last one assembles, which is no work for an I/O thread.
                if let Some(last) = under_way.arrived(at, loaded) {
                    workers.spawn(move || last.assemble());
                }
            });
            progress.on_cancel(cancel);
        }
    }
}

impl UnderWay {
    fn is_pad(&self, at: usize) -> bool {
        self.step.rows[self.row_of(at)].is_pad
    }

    pub(super) fn row_of(&self, at: usize) -> usize {
        at / self.prepare.dataset.names.len()
    }

    fn take_stale(&self, at: usize) -> Option<Lease> {
        self.stale.lock().get_mut(at).and_then(Option::take)
    }

    fn load_now(self: &Arc<Self>, at: usize) {
        let progress = match &*self.ticket.lock() {
            Some(ticket) if !ticket.is_cancelled() => ticket.progress().clone(),
            _ => return,
        };
        let prepare = &self.prepare;
        let loaded = prepare.dataset.kept().and_then(|kept| {
            prepare.dataset.load_now(
                kept,
                &prepare.sources,
                self.units[at],
                self.take_stale(at),
                prepare.engine.buffers(),
            )
        });
        // A local read and its decoding are one; the read is what takes the time.
        progress.mark_fetched(false);
        if let Some(last) = self.arrived(at, loaded) {
            last.assemble();
        }
    }

    /// Takes a unit in. Whoever brings the last one gets the step back, to assemble it.
    fn arrived(self: &Arc<Self>, at: usize, loaded: Result<Loaded>) -> Option<Arc<Self>> {
        match loaded {
            Ok(loaded) => self.parts.lock()[at] = Some(Part::Loaded(Box::new(loaded))),
            Err(error) => match self.prepare.dataset.raised(&error) {
                None => self.failed.lock().push((at, error)),
                Some(raised) => {
                    self.complete(Err(raised));
                    return None;
                }
            },
        }
        (self.missing.fetch_sub(1, Ordering::AcqRel) == 1).then(|| self.clone())
    }

    fn complete(&self, outcome: Result<Made>) {
        if let Some(ticket) = self.take_ticket() {
            ticket.complete(outcome);
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        let is_waited_for = self.ticket.lock().is_some() || self.mended.load(Ordering::Relaxed);
        is_waited_for && !self.place.is_cancelled()
    }

    pub(super) fn take_ticket(&self) -> Option<Ticket<Prepare>> {
        self.ticket.lock().take()
    }

    fn assemble(self: Arc<Self>) {
        self.arrivals.mark_complete();
        let parts: Vec<_> = std::mem::take(&mut *self.parts.lock());
        let failed = std::mem::take(&mut *self.failed.lock());
        if let Some((at, _)) = failed.first() {
            let _ = self.first_failed.set(self.uri_of(*at));
            return self.mend(parts, failed);
        }
        let Some(parts) = parts.into_iter().collect::<Option<Vec<_>>>() else { return };
        let began = Instant::now();
        let dataset = &self.prepare.dataset;
        let was_cached = parts.iter().all(|part| matches!(part, Part::Cached(_)));
        let (content, left) = match self.prepare.collation {
            Collation::Samples => (self.samples(parts), Vec::new()),
            _ => (self.fields(&parts), parts),
        };
        let bytes = content.as_ref().map_or(0, tensor_bytes);
        self.prepare.last_batch_bytes.store(bytes, Ordering::Relaxed);
        let took = began.elapsed().as_nanos() as u64;
        dataset.metrics.record(&[(Metric::CollateSeconds, took), (Metric::CollateBytes, bytes)]);
        if was_cached {
            dataset.metrics.time(Timing::Hit, took / self.units.len() as u64, self.units.len() as u64);
        }
        // Leases end before the batch is handed over: what the consumer then clears is free at once.
        let loaded = self.loaded_of(left);
        let (step, indices) = (&self.step, self.step.indices().collect());
        let batch = |content| Batch { epoch: step.epoch, indices, pads: step.pads(), content };
        let mut outcomes = step.outcomes.clone();
        if step.rows.iter().any(|row| !row.is_read) {
            outcomes.another_was_read();
        }
        self.pass_on(content.map(|content| Made { batch: batch(content), next: step.next, outcomes }));
        self.pack_behind(loaded);
    }

    /// Completes the step, or has the host's functions do so.
    fn pass_on(&self, made: Result<Made>) {
        let Some(ticket) = self.take_ticket() else { return };
        match (made, &self.prepare.transforms) {
            (Ok(made), Some(transforms)) => transforms.arrive(made, ticket),
            (made, _) => ticket.complete(made),
        }
    }

    fn fields(&self, parts: &[Part]) -> Result<Content> {
        let dataset = &self.prepare.dataset;
        let restored = self.restored(parts)?;
        let value_of = |at: usize| restored.get(at).and_then(Option::as_ref).unwrap_or_else(|| parts[at].value());
        let columns: Vec<_> = dataset
            .names
            .iter()
            .enumerate()
            .map(|(field, name)| Column {
                name: name.clone(),
                rows: (field..parts.len()).step_by(dataset.names.len()).map(value_of).collect(),
            })
            .collect();
        let key_of = |row: usize| dataset.manifest.key(self.step.rows[row].index).unwrap_or_default().to_owned();
        let fields = collate(&columns, self.prepare.collation, self.prepare.engine.buffers(), &key_of)?;
        Ok(Content::Fields(dataset.spread(fields)))
    }

    /// What is handed out in another form than it was stored in, part by part; nothing where there is no such thing.
    fn restored(&self, parts: &[Part]) -> Result<Vec<Option<Value>>> {
        let dataset = &self.prepare.dataset;
        if !dataset.config.restore_latents {
            return Ok(Vec::new());
        }
        parts.iter().zip(&self.units).map(|(part, unit)| dataset.restored(unit.sample, part.value())).collect()
    }

    /// Samples apart: what is packed for the cache is packed first, since the user may write to what is handed out.
    fn samples(&self, parts: Vec<Part>) -> Result<Content> {
        let (dataset, buffers) = (&self.prepare.dataset, self.prepare.engine.buffers());
        let kept = dataset.kept()?;
        let mut values = parts.into_iter().zip(&self.units).map(|(part, &unit)| match part {
            Part::Cached(lease) => Ok(Packed::new(lease.value().value(), buffers)?.into_value()),
            Part::Loaded(loaded) => dataset.hand_out(self.prepare.engine, kept, unit, *loaded),
        });
        let fields = dataset.names.len();
        let arrange = |index: usize| dataset.arrange(index, values.by_ref().take(fields).collect::<Result<_>>()?);
        self.step.indices().map(arrange).collect::<Result<_>>().map(Content::Samples)
    }

    fn loaded_of(&self, parts: Vec<Part>) -> Vec<(UnitId, Loaded)> {
        let loaded = parts.into_iter().zip(&self.units).filter_map(|(part, &unit)| match part {
            Part::Loaded(loaded) => Some((unit, *loaded)),
            Part::Cached(_) => None,
        });
        loaded.collect()
    }

    /// Packs what was loaded for the cache, after everything that is queued by now: what takes longer, on threads that let those go first
    /// which batches wait for.
    fn pack_behind(self: &Arc<Self>, mut loaded: Vec<(UnitId, Loaded)>) {
        loaded.retain(|(_, loaded)| !loaded.is_offered);
        let bytes = loaded.iter().map(|(_, loaded)| loaded.value.tensor_bytes()).sum();
        let Ok(kept) = self.prepare.dataset.kept() else { return };
        if loaded.is_empty() {
            return;
        }
        let (dataset, engine) = (self.prepare.dataset.clone(), self.prepare.engine);
        let Some(waiting) = dataset.wait(kept, bytes, loaded.len(), false) else { return };
        let is_little = loaded.iter().all(|(unit, loaded)| dataset.is_kept_at_once(kept, *unit, loaded));
        let threads = if is_little { &self.prepare.workers } else { &self.prepare.packers };
        threads.spawn(move || {
            if let Ok(kept) = dataset.kept() {
                for (unit, loaded) in loaded {
                    dataset.offer(kept, unit, &loaded, engine.buffers(), None);
                }
            }
            drop(waiting);
        });
    }
}

fn tensor_bytes(content: &Content) -> u64 {
    let of = |fields: &[(Arc<str>, Value)]| fields.iter().map(|(_, value)| value.tensor_bytes() as u64).sum::<u64>();
    match content {
        Content::Fields(fields) => of(fields),
        Content::Samples(samples) => samples.iter().map(|sample| of(&sample.fields)).sum(),
        Content::Host(_) => 0,
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // A step that is dropped before it was completed was cancelled, or a stage of it panicked.
        if let Some(ticket) = self.ticket.get_mut().take()
            && !ticket.is_cancelled()
        {
            let left =
                Error::new(ErrorKind::Internal, "prepare", "a batch").because("a stage panicked; please report this");
            ticket.complete(Err(left));
        }
    }
}
