//! The dataset class.

use headwater::config::{DatasetConfig, OnError, Secrets};
use headwater::dataset::Dataset as Core;
use headwater::engine::Interrupt;
use headwater::export::{self, Exposition, Target};
use headwater::sample::Sample;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::ending::detach;
use crate::error::checked;
use crate::framework::Framework;
use crate::interrupt::detached;
use crate::ranks::{self, ToldByPython};
use crate::stats::{of_sources, to_dict};
use crate::to_python::sample;

/// Samples by index.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Dataset {
    pub(crate) inner: Core,
    pub(crate) framework: Py<Framework>,
}

#[pymethods]
impl Dataset {
    /// Opens a dataset from its configuration as JSON.
    #[staticmethod]
    fn open(py: Python<'_>, config: &str, rank: usize, framework: Py<Framework>) -> PyResult<Self> {
        let config = checked(py, DatasetConfig::from_json(config))?.of_rank(rank);
        let inner = detached(py, |interrupt| Core::open(&config, interrupt))?;
        Ok(Self { inner, framework })
    }

    /// Opens a dataset from a TOML file, as this rank does, unless the file names another.
    #[staticmethod]
    fn open_file(
        py: Python<'_>,
        path: std::path::PathBuf,
        told: ToldByPython,
        framework: Py<Framework>,
    ) -> PyResult<Self> {
        let config = checked(py, DatasetConfig::from_toml_file(&path))?;
        let (rank, world_size) = config.loader.as_ref().map_or((None, None), |loader| (loader.rank, loader.world_size));
        let config = config.of_rank(checked(py, ranks::find(rank, world_size, told))?.rank);
        let inner = detached(py, |interrupt| Core::open(&config, interrupt))?;
        Ok(Self { inner, framework })
    }

    /// Opens the dataset that `pinned` described.
    #[staticmethod]
    fn reopen(py: Python<'_>, pinned: &str, framework: Py<Framework>) -> PyResult<Self> {
        let inner = detached(py, |interrupt| Core::reopen(pinned, interrupt))?;
        Ok(Self { inner, framework })
    }

    fn pinned(&self, py: Python<'_>, with_secrets: bool) -> PyResult<String> {
        let secrets = if with_secrets { Secrets::Include } else { Secrets::Refuse };
        checked(py, self.inner.pinned(secrets))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// Reads the sample at an index, which may count from the end.
    fn get<'py>(&self, py: Python<'py>, index: i64) -> PyResult<Bound<'py, PyDict>> {
        let index = checked(py, self.inner.resolve(index))?;
        let read = detached(py, |interrupt| self.inner.get(index, interrupt))?;
        sample(py, &read, self.framework.get())
    }

    /// Reads several samples concurrently.
    fn get_many<'py>(&self, py: Python<'py>, indices: Vec<i64>) -> PyResult<Bound<'py, PyList>> {
        self.read(py, indices, Core::get_many)
    }

    /// Reads several samples concurrently, those that fail as the dataset's `on_error` says.
    fn get_batch<'py>(&self, py: Python<'py>, indices: Vec<i64>) -> PyResult<Bound<'py, PyList>> {
        self.read(py, indices, Core::get_batch)
    }

    /// Has samples fetched for whoever reads them next; how many the queue took.
    fn prefetch(&self, py: Python<'_>, indices: Vec<i64>) -> PyResult<usize> {
        let resolved: headwater::Result<Vec<_>> = indices.into_iter().map(|index| self.inner.resolve(index)).collect();
        let resolved = checked(py, resolved)?;
        detached(py, |interrupt| self.inner.prefetch(&resolved, interrupt))
    }

    /// Ends all of that.
    fn stop_prefetch(&self, py: Python<'_>) {
        detach(py, || self.inner.stop_prefetch());
    }

    fn index_of(&self, py: Python<'_>, key: &str) -> PyResult<usize> {
        checked(py, self.inner.index_of(key))
    }

    fn key(&self, py: Python<'_>, index: i64) -> PyResult<String> {
        checked(py, self.inner.resolve(index).and_then(|index| self.inner.key(index)))
    }

    #[getter]
    fn fields(&self) -> Vec<String> {
        self.inner.field_names().iter().map(ToString::to_string).collect()
    }

    /// Every metric by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, &detach(py, || self.inner.snapshot()))
    }

    /// Those of each source, by its name.
    fn source_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        of_sources(py, &detach(py, || self.inner.snapshot()))
    }

    /// Every metric as text that Prometheus reads.
    fn openmetrics(&self, py: Python<'_>) -> String {
        detach(py, || {
            let target = Target { labels: Vec::new(), snapshot: self.inner.snapshot() };
            export::write(&[target], Exposition::OpenMetrics)
        })
    }

    /// From now on, has so many samples fetched ahead of whoever reads them in their order.
    fn read_ahead(&self, samples: usize) {
        self.inner.read_ahead(samples);
    }

    /// What caching has been worth: entries, bytes, capacity; hits, those of them that were fetched ahead, misses; evictions; bytes
    /// that packing saved.
    fn cache_summary(&self, py: Python<'_>) -> (u64, u64, u64, u64, u64, u64, u64, u64) {
        let it = detach(py, || self.inner.cache_summary());
        (it.entries, it.bytes, it.capacity, it.hits, it.prefetch_hits, it.misses, it.evictions, it.saved_bytes)
    }

    /// Begins to count anew.
    fn reset_metrics(&self, py: Python<'_>) {
        detach(py, || self.inner.reset_metrics());
    }

    /// Empties the cache.
    fn clear_cache(&self, py: Python<'_>) {
        detach(py, || self.inner.clear_cache());
    }

    /// Whether samples that cannot be read are raised.
    #[getter]
    fn raises_errors(&self) -> bool {
        self.inner.config().on_error == OnError::Raise
    }

    #[getter]
    fn order_fingerprint(&self) -> &str {
        self.inner.order_fingerprint()
    }

    #[getter]
    fn content_fingerprint(&self) -> &str {
        self.inner.content_fingerprint()
    }

    #[getter]
    fn origin(&self) -> String {
        self.inner.origin()
    }

    #[getter]
    fn size_fingerprint(&self) -> String {
        self.inner.size_fingerprint()
    }

    #[getter]
    fn has_entity_tags(&self) -> bool {
        self.inner.has_entity_tags()
    }
}

type Read = fn(&Core, &[usize], Interrupt<'_>) -> headwater::Result<Vec<Sample>>;

impl Dataset {
    fn read<'py>(&self, py: Python<'py>, indices: Vec<i64>, read: Read) -> PyResult<Bound<'py, PyList>> {
        let resolved: headwater::Result<Vec<_>> = indices.into_iter().map(|index| self.inner.resolve(index)).collect();
        let resolved = checked(py, resolved)?;
        let read = detached(py, |interrupt| read(&self.inner, &resolved, interrupt))?;
        let samples = read.iter().map(|read| sample(py, read, self.framework.get())).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, samples)
    }
}
