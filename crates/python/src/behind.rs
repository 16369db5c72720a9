//! Counting a batch that was taken ahead.

use headwater::loader::Behind as Core;
use pyo3::prelude::*;

/// Where the loader stands once a batch is handed out.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Behind(pub(crate) Core);

#[pymethods]
impl Behind {
    /// Counts the batch as handed out.
    fn hand_out(&self) {
        self.0.hand_out();
    }
}
