//! How the preparation of one step goes.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

/// What to call when nobody waits for the step any more.
type Cancel = Box<dyn FnOnce() + Send>;

/// The progress of a step, told by whoever prepares it.
pub struct Progress {
    began: Instant,
    units: AtomicUsize,
    reused: AtomicUsize,
    remote_pending: AtomicUsize,
    /// Nanoseconds since `began`; 0 is not yet.
    fetched: AtomicU64,
    decoded: AtomicU64,
    assembled: AtomicU64,
    done: AtomicU64,
    /// `None` once it is cancelled.
    cancels: Mutex<Option<Vec<Cancel>>>,
}

/// A wait of the consumer, by what it waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stall {
    /// For bytes from sources.
    pub source: Duration,
    /// For decompression and decoding.
    pub decode: Duration,
    /// For assembly.
    pub collate: Duration,
    /// For functions of the user's.
    pub transform: Duration,
}

impl Stall {
    /// The whole wait.
    pub fn total(&self) -> Duration {
        self.source + self.decode + self.collate + self.transform
    }
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            units: AtomicUsize::new(0),
            reused: AtomicUsize::new(0),
            remote_pending: AtomicUsize::new(0),
            fetched: AtomicU64::new(0),
            decoded: AtomicU64::new(0),
            assembled: AtomicU64::new(0),
            done: AtomicU64::new(0),
            cancels: Mutex::new(Some(Vec::new())),
        }
    }

    /// Tells what the step consists of: units in all, those of them that an earlier use left here, and those that need a remote
    /// source.
    pub fn begin(&self, units: usize, reused: usize, remote: usize) {
        self.units.store(units, Ordering::Relaxed);
        self.reused.store(reused, Ordering::Relaxed);
        self.remote_pending.store(remote, Ordering::Relaxed);
    }

    /// Tells that everything came that could, and that so many units are now got from a remote source instead of others.
    pub fn go_on(&self, remote: usize) {
        self.remote_pending.store(remote, Ordering::Relaxed);
    }

    /// Tells that a unit's bytes came, from a remote source or not.
    pub fn mark_fetched(&self, from_remote: bool) {
        self.fetched.fetch_max(self.now(), Ordering::Relaxed);
        if from_remote {
            self.remote_pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Tells that an earlier use had left a unit somewhere near after all.
    pub fn mark_reused(&self) {
        self.reused.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells that a unit was decoded.
    pub fn mark_decoded(&self) {
        self.decoded.fetch_max(self.now(), Ordering::Relaxed);
    }

    /// Tells that everything is together, and that functions of the user's are still to change it.
    pub fn mark_assembled(&self) {
        self.assembled.store(self.now(), Ordering::Relaxed);
    }

    /// Leaves something to do when the step is cancelled: at once if it is already, as it may be while it begins.
    pub fn on_cancel(&self, cancel: impl FnOnce() + Send + 'static) {
        if let Some(cancels) = &mut *self.cancels.lock() {
            return cancels.push(Box::new(cancel));
        }
        cancel();
    }

    /// Units of the step.
    pub fn units(&self) -> usize {
        self.units.load(Ordering::Relaxed)
    }

    /// Units that an earlier use left here.
    pub fn reused_units(&self) -> usize {
        self.reused.load(Ordering::Relaxed)
    }

    /// Units that need no remote source any more. While it is not yet known what the step consists of, none.
    pub fn ready_units(&self) -> usize {
        self.units().saturating_sub(self.remote_pending.load(Ordering::Relaxed))
    }

    pub(super) fn mark_done(&self) {
        self.done.store(self.now(), Ordering::Release);
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) != 0
    }

    pub(super) fn cancel(&self) {
        let cancels = self.cancels.lock().take();
        cancels.into_iter().flatten().for_each(|cancel| cancel());
    }

    /// Splits the wait from `asked` until the step was done by the stages it was in.
    pub(super) fn stall_since(&self, asked: Instant) -> Stall {
        let asked = asked.saturating_duration_since(self.began).as_nanos() as u64;
        let marks = [&self.fetched, &self.decoded, &self.assembled, &self.done];
        let [fetched, decoded, assembled, done] = marks.map(|at| at.load(Ordering::Relaxed));
        let after = |from: u64, until: u64| Duration::from_nanos(until.saturating_sub(from.max(asked)));
        let decoded = decoded.max(fetched);
        let assembled = if assembled == 0 { done } else { assembled.max(decoded) };
        Stall {
            source: after(0, fetched),
            decode: after(fetched, decoded),
            collate: after(decoded, assembled),
            transform: after(assembled, done),
        }
    }

    fn now(&self) -> u64 {
        (self.began.elapsed().as_nanos() as u64).max(1)
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("units", &self.units())
            .field("ready", &self.ready_units())
            .finish_non_exhaustive()
    }
}
