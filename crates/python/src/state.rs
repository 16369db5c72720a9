//! States of loaders, as Python keeps them.

use headwater::state::State;
use pyo3::intern;
use pyo3::prelude::*;

use crate::error::checked;

/// A dict of plain data.
pub(crate) fn to_python<'py>(py: Python<'py>, state: &State) -> PyResult<Bound<'py, PyAny>> {
    py.import(intern!(py, "json"))?.call_method1(intern!(py, "loads"), (state.to_json(),))
}

/// What such a dict says; its numbers may be numpy's or torch's.
pub(crate) fn from_python(state: &Bound<'_, PyAny>) -> PyResult<State> {
    let py = state.py();
    let json = py.import(intern!(py, "headwater.config"))?.call_method1(intern!(py, "state_as_json"), (state,))?;
    checked(py, State::from_json(&json.extract::<String>()?))
}
