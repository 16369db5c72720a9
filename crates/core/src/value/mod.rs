//! What objects decode to.
//!
//! A [`Value`] is a tree of dicts, lists, scalars and strings with [`Tensor`]s at its leaves; a tensor is a strided view
//! of shared bytes with a [`DType`]. Values are immutable and cheap to clone; nothing here knows a file format. A [`Packed`]
//! value has its tensors in memory of its own.

mod dtype;
mod element;
mod packed;
mod restored;
mod tensor;
mod tree;

pub use dtype::DType;
pub use element::Element;
pub use packed::Packed;
pub use restored::restored;
pub(crate) use tensor::row_major;
pub use tensor::{Dims, Tensor, Unpack};
pub use tree::{Dict, Value};
