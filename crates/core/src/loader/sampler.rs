//! Which samples come, and where a run stands.
//!
//! A [`Sampler`] walks the epochs of a dataset without reading anything: [`order`](crate::order) says which sample comes at which
//! position, a [`Walk`] cuts a pass into steps, and what was handed out is the [`State`]. It is what a loader goes by, and what a
//! loader that is not ours can go by too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::sync::Mutex;

use crate::config::{LoaderConfig, OnChanged, OnError};
use crate::dataset::{Dataset, Outcomes};
use crate::engine::Interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::order::{Order, Partition, Sequential, Shuffled};
use crate::state::{self, State};
use crate::world::Ranks;

/// Samples that are fetched ahead for a loader of somebody else's that has no worker processes: what keeps a remote source busy.
const SAMPLES_AHEAD: usize = 64;

/// Walks the epochs of a dataset. A handle: clones share the position.
#[derive(Debug, Clone)]
pub struct Sampler {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dataset: Dataset,
    shuffle: bool,
    seed: u64,
    partition: Partition,
    cursor: Mutex<Cursor>,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    epoch: u64,
    position: usize,
    /// Whether anything of a pass through this epoch was handed out: beginning again then begins the next one.
    is_used: bool,
    /// Which of the passes moves the cursor: the youngest.
    pass: u64,
}

/// A rank's steps of one pass.
#[derive(Debug)]
pub struct Walk {
    sampler: Sampler,
    epoch: u64,
    pass: u64,
    from: usize,
    /// Up to where samples were asked to be fetched ahead.
    asked_until: usize,
    order: Box<dyn Order>,
    /// Steps that were drawn and not handed out yet, and where they end.
    drawn: VecDeque<(Draw, usize)>,
    /// For how many steps samples are fetched ahead.
    steps_ahead: usize,
    /// Whether somebody tells what is handed out. Else what is drawn counts as that.
    is_tracked: bool,
}

/// What a rank reads in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// The pass it belongs to.
    pub epoch: u64,
    /// Index of each sample in the manifest.
    pub indices: Vec<usize>,
    /// Which of them are pads; `None` with `drop_last`, where there are none.
    pub pads: Option<Vec<bool>>,
}

/// A step of a rank's epoch.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) epoch: u64,
    pub(super) rows: Vec<Row>,
    /// Whether rows may be pads, which the batch then says.
    pub(super) has_pads: bool,
    /// Positions of the epoch that are handed out with it, over all ranks.
    pub(super) next: usize,
    /// How samples came out that were tried for it.
    pub(super) outcomes: Outcomes,
}

/// A sample of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) index: usize,
    pub(super) position: usize,
    pub(super) is_pad: bool,
    /// Samples that could not be read in this place.
    pub(super) attempts: u64,
    /// Whether its parts are there, while others are got again.
    pub(super) is_read: bool,
}

impl Step {
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|row| row.index)
    }

    pub(super) fn pads(&self) -> Option<Vec<bool>> {
        self.has_pads.then(|| self.rows.iter().map(|row| row.is_pad).collect())
    }
}

impl Sampler {
    /// Walks as `config` says: its batch size, order, rank and world size.
    ///
    /// # Errors
    /// `Invalid` for numbers that cannot be meant, and when there is no full batch for every rank and incomplete ones are dropped.
    pub fn new(dataset: &Dataset, config: &LoaderConfig) -> Result<Self> {
        let (rank, world_size) = Ranks::find(config.rank, config.world_size, None)?.apart(config.replication)?;
        let partition = Partition::new(config.batch_size, rank, world_size, config.drop_last)?;
        if partition.steps(dataset.len(), 0) == 0 {
            return Err(Error::new(ErrorKind::Invalid, "use", "drop_last").because(format_args!(
                "the dataset's {} samples make no full batch of {} on each of {} ranks",
                dataset.len(),
                config.batch_size,
                world_size
            )));
        }
        if config.replication > 1 {
            dataset.inner.has_replicas.store(true, Ordering::Relaxed);
        }
        let cursor = Mutex::new(Cursor { epoch: 0, position: 0, is_used: false, pass: 0 });
        let (shuffle, seed) = (config.shuffle, config.seed);
        Ok(Self { inner: Arc::new(Inner { dataset: dataset.clone(), shuffle, seed, partition, cursor }) })
    }

