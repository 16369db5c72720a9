//! The loader classes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use headwater::config::{DatasetConfig, LoaderConfig};
use headwater::engine::Interrupt;
use headwater::loader::{Batch, Batches as CoreBatches, Behind as CoreBehind, Content};
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
use crate::ranks::{self, ToldByPython};
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
        let inner = checked(py, config.and_then(|config| py.detach(|| Core::new(&dataset.inner, config))))?;
        Ok(Self { inner, framework: dataset.framework.clone_ref(py) })
    }

    /// Opens a dataset and a loader from a TOML file. They are of this rank, unless the file names another; also says where it is from.
    #[staticmethod]
    fn open_file(
        py: Python<'_>,
        path: PathBuf,
        told: ToldByPython,
        framework: Py<Framework>,
    ) -> PyResult<(Self, &'static str)> {
        let mut config = checked(py, DatasetConfig::from_toml_file(&path))?;
        let loader = config.loader.get_or_insert_default();
        let ranks = checked(py, ranks::find(loader.rank, loader.world_size, told))?;
        (loader.rank, loader.world_size) = (Some(ranks.rank), Some(ranks.world_size));
        let inner = detached(py, |interrupt| Core::open(&config, interrupt))?;
        Ok((Self { inner, framework }, ranks::word(ranks.found)))
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
        Ok(Batches {
            inner: Mutex::new(Some(batches)),
            kept: Mutex::default(),
            is_closed: AtomicBool::new(false),
            close,
            owner,
            loader,
            framework,
        })
    }

    /// Whether something was handed out of the youngest pass.
    fn is_used(&self) -> bool {
        self.inner.is_used()
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

    /// What the youngest pass waits for, as JSON.
    fn waits(&self, py: Python<'_>) -> String {
        py.detach(|| serde_json::to_string(&self.inner.waits())).unwrap_or_default()
    }

    /// Every metric and timing by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, &py.detach(|| self.inner.snapshot()))
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
    /// A batch that a signal came in the way of.
    kept: Mutex<Option<Taken>>,
    is_closed: AtomicBool,
    /// Ends the pass without the lock, which a waiting thread holds.
    close: Box<dyn Fn() + Send + Sync>,
    owner: ProcessStamp,
    loader: Core,
    framework: Py<Framework>,
}

/// A batch, and what counts it as handed out.
type Taken = (Py<PyAny>, CoreBehind);

#[pymethods]
impl Batches {
    /// Waits for the next batch: a dict of fields or a list of samples; `None` when the pass is over or was closed.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let taken = self.taken(py, true)?;
        Ok(taken.map(|(batch, behind)| {
            behind.hand_out(Duration::ZERO);
            batch
        }))
    }

    /// Takes the next batch without counting it as handed out, with what counts it. `None` when the pass is over or was
    /// closed and, without `wait`, when the next batch is not there yet.
    fn take(&self, py: Python<'_>, wait: bool) -> PyResult<Option<(Py<PyAny>, Behind)>> {
        Ok(self.taken(py, wait)?.map(|(batch, behind)| (batch, Behind(behind))))
    }

    /// Cancels what is under way. Whoever waits for a batch meanwhile gets none, be it the thread that a signal handler calls this on.
    fn close(&self, py: Python<'_>) {
        self.is_closed.store(true, Ordering::SeqCst);
        py.detach(|| {
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
    /// The next batch. Signals are looked at before it leaves: what a handler raises must not cost a batch.
    fn taken(&self, py: Python<'_>, wait: bool) -> PyResult<Option<Taken>> {
        let is_own = self.owner.is_current();
        let kept = if is_own { self.kept.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let taken = if let Some(taken) = kept {
            taken
        } else {
            let next = detached(py, |interrupt| {
                let mut inner = self.locked(interrupt)?;
                let batches = inner.as_mut().filter(|batches| wait || batches.is_ready());
                let next = batches.and_then(|batches| batches.take_next(interrupt)).transpose();
                if is_own && self.is_closed.load(Ordering::SeqCst) {
                    drop(inner.take());
                }
                next
            });
            let Some((batch, behind)) = next? else { return Ok(None) };
            (self.to_python(py, batch)?.unbind(), behind)
        };
        let checked = py.check_signals();
        if self.is_closed.load(Ordering::SeqCst) {
            checked?;
            return Ok(None);
        }
        if let Err(raised) = checked {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
            return Err(raised);
        }
        Ok(Some(taken))
    }

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
