//! The keys of a batch, made when they are looked at.

use headwater::dataset::Dataset;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

use crate::error::checked;

/// A sequence of the keys of a batch's samples.
#[pyclass(frozen, sequence, module = "headwater._headwater")]
pub(crate) struct Keys {
    dataset: Dataset,
    indices: Vec<usize>,
}

impl Keys {
    pub(crate) fn new(dataset: Dataset, indices: Vec<usize>) -> Self {
        Self { dataset, indices }
    }

    fn all(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.indices.iter().map(|&index| checked(py, self.dataset.key(index))).collect()
    }
}

#[pymethods]
impl Keys {
    fn __len__(&self) -> usize {
        self.indices.len()
    }

    fn __getitem__(&self, py: Python<'_>, at: isize) -> PyResult<String> {
        let at = if at < 0 { at + self.indices.len() as isize } else { at };
        let index = usize::try_from(at).ok().and_then(|at| self.indices.get(at));
        let index = index.ok_or_else(|| PyIndexError::new_err("no such sample in this batch"))?;
        checked(py, self.dataset.key(*index))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let ours = PyList::new(py, self.all(py)?)?;
        other.len().and_then(|len| {
            Ok(len == ours.len() && ours.eq(PyList::new(py, other.try_iter()?.collect::<PyResult<Vec<_>>>()?)?)?)
        })
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        PyList::new(py, self.all(py)?)?.repr()?.extract()
    }

    /// Pickles as a list.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyType>, (Vec<String>,))> {
        Ok((py.get_type::<PyList>(), (self.all(py)?,)))
    }
}
