//! A strided view of shared bytes.

use std::fmt::{self, Debug};
use std::sync::Arc;

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
///
/// In a cached record the bytes may be coded: such a tensor is *packed*, has no bytes to look at, and is unpacked by copying it.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Dims,
    strides: Dims,
    storage: Storage,
    offset: usize,
}

#[derive(Debug, Clone)]
enum Storage {
    Plain(Bytes),
    Packed(Arc<dyn Unpack>),
}

static NOTHING: Bytes = Bytes::new();

/// The bytes of a packed tensor.
pub trait Unpack: Debug + Send + Sync {
    /// How many there are once unpacked.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Parts that begin at multiples of this are unpacked by themselves, at no more cost than together.
    fn block_bytes(&self) -> usize;

    /// Unpacks all of `out` from byte `from` on.
    ///
    /// # Errors
    /// `Corrupt` when they are damaged.
    fn unpack(&self, from: usize, out: &mut [u8]) -> Result<()>;
}

impl Tensor {
    /// Views `storage` from byte `offset` on.
    ///
    /// # Errors
    /// `Invalid` when shape and strides differ in length, a size overflows, or an element lies outside `storage`.
    pub fn new(dtype: DType, shape: &[usize], strides: &[usize], storage: Bytes, offset: usize) -> Result<Self> {
        Self::over(dtype, shape, strides, Storage::Plain(storage), offset)
    }

    /// Views packed bytes from the first one on.
    ///
    /// # Errors
    /// Those of [`Tensor::new`].
    pub fn packed(dtype: DType, shape: &[usize], strides: &[usize], bytes: Arc<dyn Unpack>) -> Result<Self> {
        Self::over(dtype, shape, strides, Storage::Packed(bytes), 0)
    }