    /// Steps of this rank in a whole epoch: the same number on every rank.
    pub fn len(&self) -> usize {
        self.inner.partition.steps(self.inner.dataset.len(), 0)
    }

    /// Whether an epoch has no step; it always has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins a pass: from where a restored state or [`Sampler::set_epoch`] says, else the next epoch from its start. A pass that
    /// nothing was taken of does not count: trainers try an iterator before they use one.
    pub fn begin(&self) -> Walk {
        let Cursor { epoch, position, pass, .. } = self.begin_pass();
        Walk {
            sampler: self.clone(),
            epoch,
            pass,
            from: position,
            asked_until: position,
            order: self.order(epoch),
            drawn: VecDeque::new(),
            steps_ahead: 0,
            is_tracked: false,
        }
    }

    fn order(&self, epoch: u64) -> Box<dyn Order> {
        let samples = self.inner.dataset.len();
        if self.inner.shuffle {
            Box::new(Shuffled::new(samples, self.inner.seed, epoch))
        } else {
            Box::new(Sequential::new(samples))
        }
    }

    /// Whether something was taken of the youngest pass.
    pub fn is_used(&self) -> bool {
        self.inner.cursor.lock().is_used
    }

    /// Chooses the epoch of the next pass. A state restored for that very epoch stays where it is.
    ///
    /// Returns whether a pass that was begun and of which nothing was taken would now begin elsewhere.
    pub fn set_epoch(&self, epoch: u64) -> bool {
        let mut cursor = self.inner.cursor.lock();
        if cursor.epoch == epoch && !cursor.is_used {
            return false;
        }
        let was_used = cursor.is_used;
        *cursor = Cursor { epoch, position: 0, is_used: false, pass: cursor.pass + 1 };
        !was_used
    }

    /// For how many steps samples are fetched ahead for a loader of somebody else's: as asked, else those of 64 samples, or none where
    /// worker processes read.
    ///
    /// # Errors
    /// `Invalid` when it is asked for where worker processes read.
    pub fn steps_ahead(&self, asked: Option<usize>, has_workers: bool) -> Result<usize> {
        match asked {
            Some(steps) if has_workers && steps > 0 => Err(Error::new(ErrorKind::Invalid, "use", "look_ahead")
                .because("it is for a DataLoader without workers: workers read for themselves")),
            Some(steps) => Ok(steps),
            None if has_workers => Ok(0),
            None => Ok(SAMPLES_AHEAD.div_ceil(self.inner.partition.batch_size()).max(2)),
        }
    }

    /// Where it stands: what was handed out so far, and nothing else, is behind it.
    pub fn state(&self) -> State {
        let Cursor { epoch, position, .. } = *self.inner.cursor.lock();
        self.state_at(epoch, position)
    }

    fn state_at(&self, epoch: u64, position: usize) -> State {
        let dataset = &self.inner.dataset;
        State {
            version: state::VERSION,
            epoch,
            position: position as u64,
            seed: self.inner.seed,
            shuffle: self.inner.shuffle,
            samples: dataset.len() as u64,
            order_fingerprint: dataset.order_fingerprint().to_owned(),
            content_fingerprint: dataset.content_fingerprint().to_owned(),
        }
    }

