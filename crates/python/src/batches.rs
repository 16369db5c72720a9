//! The batches of one pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use headwater::engine::Interrupt;
use headwater::loader::{Batch, Batches as Core, Behind as CoreBehind, Content};
use headwater::world::ProcessStamp;
use headwater::{Error, ErrorKind, Loader};
use pyo3::prelude::*;

use crate::behind::Behind;
use crate::ending::detach;
use crate::framework::Framework;
use crate::interrupt::interruptible;
use crate::log;
use crate::tasks::Made;
use crate::to_python::{fields, samples};

/// How often a thread looks whether another is done waiting for its batch.
const TURN_POLL: Duration = Duration::from_millis(2);

/// The batches of one pass.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Batches {
    inner: Mutex<Option<Core>>,
    /// What a handler of signals or log records came in the way of.
    kept: Mutex<Option<PyResult<Taken>>>,
    is_closed: AtomicBool,
    is_over: AtomicBool,
    /// Ends the pass without the lock, which a waiting thread holds.
    close: Box<dyn Fn() + Send + Sync>,
    owner: ProcessStamp,
    loader: Loader,
    epoch: u64,
    framework: Py<Framework>,
}

/// A batch, or what a function of the user's raised in its place, and what counts it as handed out.
type Taken = (PyResult<Py<PyAny>>, CoreBehind);

/// The same for Python: a batch or nothing, what counts it, and what was raised or nothing.
type HandedOn = (Py<PyAny>, Behind, Option<Py<PyAny>>);

#[pymethods]
impl Batches {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    /// Waits for the next batch: a dict of fields or a list of samples, or whatever functions made of them, `None` too. Nothing comes
    /// any more when the pass is over or was closed.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some((batch, behind)) = self.taken(py, true)? else { return Ok(None) };
        behind.hand_out(Duration::ZERO);
        batch.map(Some)
    }

    /// Takes the next batch without counting it as handed out, with what counts it, or with what a function raised in its place.
    /// `None` when the pass is over or was closed and, without `wait`, when the next batch is not there yet.
    fn take(&self, py: Python<'_>, wait: bool) -> PyResult<Option<HandedOn>> {
        let Some((batch, behind)) = self.taken(py, wait)? else { return Ok(None) };
        let (batch, raised) = match batch {
            Ok(batch) => (batch, None),
            Err(raised) => (py.None(), Some(raised.into_value(py).into_any())),
        };
        Ok(Some((batch, Behind(behind), raised)))
    }

    /// Whether nothing will come any more.
    #[getter]
    fn is_over(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst) || self.is_over.load(Ordering::SeqCst)
    }

    /// Seed of what is drawn at random about a sample in this pass.
    fn sample_seed(&self, index: u64) -> u64 {
        self.loader.sample_seed(self.epoch, index)
    }

    /// Cancels what is under way. Whoever waits for a batch meanwhile gets none, be it the thread that a signal handler calls this on.
    fn close(&self, py: Python<'_>) {
        self.is_closed.store(true, Ordering::SeqCst);
        detach(py, || {
            (self.close)();
            let inner = match self.inner.try_lock() {
                Ok(mut inner) => inner.take(),
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
                Err(TryLockError::WouldBlock) => None,
            };
            drop(inner);
        });
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(kept);
    }
}

impl Batches {
    pub(crate) fn new(batches: Core, loader: Loader, framework: Py<Framework>) -> Self {
        Self {
            close: Box::new(batches.closer()),
            epoch: batches.epoch(),
            inner: Mutex::new(Some(batches)),
            kept: Mutex::default(),
            is_closed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            owner: ProcessStamp::current(),
            loader,
            framework,
        }
    }

    /// The next batch. Signals and log records are looked at before it leaves: what a handler raises must not cost a batch.
    fn taken(&self, py: Python<'_>, wait: bool) -> PyResult<Option<Taken>> {
        let is_own = self.owner.is_current();
        let kept = if is_own { self.kept.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let taken = if let Some(taken) = kept {
            taken
        } else {
            let next = interruptible(py, |interrupt| {
                let mut inner = self.locked(interrupt)?;
                let batches = inner.as_mut().filter(|batches| wait || batches.is_ready());
                let next = batches.and_then(|batches| batches.take_next(interrupt)).transpose();
                self.is_over.store(inner.as_ref().is_none_or(Core::is_over), Ordering::SeqCst);
                if is_own && self.is_closed.load(Ordering::SeqCst) {
                    drop(inner.take());
                }
                next
            })?;
            let Some(next) = next.transpose() else {
                log::drain(py)?;
                return Ok(None);
            };
            next.map(|(batch, behind)| (self.to_python(py, batch), behind))
        };
        let checked = py.check_signals().and_then(|()| log::drain(py));
        if taken.is_ok() && self.is_closed.load(Ordering::SeqCst) {
            checked?;
            return Ok(None);
        }
        if let Err(raised) = checked {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
            return Err(raised);
        }
        taken.map(Some)
    }

    /// Waits for whoever is in `next`, looking for signals meanwhile.
    fn locked(&self, interrupt: Interrupt<'_>) -> headwater::Result<MutexGuard<'_, Option<Core>>> {
        loop {
            match self.inner.try_lock() {
                Ok(inner) => return Ok(inner),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                // Of a thread that the fork left behind: nobody will ever let go.
                Err(TryLockError::WouldBlock) if !self.owner.is_current() => {
                    return Err(Error::new(ErrorKind::Invalid, "iterate", "a loader").because(format_args!(
                        "this iterator belongs to process {}, of which this one is a fork; call iter() on the loader here",
                        self.owner.pid()
                    )));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(TURN_POLL),
            }
            interrupt()?;
        }
    }

    fn to_python(&self, py: Python<'_>, batch: Batch) -> PyResult<Py<PyAny>> {
        let framework = self.framework.get();
        match &batch.content {
            Content::Host(made) => Made::of(py, made),
            Content::Samples(read) => {
                samples(py, read, batch.pads.as_deref(), framework).map(|list| list.into_any().unbind())
            }
            Content::Fields(_) => {
                fields(py, batch, self.loader.dataset(), framework).map(|dict| dict.into_any().unbind())
            }
        }
    }
}