    fn over(dtype: DType, shape: &[usize], strides: &[usize], storage: Storage, offset: usize) -> Result<Self> {
        let len = match &storage {
            Storage::Plain(bytes) => bytes.len(),
            Storage::Packed(bytes) => bytes.len(),
        };
        let fits = shape.len() == strides.len()
            && extent(dtype, shape, strides)
                .and_then(|extent| extent.checked_add(offset))
                .is_some_and(|end| end <= len);
        if fits && numel(shape).and_then(|n| n.checked_mul(dtype.size())).is_some_and(|n| isize::try_from(n).is_ok()) {
            return Ok(Self { dtype, shape: shape.into(), strides: strides.into(), storage, offset });
        }
        Err(Error::new(ErrorKind::Invalid, "view", format_args!("{dtype}{shape:?}"))
            .because(format_args!("strides {strides:?} from byte {offset} do not lie within {len} bytes")))
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

    /// The same elements under another shape and strides, from the first one on.
    ///
    /// # Errors
    /// Those of [`Tensor::new`].
    pub fn viewed(&self, shape: &[usize], strides: &[usize]) -> Result<Self> {
        Self::over(self.dtype, shape, strides, self.storage.clone(), self.offset)
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

    /// The bytes this view shares with others, and where it starts in them; none when it is packed.
    pub fn storage(&self) -> (&Bytes, usize) {
        match &self.storage {
            Storage::Plain(bytes) => (bytes, self.offset),
            Storage::Packed(_) => (&NOTHING, 0),
        }
    }

    /// Whether its bytes have to be unpacked.
    pub fn is_packed(&self) -> bool {
        matches!(self.storage, Storage::Packed(_))
    }

    /// The bytes to unpack, row-major; `None` when they are plain, or lie otherwise.
    pub fn packed_bytes(&self) -> Option<&dyn Unpack> {
        match &self.storage {
            Storage::Packed(bytes) if self.is_contiguous() => Some(&**bytes),
            _ => None,
        }
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

    /// The elements' bytes without copying, when they lie contiguous and are not packed.
    pub fn contiguous_bytes(&self) -> Option<&[u8]> {
        let Storage::Plain(bytes) = &self.storage else { return None };
        self.is_contiguous().then(|| &bytes[self.offset..self.offset + self.nbytes()])
    }

    /// Copies the elements in row-major order.
    ///
    /// # Errors
    /// `Corrupt` when it is packed and its bytes are damaged.
    ///
    /// # Panics
    /// When `out` is not exactly [`Tensor::nbytes`] long.
    pub fn copy_to(&self, out: &mut [u8]) -> Result<()> {
        assert_eq!(out.len(), self.nbytes(), "destination length");
        match &self.storage {
            Storage::Plain(bytes) if self.is_contiguous() => {
                out.copy_from_slice(&bytes[self.offset..self.offset + out.len()]);
            }
            Storage::Plain(bytes) => self.gather(bytes, 0, self.offset, out),
            Storage::Packed(bytes) if self.is_contiguous() => bytes.unpack(self.offset, out)?,
            Storage::Packed(bytes) => {
                let mut plain = vec![0; self.extent_bytes()];
                bytes.unpack(self.offset, &mut plain)?;
                self.gather(&plain, 0, 0, out);
            }
        }
        Ok(())
    }

    /// The elements in row-major order, copied only when they do not lie so already.
    ///
    /// # Errors
    /// Those of [`Tensor::copy_to`].
    pub fn to_contiguous(&self) -> Result<Self> {
        let bytes = match &self.storage {
            Storage::Plain(bytes) if self.is_contiguous() => bytes.slice(self.offset..self.offset + self.nbytes()),
            _ => {
                let mut out = vec![0; self.nbytes()];
                self.copy_to(&mut out)?;
                out.into()
            }
        };
        Self::from_bytes(self.dtype, &self.shape, bytes)
    }

    /// Bytes of the smallest memory that holds this tensor: its extent, or its elements where strides skip memory.
    pub fn tight_len(&self) -> usize {
        self.extent_bytes().min(self.nbytes())
    }

    /// Strides in that memory, in elements.
    pub fn tight_strides(&self) -> Dims {
        if self.extent_bytes() <= self.nbytes() { self.strides.clone() } else { row_major(&self.shape) }
    }

    /// What [`Tensor::tight_len`] counts, without copying, when it lies so already.
    pub fn tight_bytes(&self) -> Option<&[u8]> {
        let Storage::Plain(bytes) = &self.storage else { return None };
        (self.extent_bytes() <= self.nbytes()).then(|| &bytes[self.offset..self.offset + self.extent_bytes()])
    }

    /// Copies what [`Tensor::tight_len`] counts.
    ///
    /// # Errors
    /// Those of [`Tensor::copy_to`].
    pub fn copy_tight(&self, out: &mut [u8]) -> Result<()> {
        match &self.storage {
            _ if self.extent_bytes() > self.nbytes() => return self.copy_to(out),
            Storage::Plain(bytes) => out.copy_from_slice(&bytes[self.offset..self.offset + out.len()]),
            Storage::Packed(bytes) => bytes.unpack(self.offset, out)?,
        }
        Ok(())
    }

    /// This tensor in memory that [`Tensor::copy_tight`] filled from byte `offset` on.
    pub(super) fn tight_over(&self, storage: Bytes, offset: usize) -> Self {
        let (shape, strides) = (self.shape.clone(), self.tight_strides());
        Self { dtype: self.dtype, shape, strides, storage: Storage::Plain(storage), offset }
    }

    fn extent_bytes(&self) -> usize {
        extent(self.dtype, &self.shape, &self.strides).unwrap_or_default()
    }

    fn gather(&self, bytes: &[u8], dim: usize, start: usize, out: &mut [u8]) {
        let item = self.dtype.size();
        let Some((&size, &stride)) = self.shape.get(dim).zip(self.strides.get(dim)) else {
            out.copy_from_slice(&bytes[start..start + item]);
            return;
        };
        if size == 0 {
            return;
        }
        if dim + 1 == self.shape.len() && stride == 1 {
            out.copy_from_slice(&bytes[start..start + size * item]);
            return;
        }
        let step = out.len() / size;
        for (index, part) in out.chunks_exact_mut(step.max(1)).enumerate() {
            self.gather(bytes, dim + 1, start + index * stride * item, part);
        }
    }
}

/// Two tensors are equal when dtype, shape and every bit of every element are. What is damaged equals nothing.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        let are_equal = || {
            let (one, other) = (self.to_contiguous().ok()?, other.to_contiguous().ok()?);
            Some(one.contiguous_bytes() == other.contiguous_bytes())
        };
        self.dtype == other.dtype && self.shape == other.shape && are_equal().unwrap_or(false)
    }
}

impl Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape.as_slice())
    }
}

/// Row-major strides of a shape, in elements. Of one that is larger than any memory, which no tensor has, as large as can be.
pub(crate) fn row_major(shape: &[usize]) -> Dims {
    let mut strides = Dims::from_elem(1, shape.len());
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim].saturating_mul(shape[dim].max(1));
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
        assert_eq!(tensor.to_contiguous().expect("plain").contiguous_bytes(), Some(&[0, 3, 1, 4, 2, 5][..]));
    }

    #[test]
    fn a_shape_larger_than_any_memory_is_no_tensor() {
        for shape in [[2, usize::MAX, 2], [0, usize::MAX, usize::MAX], [1 << 40, 1 << 20, 1 << 20]] {
            assert!(Tensor::new(DType::U8, &shape, &row_major(&shape), counting(6), 0).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn repeats_an_expanded_element() {
        let tensor = Tensor::new(DType::I16, &[2, 3], &[1, 0], counting(4), 0).expect("fits");
        assert_eq!(
            tensor.to_contiguous().expect("plain").contiguous_bytes(),
            Some(&[0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3][..])
        );
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
