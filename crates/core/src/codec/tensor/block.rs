//! One block: some elements, coded by themselves.
//!
//! A block begins with how it is laid out. In planes, the tags of all planes follow, then what each needs, in order: a constant
//! its byte, a plane as it is its bytes, a coded one the length of its frame (`u32`, little-endian) and the frame. Of a sparse
//! block a bit per element says which are not zero; those follow as a block of their own ([`sparse`]). A block that gains nothing
//! is its bytes as they are.

use std::cell::RefCell;

use super::entropy::{self, Coder};
use super::planes::{Plane, join, split};
use super::sparse;
use super::trial::{MOST_PLANES, Plan, bits_per_byte};
use crate::error::{Error, ErrorKind, Result};

/// Elements of a block: planes of it fit the caches of a core, and one is enough to keep a core busy.
pub const BLOCK_ELEMENTS: usize = 1 << 16;

const AS_IT_IS: u8 = 0;
const IN_PLANES: u8 = 1;
const CODED: u8 = 2;
const SPARSE: u8 = 3;

const CONSTANT: u8 = 0;
const PLAIN: u8 = 1;
const FRAME: u8 = 2;

/// A plane whose bytes need this much of their eight bits is not worth coding.
const INCOMPRESSIBLE: f64 = 7.9;
/// So many bytes tell whether a plane is one of those.
const LOOKED_AT: usize = 4096;

thread_local! {
    static PLANES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Codes a block and appends it to `out`.
pub(super) fn encode(block: &[u8], item: usize, plan: &Plan, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    if plan.is_sparse {
        out.push(SPARSE);
        let dense = Plan::default();
        sparse::encode(block, item, out, |elements, out| encode(elements, item, &dense, out))?;
    } else if plan.is_whole {
        out.push(CODED);
        entropy::encode(Coder::Repeats, block, out)?;
    } else {
        PLANES.with_borrow_mut(|memory| encode_planes(block, item, plan, memory, out))?;
    }
    // A gain of less would not pay for decoding it.
    if out.len() - start > block.len() - block.len() / 64 {
        out.truncate(start);
        out.push(AS_IT_IS);
        out.extend_from_slice(block);
    }
    Ok(())
}

fn encode_planes(block: &[u8], item: usize, plan: &Plan, memory: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
    let count = block.len() / item;
    memory.resize(memory.len().max(block.len()), 0);
    let mut planes: Vec<&mut [u8]> = memory[..block.len()].chunks_exact_mut(count.max(1)).collect();
    split(block, &mut planes);
    out.push(IN_PLANES);
    let tags = out.len();
    out.resize(tags + item, PLAIN);
    for (number, plane) in planes.iter().enumerate() {
        if is_constant(plane) {
            out[tags + number] = CONSTANT;
            out.push(plane.first().copied().unwrap_or_default());
            continue;
        }
        let at = out.len();
        if bits_per_byte(sample(plane)) < INCOMPRESSIBLE || plan.coders[number] == Coder::Repeats {
            out.extend_from_slice(&[0; 4]);
            entropy::encode(plan.coders[number], plane, out)?;
            let len = out.len() - at - 4;
            if len + 4 < count - count / 64 {
                out[at..at + 4].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
                out[tags + number] = FRAME;
                continue;
            }
            out.truncate(at);
        }
        out.extend_from_slice(plane);
    }
    Ok(())
}

/// The middle of a plane.
fn sample(plane: &[u8]) -> &[u8] {
    let len = plane.len().min(LOOKED_AT);
    let from = (plane.len() - len) / 2;
    &plane[from..from + len]
}

fn is_constant(plane: &[u8]) -> bool {
    let Some(&first) = plane.first() else { return true };
    plane.chunks(512).all(|chunk| chunk.iter().fold(0, |other, byte| other | (byte ^ first)) == 0)
}

/// Decodes a block into all of `out`.
///
/// # Errors
/// `Corrupt` when it is damaged, too short or too long.
pub(super) fn decode(block: &[u8], item: usize, out: &mut [u8]) -> Result<()> {
    match block.split_first() {
        Some((&SPARSE, rest)) => sparse::decode(rest, item, out, |block, elements| decode_dense(block, item, elements)),
        _ => decode_dense(block, item, out),
    }
}

/// Decodes what is no sparse block, as the elements of one are not.
fn decode_dense(block: &[u8], item: usize, out: &mut [u8]) -> Result<()> {
    match block.split_first() {
        Some((&AS_IT_IS, bytes)) if bytes.len() == out.len() => {
            out.copy_from_slice(bytes);
            Ok(())
        }
        Some((&CODED, frame)) => entropy::decode(frame, out),
        Some((&IN_PLANES, rest)) => PLANES.with_borrow_mut(|memory| decode_planes(rest, item, memory, out)),
        _ => Err(damaged("it has another length or layout")),
    }
}

fn decode_planes(block: &[u8], item: usize, memory: &mut Vec<u8>, out: &mut [u8]) -> Result<()> {
    let count = out.len() / item;
    memory.resize(memory.len().max(out.len()), 0);
    let (tags, mut rest) = block.split_at_checked(item).ok_or_else(|| damaged("it ends early"))?;
    let mut take = |len: usize| {
        let (taken, after) = rest.split_at_checked(len).ok_or_else(|| damaged("it ends early"))?;
        rest = after;
        Ok::<_, Error>(taken)
    };
    let mut planes = [Plane::Constant(0); MOST_PLANES];
    let mut rooms = memory[..out.len()].chunks_exact_mut(count.max(1));
    for (plane, tag) in planes.iter_mut().zip(tags) {
        *plane = match *tag {
            CONSTANT => Plane::Constant(take(1)?[0]),
            PLAIN => Plane::Bytes(take(count)?),
            FRAME => {
                let len = take(4)?.try_into().map(u32::from_le_bytes).unwrap_or_default();
                let frame = take(len as usize)?;
                let room = rooms.next().ok_or_else(|| damaged("it has too many planes"))?;
                entropy::decode(frame, room)?;
                Plane::Bytes(room)
            }
            _ => return Err(damaged("a plane has an unknown coding")),
        };
    }
    if !rest.is_empty() {
        return Err(damaged("it goes on after its end"));
    }
    join(&planes[..item], out);
    Ok(())
}

pub(super) fn damaged(words: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "decode", "tensor block").because(words)
}
