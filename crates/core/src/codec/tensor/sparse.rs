//! Blocks most of whose elements are zero.
//!
//! The number of the others (`u32`, little-endian); the length of a frame (`u32`) and the frame, of one bit per element, the lowest
//! bit of a byte first, which is set where the element is not zero; and unless there are none, the others as a block of their own.

use std::cell::RefCell;

use super::block::damaged;
use super::entropy::{self, Coder};
use super::trial::is_zero;
use crate::error::Result;

thread_local! {
    /// Flags, and elements.
    static PARTS: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::default();
}

/// Takes a block apart; `inner` codes the elements that are left.
pub(super) fn encode(
    block: &[u8],
    item: usize,
    out: &mut Vec<u8>,
    inner: impl FnOnce(&[u8], &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    PARTS.with_borrow_mut(|(flags, elements)| {
        flags.clear();
        flags.resize((block.len() / item).div_ceil(8), 0);
        elements.clear();
        for (number, element) in block.chunks_exact(item).enumerate().filter(|(_, element)| !is_zero(element)) {
            flags[number / 8] |= 1 << (number % 8);
            elements.extend_from_slice(element);
        }
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&number(elements.len() / item));
        // By their frequencies where they are strewn, by repeats where they come in rows.
        let mut frame = Vec::new();
        entropy::encode(Coder::Huffman, flags, &mut frame)?;
        let strewn = frame.len();
        entropy::encode(Coder::Repeats, flags, &mut frame)?;
        let frame = if frame.len() < 2 * strewn { &frame[strewn..] } else { &frame[..strewn] };
        out.extend_from_slice(&number(frame.len()));
        out.extend_from_slice(frame);
        if elements.is_empty() { Ok(()) } else { inner(elements, out) }
    })
}

/// Puts a block together in all of `out`; `inner` decodes the elements.
///
/// # Errors
/// `Corrupt` when it is damaged.
pub(super) fn decode(
    block: &[u8],
    item: usize,
    out: &mut [u8],
    inner: impl FnOnce(&[u8], &mut [u8]) -> Result<()>,
) -> Result<()> {
    let early = || damaged("it ends early");
    let number = |at: usize| {
        let bytes = block.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(early)?;
        Ok(u32::from_le_bytes(bytes) as usize)
    };
    let (count, frame_len, all) = (number(0)?, number(4)?, out.len() / item);
    let (frame, rest) = block[8..].split_at_checked(frame_len).ok_or_else(early)?;
    if count > all {
        return Err(damaged("it has more elements than there are places"));
    }
    PARTS.with_borrow_mut(|(flags, elements)| {
        flags.resize(flags.len().max(all.div_ceil(8)), 0);
        let flags = &mut flags[..all.div_ceil(8)];
        entropy::decode(frame, flags)?;
        let is_beyond = all % 8 > 0 && flags.last().is_some_and(|last| last >> (all % 8) > 0);
        if is_beyond || flags.iter().map(|flags| flags.count_ones() as usize).sum::<usize>() != count {
            return Err(damaged("its flags are of other elements"));
        }
        elements.resize(elements.len().max(count * item), 0);
        let elements = &mut elements[..count * item];
        match count {
            0 if rest.is_empty() => {}
            0 => return Err(damaged("it goes on after its end")),
            _ => inner(rest, elements)?,
        }
        out.fill(0);
        match item {
            1 => scatter::<1>(flags, elements, out),
            2 => scatter::<2>(flags, elements, out),
            4 => scatter::<4>(flags, elements, out),
            8 => scatter::<8>(flags, elements, out),
            _ => scatter::<16>(flags, elements, out),
        }
        Ok(())
    })
}

fn scatter<const ITEM: usize>(flags: &[u8], elements: &[u8], out: &mut [u8]) {
    let (elements, _) = elements.as_chunks::<ITEM>();
    let (out, _) = out.as_chunks_mut::<ITEM>();
    let mut elements = elements.iter();
    for (flags, places) in flags.iter().zip(out.chunks_mut(8)) {
        let mut flags = *flags;
        while flags != 0 {
            let at = flags.trailing_zeros() as usize;
            flags &= flags - 1;
            if let (Some(place), Some(element)) = (places.get_mut(at), elements.next()) {
                *place = *element;
            }
        }
    }
}
