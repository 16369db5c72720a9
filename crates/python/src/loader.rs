//! The loader class.

use std::path::PathBuf;

use headwater::Loader as Core;
use headwater::config::{DatasetConfig, LoaderConfig};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::batches::Batches;
use crate::dataset::Dataset;
use crate::ending::detach;
use crate::error::checked;
use crate::framework::Framework;
use crate::interrupt::detached;
use crate::ranks::{self, Ranks, ToldByPython};
use crate::sampler::Sampler;
use crate::stats::to_dict;
use crate::tasks::Tasks;

/// Walks the epochs of a dataset.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Loader {
    inner: Core,
    framework: Py<Framework>,
}

#[pymethods]
impl Loader {
    /// Prepares to walk a dataset, as a configuration in JSON says.
    #[new]
    fn new(py: Python<'_>, dataset: &Dataset, config: &str) -> PyResult<Self> {
        let config = LoaderConfig::from_json(config);
        let inner = checked(py, config.and_then(|config| detach(py, || Core::new(&dataset.inner, config))))?;
        Ok(Self { inner, framework: dataset.framework.clone_ref(py) })
    }

    /// Opens a dataset and a loader from a TOML file. They are of this rank, unless the file names another; which one it is, too.
    #[staticmethod]
    fn open_file(
        py: Python<'_>,
        path: PathBuf,
        told: ToldByPython,
        framework: Py<Framework>,
    ) -> PyResult<(Self, Ranks)> {
        let mut config = checked(py, DatasetConfig::from_toml_file(&path))?;
        let loader = config.loader.get_or_insert_default();
        let ranks = checked(py, ranks::find(loader.rank, loader.world_size, told))?;
        (loader.rank, loader.world_size) = (Some(ranks.rank), Some(ranks.world_size));
        let inner = detached(py, |interrupt| Core::open(&config, interrupt))?;
        Ok((Self { inner, framework }, Ranks(ranks)))
    }

    fn __reduce__(_this: PyRef<'_, Self>) -> PyResult<()> {
        Err(PyTypeError::new_err("a loader does not pickle: make one in each process, of a dataset, which does"))
    }

    /// The dataset it walks.
    #[getter]
    fn dataset(&self, py: Python<'_>) -> Dataset {
        Dataset { inner: self.inner.dataset().clone(), framework: self.framework.clone_ref(py) }
    }

    /// The configuration as JSON.
    #[getter]
    fn config(&self) -> String {
        serde_json::to_string(self.inner.config()).unwrap_or_default()
    }

    /// Which samples come, and where the loader stands.
    #[getter]
    fn sampler(&self) -> Sampler {
        Sampler::of(self.inner.sampler().clone())
    }

    /// Threads that call functions of the user's.
    #[getter]
    fn transform_threads(&self) -> usize {
        self.inner.config().threads_for_transforms()
    }

    /// Begins a pass.
    fn batches(&self, py: Python<'_>) -> PyResult<Batches> {
        let batches = detached(py, |interrupt| self.inner.batches(interrupt))?;
        Ok(Batches::new(batches, self.inner.clone(), self.framework.clone_ref(py)))
    }

    /// Begins a pass whose batches functions of the user's make: of each sample, or of the samples of a batch.
    fn transformed(&self, py: Python<'_>, each_sample: bool) -> PyResult<(Batches, Tasks)> {
        let (batches, tasks) = detached(py, |interrupt| self.inner.transformed(each_sample, interrupt))?;
        let framework = || self.framework.clone_ref(py);
        let tasks = Tasks::new(tasks, framework(), batches.closer());
        Ok((Batches::new(batches, self.inner.clone(), framework()), tasks))
    }

    /// What the youngest pass waits for, as JSON.
    fn waits(&self, py: Python<'_>) -> String {
        detach(py, || serde_json::to_string(&self.inner.waits())).unwrap_or_default()
    }

    /// Every metric and timing by name, and the verdict on them.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (snapshot, verdict) = detach(py, || (self.inner.snapshot(), self.inner.verdict()));
        let stats = to_dict(py, &snapshot)?;
        stats.set_item("verdict", verdict.line)?;
        Ok(stats)
    }

    /// Why training waits, as JSON.
    fn verdict(&self, py: Python<'_>) -> String {
        detach(py, || serde_json::to_string(&self.inner.verdict())).unwrap_or_default()
    }

    /// Bytes for cache, window and idle buffers.
    fn budget(&self) -> (u64, u64, u64) {
        let budget = self.inner.budget();
        (budget.cache_bytes, budget.window_bytes, budget.idle_bytes)
    }
}
