//! One pass over an epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use super::prepare::{Made, Prepare};
use super::transforms::Transforms;
use super::{Batch, Inner};
use crate::engine::{Engine, Interrupt, uninterrupted};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Metric, Timing};
use crate::prefetch::{FIRST_BATCHES, Handed, Patience, Prefetcher, WindowLimits};
use crate::world::ProcessStamp;

/// Requests that a first pass over remotes is ahead at the start: twice as many as a source begins with at once, so that it sees
/// soon whether more at once bring more.
const FIRST_REQUESTS: usize = 64;

/// The batches of one pass, in order. Dropping it cancels what is under way.
#[derive(Debug)]
pub struct Batches {
    loader: Arc<Inner>,
    prefetcher: Prefetcher<Prepare>,
    transforms: Option<Arc<Transforms>>,
    pass: u64,
    epoch: u64,
    owner: ProcessStamp,
    is_over: bool,
    /// When the consumer left with the last batch, or began.
    handed_out: Arc<Mutex<Instant>>,
    /// Samples that could not be read since one could, as far as batches were handed out.
    failed_in_a_row: u64,
}

/// Where the loader stands once a batch is handed out.
#[derive(Debug)]
pub struct Behind {
    loader: Arc<Inner>,
    pass: u64,
    position: usize,
    samples: u64,
    /// When the batch before was handed out.
    before: Arc<Mutex<Instant>>,
}

impl Behind {
    /// Counts the batch as handed out: the loader's state is behind it from now on. Batches are counted in the order they were taken
    /// in. The consumer had to wait for it for so long once it was taken.
    pub fn hand_out(&self, waited: Duration) {
        self.loader.sampler.advance(self.pass, self.position);
        let now = Instant::now();
        let before = std::mem::replace(&mut *self.before.lock(), now);
        let since = now.saturating_duration_since(before);
        self.loader.dataset.inner.metrics.record(&[
            (Metric::Running, since.as_nanos() as u64),
            (Metric::Batches, 1),
            (Metric::SamplesRead, self.samples),
            (Metric::StallPlacing, waited.as_nanos() as u64),
        ]);
        self.loader.watching.batch_was_taken(now, || self.loader.dataset.snapshot());
    }
}

impl Batches {
    pub(super) fn begin(
        loader: &Arc<Inner>,
        transforms: Option<Arc<Transforms>>,
        interrupt: Interrupt<'_>,
    ) -> Result<Self> {
        let engine = Engine::current()?;
        let dataset = &loader.dataset.inner;
        let sources = dataset.sources(engine, interrupt)?;
        let held = loader.held(engine)?;
        dataset.kept()?.backlog.set_budget(loader.budget.backlog_bytes, loader.budget.disk_backlog_bytes);
        let mut walk = loader.sampler.begin();
        let (pass, epoch) = (walk.pass(), walk.epoch());
        let prepare = Prepare {
            engine,
            dataset: dataset.clone(),
            sources: sources.into(),
            owner: ProcessStamp::current(),
            seed: loader.config.seed,
            are_local: sources.iter().all(|source| source.is_local()),
            workers: held.workers.clone(),
            packers: held.packers.clone(),
            collation: loader.config.collate,
            transforms: transforms.clone(),
            last_batch_bytes: AtomicU64::new(0),
            under_way: Mutex::default(),
        };
        let first = if prepare.are_local { 0 } else { FIRST_REQUESTS.div_ceil(dataset.names.len()) };
        // Steps that functions have are read, and still in the window.
        let beside = |transforms: &Arc<Transforms>| {
            loader.config.batch_size.saturating_mul(FIRST_BATCHES + transforms.most_ahead())
        };
        let beside_held = transforms.as_ref().map_or(0, beside);
        let limits = WindowLimits {
            step_samples: loader.config.batch_size,
            samples: loader.config.window_samples,
            first_samples: loader.window_samples.load(Ordering::Relaxed).max(first).max(beside_held),
            bytes: loader.budget.in_window() as usize,
        };
        dataset.metrics.set(Metric::WindowSamplesLimit, limits.samples.unwrap_or(0) as u64);
        dataset.metrics.set(Metric::WindowBytesLimit, limits.bytes as u64);
        let steps = std::iter::from_fn(move || walk.next_step());
        let prepare = Arc::new(prepare);
        *loader.preparing.lock() = Arc::downgrade(&prepare);
        let prefetcher = Prefetcher::new(prepare, steps, limits, held.workers.clone());
        Ok(Self {
            loader: loader.clone(),
            prefetcher,
            transforms,
            pass,
            epoch,
            owner: ProcessStamp::current(),
            is_over: false,
            handed_out: Arc::new(Mutex::new(Instant::now())),
            failed_in_a_row: 0,
        })
    }

