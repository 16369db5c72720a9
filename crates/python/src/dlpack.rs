//! Tensors as DLPack capsules: memory changes hands without a copy.
//!
//! The capsule owns the tensor's bytes. Its deleter needs no GIL and only drops them, which returns pooled memory to its
//! pool, whenever and on whichever thread torch lets go; in a forked child the pool leaves it alone.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::ptr;

use headwater::value::{DType, Tensor};
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;

const NAME: &CStr = c"dltensor";
const CPU: i32 = 1;

#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// What the capsule's pointer leads to: `managed` first, so that the pointer serves as both.
#[repr(C)]
struct Owner {
    managed: Managed,
    dims: Vec<i64>,
    _bytes: bytes::Bytes,
}

/// DLPack's own type codes; `None` for the 8-bit floats, which not every reader knows.
fn data_type(dtype: DType) -> Option<DataType> {
    let code = match dtype {
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => 0,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => 1,
        DType::F16 | DType::F32 | DType::F64 => 2,
        DType::BF16 => 4,
        DType::C32 | DType::C64 | DType::C128 => 5,
        DType::Bool => 6,
        _ => return None,
    };
    Some(DataType { code, bits: 8 * dtype.size() as u8, lanes: 1 })
}

/// Whether DLPack carries this tensor as it is: its type has a code and its elements lie on their boundaries.
pub(crate) fn carries(tensor: &Tensor) -> bool {
    let (bytes, offset) = tensor.storage();
    data_type(tensor.dtype()).is_some() && (bytes.as_ptr().addr() + offset).is_multiple_of(tensor.dtype().swap_unit())
}

/// Wraps a tensor for which [`carries`] holds.
pub(crate) fn capsule<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let (bytes, offset) = tensor.storage();
    let dims: Vec<i64> = tensor.shape().iter().chain(tensor.strides()).map(|&dim| dim as i64).collect();
    let mut owner = Box::new(Owner {
        managed: Managed {
            tensor: DlTensor {
                data: bytes.as_ptr().wrapping_add(offset).cast_mut().cast(),
                device: Device { kind: CPU, id: 0 },
                ndim: tensor.shape().len() as i32,
                dtype: data_type(tensor.dtype()).unwrap_or(DataType { code: 1, bits: 8, lanes: 1 }),
                shape: ptr::null_mut(),
                strides: ptr::null_mut(),
                byte_offset: 0,
            },
            context: ptr::null_mut(),
            deleter: Some(delete),
        },
        dims,
        _bytes: bytes.clone(),
    });
    owner.managed.tensor.shape = owner.dims.as_mut_ptr();
    owner.managed.tensor.strides = owner.dims.as_mut_ptr().wrapping_add(tensor.shape().len());
    let raw = Box::into_raw(owner);
    // SAFETY: `raw` is a valid pointer that the capsule now owns; `NAME` is static.
    let capsule = unsafe { ffi::PyCapsule_New(raw.cast(), NAME.as_ptr(), Some(destroy)) };
    if capsule.is_null() {
        // SAFETY: nobody else has seen `raw`.
        drop(unsafe { Box::from_raw(raw) });
        return Err(PyMemoryError::new_err("no memory for a capsule"));
    }
    // SAFETY: a new reference that `PyCapsule_New` gave us.
    Ok(unsafe { Bound::from_owned_ptr(py, capsule) })
}

/// Called by whoever took the tensor, once, from any thread.
unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: `managed` is the first field of an `Owner` that came from `Box::into_raw` in `capsule`.
    drop(unsafe { Box::from_raw(managed.cast::<Owner>()) });
}

/// Called by Python when the capsule dies; a consumer has renamed it by then and owns the tensor itself.
unsafe extern "C" fn destroy(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with a live capsule, holding the GIL.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        }
    }
}
