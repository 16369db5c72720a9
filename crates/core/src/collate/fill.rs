//! Copying samples to their places in a batch.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::pad;
use super::plan::Leaf;
use crate::error::Result;
use crate::value::{Tensor, Unpack};

/// Less than this is copied faster than another thread is woken.
const MIN_JOB_BYTES: usize = 256 << 10;

/// A part of a batch's buffer and what to write there.
enum Piece<'a> {
    Bytes(&'a mut [u8], &'a [u8]),
    /// From a byte on.
    Packed(&'a mut [u8], &'a dyn Unpack, usize),
    Strided(&'a mut [u8], &'a Tensor),
    Padded(&'a mut [u8], &'a Tensor, &'a [usize]),
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Piece::Bytes(out, _) | Piece::Packed(out, ..) | Piece::Strided(out, _) | Piece::Padded(out, ..) => {
                out.len()
            }
        }
    }

    fn write(self) -> Result<()> {
        match self {
            Piece::Bytes(out, bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            Piece::Packed(out, packed, from) => packed.unpack(from, out),
            Piece::Strided(out, tensor) => tensor.copy_to(out),
            Piece::Padded(out, tensor, full) => pad::copy(tensor, full, out),
        }
    }
}

/// Fills every leaf; on the calling thread alone when there is little to do, else on its pool.
///
/// # Errors
/// `Corrupt` when what is packed is damaged.
pub(super) fn fill(leaves: &mut [Leaf<'_>]) -> Result<()> {
    let mut jobs: Vec<Vec<Piece<'_>>> = Vec::new();
    let mut job_bytes = usize::MAX;
    for piece in leaves.iter_mut().flat_map(pieces) {
        if job_bytes >= MIN_JOB_BYTES {
            jobs.push(Vec::new());
            job_bytes = 0;
        }
        job_bytes += piece.len();
        if let Some(job) = jobs.last_mut() {
            job.push(piece);
        }
    }
    if jobs.len() <= 1 || rayon::current_thread_index().is_none() {
        return jobs.into_iter().flatten().try_for_each(Piece::write);
    }
    jobs.into_par_iter().try_for_each(|job| job.into_iter().try_for_each(Piece::write))
}

/// A leaf's rows; those that are large and contiguous cut up.
fn pieces<'a>(leaf: &'a mut Leaf<'_>) -> Vec<Piece<'a>> {
    let row_bytes = leaf.row_bytes();
    let full = &leaf.shape[1.min(leaf.shape.len())..];
    let mut pieces = Vec::with_capacity(leaf.rows.len());
    for (&tensor, out) in leaf.rows.iter().zip(leaf.buffer.chunks_exact_mut(row_bytes.max(1))) {
        match (tensor.contiguous_bytes(), tensor.packed_bytes()) {
            _ if leaf.is_padded => pieces.push(Piece::Padded(out, tensor, full)),
            (_, Some(packed)) => {
                let step = packed.block_bytes().max(MIN_JOB_BYTES.next_multiple_of(packed.block_bytes()));
                let cut = out.chunks_mut(step).enumerate();
                pieces.extend(cut.map(|(number, out)| Piece::Packed(out, packed, number * step)));
            }
            (Some(bytes), None) => {
                let cut = out.chunks_mut(MIN_JOB_BYTES).zip(bytes.chunks(MIN_JOB_BYTES));
                pieces.extend(cut.map(|(out, bytes)| Piece::Bytes(out, bytes)));
            }
            (None, None) => pieces.push(Piece::Strided(out, tensor)),
        }
    }
    pieces
}
