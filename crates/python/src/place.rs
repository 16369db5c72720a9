//! The objects of one place, by name.

use headwater::config::FetchConfig;
use headwater::object::Place as Core;
use headwater::source::SourceSpec;
use headwater::value::Value;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::framework::Framework;
use crate::interrupt::detached;
use crate::pending::{Brought, Pending};
use crate::to_python::to_python;

/// The objects of one place.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Place {
    inner: Core,
    framework: Py<Framework>,
}

#[pymethods]
impl Place {
    /// Connects to a source, given as JSON.
    #[staticmethod]
    fn open(py: Python<'_>, source: &str, framework: Py<Framework>) -> PyResult<Self> {
        let spec: SourceSpec =
            serde_json::from_str(source).map_err(|cause| PyValueError::new_err(cause.to_string()))?;
        let inner = detached(py, |interrupt| Core::open(&spec, &FetchConfig::default(), interrupt))?;
        Ok(Self { inner, framework })
    }

    /// Names of the objects in a folder.
    fn list(&self, py: Python<'_>, folder: &str) -> PyResult<Vec<String>> {
        detached(py, |interrupt| self.inner.list(folder, interrupt))
    }

    /// Reads and decodes an object.
    fn get<'py>(&self, py: Python<'py>, name: &str, unpack: bool) -> PyResult<Bound<'py, PyAny>> {
        let value: Value = detached(py, |interrupt| self.inner.get(name, unpack, interrupt))?;
        to_python(py, &value, self.framework.get())
    }

    /// Fetches objects ahead; which of them are there now.
    fn prefetch(&self, py: Python<'_>, names: Vec<String>) -> PyResult<Vec<bool>> {
        detached(py, |interrupt| self.inner.prefetch(names, interrupt))
    }

    /// Begins to read an object, under a number that `next_done` gives when it is read.
    fn begin_get(&self, py: Python<'_>, number: u64, name: &str, unpack: bool) -> PyResult<Pending> {
        Pending::begin(py, number, &self.framework, |done| {
            self.inner.begin_get(name, unpack, move |read| done.tell(read.map(Brought::Value)))
        })
    }

    /// Begins to fetch objects ahead.
    fn begin_prefetch(&self, py: Python<'_>, number: u64, names: Vec<String>) -> PyResult<Pending> {
        Pending::begin(py, number, &self.framework, |done| {
            self.inner.begin_prefetch(names, move |fetched| done.tell(fetched.map(Brought::Flags)))
        })
    }
}
