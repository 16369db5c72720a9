//! Values, samples and batches as Python objects.

use headwater::dataset::Dataset;
use headwater::loader::{Batch, Content};
use headwater::sample::Sample;
use headwater::value::{DType, Dict, Tensor, Value};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyComplex, PyDict, PyFloat, PyInt, PyList, PySet, PyString, PyTuple};

use crate::dlpack;
use crate::ending::Inside;
use crate::error::checked;
use crate::framework::Framework;
use crate::keys::Keys;
use crate::raw_tensor::RawTensor;

/// A dict: one entry per field, `__key__` and `__index__`.
pub(crate) fn sample<'py>(py: Python<'py>, sample: &Sample, framework: &Framework) -> PyResult<Bound<'py, PyDict>> {
    let _inside = Inside::hold(py);
    let dict = PyDict::new(py);
    for (name, value) in &sample.fields {
        dict.set_item(PyString::intern(py, name), to_python(py, value, framework)?)?;
    }
    dict.set_item(intern!(py, "__key__"), &sample.key)?;
    dict.set_item(intern!(py, "__index__"), sample.index)?;
    Ok(dict)
}

/// A sample of a batch: where there may be pads, `__pad__` says whether it is one.
pub(crate) fn marked<'py>(
    py: Python<'py>,
    read: &Sample,
    is_pad: Option<bool>,
    framework: &Framework,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = sample(py, read, framework)?;
    is_pad.map_or(Ok(()), |is_pad| dict.set_item(intern!(py, "__pad__"), is_pad))?;
    Ok(dict)
}

/// The samples of a batch.
pub(crate) fn samples<'py>(
    py: Python<'py>,
    read: &[Sample],
    pads: Option<&[bool]>,
    framework: &Framework,
) -> PyResult<Bound<'py, PyList>> {
    let each = read.iter().enumerate().map(|(at, read)| marked(py, read, pads.map(|pads| pads[at]), framework));
    PyList::new(py, each.collect::<PyResult<Vec<_>>>()?)
}

/// A batch: one entry per field, `__index__`, `__key__` and, where there may be any, `__pad__`.
pub(crate) fn fields<'py>(
    py: Python<'py>,
    batch: Batch,
    dataset: &Dataset,
    framework: &Framework,
) -> PyResult<Bound<'py, PyDict>> {
    let _inside = Inside::hold(py);
    let dict = PyDict::new(py);
    if let Content::Fields(fields) = &batch.content {
        for (name, value) in fields {
            dict.set_item(PyString::intern(py, name), to_python(py, value, framework)?)?;
        }
    }
    let numbers = |dtype: DType, bytes: Vec<u8>| {
        let tensor = Tensor::from_bytes(dtype, &[bytes.len() / dtype.size()], bytes.into());
        checked(py, tensor).and_then(|tensor| to_python(py, &tensor.into(), framework))
    };
    let indices = batch.indices.iter().flat_map(|&index| (index as i64).to_le_bytes()).collect();
    dict.set_item(intern!(py, "__index__"), numbers(DType::I64, indices)?)?;
    if let Some(pads) = &batch.pads {
        let pads = pads.iter().map(|&pad| u8::from(pad)).collect();
        dict.set_item(intern!(py, "__pad__"), numbers(DType::Bool, pads)?)?;
    }
    dict.set_item(intern!(py, "__key__"), Keys::new(dataset.clone(), batch.indices))?;
    Ok(dict)
}

/// What unpickling the same object would give.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &Value, framework: &Framework) -> PyResult<Bound<'py, PyAny>> {
    let items = |items: &[Value]| items.iter().map(|item| to_python(py, item, framework)).collect::<PyResult<Vec<_>>>();
    Ok(match value {
        Value::None => py.None().into_bound(py),
        Value::Bool(it) => it.into_pyobject(py)?.to_owned().into_any(),
        Value::Int(it) => it.into_pyobject(py)?.into_any(),
        Value::BigInt(it) => big_int(py, it)?,
        Value::Float(it) => PyFloat::new(py, *it).into_any(),
        Value::Complex(real, imaginary) => PyComplex::from_doubles(py, *real, *imaginary).into_any(),
        Value::Str(it) => PyString::new(py, it).into_any(),
        Value::Bytes(it) => PyBytes::new(py, it).into_any(),
        Value::List(list) => PyList::new(py, items(list)?)?.into_any(),
        Value::Tuple(tuple) => PyTuple::new(py, items(tuple)?)?.into_any(),
        Value::Set(set) => PySet::new(py, items(set)?)?.into_any(),
        Value::Dict(it) => dict(py, it, framework)?,
        Value::Size(it) => framework.size.bind(py).call1((PyTuple::new(py, it)?,))?,
        Value::DType(it) => framework.dtype.bind(py).call1((it.name(),))?,
        Value::Device(it) => framework.device.bind(py).call1((it,))?,
        Value::Tensor(it) => tensor(py, it, framework)?,
    })
}

fn dict<'py>(py: Python<'py>, dict: &Dict, framework: &Framework) -> PyResult<Bound<'py, PyAny>> {
    let made = if dict.ordered {
        py.import(intern!(py, "collections"))?.call_method0(intern!(py, "OrderedDict"))?
    } else {
        PyDict::new(py).into_any()
    };
    for (key, value) in &dict.items {
        let key = match key {
            Value::Str(name) => PyString::intern(py, name).into_any(),
            other => to_python(py, other, framework)?,
        };
        made.set_item(key, to_python(py, value, framework)?)?;
    }
    Ok(made)
}

fn tensor<'py>(py: Python<'py>, tensor: &Tensor, framework: &Framework) -> PyResult<Bound<'py, PyAny>> {
    match &framework.from_dlpack {
        Some(from_dlpack) if dlpack::carries(tensor) => from_dlpack.bind(py).call1((dlpack::capsule(py, tensor)?,)),
        _ => framework.from_raw.bind(py).call1((RawTensor::new(tensor.clone()),)),
    }
}

fn big_int<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(py);
    options.set_item(intern!(py, "signed"), true)?;
    let arguments = (PyBytes::new(py, bytes), intern!(py, "little"));
    py.get_type::<PyInt>().call_method(intern!(py, "from_bytes"), arguments, Some(&options))
}
