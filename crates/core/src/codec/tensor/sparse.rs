//! Blocks most of whose elements are zero.
//!
//! The number of the others (`u32`, little-endian); the length of a frame (`u32`) and the frame, of one bit per element, the lowest
//! bit of a byte first, which is set where the element is not zero; the same of the signs of the zeros, in order, whose length is 0
//! when all are positive; and unless there are none, the others as a block of their own. Zero is whatever has no bit set but the
//! highest: masks that are multiplied with leave negative zeros behind.

use std::cell::RefCell;

use super::block::damaged;
use super::entropy::{self, Coder};
use super::trial::{is_negative, is_zero};
use crate::error::{Error, Result};

thread_local! {
    static PARTS: RefCell<Parts> = RefCell::default();
}

#[derive(Default)]
struct Parts {
    flags: Vec<u8>,
    signs: Vec<u8>,
    elements: Vec<u8>,
}

/// Takes a block apart; `inner` codes the elements that are left.
pub(super) fn encode(
    block: &[u8],
    item: usize,
    out: &mut Vec<u8>,
    inner: impl FnOnce(&[u8], &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    PARTS.with_borrow_mut(|Parts { flags, signs, elements }| {
        let take_apart = match item {
            1 => take_apart::<1>,
            2 => take_apart::<2>,
            4 => take_apart::<4>,
            8 => take_apart::<8>,
            _ => take_apart::<16>,
        };
        take_apart(block, flags, signs, elements);
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&number(elements.len() / item));
        for bits in [&*flags, &*signs] {
            // By their frequencies where they are strewn, by repeats where they come in rows.
            let mut frame = Vec::new();
            let mut strewn = 0;
            if !bits.is_empty() {
                entropy::encode(Coder::Huffman, bits, &mut frame)?;
                strewn = frame.len();
                entropy::encode(Coder::Repeats, bits, &mut frame)?;
            }
            let frame = if frame.len() < 2 * strewn { &frame[strewn..] } else { &frame[..strewn] };
            out.extend_from_slice(&number(frame.len()));
            out.extend_from_slice(frame);
        }
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
    let mut rest = block;
    let number = |rest: &mut &[u8]| {
        let (number, after) = rest.split_first_chunk().ok_or_else(early)?;
        *rest = after;
        Ok::<_, Error>(u32::from_le_bytes(*number) as usize)
    };
    let frame = |rest: &mut _| {
        let len = number(rest)?;
        let (frame, after) = rest.split_at_checked(len).ok_or_else(early)?;
        *rest = after;
        Ok::<_, Error>(frame)
    };
    let (count, all) = (number(&mut rest)?, out.len() / item);
    let (flags_frame, signs_frame) = (frame(&mut rest)?, frame(&mut rest)?);
    if count > all {
        return Err(damaged("it has more elements than there are places"));
    }
    PARTS.with_borrow_mut(|Parts { flags, signs, elements }| {
        flags.resize(flags.len().max(all.div_ceil(8)), 0);
        let flags = &mut flags[..all.div_ceil(8)];
        entropy::decode(flags_frame, flags)?;
        let is_beyond = all % 8 > 0 && flags.last().is_some_and(|last| last >> (all % 8) > 0);
        if is_beyond || flags.iter().map(|flags| flags.count_ones() as usize).sum::<usize>() != count {
            return Err(damaged("its flags are of other elements"));
        }
        signs.resize(signs.len().max((all - count).div_ceil(8)), 0);
        let signs = &mut signs[..(all - count).div_ceil(8)];
        if !signs_frame.is_empty() {
            entropy::decode(signs_frame, signs)?;
        }
        elements.resize(elements.len().max(count * item), 0);
        let elements = &mut elements[..count * item];
        match count {
            0 if rest.is_empty() => {}
            0 => return Err(damaged("it goes on after its end")),
            _ => inner(rest, elements)?,
        }
        out.fill(0);
        let signs = if signs_frame.is_empty() { &[][..] } else { signs };
        match item {
            1 => put_together::<1>(flags, signs, elements, out),
            2 => put_together::<2>(flags, signs, elements, out),
            4 => put_together::<4>(flags, signs, elements, out),
            8 => put_together::<8>(flags, signs, elements, out),
            _ => put_together::<16>(flags, signs, elements, out),
        }
        Ok(())
    })
}

/// Flags, signs of zeros, none when all are positive, and the elements that are not zero. Without branches: what comes next is
/// anybody's guess.
fn take_apart<const ITEM: usize>(block: &[u8], flags: &mut Vec<u8>, signs: &mut Vec<u8>, elements: &mut Vec<u8>) {
    let (places, _) = block.as_chunks::<ITEM>();
    for bits in [&mut *flags, &mut *signs] {
        bits.clear();
        // One more than there are, for what comes after the last.
        bits.resize(places.len() / 8 + 1, 0);
    }
    elements.resize(block.len() + ITEM, 0);
    let (left, _) = elements.as_chunks_mut::<ITEM>();
    let (mut count, mut zeros, mut any) = (0, 0, 0);
    for (flags, places) in flags.iter_mut().zip(places.chunks(8)) {
        for (number, element) in places.iter().enumerate() {
            let is_left = usize::from(!is_zero(element));
            *flags |= (is_left as u8) << number;
            left[count] = *element;
            count += is_left;
            let sign = u8::from(is_negative(element)) & (1 - is_left as u8);
            signs[zeros / 8] |= sign << (zeros % 8);
            any |= sign;
            zeros += 1 - is_left;
        }
    }
    flags.truncate(places.len().div_ceil(8));
    elements.truncate(count * ITEM);
    signs.truncate(if any > 0 { zeros.div_ceil(8) } else { 0 });
}

fn put_together<const ITEM: usize>(flags: &[u8], signs: &[u8], elements: &[u8], out: &mut [u8]) {
    scatter::<ITEM>(flags, elements, out);
    if signs.is_empty() {
        return;
    }
    let (out, _) = out.as_chunks_mut::<ITEM>();
    let mut zeros = 0;
    for (flags, places) in flags.iter().zip(out.chunks_mut(8)) {
        let byte = |at: usize| u16::from(signs.get(at).copied().unwrap_or_default());
        let mut signs = (byte(zeros / 8) | byte(zeros / 8 + 1) << 8) >> (zeros % 8);
        let mut others = !flags;
        for element in places {
            let is_zero = others & 1;
            element[ITEM - 1] |= (signs as u8 & is_zero) << 7;
            signs >>= is_zero;
            zeros += usize::from(is_zero);
            others >>= 1;
        }
    }
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
