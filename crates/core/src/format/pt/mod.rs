//! Placeholder until its author writes it.
use super::{Decoded, Decoder, Limits};
use crate::{Error, ErrorKind, Result, buffer::BufferPool};
use bytes::Bytes;
/// x
#[derive(Debug)]
pub struct Pt;
impl Decoder for Pt {
    fn name(&self) -> &'static str {
        "pt"
    }
    fn suffixes(&self) -> &'static [&'static str] {
        &[".pt"]
    }
    fn decode(&self, _: &Bytes, _: &Limits, _: &BufferPool) -> Result<Decoded> {
        Err(Error::new(ErrorKind::Unsupported, "decode", "pt"))
    }
}
