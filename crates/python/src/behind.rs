//! Counting a batch that was taken ahead.

use std::time::Duration;

use headwater::loader::Behind as Core;
use pyo3::prelude::*;

/// Where the loader stands once a batch is handed out.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Behind(pub(crate) Core);

#[pymethods]
impl Behind {
    /// Counts the batch as handed out, for whose placing the consumer waited so many seconds.
    fn hand_out(&self, waited: f64) {
        self.0.hand_out(Duration::try_from_secs_f64(waited).unwrap_or_default());
    }
}
