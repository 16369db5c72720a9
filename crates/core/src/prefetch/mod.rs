//! Batches ahead of their consumer.
//!
//! A [`Prefetcher`] walks the coming steps and keeps a [`Window`] of them under way and ready: it begins the preparation of a step
//! whenever the window has room, lets steps finish in any order, and hands them over in theirs. What a step is and how it is
//! prepared is the business of a [`Preparation`]; this module never sees a source, a format or a cache.
//!
//! There is no thread and no task of its own. Preparation runs where it likes and ends by completing its [`Ticket`]; filling the
//! window runs as a job on the workers, after each hand-over. The consumer only waits, and leaving cancels everything.
//!
//! A step tells its progress: how much of it still needs a source, when its last bytes came, when it was decoded. From
//! that, each wait of the consumer is split into the stages it waited for ([`Stall`]).

mod progress;
mod window;

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use crate::engine::{INTERRUPT_POLL, Interrupt, Workers};
use crate::error::{Error, ErrorKind, Result};

pub use progress::{Progress, Stall};
pub use window::{FIRST_BATCHES, Window, WindowLimits};

/// How steps are prepared.
pub trait Preparation: Send + Sync + 'static {
    /// What is to be prepared.
    type Step: Send + 'static;
    /// What it becomes.
    type Batch: Send + 'static;

    /// Samples of a step.
    fn samples_of(&self, step: &Self::Step) -> usize;

    /// Memory a step takes from when it begins until it is handed over.
    fn bytes_of(&self, step: &Self::Step) -> usize;

    /// Begins to prepare a step. Called on a worker; must not block for long.
    fn begin(self: Arc<Self>, step: Self::Step, ticket: Ticket<Self>);

    /// Names what the next step to hand over still waits for, for messages.
    fn describe(&self) -> String;
}

/// How long a consumer waits for a batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    /// When the wait ends with an error.
    pub deadline: Option<Duration>,
    /// When the log is told what is waited for; again whenever it has taken twice as long.
    pub warn_after: Option<Duration>,
}

/// What the consumer gets.
#[derive(Debug)]
pub struct Handed<B> {
    /// The batch.
    pub batch: B,
    /// How its preparation went.
    pub progress: Arc<Progress>,
    /// What the consumer waited for.
    pub stall: Stall,
    /// Units that needed no source any more when the consumer asked.
    pub ready_units: usize,
}

/// Prepares steps ahead of the consumer.
pub struct Prefetcher<P: Preparation + ?Sized> {
    shared: Arc<Shared<P>>,
}

struct Shared<P: Preparation + ?Sized> {
    preparation: Arc<P>,
    workers: Workers,
    state: Mutex<State<P>>,
    changed: Condvar,
    cancelled: AtomicBool,
}

type Steps<P> = Box<dyn Iterator<Item = <P as Preparation>::Step> + Send>;

struct State<P: Preparation + ?Sized> {
    /// The coming steps; `None` once they are used up.
    steps: Option<Steps<P>>,
    /// A step that did not fit yet.
    waiting: Option<P::Step>,
    /// Steps in the window, the next to hand over first.
    slots: VecDeque<Slot<P::Batch>>,
    /// Number of the first slot since the beginning.
    first: u64,
    window: Window,
    is_filling: bool,
}

struct Slot<B> {
    progress: Arc<Progress>,
    samples: usize,
    bytes: usize,
    outcome: Option<Result<B>>,
}

/// The duty to complete one step. Dropped without, the step fails.
pub struct Ticket<P: Preparation + ?Sized> {
    shared: Arc<Shared<P>>,
    number: u64,
    progress: Arc<Progress>,
}

impl<P: Preparation> Prefetcher<P> {
    /// Begins to prepare `steps`, as far ahead as the limits allow.
    pub fn new(
        preparation: Arc<P>,
        steps: impl Iterator<Item = P::Step> + Send + 'static,
        limits: WindowLimits,
        workers: Workers,
    ) -> Self {
        let state = State {
            steps: Some(Box::new(steps)),
            waiting: None,
            slots: VecDeque::new(),
            first: 0,
            window: Window::new(limits),
            is_filling: false,
        };
        let shared = Shared {
            preparation,
            workers,
            state: Mutex::new(state),
            changed: Condvar::new(),
            cancelled: AtomicBool::new(false),
        };
        let this = Self { shared: Arc::new(shared) };
        this.shared.fill_later();
        this
    }

