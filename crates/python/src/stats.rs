//! Figures as a dict.

use headwater::metrics::{Number, Snapshot};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Every metric by name, then the quantiles of every timing.
pub(crate) fn to_dict<'py>(py: Python<'py>, snapshot: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let stats = PyDict::new(py);
    for (info, number) in snapshot.iter() {
        match number {
            Number::Whole(count) => stats.set_item(info.name, count)?,
            Number::Seconds(seconds) => stats.set_item(info.name, seconds)?,
        }
    }
    for (name, seconds) in snapshot.quantiles() {
        stats.set_item(name, seconds)?;
    }
    Ok(stats)
}
