//! No compression.

use bytes::Bytes;

use super::Codec;
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};

/// Leaves bytes as they are; decoding shares its input and copies nothing.
#[derive(Debug)]
pub struct None;

impl Codec for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn suffix(&self) -> &'static str {
        ""
    }

    fn encode(&self, input: &[u8]) -> Result<Vec<u8>> {
        Ok(input.to_vec())
    }

    fn decode(&self, input: &Bytes, max_bytes: usize, _: &BufferPool) -> Result<Bytes> {
        if input.len() > max_bytes {
            return Err(Error::new(ErrorKind::Corrupt, "take", format_args!("{} bytes", input.len()))
                .because(format_args!("the limit is {max_bytes} bytes")));
        }
        Ok(input.clone())
    }
}
