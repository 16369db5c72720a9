//! What functions of the user's make of samples, ahead of the consumer.
//!
//! The last stage of a step, for what only the host language can do: its threads take [`Task`]s, and the step is complete, with its place
//! in the window taken until then, when the last one is done. First comes each sample by itself, if that is asked for, then the
//! batch of what was made of them. Tasks are begun in the order of the samples, however many threads there are; and only of so many steps
//! ahead, since nobody knows what memory the functions' results take.
//!
//! A function that fails ends no pass: whatever it failed with is handed out in its batch's place, and means something to the host
//! alone. Of several samples of a step that fail the first one counts, whichever thread was first.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Content, HostValue};
use super::prepare::{Made, Prepare};
use super::waits::{Stage, Wait};
use crate::collate::Collation;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::order::sample_seed;
use crate::prefetch::Ticket;
use crate::sample::Sample;
use crate::sync::{Condvar, Mutex};
use crate::world::ProcessStamp;

/// Steps beyond those that all threads are busy with: one that is complete, and one that comes next.
const SPARE_STEPS: usize = 2;

/// A function that takes longer about one thing is taken for one that never returns.
pub(super) const CALL_DEADLINE: Duration = Duration::from_mins(10);

/// How often a thread without a task looks whether it still has a process to work for.
const IDLE_POLL: Duration = Duration::from_secs(1);

/// Steps of one pass that wait for the host's functions, and those that are with them.
pub(super) struct Transforms {
    dataset: Arc<crate::dataset::Inner>,
    seed: u64,
    each_sample: bool,
    most_ahead: usize,
    call_deadline: Duration,
    owner: ProcessStamp,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Steps of which nothing was begun, by their numbers.
    arrived: BTreeMap<u64, Arrived>,
    /// Those of which something was, in order.
    begun: VecDeque<Begun>,
    /// Number of the next one to begin.
    next: u64,
    /// How many the consumer has taken.
    taken: u64,
    is_closed: bool,
}

struct Arrived {
    made: Made,
    ticket: Ticket<Prepare>,
    since: Instant,
}

struct Begun {
    number: u64,
    made: Made,
    ticket: Ticket<Prepare>,
    since: Instant,
    /// Samples that nobody has taken yet.
    left: std::iter::Enumerate<std::vec::IntoIter<Sample>>,
    /// What was made of each so far.
    values: Vec<Option<HostValue>>,
    calls: Vec<Call>,
    /// The first sample that a function failed about, and what it failed with.
    failed: Option<(usize, HostValue)>,
}

/// What is let go once nobody holds the lock: the host's objects may call back.
#[derive(Default)]
struct Unneeded {
    samples: Vec<Sample>,
    failure: Option<(usize, HostValue)>,
}

/// A function at work: on a sample, by its place in the step, or on the whole batch.
#[derive(Debug, Clone, Copy)]
struct Call {
    row: Option<usize>,
    since: Instant,
}

/// Where threads of the host's get what there is to do in one pass. A handle.
#[derive(Clone)]
pub struct Tasks(Arc<Transforms>);

/// Something to be done by a function of the host's. Dropped without, the step fails.
pub struct Task {
    of: Arc<Transforms>,
    number: u64,
    call: Call,
    given: Option<Given>,
    /// Samples of the step.
    indices: Vec<usize>,
    epoch: u64,
    is_done: bool,
}

/// What a function is given.
#[derive(Debug)]
pub enum Given {
    /// One sample, and whether it is a pad where there may be any.
    Sample(Box<Sample>, Option<bool>),
    /// The samples of a batch, and which of them are pads.
    Samples(Vec<Sample>, Option<Vec<bool>>),
    /// What was made of each of them.
    Values(Vec<HostValue>),
}