    /// Waits for the next batch, or what its preparation failed with; `None` when there is none any more.
    ///
    /// # Errors
    /// Of the wait, after which the batch is still to come: `Timeout` after the deadline, naming what was waited for; what `interrupt`
    /// returned.
    pub fn next(&self, patience: Patience, interrupt: Interrupt<'_>) -> Result<Option<Result<Handed<P::Batch>>>> {
        let asked = Instant::now();
        let mut warn_after = patience.warn_after;
        let mut ready_units = None;
        let mut last_look = asked;
        let mut state = self.shared.state.lock();
        loop {
            if self.shared.cancelled.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match state.slots.front() {
                Some(slot) => {
                    ready_units.get_or_insert_with(|| slot.progress.ready_units());
                    if slot.outcome.is_some() {
                        return Ok(self.hand_over(state, asked, ready_units.unwrap_or_default()));
                    }
                }
                None if state.steps.is_none() && state.waiting.is_none() => return Ok(None),
                None => {}
            }
            (state, _) = self.shared.changed.wait_for(state, INTERRUPT_POLL);
            if last_look.elapsed() >= INTERRUPT_POLL {
                // Neither may be called under the lock: the interrupt may wait for the interpreter.
                drop(state);
                last_look = Instant::now();
                interrupt().and_then(|()| self.check_deadline(asked, patience.deadline))?;
                if let Some(after) = warn_after.filter(|&after| asked.elapsed() >= after) {
                    let (waited, what) = (asked.elapsed().as_secs_f64(), self.shared.preparation.describe());
                    tracing::warn!("the next batch is not there after {waited:.1} s: {what}");
                    warn_after = Some(after * 2);
                }
                state = self.shared.state.lock();
            }
        }
    }

    /// Whether somebody cancelled it: what has not come will not.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Relaxed)
    }

    /// Whether the next batch, or the error in its place, is there: `next` would not wait.
    pub fn is_ready(&self) -> bool {
        let state = self.shared.state.lock();
        state.slots.front().is_some_and(|slot| slot.outcome.is_some())
    }

    /// Something to call from any thread, also while another waits: cancels everything, and every wait ends with `None`.
    pub fn canceller(&self) -> impl Fn() + Send + Sync + 'static + use<P> {
        let shared = Arc::downgrade(&self.shared);
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.cancel();
            }
        }
    }

    /// How far ahead the prefetcher may be at present, in samples, and the bytes under way.
    pub fn window(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.window.target_samples(), state.window.bytes())
    }

    fn check_deadline(&self, asked: Instant, deadline: Option<Duration>) -> Result<()> {
        let Some(deadline) = deadline.filter(|&deadline| asked.elapsed() >= deadline) else { return Ok(()) };
        Err(Error::new(ErrorKind::Timeout, "get", "the next batch").because(format_args!(
            "not ready after {:.1} s, its deadline; {}",
            deadline.as_secs_f64(),
            self.shared.preparation.describe()
        )))
    }

    fn hand_over(
        &self,
        mut state: crate::sync::MutexGuard<'_, State<P>>,
        asked: Instant,
        ready_units: usize,
    ) -> Option<Result<Handed<P::Batch>>> {
        let slot = state.slots.pop_front()?;
        state.first += 1;
        let stall = slot.progress.stall_since(asked);
        let ahead = state.slots.iter().take_while(|slot| slot.outcome.is_some()).count();
        state.window.leave(slot.samples, slot.bytes, stall.source > Duration::ZERO, ahead);
        drop(state);
        self.shared.fill_later();
        let progress = slot.progress;
        slot.outcome.map(|outcome| outcome.map(|batch| Handed { batch, progress, stall, ready_units }))
    }
}

