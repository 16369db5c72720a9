//! Calling the core without the GIL, with Ctrl-C.

use std::sync::Mutex;

use headwater::engine::Interrupt;
use headwater::{Error, ErrorKind, Result};
use pyo3::prelude::*;

use crate::error::to_exception;
use crate::log;

/// Runs `call` without the GIL. Signals are looked for whenever it waits; what a handler raises is raised from here.
pub(crate) fn detached<T, F>(py: Python<'_>, call: F) -> PyResult<T>
where
    T: Send,
    F: FnOnce(Interrupt<'_>) -> Result<T> + Send,
{
    let raised: Mutex<Option<PyErr>> = Mutex::new(None);
    let interrupt = || {
        #[allow(clippy::redundant_closure_for_method_calls)] // the method is not general enough over lifetimes
        let checked = Python::attach(|py| py.check_signals());
        checked.map_err(|exception| {
            if let Ok(mut slot) = raised.lock() {
                *slot = Some(exception);
            }
            Error::new(ErrorKind::Interrupted, "wait", "a signal came")
        })
    };
    let result = py.detach(|| call(&interrupt));
    log::drain(py)?;
    match (raised.into_inner().ok().flatten(), result) {
        (Some(exception), Err(_)) => Err(exception),
        (_, result) => result.map_err(|error| to_exception(py, &error)),
    }
}
