//! Figures as dicts.

use headwater::metrics::{MetricInfo, Number, Snapshot};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Every metric by name, then the quantiles of every timing.
pub(crate) fn to_dict<'py>(py: Python<'py>, snapshot: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    filled(py, snapshot.iter(), snapshot.quantiles())
}

/// The same of each source by itself, by its name; its errors by their kind.
pub(crate) fn of_sources<'py>(py: Python<'py>, snapshot: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let sources = PyDict::new(py);
    for source in snapshot.sources() {
        let stats = filled(py, source.iter(), source.quantiles())?;
        let errors = PyDict::new(py);
        for (kind, count) in source.errors() {
            errors.set_item(kind.name(), count)?;
        }
        stats.set_item("errors", errors)?;
        sources.set_item(source.name(), stats)?;
    }
    Ok(sources)
}

fn filled(
    py: Python<'_>,
    numbers: impl Iterator<Item = (&'static MetricInfo, Number)>,
    quantiles: impl Iterator<Item = (String, f64)>,
) -> PyResult<Bound<'_, PyDict>> {
    let stats = PyDict::new(py);
    for (info, number) in numbers {
        match number {
            Number::Whole(count) => stats.set_item(info.name, count)?,
            Number::Seconds(seconds) => stats.set_item(info.name, seconds)?,
        }
    }
    for (name, seconds) in quantiles {
        stats.set_item(name, seconds)?;
    }
    Ok(stats)
}
