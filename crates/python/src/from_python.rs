//! Python objects as values.

#![allow(unsafe_code)]

use std::{fmt, ptr, slice};

use bytes::Bytes;
use headwater::value::{DType, Dict, Tensor, Value};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple,
};

use crate::error::checked;

/// Containers may not nest deeper than what the reader accepts.
const MAX_DEPTH: usize = 64;

/// What is to be done with values, for words.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb {
    Save,
    Keep,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Save => "save",
            Verb::Keep => "keep",
        })
    }
}

/// Converts an object. `describe` is asked about everything that is no plain Python object: it answers `None`, or a pair
/// of a kind (`"tensor"`, `"view"`, `"size"`, `"dtype"`, `"device"`, `"scalar"`) and what that kind needs.
pub(crate) fn to_value(object: &Bound<'_, PyAny>, describe: &Bound<'_, PyAny>, verb: Verb) -> PyResult<Value> {
    Reading { describe, verb }.value(object, 0)
}

/// Objects being converted.
struct Reading<'a, 'py> {
    describe: &'a Bound<'py, PyAny>,
    verb: Verb,
}

impl<'py> Reading<'_, 'py> {
    fn value(&self, object: &Bound<'py, PyAny>, depth: usize) -> PyResult<Value> {
        let described = self.describe.call1((object,))?;
        if let Some((kind, detail)) = described.extract::<Option<(String, Bound<'_, PyAny>)>>()? {
            return self.described(&kind, &detail);
        }
        if let Some(value) = scalar(object)? {
            return Ok(value);
        }
        if depth >= MAX_DEPTH {
            return Err(PyTypeError::new_err("values nest too deep, or contain themselves"));
        }
        if let Ok(dict) = object.cast::<PyDict>() {
            return self.dict(dict, depth).map(Value::Dict);
        }
        let items = || object.try_iter()?.map(|item| self.value(&item?, depth + 1)).collect::<PyResult<Vec<_>>>();
        if object.is_instance_of::<PyList>() {
            items().map(Value::List)
        } else if object.is_instance_of::<PyTuple>() {
            items().map(Value::Tuple)
        } else if object.is_instance_of::<PySet>() || object.is_instance_of::<PyFrozenSet>() {
            items().map(Value::Set)
        } else {
            Err(self.refused(&object.get_type().name()?.to_string()))
        }
    }

    fn dict(&self, dict: &Bound<'py, PyDict>, depth: usize) -> PyResult<Dict> {
        let ordered = !dict.is_exact_instance_of::<PyDict>() && dict.get_type().name()? == "OrderedDict";
        let pair = |(key, value): (Bound<'py, PyAny>, Bound<'py, PyAny>)| {
            Ok((self.value(&key, depth + 1)?, self.value(&value, depth + 1)?))
        };
        Ok(Dict { items: dict.iter().map(pair).collect::<PyResult<_>>()?, ordered })
    }

    fn described(&self, kind: &str, detail: &Bound<'py, PyAny>) -> PyResult<Value> {
        let py = detail.py();
        let dtype = |name: &str| checked(py, name.parse::<DType>());
        match kind {
            "tensor" => {
                let (name, shape, buffer): (String, Vec<usize>, PyBuffer<u8>) = detail.extract()?;
                let tensor = Tensor::from_bytes(dtype(&name)?, &shape, buffer.to_vec(py)?.into());
                checked(py, tensor).map(Value::Tensor)
            }
            "view" => {
                type View<'py> = (String, Vec<usize>, Vec<usize>, (usize, usize), Bound<'py, PyAny>);
                let (name, shape, strides, (address, len), owner): View<'_> = detail.extract()?;
                let bytes = Bytes::from_owner(Memory { address, len, _owner: owner.unbind() });
                checked(py, Tensor::new(dtype(&name)?, &shape, &strides, bytes, 0)).map(Value::Tensor)
            }
            "size" => detail.extract().map(Value::Size),
            "dtype" => dtype(&detail.extract::<String>()?).map(Value::DType),
            "device" => detail.extract().map(Value::Device),
            "scalar" => scalar(detail)?.map_or_else(|| Err(self.refused(&detail.get_type().name()?.to_string())), Ok),
            other => Err(self.refused(other)),
        }
    }

    fn refused(&self, kind: &str) -> PyErr {
        PyTypeError::new_err(format!("cannot {} a `{kind}`", self.verb))
    }
}

/// Memory of an object of Python's, which is neither freed nor moved for as long as this holds the object.
struct Memory {
    address: usize,
    len: usize,
    _owner: Py<PyAny>,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: whoever describes a view vouches for its memory, which `_owner` keeps, and for nobody writing to it meanwhile.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(self.address), self.len) }
    }
}

fn scalar(object: &Bound<'_, PyAny>) -> PyResult<Option<Value>> {
    Ok(Some(if object.is_none() {
        Value::None
    } else if let Ok(it) = object.cast::<PyBool>() {
        Value::Bool(it.is_true())
    } else if let Ok(it) = object.cast::<PyInt>() {
        integer(it)?
    } else if let Ok(it) = object.cast::<PyFloat>() {
        Value::Float(it.value())
    } else if let Ok(it) = object.cast::<PyComplex>() {
        Value::Complex(it.getattr("real")?.extract()?, it.getattr("imag")?.extract()?)
    } else if let Ok(it) = object.cast::<PyString>() {
        Value::Str(it.to_cow()?.into_owned())
    } else if let Ok(it) = object.cast::<PyBytes>() {
        Value::Bytes(Bytes::copy_from_slice(it.as_bytes()))
    } else if let Ok(it) = object.cast::<PyByteArray>() {
        Value::Bytes(it.to_vec().into())
    } else {
        return Ok(None);
    }))
}

fn integer(number: &Bound<'_, PyInt>) -> PyResult<Value> {
    if let Ok(number) = number.extract::<i64>() {
        return Ok(Value::Int(number));
    }
    let bits: usize = number.call_method0("bit_length")?.extract()?;
    let options = PyDict::new(number.py());
    options.set_item("signed", true)?;
    let bytes = number.call_method("to_bytes", (bits / 8 + 1, "little"), Some(&options))?;
    bytes.extract().map(Value::BigInt)
}
