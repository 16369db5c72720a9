//! Core errors as the exceptions of `headwater.errors`.

use headwater::{Error, ErrorKind};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "NotFoundError",
        ErrorKind::Denied => "AccessDeniedError",
        ErrorKind::Invalid => "ConfigError",
        ErrorKind::OutOfRange => "IndexOutOfRangeError",
        ErrorKind::Corrupt => "CorruptDataError",
        ErrorKind::Unsupported => "UnsupportedError",
        ErrorKind::Changed => "ObjectChangedError",
        ErrorKind::Timeout => "DeadlineError",
        ErrorKind::Unavailable => "UnavailableError",
        ErrorKind::Io => "StorageError",
        _ => "HeadwaterError",
    }
}

/// The exception for an error, with its whole report as message.
pub(crate) fn to_exception(py: Python<'_>, error: &Error) -> PyErr {
    let made = py.import("headwater.errors").and_then(|module| module.getattr(class_name(error.kind())));
    match made.and_then(|class| class.call1((error.report(),))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(error.report()),
    }
}

/// A result of the core as one of Python.
pub(crate) fn checked<T>(py: Python<'_>, result: headwater::Result<T>) -> PyResult<T> {
    result.map_err(|error| to_exception(py, &error))
}
