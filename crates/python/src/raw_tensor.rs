//! A tensor as a buffer with a description, for frameworks that take no capsule.

#![allow(unsafe_code)]

use std::ffi::c_int;

use headwater::value::Tensor;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyTuple};

/// A tensor's bytes as a writable buffer, with what is needed to view them as an array.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct RawTensor {
    tensor: Tensor,
}

impl RawTensor {
    pub(crate) fn new(tensor: Tensor) -> Self {
        Self { tensor }
    }
}

#[pymethods]
impl RawTensor {
    /// torch's name of the element type.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.tensor.dtype().name()
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.tensor.shape())
    }

    /// In bytes.
    #[getter]
    fn strides<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let item = self.tensor.dtype().size();
        PyTuple::new(py, self.tensor.strides().iter().map(|stride| stride * item).collect::<Vec<_>>())
    }

    /// The bytes from the first element to the end of the storage, writable.
    fn memory<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf.as_any())
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (bytes, offset) = slf.get().tensor.storage();
        let start = bytes.as_ptr().wrapping_add(offset).cast_mut().cast();
        // SAFETY: Python hands a valid `view`; the memory lives as long as `slf`, which the view keeps alive. It is the
        // user's own: a read buffer that no cache holds.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, (bytes.len() - offset) as isize, 0, flags) };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::take(slf.py()).unwrap_or_else(|| PyBufferError::new_err("no buffer")))
        }
    }
}
