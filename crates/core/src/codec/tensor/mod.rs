//! The tensor codec: lossless, by planes of bytes.
//!
//! Plain compressors do little on floats, since what resembles each other is not neighbouring bytes but bytes of one place:
//! signs and exponents, or the zeroes below a short mantissa. So elements are taken apart into [`planes`], and every plane of a
//! [`block`] is a constant, left as it is, or [entropy-coded](entropy): whichever it gains by. A [trial] of small pieces tells
//! beforehand where repeats are worth looking for, in planes or in whole elements (integers, padding), and where so many elements
//! are zero that the others are better taken out ([`sparse`]). Blocks are independent
//! of each other, so that any number of threads code or decode them, and a part of a tensor needs no other part.
//!
//! Decoding a block reads its coded planes, writes them to memory that the core's caches hold, and joins all of them into the
//! place where elements belong: every byte of a tensor is written once, as a copy would.

mod block;
mod entropy;
mod planes;
mod sparse;
mod trial;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

use crate::error::Result;

pub use block::BLOCK_ELEMENTS;
pub use trial::Plan;

/// Bytes of a block of elements of `item` bytes, unless it is the last.
pub const fn block_bytes(item: usize) -> usize {
    BLOCK_ELEMENTS * item
}

/// Codes a block of elements of `item` bytes (1, 2, 4, 8 or 16) and appends it to `out`: at most one byte more than it had.
///
/// # Errors
/// `Corrupt` when the coder fails, which it does not.
pub fn encode_block(block: &[u8], item: usize, plan: &Plan, out: &mut Vec<u8>) -> Result<()> {
    block::encode(block, item, plan, out)
}

/// Decodes a block of elements of `item` bytes into all of `out`.
///
/// # Errors
/// `Corrupt` when it is damaged, too short or too long. Nothing is read or written beyond `block` and `out`.
pub fn decode_block(block: &[u8], item: usize, out: &mut [u8]) -> Result<()> {
    block::decode(block, item, out)
}
