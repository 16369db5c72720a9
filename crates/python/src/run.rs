//! The command line, for the console script.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the `headwater` command and returns its exit code.
#[pyfunction]
pub(crate) fn run(py: Python<'_>, argv: Vec<OsString>) -> u8 {
    py.detach(|| headwater_cli::run(argv))
}
