//! Calling the core without the GIL, with Ctrl-C and a log that is told what a wait is for while it lasts.

use std::sync::Mutex;

use headwater::engine::Interrupt;
use headwater::{Error, ErrorKind, Result};
use pyo3::prelude::*;

use crate::ending::{attach, detach};
use crate::error::to_exception;
use crate::log;

/// Runs `call` without the GIL. Signals are looked for, and log records handed on, whenever it waits; what a handler of either raises
/// is raised from here. Only what can be asked for again may be called so: a record is also handed on when it has returned.
pub(crate) fn detached<T, F>(py: Python<'_>, call: F) -> PyResult<T>
where
    T: Send,
    F: FnOnce(Interrupt<'_>) -> Result<T> + Send,
{
    let result = interruptible(py, call)?;
    match (log::drain(py), result) {
        (Ok(()), result) => result,
        (Err(raised), result) => {
            raised.set_context(py, result.err());
            Err(raised)
        }
    }
}

/// The same, leaving records of after the last wait to the caller. What a handler raised comes instead of any result.
pub(crate) fn interruptible<T, F>(py: Python<'_>, call: F) -> PyResult<PyResult<T>>
where
    T: Send,
    F: FnOnce(Interrupt<'_>) -> Result<T> + Send,
{
    let raised: Mutex<Option<PyErr>> = Mutex::new(None);
    let interrupt = || {
        attach(|py| py.check_signals().and_then(|()| log::drain(py))).map_err(|exception| {
            if let Ok(mut slot) = raised.lock() {
                *slot = Some(exception);
            }
            Error::new(ErrorKind::Interrupted, "wait", "a signal came")
        })
    };
    let result = detach(py, || call(&interrupt));
    match (raised.into_inner().ok().flatten(), result) {
        (Some(exception), Err(_)) => Err(exception),
        (_, result) => Ok(result.map_err(|error| to_exception(py, &error))),
    }
}