    /// Waits for the next batch and counts it as handed out; `None` when the pass is over, and after an error.
    ///
    /// # Errors
    /// Those of [`Batches::take`].
    pub fn next_batch(&mut self, interrupt: Interrupt<'_>) -> Option<Result<Batch>> {
        let taken = self.take_next(interrupt)?;
        Some(taken.map(|(batch, behind)| {
            behind.hand_out(Duration::ZERO);
            batch
        }))
    }

    /// Whether the next batch, or the error in its place, is there. Not of the end of a pass.
    pub fn is_ready(&self) -> bool {
        self.owner.is_current() && !self.is_over && self.prefetcher.is_ready()
    }

    /// Waits for the next batch, for a consumer that hands it on later and counts it then; `None` as for [`Batches::next_batch`].
    ///
    /// # Errors
    /// Reading, decoding or assembling failed, naming the object or the samples; `Timeout` after the loader's `batch_deadline`,
    /// naming what was waited for; `Invalid` in a forked child, which must make its own; what `interrupt` returned, which ends
    /// nothing.
    pub fn take_next(&mut self, interrupt: Interrupt<'_>) -> Option<Result<(Batch, Behind)>> {
        if !self.owner.is_current() {
            return Some(Err(Error::new(ErrorKind::Invalid, "iterate", "a loader").because(format_args!(
                "this iterator belongs to process {}, of which this one is a fork; call iter() on the loader here",
                self.owner.pid()
            ))));
        }
        if self.is_over {
            return None;
        }
        let asked = Instant::now();
        let handed = match self.wait_for_next(interrupt) {
            Ok(Some(Ok(handed))) => handed,
            Ok(Some(Err(error))) => return Some(Err(self.fail(error))),
            // The batch is still to come.
            Err(error) => return Some(Err(error)),
            Ok(None) => {
                // Whoever closed it left off somewhere.
                if !self.prefetcher.is_cancelled() {
                    self.loader.sampler.end_pass(self.pass);
                }
                self.end();
                return None;
            }
        };
        if let Some(transforms) = &self.transforms {
            transforms.another_was_taken();
        }
        self.record(&handed, asked);
        let Made { batch, next, outcomes } = handed.batch;
        self.failed_in_a_row = match outcomes.after(self.failed_in_a_row) {
            Ok(in_a_row) => in_a_row,
            Err(error) => return Some(Err(self.fail(error))),
        };
        let samples = batch.len() as u64;
        Some(Ok((
            batch,
            Behind {
                loader: self.loader.clone(),
                pass: self.pass,
                position: next,
                samples,
                before: self.handed_out.clone(),
            },
        )))
    }

    fn wait_for_next(&self, interrupt: Interrupt<'_>) -> Result<Option<Result<Handed<Made>>>> {
        let patience = Patience {
            deadline: self.loader.config.batch_deadline.map(|span| span.0),
            warn_after: Some(self.loader.config.watchdog.0).filter(|span| !span.is_zero()),
        };
        let Some(transforms) = &self.transforms else { return self.prefetcher.next(patience, interrupt) };
        self.prefetcher.next(patience, &|| interrupt().and_then(|()| transforms.check_deadline()))
    }

    fn fail(&mut self, error: Error) -> Error {
        self.end();
        error
    }

    fn end(&mut self) {
        self.is_over = true;
        if let Some(transforms) = &self.transforms {
            transforms.close();
        }
    }

    /// Whether nothing will come any more: the pass has ended, or failed.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The epoch that is walked.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Something to call from any thread, also while another waits for a batch: ends the pass.
    pub fn closer(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let (cancel, transforms) = (self.prefetcher.canceller(), self.transforms.clone());
        move || {
            cancel();
            if let Some(transforms) = &transforms {
                transforms.close();
            }
        }
    }

    fn record(&self, handed: &Handed<Made>, asked: Instant) {
        let (stall, progress) = (handed.stall, &handed.progress);
        let metrics = &self.loader.dataset.inner.metrics;
        let (window_samples, window_bytes) = self.prefetcher.window();
        self.loader.window_samples.store(window_samples, Ordering::Relaxed);
        metrics.set(Metric::WindowSamples, window_samples as u64);
        metrics.set(Metric::WindowBytes, window_bytes as u64);
        metrics.record(&[
            (Metric::UnitsAsked, progress.units() as u64),
            (Metric::UnitsReady, handed.ready_units as u64),
            (Metric::UnitsReused, progress.reused_units() as u64),
            (Metric::StallSource, stall.source.as_nanos() as u64),
            (Metric::StallDecode, stall.decode.as_nanos() as u64),
            (Metric::StallCollate, stall.collate.as_nanos() as u64),
            (Metric::StallTransform, stall.transform.as_nanos() as u64),
        ]);
        let took = asked.elapsed();
        metrics.time(Timing::Wait, took.as_nanos() as u64, 1);
        metrics.time(Timing::HandOver, took.saturating_sub(stall.total()).as_nanos() as u64, 1);
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.closer()();
    }
}

/// Uninterrupted.
impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        self.next_batch(uninterrupted())
    }
}
