//! The command line, for the console script.

use std::ffi::OsString;

use pyo3::prelude::*;

use crate::ending::detach;

/// Runs the `headwater` command and returns its exit code.
#[pyfunction]
pub(crate) fn run(py: Python<'_>, argv: Vec<OsString>) -> u8 {
    detach(py, || headwater_cli::run(argv))
}
