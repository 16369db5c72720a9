//! Byte codecs: how objects are compressed as a whole.
//!
//! A [`Codec`] turns bytes into other bytes and back, knows nothing of tensors or files, and never produces more than it
//! was allowed to. One file per codec; [`by_suffix`] is the register. What tensors are compressed with for the cache is
//! another thing: [`tensor`].

mod none;
pub mod tensor;
mod zstd;

use std::fmt::Debug;

use bytes::Bytes;

use crate::buffer::BufferPool;
use crate::error::Result;

pub use none::None;
pub use zstd::Zstd;

/// Compresses and decompresses whole byte strings.
pub trait Codec: Debug + Send + Sync {
    /// Its name in configuration and messages.
    fn name(&self) -> &'static str;

    /// The suffix of objects compressed with it, with its dot; empty for none.
    fn suffix(&self) -> &'static str;

    /// Compresses.
    fn encode(&self, input: &[u8]) -> Result<Vec<u8>>;

    /// Decompresses into memory of `buffers`.
    ///
    /// # Errors
    /// `Corrupt` when the input is damaged, truncated, or unpacks to more than `max_bytes`.
    fn decode(&self, input: &Bytes, max_bytes: usize, buffers: &BufferPool) -> Result<Bytes>;
}

/// Every codec; the last one takes what no other does.
pub static CODECS: &[&dyn Codec] = &[&Zstd, &None];

/// The codec of an object, by its key, and the key without the codec's suffix.
pub fn by_suffix(key: &str) -> (&'static dyn Codec, &str) {
    CODECS
        .iter()
        .find_map(|&codec| key.strip_suffix(codec.suffix()).map(|inner| (codec, inner)))
        .unwrap_or((&None, key))
}
