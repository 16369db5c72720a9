//! `load`, `loads`, `save`: one object without a dataset.

use std::path::PathBuf;

use headwater::engine::Engine;
use headwater::object;
use pyo3::prelude::*;

use crate::framework::Framework;
use crate::from_python::{Verb, to_value};
use crate::interrupt::detached;
use crate::to_python::to_python;

/// Reads and decodes a local file.
#[pyfunction]
pub(crate) fn load<'py>(py: Python<'py>, path: PathBuf, framework: &Framework) -> PyResult<Bound<'py, PyAny>> {
    let value = detached(py, |_| object::load(&path))?;
    to_python(py, &value, framework)
}

/// Decodes bytes; the suffixes of `name` say how. The bytes are copied first, since tensors will be views of them.
#[pyfunction]
pub(crate) fn loads<'py>(
    py: Python<'py>,
    data: &[u8],
    name: &str,
    framework: &Framework,
) -> PyResult<Bound<'py, PyAny>> {
    let value = detached(py, |_| {
        let mut own = Engine::current()?.buffers().take(data.len());
        own.copy_from_slice(data);
        object::decode(name, &own.freeze())
    })?;
    to_python(py, &value, framework)
}

/// Writes an object as a `.pt` file.
#[pyfunction]
pub(crate) fn save(
    py: Python<'_>,
    value: &Bound<'_, PyAny>,
    path: PathBuf,
    describe: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let value = to_value(value, describe, Verb::Save)?;
    detached(py, |_| object::save(&path, &value))
}
