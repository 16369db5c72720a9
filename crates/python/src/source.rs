//! What Python asks about sources.

use headwater::source::SourceSpec;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// How a source, given as JSON, may be shown, and whether it holds a credential.
#[pyfunction]
pub(crate) fn describe_source(source: &str) -> PyResult<(String, bool)> {
    let spec: SourceSpec = serde_json::from_str(source).map_err(|cause| PyValueError::new_err(cause.to_string()))?;
    Ok((spec.shown_uri(), spec.has_secrets()))
}
