//! Core errors as the exceptions of `headwater.errors`.

use headwater::Error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::ending::Inside;

/// The exception for an error, with its whole report as message.
pub(crate) fn to_exception(py: Python<'_>, error: &Error) -> PyErr {
    let _inside = Inside::hold(py);
    let class = || {
        let errors = py.import("headwater.errors")?;
        let by_kind = errors.getattr("BY_KIND")?;
        match by_kind.get_item(format!("{:?}", error.kind())) {
            Ok(class) => Ok(class),
            Err(_) => errors.getattr("HeadwaterError"),
        }
    };
    match class().and_then(|class| class.call1((error.report(),))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(error.report()),
    }
}

/// A result of the core as one of Python.
pub(crate) fn checked<T>(py: Python<'_>, result: headwater::Result<T>) -> PyResult<T> {
    result.map_err(|error| to_exception(py, &error))
}
