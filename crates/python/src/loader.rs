//! The loader classes.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use headwater::config::{DatasetConfig, LoaderConfig};
use headwater::engine::Interrupt;
use headwater::loader::{Batch, Batches as CoreBatches, Content};
use headwater::state::State;
use headwater::value::{DType, Tensor};
use headwater::world::ProcessStamp;
use headwater::{Error, ErrorKind, Loader as Core};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use crate::behind::Behind;
use crate::dataset::Dataset;
use crate::error::checked;
use crate::framework::Framework;
use crate::interrupt::detached;
use crate::keys::Keys;
use crate::stats::to_dict;
use crate::to_python::{sample, to_python};

/// How often a thread looks whether another is done waiting for its batch.
const TURN_POLL: Duration = Duration::from_millis(2);

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
        let inner = checked(py, config.and_then(|config| Core::new(&dataset.inner, config)))?;
        Ok(Self { inner, framework: dataset.framework.clone_ref(py) })
    }

    /// Opens a dataset and a loader from a TOML file.
    #[staticmethod]
    fn open_file(py: Python<'_>, path: PathBuf, rank: usize, framework: Py<Framework>) -> PyResult<Self> {
        let config = checked(py, DatasetConfig::from_toml_file(&path))?.of_rank(rank);
        let inner = detached(py, |interrupt| Core::open(&config, interrupt))?;
        Ok(Self { inner, framework })
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

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// Begins a pass.
    fn batches(&self, py: Python<'_>) -> PyResult<Batches> {
        let batches = detached(py, |interrupt| self.inner.batches(interrupt))?;
        let (loader, framework) = (self.inner.clone(), self.framework.clone_ref(py));
        let close = Box::new(batches.closer());
        let owner = ProcessStamp::current();
        Ok(Batches { inner: Mutex::new(Some(batches)), close, owner, loader, framework })
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

    /// Every metric and timing by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, &self.inner.snapshot())
    }

    /// Bytes for cache, window and idle buffers.
    fn budget(&self) -> (u64, u64, u64) {
        let budget = self.inner.budget();
        (budget.cache_bytes, budget.window_bytes, budget.idle_bytes)
    }
}

/// The batches of one pass.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Batches {
    inner: Mutex<Option<CoreBatches>>,
    /// Ends the pass without the lock, which a waiting thread holds.
    close: Box<dyn Fn() + Send + Sync>,
    owner: ProcessStamp,
    loader: Core,
    framework: Py<Framework>,
}

#[pymethods]
impl Batches {
    /// Waits for the next batch: a dict of fields or a list of samples; `None` when the pass is over or was closed.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let next = detached(py, |interrupt| {
            let mut inner = self.locked(interrupt)?;
            inner.as_mut().and_then(|batches| batches.next_batch(interrupt)).transpose()
        });
        next?.map(|batch| self.to_python(py, batch)).transpose()
    }

    /// Takes the next batch without counting it as handed out, with what counts it. `None` when the pass is over or was
    /// closed and, without `wait`, when the next batch is not there yet.
    fn take<'py>(&self, py: Python<'py>, wait: bool) -> PyResult<Option<(Bound<'py, PyAny>, Behind)>> {
        let next = detached(py, |interrupt| {
            let mut inner = self.locked(interrupt)?;
            let batches = inner.as_mut().filter(|batches| wait || batches.is_ready());
            batches.and_then(|batches| batches.take_next(interrupt)).transpose()
        });
        next?.map(|(batch, behind)| Ok((self.to_python(py, batch)?, Behind(behind)))).transpose()
    }

    /// Cancels what is under way.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, |interrupt| {
            (self.close)();
            drop(self.locked(interrupt)?.take());
            Ok(())
        })
    }
}

impl Batches {
    /// Waits for whoever is in `next`, looking for signals meanwhile.
    fn locked(&self, interrupt: Interrupt<'_>) -> headwater::Result<MutexGuard<'_, Option<CoreBatches>>> {
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

    fn to_python<'py>(&self, py: Python<'py>, batch: Batch) -> PyResult<Bound<'py, PyAny>> {
        let framework = self.framework.get();
        let fields = match &batch.content {
            Content::Fields(fields) => fields,
            Content::Samples(samples) => {
                let made = samples.iter().map(|read| sample(py, read, framework)).collect::<PyResult<Vec<_>>>()?;
                for (dict, &is_pad) in made.iter().zip(batch.pads.iter().flatten()) {
                    dict.set_item(intern!(py, "__pad__"), is_pad)?;
                }
                return PyList::new(py, made).map(Bound::into_any);
            }
        };
        let dict = PyDict::new(py);
        for (name, value) in fields {
            dict.set_item(PyString::intern(py, name), to_python(py, value, framework)?)?;
        }
        let numbers = |dtype: DType, bytes: Vec<u8>| {
            let tensor = Tensor::from_bytes(dtype, &[bytes.len() / dtype.size()], bytes.into());
            checked(py, tensor).and_then(|tensor| to_python(py, &tensor.into(), framework))
        };
        let indices = batch.indices.iter().flat_map(|&index| (index as i64).to_le_bytes()).collect();
        dict.set_item(intern!(py, "__index__"), numbers(DType::I64, indices)?)?;
        if let Some(pads) = &batch.pads {
            let pads = pads.iter().map(|&pad| u8::from(pad)).collect();
            dict.set_item(intern!(py, "__pad__"), numbers(DType::Bool, pads)?)?;
        }
        dict.set_item(intern!(py, "__key__"), Keys::new(self.loader.dataset().clone(), batch.indices))?;
        Ok(dict.into_any())
    }
}