    /// Makes the next pass begin where `state` was taken, under any batch size, world size and number of threads. Returns what
    /// [`Sampler::set_epoch`] does.
    ///
    /// # Errors
    /// `Invalid` when it was taken of other samples or another order, saying what differs; `Changed` when objects were replaced since
    /// and the dataset is to refuse that.
    pub fn restore(&self, state: &State) -> Result<bool> {
        let here = self.state();
        state.check_order(&here)?;
        if state.content_fingerprint != here.content_fingerprint {
            let reason = "objects of the dataset were replaced since it was saved";
            if self.inner.dataset.config().on_changed == OnChanged::Error {
                return Err(Error::new(ErrorKind::Changed, "restore", "the loader's state")
                    .because(format_args!("{reason}; on_changed = \"reload\" goes on with them as they are now")));
            }
            tracing::warn!("{reason}; going on with them as they are now");
        }
        let mut cursor = self.inner.cursor.lock();
        let (was_used, pass) = (cursor.is_used, cursor.pass + 1);
        *cursor = Cursor { epoch: state.epoch, position: state.position as usize, is_used: false, pass };
        Ok(!was_used)
    }

    fn begin_pass(&self) -> Cursor {
        let mut cursor = self.inner.cursor.lock();
        if cursor.is_used {
            cursor.epoch = cursor.epoch.saturating_add(1);
            cursor.position = 0;
        }
        cursor.is_used = false;
        cursor.pass += 1;
        *cursor
    }

    /// Counts as handed out what is before a position, unless another pass was begun since.
    pub(super) fn advance(&self, pass: u64, position: usize) {
        let mut cursor = self.inner.cursor.lock();
        if cursor.pass == pass {
            cursor.position = position;
            cursor.is_used = true;
        }
    }

    /// Tells whether the youngest pass counts as one that something was taken of.
    fn set_used(&self, pass: u64, is_used: bool) {
        let mut cursor = self.inner.cursor.lock();
        if cursor.pass == pass {
            cursor.is_used = is_used;
        }
    }

    pub(super) fn end_pass(&self, pass: u64) {
        let mut cursor = self.inner.cursor.lock();
        if cursor.pass == pass {
            *cursor = Cursor { epoch: cursor.epoch.saturating_add(1), position: 0, is_used: false, pass };
        }
    }
}

