//! The sampler classes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater::config::LoaderConfig;
use headwater::loader::{Sampler as Core, Walk as CoreWalk};
use headwater::{Error, ErrorKind};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::dataset::Dataset;
use crate::ending::detach;
use crate::error::{checked, to_exception};
use crate::interrupt::detached;
use crate::state;

/// Which samples come, and where a run stands.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Sampler {
    inner: Core,
}

/// A rank's steps of one pass.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Walk {
    inner: Mutex<CoreWalk>,
}

#[pymethods]
impl Sampler {
    /// Walks a dataset as a loader's configuration in JSON says.
    #[new]
    fn new(py: Python<'_>, dataset: &Dataset, config: &str) -> PyResult<Self> {
        let made = LoaderConfig::from_json(config).and_then(|config| Core::new(&dataset.inner, &config));
        Ok(Self { inner: checked(py, made)? })
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __reduce__(_this: PyRef<'_, Self>) -> PyResult<()> {
        Err(PyTypeError::new_err("a sampler does not pickle: make one in each process, of a dataset, which does"))
    }

    /// Begins a pass.
    fn begin(&self) -> Walk {
        Walk { inner: Mutex::new(self.inner.begin()) }
    }

    /// Chooses the epoch of the next pass; whether the pass that was begun last, of which nothing was taken, is to be begun anew.
    fn set_epoch(&self, epoch: &Bound<'_, PyAny>) -> PyResult<bool> {
        let number = number(epoch, format_args!("epoch {epoch}"), "epochs count from 0")?;
        Ok(self.inner.set_epoch(number))
    }

    /// Where it stands: a dict of plain data.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        state::to_python(py, &self.inner.state())
    }

    /// Makes the next pass begin where such a state was taken; returns what `set_epoch` does.
    fn restore(&self, state: &Bound<'_, PyAny>) -> PyResult<bool> {
        checked(state.py(), self.inner.restore(&state::from_python(state)?))
    }

    /// How many steps ahead samples are fetched for a `DataLoader`.
    fn steps_ahead(&self, py: Python<'_>, asked: Option<&Bound<'_, PyAny>>, has_workers: bool) -> PyResult<u64> {
        let reason = "give a number of steps, 0 for none";
        let asked = asked.map(|asked| number(asked, format_args!("look_ahead = {asked}"), reason)).transpose()?;
        let steps = checked(py, self.inner.steps_ahead(asked.map(|steps| steps as usize), has_workers))?;
        Ok(steps as u64)
    }
}

#[pymethods]
impl Walk {
    /// Indices of the next step. When it is tracked, the dataset is asked to fetch those after it.
    fn draw(&self, py: Python<'_>) -> PyResult<Option<Vec<usize>>> {
        // First, so that what a handler raises meanwhile costs no step.
        detached(py, |interrupt| self.walk().look_ahead(interrupt))?;
        Ok(detach(py, || self.walk().next()).map(|draw| draw.indices))
    }

    /// Has the dataset forget what it was asked to fetch ahead and was not drawn.
    fn forget_ahead(&self, py: Python<'_>) {
        detach(py, || self.walk().forget_ahead());
    }

    /// What is handed out will be told; samples of so many steps are fetched ahead.
    fn track(&self, steps_ahead: usize) {
        self.walk().track(steps_ahead);
    }

    /// Counts as handed out the first step that was drawn and is not yet. Of samples that are known to have come, says which are pads
    /// where there may be any.
    fn hand_out(&self, py: Python<'_>, samples: Option<Vec<usize>>) -> PyResult<Option<Vec<bool>>> {
        checked(py, self.walk().hand_out(samples.as_deref()))
    }

    /// Tells that everything was handed out.
    fn end(&self) {
        self.walk().end();
    }

    /// Where the run stands once everything is handed out that was drawn: a dict of plain data.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        state::to_python(py, &self.walk().state())
    }
}

impl Sampler {
    pub(crate) fn of(inner: Core) -> Self {
        Self { inner }
    }
}

impl Walk {
    fn walk(&self) -> MutexGuard<'_, CoreWalk> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A whole number that is not negative, also one of numpy's.
fn number(given: &Bound<'_, PyAny>, name: std::fmt::Arguments<'_>, reason: &str) -> PyResult<u64> {
    let number = given.extract::<i64>().ok().and_then(|number| u64::try_from(number).ok());
    let wrong = || to_exception(given.py(), &Error::new(ErrorKind::Invalid, "use", name).because(reason));
    number.ok_or_else(wrong)
}
