//! Reading records.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::tree::{Layout, Reader};
use super::{ALIGNMENT, HEAD_BYTES, MAGIC, damaged};
use crate::codec::tensor::{block_bytes, decode_block};
use crate::error::{Error, Result};
use crate::value::{Tensor, Unpack, Value, row_major};

thread_local! {
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Of the head without the checksum, and of the tree with what fills it up.
pub(super) fn checksum(head_and_tree: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&head_and_tree[..HEAD_BYTES - 8]);
    hash.update(&head_and_tree[HEAD_BYTES..]);
    hash.digest()
}

/// Reads a record's tree. Tensors are views of the record, or are unpacked from it when they are copied.
///
/// # Errors
/// `Corrupt` when head or tree are damaged, the record has another length than it says, or says what cannot be.
pub fn open(record: &Bytes) -> Result<Value> {
    walk(record, &mut |layout, bytes| tensor(layout, bytes).map(Value::Tensor))
}

/// Reads all of a record and compares every checksum.
///
/// # Errors
/// `Corrupt` when anything is damaged.
pub fn verify(record: &Bytes) -> Result<()> {
    let value = walk(record, &mut |layout, bytes| {
        let mut rest = &bytes[..];
        for (number, block) in layout.blocks.iter().enumerate() {
            let (bytes, after) = rest.split_at(block.len);
            rest = after;
            if xxh3_64(bytes) != block.checksum {
                return Err(damaged(format_args!("block {number} of {}{:?} is", layout.dtype, layout.shape)));
            }
        }
        tensor(layout, bytes).map(Value::Tensor)
    });
    value.map(drop)
}

fn walk(record: &Bytes, tensor: &mut impl FnMut(Layout, Bytes) -> Result<Value>) -> Result<Value> {
    let head = record.first_chunk::<HEAD_BYTES>().ok_or_else(|| damaged("it is too short"))?;
    if head[..4] != MAGIC {
        return Err(damaged("it does not begin like one of this version"));
    }
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
    let tree_len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let begin = (HEAD_BYTES + tree_len).next_multiple_of(ALIGNMENT);
    if record.len().checked_sub(begin).map(|len| len as u64) != Some(number(8)) {
        return Err(damaged(format_args!("it has {} bytes, other than it says", record.len())));
    }
    if checksum(&record[..begin]) != number(24) {
        return Err(damaged("its tree is"));
    }
    let payload = record.slice(begin..);
    let mut reader = Reader(&record[HEAD_BYTES..HEAD_BYTES + tree_len]);
    let value = reader.value(0, &mut |layout| {
        let stored = layout.blocks.iter().try_fold(0_usize, |sum, block| sum.checked_add(block.len));
        let end = stored.and_then(|stored| stored.checked_add(layout.offset)).filter(|&end| end <= payload.len());
        let end = end.ok_or_else(|| damaged("a tensor lies beyond its end"))?;
        if !layout.len.is_multiple_of(layout.dtype.size()) {
            return Err(damaged("a tensor has a part of an element"));
        }
        let bytes = payload.slice(layout.offset..end);
        tensor(layout, bytes)
    })?;
    if reader.0.is_empty() { Ok(value) } else { Err(damaged("its tree goes on after its end")) }
}

fn tensor(layout: Layout, bytes: Bytes) -> Result<Tensor> {
    let strides = layout.strides.unwrap_or_else(|| row_major(&layout.shape));
    if !layout.is_coded {
        return Tensor::new(layout.dtype, &layout.shape, &strides, bytes, 0).map_err(damaged);
    }
    let mut end = 0;
    let ends = layout.blocks.iter().map(|block| {
        end += block.len;
        end
    });
    let blocks = Blocks { ends: ends.collect(), bytes, item: layout.dtype.size(), len: layout.len };
    Tensor::packed(layout.dtype, &layout.shape, &strides, Arc::new(blocks)).map_err(damaged)
}

/// The coded bytes of a tensor.
#[derive(Debug)]
struct Blocks {
    bytes: Bytes,
    /// Where each ends in them.
    ends: Box<[usize]>,
    item: usize,
    len: usize,
}

impl Blocks {
    fn block(&self, number: usize) -> &[u8] {
        let from = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.bytes[from..self.ends[number]]
    }
}

impl Unpack for Blocks {
    fn len(&self) -> usize {
        self.len
    }

    fn block_bytes(&self) -> usize {
        block_bytes(self.item)
    }

    fn unpack(&self, from: usize, out: &mut [u8]) -> Result<()> {
        let (block_bytes, mut at, mut rest) = (self.block_bytes(), from, out);
        while !rest.is_empty() {
            let (number, skipped) = (at / block_bytes, at % block_bytes);
            let whole = (self.len.saturating_sub(number * block_bytes)).min(block_bytes);
            let wanted = whole.saturating_sub(skipped).min(rest.len());
            if wanted == 0 {
                return Err(damaged("a tensor ends early"));
            }
            let (out, after) = rest.split_at_mut(wanted);
            if wanted == whole {
                decode_block(self.block(number), self.item, out)?;
            } else {
                BLOCK.with_borrow_mut(|block| {
                    block.resize(whole, 0);
                    decode_block(self.block(number), self.item, block)?;
                    out.copy_from_slice(&block[skipped..skipped + wanted]);
                    Ok::<_, Error>(())
                })?;
            }
            (rest, at) = (after, at + wanted);
        }
        Ok(())
    }
}
