//! Placeholder until its author writes it.
use super::{Decoded, Decoder, Limits};
use crate::{Error, ErrorKind, Result, buffer::BufferPool};
use bytes::Bytes;
/// x
#[derive(Debug)]
pub struct Npy;
impl Decoder for Npy {
    fn name(&self) -> &'static str {
        "npy"
    }
    fn suffixes(&self) -> &'static [&'static str] {
        &[".npy"]
    }
    fn decode(&self, _: &Bytes, _: &Limits, _: &BufferPool) -> Result<Decoded> {
        Err(Error::new(ErrorKind::Unsupported, "decode", "npy"))
    }
}
