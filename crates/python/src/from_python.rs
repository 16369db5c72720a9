//! Python objects as values.

use headwater::value::{DType, Dict, Tensor, Value};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple,
};

use crate::error::to_exception;

/// Containers may not nest deeper than what the reader accepts.
const MAX_DEPTH: usize = 64;

/// Converts an object. `describe` is asked about everything that is no plain Python object: it answers `None`, or a pair
/// of a kind (`"tensor"`, `"size"`, `"dtype"`, `"device"`) and what that kind needs.
pub(crate) fn to_value(object: &Bound<'_, PyAny>, describe: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if let Some((kind, detail)) = describe.call1((object,))?.extract::<Option<(String, Bound<'_, PyAny>)>>()? {
        return described(&kind, &detail);
    }
    if let Some(value) = scalar(object)? {
        return Ok(value);
    }
    if depth >= MAX_DEPTH {
        return Err(PyTypeError::new_err("values nest too deep, or contain themselves"));
    }
    if let Ok(dict) = object.cast::<PyDict>() {
        return to_dict(dict, describe, depth).map(Value::Dict);
    }
    let items = || object.try_iter()?.map(|item| to_value(&item?, describe, depth + 1)).collect::<PyResult<Vec<_>>>();
    if object.is_instance_of::<PyList>() {
        items().map(Value::List)
    } else if object.is_instance_of::<PyTuple>() {
        items().map(Value::Tuple)
    } else if object.is_instance_of::<PySet>() || object.is_instance_of::<PyFrozenSet>() {
        items().map(Value::Set)
    } else {
        Err(PyTypeError::new_err(format!("cannot save a `{}`", object.get_type().name()?)))
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
        Value::Bytes(bytes::Bytes::copy_from_slice(it.as_bytes()))
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

fn to_dict(dict: &Bound<'_, PyDict>, describe: &Bound<'_, PyAny>, depth: usize) -> PyResult<Dict> {
    let ordered = !dict.is_exact_instance_of::<PyDict>() && dict.get_type().name()? == "OrderedDict";
    let pair = |(key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        Ok((to_value(&key, describe, depth + 1)?, to_value(&value, describe, depth + 1)?))
    };
    Ok(Dict { items: dict.iter().map(pair).collect::<PyResult<_>>()?, ordered })
}

fn described(kind: &str, detail: &Bound<'_, PyAny>) -> PyResult<Value> {
    let py = detail.py();
    let dtype = |name: &str| name.parse::<DType>().map_err(|error| to_exception(py, &error));
    match kind {
        "tensor" => {
            let (name, shape, buffer): (String, Vec<usize>, PyBuffer<u8>) = detail.extract()?;
            let tensor = Tensor::from_bytes(dtype(&name)?, &shape, buffer.to_vec(py)?.into());
            tensor.map(Value::Tensor).map_err(|error| to_exception(py, &error))
        }
        "size" => detail.extract().map(Value::Size),
        "dtype" => dtype(&detail.extract::<String>()?).map(Value::DType),
        "device" => detail.extract().map(Value::Device),
        other => Err(PyTypeError::new_err(format!("cannot save a `{other}`"))),
    }
}
