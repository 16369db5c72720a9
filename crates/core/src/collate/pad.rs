//! Tensors of different sizes in one.

use crate::buffer::BufferPool;
use crate::error::Result;
use crate::value::{DType, Dims, Tensor, Value};

/// The largest size in every dimension; all have equally many.
pub(super) fn largest(tensors: &[&Tensor]) -> Dims {
    let mut shape: Dims = tensors.first().map(|tensor| tensor.shape().into()).unwrap_or_default();
    for tensor in tensors {
        for (size, &other) in shape.iter_mut().zip(tensor.shape()) {
            *size = (*size).max(other);
        }
    }
    shape
}

/// Where padded tensors have elements: true there, of size 1 in dimensions where all are equal. `None` for what is no tensor, or
/// has no dimension.
pub(super) fn mask(rows: &[&Value], buffers: &BufferPool) -> Result<Option<Tensor>> {
    let tensors: Vec<_> =
        rows.iter().filter_map(|row| if let Value::Tensor(tensor) = row { Some(tensor) } else { None }).collect();
    if tensors.len() != rows.len() || tensors.first().is_none_or(|tensor| tensor.shape().is_empty()) {
        return Ok(None);
    }
    let full = largest(&tensors);
    let varies = |dim: usize| tensors.iter().any(|tensor| tensor.shape()[dim] != full[dim]);
    let varying: Vec<bool> = (0..full.len()).map(varies).collect();
    let narrow = |shape: &[usize]| -> Dims {
        shape.iter().zip(&varying).map(|(&size, &varies)| if varies { size } else { 1 }).collect()
    };
    let part = narrow(&full);
    let mut shape: Dims = Dims::from_elem(tensors.len(), 1);
    shape.extend(part.iter().copied());
    let mut buffer = buffers.take(shape.iter().product());
    buffer.fill(0);
    for (tensor, out) in tensors.iter().zip(buffer.chunks_exact_mut(part.iter().product::<usize>().max(1))) {
        set(&narrow(tensor.shape()), &part, out);
    }
    Tensor::from_bytes(DType::Bool, &shape, buffer.freeze()).map(Some)
}

fn set(shape: &[usize], full: &[usize], out: &mut [u8]) {
    let Some((&size, inner)) = shape.split_first() else {
        out.fill(1);
        return;
    };
    let step = out.len() / full[0].max(1);
    out.chunks_exact_mut(step.max(1)).take(size).for_each(|part| set(inner, &full[1..], part));
}

/// Copies a tensor into the corner of `out`, which has room for `full`, and zeros the rest.
pub(super) fn copy(tensor: &Tensor, full: &[usize], out: &mut [u8]) -> Result<()> {
    if tensor.shape() == full {
        return tensor.copy_to(out);
    }
    out.fill(0);
    let tight = tensor.to_contiguous()?;
    place(tight.contiguous_bytes().unwrap_or_default(), tensor.shape(), full, out);
    Ok(())
}

fn place(bytes: &[u8], shape: &[usize], full: &[usize], out: &mut [u8]) {
    // From here on the sizes agree, or only the first differs: one run of memory.
    if shape.get(1..) == full.get(1..) {
        return out[..bytes.len()].copy_from_slice(bytes);
    }
    let (from, to) = (bytes.len() / shape[0].max(1), out.len() / full[0].max(1));
    if from > 0 {
        let parts = bytes.chunks_exact(from).zip(out.chunks_exact_mut(to));
        parts.for_each(|(bytes, out)| place(bytes, &shape[1..], &full[1..], out));
    }
}