impl<P: Preparation + ?Sized> Shared<P> {
    fn cancel(&self) {
        // In a forked child nobody works any more, and the lock may be held for ever.
        if !self.workers.is_current() {
            return;
        }
        self.cancelled.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        let slots = std::mem::take(&mut state.slots);
        state.first += slots.len() as u64;
        let rest = (state.steps.take(), state.waiting.take());
        drop(state);
        self.changed.notify_all();
        slots.iter().for_each(|slot| slot.progress.cancel());
        drop((slots, rest));
    }
}

impl<P: Preparation> Shared<P> {
    fn fill_later(self: &Arc<Self>) {
        let shared = self.clone();
        self.workers.spawn(move || shared.fill());
    }

    /// Begins steps while the window has room. One thread at a time does so, in order.
    fn fill(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.is_filling {
            return;
        }
        state.is_filling = true;
        while !self.cancelled.load(Ordering::Relaxed) {
            let Some((step, ticket)) = self.enter(&mut state) else { break };
            drop(state);
            // A panic drops the ticket, which fails the step; the window must go on being filled.
            let _ = catch_unwind(AssertUnwindSafe(|| self.preparation.clone().begin(step, ticket)));
            state = self.state.lock();
        }
        state.is_filling = false;
        drop(state);
        // That there is no step any more is news too.
        self.changed.notify_all();
    }

    /// Takes the next step into the window, if there is one and it has room.
    fn enter(self: &Arc<Self>, state: &mut State<P>) -> Option<(P::Step, Ticket<P>)> {
        if state.waiting.is_none() {
            state.waiting = state.steps.as_mut().and_then(Iterator::next);
            if state.waiting.is_none() {
                state.steps = None;
            }
        }
        let step = state.waiting.take()?;
        let (samples, bytes) = (self.preparation.samples_of(&step), self.preparation.bytes_of(&step));
        if !state.window.enter(samples, bytes) {
            state.waiting = Some(step);
            return None;
        }
        let progress = Arc::new(Progress::new());
        let number = state.first + state.slots.len() as u64;
        state.slots.push_back(Slot { progress: progress.clone(), samples, bytes, outcome: None });
        Some((step, Ticket { shared: self.clone(), number, progress }))
    }
}

/// Which of the steps under way one is.
pub struct Place<P: Preparation + ?Sized> {
    shared: Weak<Shared<P>>,
    number: u64,
}

impl<P: Preparation + ?Sized> Place<P> {
    /// How many steps were begun before that one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many batches the consumer gets before that one.
    pub fn ahead(&self) -> usize {
        let first = self.shared.upgrade().map_or(0, |shared| shared.state.lock().first);
        self.number.saturating_sub(first) as usize
    }

    /// Whether nobody waits for it any more.
    pub fn is_cancelled(&self) -> bool {
        self.shared.upgrade().is_none_or(|shared| shared.cancelled.load(Ordering::Relaxed))
    }
}

impl<P: Preparation + ?Sized> Ticket<P> {
    /// Which of the steps under way it is for.
    pub fn place(&self) -> Place<P> {
        Place { shared: Arc::downgrade(&self.shared), number: self.number }
    }

    /// Where to tell how preparation goes.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Whether nobody waits for this step any more.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Relaxed)
    }

    /// Ends the step's preparation. Only the first outcome counts.
    pub fn complete(self, outcome: Result<P::Batch>) {
        self.settle(outcome);
    }

    fn settle(&self, outcome: Result<P::Batch>) {
        self.progress.mark_done();
        let mut state = self.shared.state.lock();
        let at = self.number.checked_sub(state.first).map(|at| at as usize);
        if let Some(slot) = at.and_then(|at| state.slots.get_mut(at))
            && slot.outcome.is_none()
        {
            slot.outcome = Some(outcome);
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl<P: Preparation + ?Sized> Drop for Ticket<P> {
    fn drop(&mut self) {
        // In a forked child nobody waits, and the lock may be held for ever.
        if !self.progress.is_done() && self.shared.workers.is_current() {
            self.settle(Err(
                Error::new(ErrorKind::Internal, "prepare", "a batch").because("a stage left it; please report this")
            ));
        }
    }
}

impl<P: Preparation + ?Sized> Drop for Prefetcher<P> {
    fn drop(&mut self) {
        self.shared.cancel();
    }
}

impl<P: Preparation + ?Sized> fmt::Debug for Prefetcher<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefetcher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
