//! From an object's bytes to values.
//!
//! A [`Decoder`] reads one file format; the register [`DECODERS`] finds it by the key's suffix, after the suffix of a
//! whole-object compression (`x.pt.zst`) has been taken off. Tensors are views of the object's bytes wherever the format
//! lays them out so; nothing is executed, and everything hostile input could inflate is bounded by [`Limits`]. Errors
//! name the object and, where there is one, the offset.

pub mod npy;
pub mod pt;
pub mod record;
pub mod safetensors;

use std::fmt::Debug;

use bytes::Bytes;

use crate::buffer::BufferPool;
use crate::codec;
use crate::error::{Error, ErrorKind, Result};
use crate::value::Value;

/// Names one value among those a unit decodes to; empty when the unit holds exactly one.
pub type SubKey = String;

/// What one object, or one range of it, decodes to.
pub type Decoded = Vec<(SubKey, Value)>;

/// Bounds on what one object may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes an object may have after decompression.
    pub max_bytes: usize,
    /// Nesting depth of a decoded value.
    pub max_depth: usize,
    /// Nodes (containers, scalars, strings, tensors) of a decoded value, beyond the length of what spells them out.
    pub max_nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 16 << 30, max_depth: 64, max_nodes: 1 << 20 }
    }
}

/// Reads one file format.
pub trait Decoder: Debug + Send + Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// Suffixes of the keys it reads, with their dots.
    fn suffixes(&self) -> &'static [&'static str];

    /// Decodes an uncompressed object. Tensors may share `bytes`; what has to be rearranged goes to memory of `buffers`.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`, saying at which offset and why. The caller adds the object's name.
    fn decode(&self, bytes: &Bytes, limits: &Limits, buffers: &BufferPool) -> Result<Decoded>;
}

/// Every decoder.
pub static DECODERS: &[&dyn Decoder] = &[&pt::Pt, &safetensors::Safetensors, &npy::Npy];

/// The decoder of an object by its key, or `None` when no format claims it.
pub fn decoder_of(key: &str) -> Option<&'static dyn Decoder> {
    let (_, inner) = codec::by_suffix(key);
    DECODERS.iter().copied().find(|decoder| decoder.suffixes().iter().any(|suffix| inner.ends_with(suffix)))
}

/// A key without the suffixes of its format and its compression: the stem that joins a sample's objects.
pub fn stem(key: &str) -> &str {
    let (_, inner) = codec::by_suffix(key);
    DECODERS
        .iter()
        .flat_map(|decoder| decoder.suffixes())
        .find_map(|suffix| inner.strip_suffix(suffix))
        .unwrap_or(inner)
}

/// Decompresses and decodes a whole object; `uri` names it in errors and its suffixes choose codec and decoder.
pub fn decode_object(uri: &str, bytes: &Bytes, limits: &Limits, buffers: &BufferPool) -> Result<Decoded> {
    let decoder = decoder_of(uri).ok_or_else(|| {
        let known: Vec<_> = DECODERS.iter().flat_map(|decoder| decoder.suffixes()).copied().collect();
        Error::new(ErrorKind::Unsupported, "decode", uri)
            .because(format_args!("no decoder for this suffix; known are {}, each also with .zst", known.join(" ")))
    })?;
    let (codec, _) = codec::by_suffix(uri);
    codec
        .decode(bytes, limits.max_bytes, buffers)
        .and_then(|plain| decoder.decode(&plain, limits, buffers))
        .map_err(|cause| Error::new(cause.kind(), "decode", uri).caused_by(cause))
}
