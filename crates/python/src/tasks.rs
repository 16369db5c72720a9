//! What threads of Python's do with functions of the user's.

use std::sync::{Mutex, PoisonError};

use headwater::loader::{Given, HostValue, Task as CoreTask, Tasks as Core};
use headwater::{Error, ErrorKind};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::ending::detach;
use crate::error::to_exception;
use crate::framework::Framework;
use crate::to_python::{marked, samples};

/// What a function made, or raised.
pub(crate) struct Made(PyResult<Py<PyAny>>);

/// Where threads get what there is to do in one pass.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Tasks {
    inner: Core,
    framework: Py<Framework>,
    /// Ends the pass.
    close: Box<dyn Fn() + Send + Sync>,
}

/// Something to be done by a function of the user's.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Task {
    inner: Mutex<Option<CoreTask>>,
    /// A sample, or the list of what a batch is to be made of.
    #[pyo3(get)]
    given: Py<PyAny>,
    #[pyo3(get)]
    is_of_sample: bool,
    /// Of what is drawn at random for it.
    #[pyo3(get)]
    seed: u64,
}

#[pymethods]
impl Tasks {
    /// Waits for something to do; `None` when nothing will come any more.
    fn next(&self, py: Python<'_>) -> Option<Task> {
        loop {
            let mut task = self.inner.try_next().or_else(|| detach(py, || self.inner.next()))?;
            match self.given(py, &mut task) {
                Ok(given) => {
                    let (is_of_sample, seed) = (task.is_of_sample(), task.seed());
                    return Some(Task { inner: Mutex::new(Some(task)), given, is_of_sample, seed });
                }
                Err(raised) => task.fail(HostValue::new(Made(Err(raised)))),
            }
        }
    }

    /// Ends the pass: nobody gets anything any more, neither those who work for it nor whoever waits for a batch.
    fn close(&self, py: Python<'_>) {
        detach(py, || (self.close)());
    }
}

#[pymethods]
impl Task {
    /// Keys of the samples that it is about; none once it is done.
    #[getter]
    fn keys(&self) -> Vec<String> {
        let task = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        task.as_ref().map(CoreTask::keys).unwrap_or_default()
    }

    /// Takes what the function made.
    fn complete(&self, value: Py<PyAny>) {
        if let Some(task) = self.inner() {
            task.complete(HostValue::new(Made(Ok(value))));
        }
    }

    /// Takes what the function raised.
    fn fail(&self, error: Bound<'_, PyAny>) {
        if let Some(task) = self.inner() {
            task.fail(HostValue::new(Made(Err(PyErr::from_value(error)))));
        }
    }
}

impl Tasks {
    pub(crate) fn new(inner: Core, framework: Py<Framework>, close: impl Fn() + Send + Sync + 'static) -> Self {
        Self { inner, framework, close: Box::new(close) }
    }

    fn given(&self, py: Python<'_>, task: &mut CoreTask) -> PyResult<Py<PyAny>> {
        let framework = self.framework.get();
        match task.take() {
            Some(Given::Sample(read, is_pad)) => Ok(marked(py, &read, is_pad, framework)?.into_any().unbind()),
            Some(Given::Samples(read, pads)) => Ok(samples(py, &read, pads.as_deref(), framework)?.into_any().unbind()),
            Some(Given::Values(values)) => {
                let made = values.iter().map(|made| Made::of(py, made)).collect::<PyResult<Vec<_>>>()?;
                Ok(PyList::new(py, made)?.into_any().unbind())
            }
            None => Err(PyRuntimeError::new_err("a task is taken once")),
        }
    }
}

impl Task {
    fn inner(&self) -> Option<CoreTask> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Made {
    /// What a function made; raises what it raised.
    pub(crate) fn of(py: Python<'_>, value: &HostValue) -> PyResult<Py<PyAny>> {
        match value.get() {
            Some(Self(Ok(made))) => Ok(made.clone_ref(py)),
            Some(Self(Err(raised))) => Err(raised.clone_ref(py)),
            None => Err(to_exception(py, &Error::new(ErrorKind::Internal, "hand out", "what no function made"))),
        }
    }
}
