//! The sampler classes.

use std::sync::Mutex;
use std::sync::PoisonError;

use headwater::config::LoaderConfig;
use headwater::loader::{Draw, Sampler as Core, Walk as CoreWalk};
use headwater::state::State;
use pyo3::prelude::*;

use crate::dataset::Dataset;
use crate::error::checked;
use crate::interrupt::detached;

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

    /// Begins a pass.
    fn begin(&self) -> Walk {
        Walk { inner: Mutex::new(self.inner.begin()) }
    }

    fn set_epoch(&self, epoch: u64) {
        self.inner.set_epoch(epoch);
    }

    /// The state as JSON.
    fn state(&self) -> String {
        self.inner.state().to_json()
    }

    /// Restores a state given as JSON.
    fn restore(&self, py: Python<'_>, state: &str) -> PyResult<()> {
        checked(py, State::from_json(state).and_then(|state| self.inner.restore(&state)))
    }
}

#[pymethods]
impl Walk {
    /// The next step: indices, and which of them are pads where there may be any.
    fn draw(&self) -> Option<(Vec<usize>, Option<Vec<bool>>)> {
        self.walk().next().map(|Draw { indices, pads, .. }| (indices, pads))
    }

    /// Has the dataset fetch the samples of the coming steps.
    fn look_ahead(&self, py: Python<'_>, steps: usize) -> PyResult<()> {
        detached(py, |interrupt| self.walk().look_ahead(steps, interrupt))
    }

    /// Has the dataset forget what it was asked to fetch ahead and was not drawn.
    fn forget_ahead(&self, py: Python<'_>) {
        py.detach(|| self.walk().forget_ahead());
    }

    /// What is handed out will be told.
    fn track(&self) {
        self.walk().track();
    }

    /// Counts as handed out the first step that was drawn and is not yet.
    fn hand_out(&self) {
        self.walk().hand_out();
    }

    /// Tells that everything was handed out.
    fn end(&self) {
        self.walk().end();
    }

    /// Where the run stands once everything is handed out that was drawn, as JSON.
    fn state(&self) -> String {
        self.walk().state().to_json()
    }
}

impl Walk {
    fn walk(&self) -> std::sync::MutexGuard<'_, CoreWalk> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