impl Transforms {
    pub(super) fn new(loader: &super::Inner, each_sample: bool, call_deadline: Duration) -> Result<Arc<Self>> {
        let config = &loader.config;
        if config.collate != Collation::Samples {
            return Err(Error::new(ErrorKind::Invalid, "begin", "a pass with functions of the host's")
                .because("they need samples apart, `collate = \"samples\"`"));
        }
        let busy = config.threads_for_transforms().div_ceil(if each_sample { config.batch_size } else { 1 });
        Ok(Arc::new(Self {
            dataset: loader.dataset.inner.clone(),
            seed: config.seed,
            each_sample,
            most_ahead: busy + SPARE_STEPS,
            call_deadline,
            owner: ProcessStamp::current(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// How many steps it holds beside those that wait for it.
    pub(super) fn most_ahead(&self) -> usize {
        self.most_ahead
    }

    /// Takes in a step whose samples are there.
    pub(super) fn arrive(&self, made: Made, ticket: Ticket<Prepare>) {
        ticket.progress().mark_assembled();
        let number = ticket.place().number();
        let mut state = self.state.lock();
        if !state.is_closed {
            state.arrived.insert(number, Arrived { made, ticket, since: Instant::now() });
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The consumer took the next step.
    pub(super) fn another_was_taken(&self) {
        self.state.lock().taken += 1;
        self.changed.notify_all();
    }

    /// Nobody waits for anything any more; threads get no more tasks.
    pub(super) fn close(&self) {
        // A forked child has none of the threads, and one of them may have held the lock.
        if !self.owner.is_current() {
            return;
        }
        let left = {
            let mut state = self.state.lock();
            std::mem::replace(&mut *state, State { is_closed: true, ..State::default() })
        };
        self.changed.notify_all();
        // Not under the lock: what is let go may call back.
        drop(left);
    }

    /// What steps wait for that are here.
    pub(super) fn waits(&self) -> Vec<Wait> {
        let state = self.state.lock();
        let ahead = |number: u64| number.saturating_sub(state.taken) as usize;
        let idle = |number, since: &Instant| Wait {
            ahead: ahead(number),
            stage: Stage::Transform,
            object: None,
            seconds: since.elapsed().as_secs_f64(),
        };
        let mut waits = Vec::new();
        for begun in &state.begun {
            let call = |call: &Call| Wait {
                stage: if call.row.is_some() { Stage::Transform } else { Stage::CollateFn },
                object: call.row.map(|row| self.key_of(begun.made.batch.indices[row])),
                ..idle(begun.number, &call.since)
            };
            waits.extend(begun.calls.iter().map(call));
            if begun.calls.is_empty() {
                waits.push(idle(begun.number, &begun.since));
            }
        }
        waits.extend(state.arrived.iter().map(|(&number, arrived)| idle(number, &arrived.since)));
        waits
    }

    /// Makes sure that the next step gets on.
    pub(super) fn check_deadline(&self) -> Result<()> {
        let stuck = |wait: &Wait| wait.ahead == 0 && wait.seconds >= self.call_deadline.as_secs_f64();
        match self.waits().into_iter().find(stuck) {
            None => Ok(()),
            Some(wait) => Err(Error::new(ErrorKind::Timeout, "get", "the next batch").because(wait)),
        }
    }

    fn key_of(&self, index: usize) -> String {
        self.dataset.manifest.key(index).unwrap_or_default().to_owned()
    }

    /// The first thing to do, if there is any.
    fn claim(self: &Arc<Self>, state: &mut State) -> Option<Task> {
        if let Some(task) = state.begun.iter_mut().find_map(|begun| self.claim_of(begun)) {
            return Some(task);
        }
        if state.next >= state.taken + self.most_ahead as u64 {
            return None;
        }
        let Arrived { mut made, ticket, since } = state.arrived.remove(&state.next)?;
        let samples = match std::mem::replace(&mut made.batch.content, Content::Samples(Vec::new())) {
            Content::Samples(samples) => samples,
            Content::Fields(_) | Content::Host(_) => Vec::new(),
        };
        let values = samples.iter().map(|_| None).collect();
        let left = samples.into_iter().enumerate();
        let mut begun =
            Begun { number: state.next, made, ticket, since, left, values, calls: Vec::new(), failed: None };
        state.next += 1;
        let task = self.claim_of(&mut begun);
        state.begun.push_back(begun);
        task
    }

    fn claim_of(self: &Arc<Self>, begun: &mut Begun) -> Option<Task> {
        let batch = &begun.made.batch;
        let (row, given) = if !self.each_sample {
            // The batch is asked for once.
            if !begun.calls.is_empty() {
                return None;
            }
            (None, Given::Samples(begun.left.by_ref().map(|(_, sample)| sample).collect(), batch.pads.clone()))
        } else if let Some((row, sample)) = begun.left.next() {
            (Some(row), Given::Sample(Box::new(sample), batch.pads.as_ref().map(|pads| pads[row])))
        } else {
            // What was made of all of them, once nobody is at work.
            if !begun.calls.is_empty() {
                return None;
            }
            (None, Given::Values(begun.values.iter_mut().filter_map(Option::take).collect()))
        };
        let call = Call { row, since: Instant::now() };
        begun.calls.push(call);
        Some(Task {
            of: self.clone(),
            number: begun.number,
            call,
            given: Some(given),
            indices: row.map_or_else(|| batch.indices.clone(), |row| vec![batch.indices[row]]),
            epoch: batch.epoch,
            is_done: false,
        })
    }

    /// Takes what a function made, or failed with.
    fn take_in(&self, number: u64, call: Call, outcome: std::result::Result<HostValue, HostValue>) {
        let took = call.since.elapsed().as_nanos() as u64;
        self.dataset.metrics.record(&[(Metric::TransformSeconds, took)]);
        let mut state = self.state.lock();
        // Nobody waits for it any more where it is not there.
        let Some(at) = state.begun.iter().position(|begun| begun.number == number) else { return };
        let (is_complete, unneeded) = state.begun[at].take_in(call, outcome);
        let complete = if is_complete { state.begun.remove(at) } else { None };
        drop(state);
        self.changed.notify_all();
        drop(unneeded);
        if let Some(Begun { ticket, made, .. }) = complete {
            ticket.complete(Ok(made));
        }
    }

    /// A thread left a task undone.
    fn give_up(&self, number: u64) {
        let mut state = self.state.lock();
        let at = state.begun.iter().position(|begun| begun.number == number);
        let left = at.and_then(|at| state.begun.remove(at));
        drop(state);
        if let Some(Begun { ticket, .. }) = left {
            let reason = "a thread left it; please report this";
            ticket.complete(Err(Error::new(ErrorKind::Internal, "transform", "a batch").because(reason)));
        }
    }
}

impl Begun {
    /// Takes what a function made; whether that completes the step, and what is no longer needed.
    fn take_in(&mut self, call: Call, outcome: std::result::Result<HostValue, HostValue>) -> (bool, Unneeded) {
        self.calls.retain(|other| other.row != call.row);
        let mut unneeded = Unneeded::default();
        match (call.row, outcome) {
            (Some(row), Ok(value)) => self.values[row] = Some(value),
            (Some(row), Err(failure)) if self.failed.as_ref().is_none_or(|(first, _)| row < *first) => {
                unneeded.failure = self.failed.replace((row, failure));
            }
            (Some(row), Err(failure)) => unneeded.failure = Some((row, failure)),
            (None, Ok(value) | Err(value)) => {
                self.made.batch.content = Content::Host(value);
                return (true, unneeded);
            }
        }
        if self.failed.is_none() {
            return (false, unneeded);
        }
        // Those before it are all with functions by now; those behind it are not begun any more.
        unneeded.samples = self.left.by_ref().map(|(_, sample)| sample).collect();
        let is_complete = self.calls.is_empty();
        if let Some((_, failure)) = self.failed.take_if(|_| is_complete) {
            self.made.batch.content = Content::Host(failure);
        }
        (is_complete, unneeded)
    }
}

impl Tasks {
    pub(super) fn of(transforms: Arc<Transforms>) -> Self {
        Self(transforms)
    }

    /// Takes what there is to do at this moment.
    pub fn try_next(&self) -> Option<Task> {
        if !self.0.owner.is_current() {
            return None;
        }
        let mut state = self.0.state.lock();
        if state.is_closed { None } else { self.0.claim(&mut state) }
    }

    /// Waits for something to do; `None` when nothing will come any more.
    pub fn next(&self) -> Option<Task> {
        if !self.0.owner.is_current() {
            return None;
        }
        let mut state = self.0.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(task) = self.0.claim(&mut state) {
                return Some(task);
            }
            (state, _) = self.0.changed.wait_for(state, IDLE_POLL);
        }
    }
}

impl Task {
    /// What the function is given. Once.
    pub fn take(&mut self) -> Option<Given> {
        self.given.take()
    }

    /// Whether it is about one sample, and not about a batch.
    pub fn is_of_sample(&self) -> bool {
        self.call.row.is_some()
    }

    /// Keys of the samples that it is about.
    pub fn keys(&self) -> Vec<String> {
        self.indices.iter().map(|&index| self.of.key_of(index)).collect()
    }

    /// Seed of whatever is drawn at random for it ([`sample_seed`]); for a batch, that of its first sample.
    pub fn seed(&self) -> u64 {
        let first = self.indices.first().copied().unwrap_or_default();
        sample_seed(self.of.seed, self.epoch, first as u64)
    }

    /// Takes what the function made.
    pub fn complete(mut self, value: HostValue) {
        self.is_done = true;
        self.of.take_in(self.number, self.call, Ok(value));
    }

    /// Takes what the function failed with: it is handed out in the place of the batch.
    pub fn fail(mut self, failure: HostValue) {
        self.is_done = true;
        self.of.take_in(self.number, self.call, Err(failure));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.is_done && self.of.owner.is_current() {
            self.of.give_up(self.number);
        }
    }
}

impl fmt::Debug for Transforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transforms").field("most_ahead", &self.most_ahead).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("number", &self.number).field("call", &self.call).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DatasetConfig, LoaderConfig};
    use crate::dataset::Dataset;
    use crate::engine::uninterrupted;
    use crate::loader::{Batches, Loader};
    use crate::value::{DType, Tensor, Value};

    #[test]
    fn a_function_that_does_not_return_ends_the_wait_with_its_sample_and_its_batch_is_still_to_come() {
        let folder = tempfile::tempdir().expect("folder");
        let tensor = Tensor::from_bytes(DType::U8, &[1], vec![7].into()).expect("tensor");
        crate::object::save(&folder.path().join("clip.pt"), &Value::Tensor(tensor)).expect("saved");
        let json = format!(r#"{{"source": "{}"}}"#, folder.path().display());
        let dataset = DatasetConfig::from_json(&json).and_then(|config| Dataset::open(&config, uninterrupted()));
        let alone = LoaderConfig { rank: Some(0), world_size: Some(1), ..LoaderConfig::default() };
        let config = LoaderConfig { collate: Collation::Samples, ..alone };
        let loader = Loader::new(&dataset.expect("opens"), config).expect("loader");
        let transforms = Transforms::new(&loader.inner, true, Duration::from_millis(50)).expect("made");
        let mut batches = Batches::begin(&loader.inner, Some(transforms.clone()), uninterrupted()).expect("begins");
        let tasks = Tasks::of(transforms);
        let task = tasks.next().expect("a task");
        let error = batches.next_batch(uninterrupted()).expect("one").expect_err("stuck");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("the transform has had sample `clip` for 0."), "{error}");
        task.complete(HostValue::new(()));
        tasks.next().expect("the batch").complete(HostValue::new(()));
        assert!(matches!(batches.next_batch(uninterrupted()), Some(Ok(_))));
    }
}
