//! A strided view of shared bytes.

use bytes::Bytes;
use smallvec::SmallVec;

use super::DType;
use crate::error::{Error, ErrorKind, Result};

/// Sizes or strides, inline up to six dimensions.
pub type Dims = SmallVec<[usize; 6]>;

/// An n-dimensional array: dtype, shape, strides (in elements) and the little-endian bytes it views.
///
/// Several tensors may view the same bytes, and one tensor may see an element more than once (stride 0). The view always
/// lies within its bytes; [`Tensor::new`] checks that.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Dims,
    strides: Dims,
    storage: Bytes,
    offset: usize,
}

impl Tensor {
    /// Views `storage` from byte `offset` on.
    ///
    /// # Errors
    /// `Invalid` when shape and strides differ in length, a size overflows, or an element lies outside `storage`.
    pub fn new(dtype: DType, shape: &[usize], strides: &[usize], storage: Bytes, offset: usize) -> Result<Self> {
        let fits = shape.len() == strides.len()
            && extent(dtype, shape, strides)
                .and_then(|extent| extent.checked_add(offset))
                .is_some_and(|end| end <= storage.len());
        if fits && numel(shape).and_then(|n| n.checked_mul(dtype.size())).is_some_and(|n| isize::try_from(n).is_ok()) {
            return Ok(Self { dtype, shape: shape.into(), strides: strides.into(), storage, offset });
        }
        Err(Error::new(ErrorKind::Invalid, "view", format_args!("{dtype}{shape:?}"))
            .because(format_args!("strides {strides:?} from byte {offset} do not lie within {} bytes", storage.len())))
    }

    /// Views all of `bytes` as a row-major tensor.
    ///
    /// # Errors
    /// `Invalid` when the length of `bytes` is not that of the shape.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Bytes) -> Result<Self> {
        let wanted = numel(shape).and_then(|n| n.checked_mul(dtype.size()));
        if wanted != Some(bytes.len()) {
            return Err(Error::new(ErrorKind::Invalid, "view", format_args!("{dtype}{shape:?}"))
                .because(format_args!("{} bytes do not make that shape", bytes.len())));
        }
        Self::new(dtype, shape, &row_major(shape), bytes, 0)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes, outermost first; empty for a scalar tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Strides in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes the elements take when contiguous.
    pub fn nbytes(&self) -> usize {
        self.numel() * self.dtype.size()
    }

    /// The bytes this view shares with others, and where it starts in them.
    pub fn storage(&self) -> (&Bytes, usize) {
        (&self.storage, self.offset)
    }