impl Walk {
    /// Which of the sampler's passes it is.
    pub(super) fn pass(&self) -> u64 {
        self.pass
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn next_step(&mut self) -> Option<Step> {
        let step = self.step_from(self.from)?;
        self.from = step.next;
        Some(step)
    }

    fn step_from(&self, from: usize) -> Option<Step> {
        let (partition, samples) = (self.sampler.inner.partition, self.sampler.inner.dataset.len());
        let step = partition.step(samples, from)?;
        let row = |position: usize| Row {
            index: self.order.index_at(if position < samples { position } else { (position - samples) % samples }),
            position,
            is_pad: position >= samples,
            attempts: 0,
            is_read: false,
        };
        let rows = step.positions.map(row).collect();
        Some(Step {
            epoch: self.epoch,
            rows,
            has_pads: !partition.drops_last(),
            next: step.next,
            outcomes: Outcomes::default(),
        })
    }

    /// Has the dataset fetch the samples of the steps after the next one ([`Dataset::prefetch`]), as far as it has not been asked to: of
    /// as many as [`Walk::track`] was told. To be called before that one is drawn, since it may wait and be interrupted.
    ///
    /// # Errors
    /// Those of connecting to the sources in this process.
    pub fn look_ahead(&mut self, interrupt: Interrupt<'_>) -> Result<()> {
        let (partition, samples) = (self.sampler.inner.partition, self.sampler.inner.dataset.len());
        let Some(next) = partition.step(samples, self.from).map(|step| step.next) else { return Ok(()) };
        let until = next.saturating_add(partition.positions_per_step().saturating_mul(self.steps_ahead));
        self.asked_until = self.asked_until.max(next);
        while self.asked_until < until
            && let Some(step) = self.step_from(self.asked_until)
        {
            self.sampler.inner.dataset.inner.prefetch(&step.indices().collect::<Vec<_>>(), false, interrupt)?;
            self.asked_until = step.next;
        }
        Ok(())
    }

    /// Has the dataset forget what it was asked to fetch ahead and nobody has drawn.
    pub fn forget_ahead(&mut self) {
        let mut from = self.from;
        while from < self.asked_until
            && let Some(step) = self.step_from(from)
        {
            from = step.next;
            self.sampler.inner.dataset.inner.forget_ahead(&step.indices().collect::<Vec<_>>());
        }
        self.asked_until = self.from;
    }

    /// From now on, what is handed out is told ([`Walk::hand_out`]): a pass of which nothing is does not count. The samples of so
    /// many steps are fetched ahead.
    pub fn track(&mut self, steps_ahead: usize) {
        (self.is_tracked, self.steps_ahead) = (true, steps_ahead);
        self.sampler.set_used(self.pass, false);
    }

    /// Counts as handed out the first of the steps that were drawn and not handed out yet. Of `samples` that are known to have come,
    /// says which are pads where there may be any.
    ///
    /// # Errors
    /// `Invalid` when nothing was drawn, or other samples were: something between sampler and consumer reorders or shards batches.
    pub fn hand_out(&mut self, samples: Option<&[usize]>) -> Result<Option<Vec<bool>>> {
        let wrong = || Error::new(ErrorKind::Invalid, "track", "a DataLoader");
        let Some((Draw { indices, pads, .. }, position)) = self.drawn.front() else {
            return Err(wrong().because("it handed out a batch that this sampler did not draw"));
        };
        let raises = self.sampler.inner.dataset.config().on_error == OnError::Raise;
        if let Some(samples) = samples.filter(|&samples| raises && samples != indices) {
            return Err(wrong().because(format_args!(
                "it handed out samples {samples:?} where this sampler drew {indices:?}: something shards or reorders batches; \
                 give the sampler rank=0, world_size=1, or do not let anything prepare the loader"
            )));
        }
        let pads = samples.and_then(|samples| pads.as_ref().map(|pads| pads_of(samples, indices, pads)));
        self.sampler.advance(self.pass, *position);
        self.drawn.pop_front();
        Ok(pads)
    }

    /// Tells that everything was handed out: the next pass is another epoch's.
    pub fn end(&self) {
        self.sampler.end_pass(self.pass);
    }

    /// Where the run stands once everything is handed out that was drawn.
    pub fn state(&self) -> State {
        self.sampler.state_at(self.epoch, self.from)
    }
}

/// The steps, in order.
impl Iterator for Walk {
    type Item = Draw;

    fn next(&mut self) -> Option<Draw> {
        let Some(step) = self.next_step() else {
            // Of a pass that began at its end nothing is to come: the next one is another epoch's.
            if !self.is_tracked {
                self.sampler.set_used(self.pass, true);
            }
            return None;
        };
        let draw = Draw { epoch: step.epoch, indices: step.indices().collect(), pads: step.pads() };
        self.drawn.push_back((draw.clone(), step.next));
        if !self.is_tracked {
            self.sampler.set_used(self.pass, true);
        }
        Some(draw)
    }
}

/// Which of the samples that came are pads, where some of those drawn were left out or substituted: they keep their order, and one that
/// was not drawn stands in for the next that was.
fn pads_of(samples: &[usize], drawn: &[usize], pads: &[bool]) -> Vec<bool> {
    if samples.len() == drawn.len() {
        return pads.to_vec();
    }
    let mut at = 0;
    let pad_of = |sample: &usize| {
        let place = drawn.iter().skip(at).position(|other| other == sample).map(|ahead| at + ahead);
        let is_pad = pads[place.unwrap_or(at).min(pads.len() - 1)];
        at = place.unwrap_or(at) + 1;
        is_pad
    };
    samples.iter().map(pad_of).collect()
}
