//! One suite per seam, run by every implementation of it.

mod decoder;
mod source;

pub use decoder::decoder;
pub use source::{Fixture, source};