    /// Whether elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return self.numel() == 0;
            }
            expected *= size;
        }
        true
    }

    /// The elements' bytes without copying, when they lie contiguous.
    pub fn contiguous_bytes(&self) -> Option<&[u8]> {
        self.is_contiguous().then(|| &self.storage[self.offset..self.offset + self.nbytes()])
    }

    /// Copies the elements in row-major order.
    ///
    /// # Panics
    /// When `out` is not exactly [`Tensor::nbytes`] long.
    pub fn copy_to(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.nbytes(), "destination length");
        if let Some(bytes) = self.contiguous_bytes() {
            out.copy_from_slice(bytes);
        } else {
            self.gather(0, self.offset, out);
        }
    }

    /// The elements in row-major order, copied only when they do not lie so already.
    pub fn to_contiguous(&self) -> Self {
        let bytes = if self.is_contiguous() {
            self.storage.slice(self.offset..self.offset + self.nbytes())
        } else {
            let mut out = vec![0; self.nbytes()];
            self.copy_to(&mut out);
            out.into()
        };
        Self {
            dtype: self.dtype,
            shape: self.shape.clone(),
            strides: row_major(&self.shape),
            storage: bytes,
            offset: 0,
        }
    }

    /// Bytes of the smallest memory that holds this tensor: its extent, or its elements where strides skip memory.
    pub(super) fn tight_len(&self) -> usize {
        self.extent_bytes().min(self.nbytes())
    }

    /// Copies what [`Tensor::tight_len`] counts.
    pub(super) fn copy_tight(&self, out: &mut [u8]) {
        if self.extent_bytes() <= self.nbytes() {
            out.copy_from_slice(&self.storage[self.offset..self.offset + out.len()]);
        } else {
            self.copy_to(out);
        }
    }

    /// This tensor in memory that [`Tensor::copy_tight`] filled from byte `offset` on.
    pub(super) fn tight_over(&self, storage: Bytes, offset: usize) -> Self {
        let strides = if self.extent_bytes() <= self.nbytes() { self.strides.clone() } else { row_major(&self.shape) };
        Self { dtype: self.dtype, shape: self.shape.clone(), strides, storage, offset }
    }

    fn extent_bytes(&self) -> usize {
        extent(self.dtype, &self.shape, &self.strides).unwrap_or_default()
    }

    fn gather(&self, dim: usize, start: usize, out: &mut [u8]) {
        let item = self.dtype.size();
        let Some((&size, &stride)) = self.shape.get(dim).zip(self.strides.get(dim)) else {
            out.copy_from_slice(&self.storage[start..start + item]);
            return;
        };
        if size == 0 {
            return;
        }
        if dim + 1 == self.shape.len() && stride == 1 {
            out.copy_from_slice(&self.storage[start..start + size * item]);
            return;
        }
        let step = out.len() / size;
        for (index, part) in out.chunks_exact_mut(step.max(1)).enumerate() {
            self.gather(dim + 1, start + index * stride * item, part);
        }
    }
}

/// Two tensors are equal when dtype, shape and every bit of every element are.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && self.to_contiguous().contiguous_bytes() == other.to_contiguous().contiguous_bytes()
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape.as_slice())
    }
}

/// Row-major strides of a shape, in elements.
pub(crate) fn row_major(shape: &[usize]) -> Dims {
    let mut strides = Dims::from_elem(1, shape.len());
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim] * shape[dim].max(1);
    }
    strides
}

fn numel(shape: &[usize]) -> Option<usize> {
    // Zero-sized dimensions do not excuse the others from being sane.
    let product = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// Bytes from the first to past the last element.
fn extent(dtype: DType, shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0_usize, |at, (&size, &stride)| at.checked_add((size - 1).checked_mul(stride)?))?;
    last.checked_add(1)?.checked_mul(dtype.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(n: u8) -> Bytes {
        (0..n).collect::<Vec<_>>().into()
    }

    #[test]
    fn gathers_a_transposed_view() {
        let tensor = Tensor::new(DType::U8, &[3, 2], &[1, 3], counting(6), 0).expect("fits");
        assert!(!tensor.is_contiguous());
        assert_eq!(tensor.to_contiguous().contiguous_bytes(), Some(&[0, 3, 1, 4, 2, 5][..]));
    }

    #[test]
    fn repeats_an_expanded_element() {
        let tensor = Tensor::new(DType::I16, &[2, 3], &[1, 0], counting(4), 0).expect("fits");
        assert_eq!(tensor.to_contiguous().contiguous_bytes(), Some(&[0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3][..]));
    }

    #[test]
    fn refuses_a_view_that_leaves_its_bytes() {
        for (shape, strides, offset) in [
            (&[7][..], &[1][..], 0),
            (&[2, 3], &[4, 1], 0),
            (&[1], &[1], 6),
            (&[usize::MAX, 2], &[0, 0], 0),
            (&[2], &[], 0),
        ] {
            let error = Tensor::new(DType::U8, shape, strides, counting(6), offset).expect_err("outside");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn takes_empty_and_scalar_shapes() {
        let empty = Tensor::from_bytes(DType::F32, &[3, 0, 2], Bytes::new()).expect("empty");
        assert_eq!((empty.nbytes(), empty.is_contiguous()), (0, true));
        let scalar = Tensor::from_bytes(DType::F32, &[], counting(4)).expect("scalar");
        assert_eq!(scalar.contiguous_bytes(), Some(&[0, 1, 2, 3][..]));
    }
}
