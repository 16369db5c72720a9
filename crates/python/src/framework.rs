//! How values become objects of the framework in use.

use pyo3::prelude::*;

/// Callables that make a framework's objects. `from_dlpack` takes a capsule; without it, and for what DLPack cannot carry,
/// `from_raw` takes a `RawTensor`. `size`, `dtype` and `device` take a tuple, a name, a string.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Framework {
    pub(crate) from_dlpack: Option<Py<PyAny>>,
    pub(crate) from_raw: Py<PyAny>,
    pub(crate) size: Py<PyAny>,
    pub(crate) dtype: Py<PyAny>,
    pub(crate) device: Py<PyAny>,
}

#[pymethods]
impl Framework {
    #[new]
    fn new(
        from_dlpack: Option<Py<PyAny>>,
        from_raw: Py<PyAny>,
        size: Py<PyAny>,
        dtype: Py<PyAny>,
        device: Py<PyAny>,
    ) -> Self {
        Self { from_dlpack, from_raw, size, dtype, device }
    }
}
