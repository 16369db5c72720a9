//! Placeholder until its author writes it.
use super::{Decoded, Decoder, Limits};
use crate::{Error, ErrorKind, Result, buffer::BufferPool};
use bytes::Bytes;
/// x
#[derive(Debug)]
pub struct Safetensors;
impl Decoder for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }
    fn suffixes(&self) -> &'static [&'static str] {
        &[".safetensors"]
    }
    fn decode(&self, _: &Bytes, _: &Limits, _: &BufferPool) -> Result<Decoded> {
        Err(Error::new(ErrorKind::Unsupported, "decode", "safetensors"))
    }
}
