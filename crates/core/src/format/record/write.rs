//! Making records.

use std::cell::RefCell;

use bytes::Bytes;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSlice;
use xxhash_rust::xxh3::xxh3_64;

use super::payload::Payload;
use super::tree::{self, Block, Layout};
use super::{ALIGNMENT, HEAD_BYTES, MAGIC, read};
use crate::buffer::{BufferPool, capacity_for};
use crate::codec::tensor::{Plan, block_bytes, encode_block};
use crate::error::Result;
use crate::value::{Packed, Tensor, Value};

/// Which tensors are coded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compression {
    /// None.
    None,
    /// Those that shrink by this factor at least, as far as pieces of them tell.
    AtLeast(f64),
}

/// What a coded block takes beside its bytes.
const BLOCK_OVERHEAD: usize = 8;
/// Filling up to a multiple of [`ALIGNMENT`] is less than one percent from here on.
const ALIGNED_FROM: usize = 8192;
/// A scratch payload that grew beyond this is not kept.
const KEPT_SCRATCH: usize = 16 << 20;
/// So many bytes of a tensor are worth another thread's while.
const BYTES_OF_A_THREAD: usize = 2 << 20;

thread_local! {
    static SCRATCH: RefCell<(Payload, Vec<u8>)> = RefCell::default();
}

/// Packs a value into memory of `buffers`. On a worker thread, large tensors are coded by some of its pool, into the same bytes. The
/// memory it takes meanwhile, and for an instant both, is that of the value.
///
/// # Errors
/// `Corrupt` when the value is packed itself and damaged.
pub fn pack(value: &Value, compression: Compression, buffers: &BufferPool) -> Result<Packed> {
    // Taken, since a worker that waits for others may pack something else meanwhile.
    let (mut payload, mut plain) = SCRATCH.take();
    payload.clear();
    let mut meta = Vec::new();
    tree::write(value, &mut meta, &mut |tensor| layout(tensor, compression, &mut payload, &mut plain))?;
    let (record, charge) = assemble(&meta, &payload, value.tensor_bytes(), buffers);
    if payload.capacity().max(plain.capacity()) <= KEPT_SCRATCH {
        SCRATCH.set((payload, plain));
    }
    Ok(Packed::in_record(read::open(&record)?, record, charge))
}

/// Memory that the packed value takes at most, all told, before anything is known of how it compresses.
pub fn memory_for(value: &Value) -> usize {
    let (mut tree, mut payload, mut blocks) = (Vec::new(), 0, 0);
    let written = tree::write(value, &mut tree, &mut |tensor| {
        let (item, len) = (tensor.dtype().size(), tensor.tight_len());
        let offset = payload;
        payload += len.next_multiple_of(ALIGNMENT) + ALIGNMENT;
        blocks += len.div_ceil(block_bytes(item));
        let (shape, strides) = (tensor.shape().into(), Some(tensor.tight_strides()));
        let stored = vec![Block { len: 0, checksum: 0 }; len.div_ceil(block_bytes(item))];
        Ok(Layout { dtype: tensor.dtype(), shape, strides, len, offset, is_coded: false, blocks: stored })
    });
    // Nothing fails here. A block that is coded has a byte more at most, and its length in the tree.
    let _ = written;
    let record = (HEAD_BYTES + tree.len() + blocks * BLOCK_OVERHEAD).next_multiple_of(ALIGNMENT) + payload;
    Packed::charge(value, capacity_for(record))
}

/// The record, and the memory that it takes.
fn assemble(meta: &[u8], payload: &Payload, unpacked: usize, buffers: &BufferPool) -> (Bytes, usize) {
    let begin = (HEAD_BYTES + meta.len()).next_multiple_of(ALIGNMENT);
    let mut buffer = buffers.take(begin + payload.len());
    buffer[..4].copy_from_slice(&MAGIC);
    buffer[4..8].copy_from_slice(&u32::try_from(meta.len()).unwrap_or(u32::MAX).to_le_bytes());
    buffer[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    buffer[16..24].copy_from_slice(&(unpacked as u64).to_le_bytes());
    buffer[HEAD_BYTES..HEAD_BYTES + meta.len()].copy_from_slice(meta);
    buffer[HEAD_BYTES + meta.len()..begin].fill(0);
    payload.copy_to(&mut buffer[begin..]);
    let checksum = read::checksum(&buffer[..begin]);
    buffer[24..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    let charge = buffer.capacity();
    (buffer.freeze(), charge)
}

/// What a tensor begins at a multiple of: many small ones would be mostly filling.
fn alignment(item: usize, len: usize) -> usize {
    if len < ALIGNED_FROM { item } else { ALIGNMENT }
}

/// Appends a tensor to the payload.
fn layout(tensor: &Tensor, compression: Compression, payload: &mut Payload, plain: &mut Vec<u8>) -> Result<Layout> {
    let (item, len) = (tensor.dtype().size(), tensor.tight_len());
    let offset = payload.fill_up(alignment(item, len));
    let bytes = if let Some(bytes) = tensor.tight_bytes() {
        bytes
    } else {
        plain.resize(len, 0);
        tensor.copy_tight(plain)?;
        plain
    };
    let strides = tensor.tight_strides();
    let strides = (!tensor.is_contiguous() && tensor.tight_bytes().is_some()).then_some(strides);
    let mut layout = Layout {
        dtype: tensor.dtype(),
        shape: tensor.shape().into(),
        strides,
        len,
        offset,
        is_coded: false,
        blocks: Vec::with_capacity(len.div_ceil(block_bytes(item))),
    };
    let plan = match compression {
        _ if bytes.is_empty() => None,
        Compression::None => None,
        Compression::AtLeast(gain) => Some(Plan::of(bytes, item)?).filter(|plan| plan.gain() >= gain),
    };
    if let Some(plan) = plan {
        layout.is_coded = true;
        layout.blocks = encode(bytes, item, &plan, payload)?;
    } else {
        payload.last().extend_from_slice(bytes);
        let blocks = bytes.chunks(block_bytes(item));
        layout.blocks.extend(blocks.map(|block| Block { len: block.len(), checksum: xxh3_64(block) }));
    }
    Ok(layout)
}

/// Appends a tensor's blocks to the payload.
fn encode(bytes: &[u8], item: usize, plan: &Plan, payload: &mut Payload) -> Result<Vec<Block>> {
    let threads = threads_for(bytes.len());
    if threads == 1 {
        return encode_to(bytes, item, plan, payload.last());
    }
    let share = bytes.len().div_ceil(block_bytes(item)).div_ceil(threads) * block_bytes(item);
    let parts = payload.more(bytes.len().div_ceil(share));
    let shares = bytes.par_chunks(share).zip(parts);
    let blocks = shares.map(|(bytes, part)| encode_to(bytes, item, plan, part));
    Ok(blocks.collect::<Result<Vec<_>>>()?.concat())
}

fn encode_to(bytes: &[u8], item: usize, plan: &Plan, out: &mut Vec<u8>) -> Result<Vec<Block>> {
    let coded = bytes.chunks(block_bytes(item)).map(|block| {
        let from = out.len();
        encode_block(block, item, plan, out)?;
        Ok(Block { len: out.len() - from, checksum: xxh3_64(&out[from..]) })
    });
    coded.collect()
}

/// How many threads share in coding so many bytes: half of the pool that the caller is of, so that a batch finds one that is idle.
fn threads_for(bytes: usize) -> usize {
    let half = rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads() / 2);
    half.min(bytes / BYTES_OF_A_THREAD).max(1)
}
