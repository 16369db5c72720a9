//! What coroutines wait for: begun here, finished by the engine, told to Python by number.
//!
//! Native threads never attach to Python: they leave the number of what is done in a queue, which a thread of Python's takes them
//! from (`headwater.awaiting`).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use headwater::engine::PerProcess;
use headwater::value::Value;
use headwater::{Error, ErrorKind, Result};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::ending::detach;
use crate::error::checked;
use crate::framework::Framework;
use crate::log;
use crate::to_python::to_python;

/// What was begun, and its outcome once there is one.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Pending {
    outcome: Arc<Mutex<Option<Result<Brought>>>>,
    cancel: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    framework: Py<Framework>,
}

/// What something that was begun brings.
pub(crate) enum Brought {
    Value(Value),
    Flags(Vec<bool>),
}

/// Where the engine leaves an outcome.
pub(crate) struct Done {
    number: u64,
    outcome: Arc<Mutex<Option<Result<Brought>>>>,
}

#[pymethods]
impl Pending {
    /// What it brought; raises what it failed with.
    fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        log::drain(py)?;
        let early = || Err(Error::new(ErrorKind::Internal, "take", "an outcome").because("there is none"));
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(early);
        match checked(py, outcome)? {
            Brought::Value(value) => Ok(to_python(py, &value, self.framework.get())?.unbind()),
            Brought::Flags(flags) => flags.into_py_any(py),
        }
    }

    /// Ends it, if it is not over.
    fn cancel(&self, py: Python<'_>) {
        let cancel = self.cancel.lock().unwrap_or_else(PoisonError::into_inner).take();
        detach(py, || cancel.into_iter().for_each(|cancel| cancel()));
    }
}

impl Pending {
    /// Begins something that tells when it is done.
    pub(crate) fn begin<C: FnOnce() + Send + 'static>(
        py: Python<'_>,
        number: u64,
        framework: &Py<Framework>,
        begin: impl FnOnce(Done) -> Result<C> + Send,
    ) -> PyResult<Self> {
        let outcome = Arc::default();
        let done = Done { number, outcome: Arc::clone(&outcome) };
        let cancel = checked(py, detach(py, || begin(done)))?;
        Ok(Self { outcome, cancel: Mutex::new(Some(Box::new(cancel))), framework: framework.clone_ref(py) })
    }
}

impl Done {
    /// Leaves the outcome, and says so.
    pub(crate) fn tell(self, outcome: Result<Brought>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        if let Ok(queue) = Queue::current() {
            queue.state.lock().unwrap_or_else(PoisonError::into_inner).numbers.push_back(self.number);
            queue.arrived.notify_one();
        }
    }
}

/// Numbers of what is done. No more of them wait than there are coroutines.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    numbers: VecDeque<u64>,
    is_closed: bool,
}

static CURRENT: PerProcess<Queue> = PerProcess::new();

impl Queue {
    fn current() -> Result<&'static Self> {
        CURRENT.get_or_try_init(|| Ok(Self::default()))
    }

    /// All that are there, waiting a while for the first; none once closed.
    fn take(&self, patience: Duration) -> Vec<u64> {
        let ends = Instant::now() + patience;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            if !state.numbers.is_empty() || state.is_closed || left.is_zero() {
                return state.numbers.drain(..).collect();
            }
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.arrived.notify_all();
    }
}

/// Waits for something to be done: the numbers of all that is.
#[pyfunction]
pub(crate) fn next_done(py: Python<'_>, seconds: f64) -> PyResult<Vec<u64>> {
    let patience = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    checked(py, detach(py, || Ok(Queue::current()?.take(patience))))
}

/// Has nobody wait for anything to be done any more.
#[pyfunction]
pub(crate) fn close_done(py: Python<'_>) -> PyResult<()> {
    checked(py, Queue::current().map(Queue::close))
}
