//! Copying samples to their places in a batch.

use super::pad;
use super::plan::Leaf;
use crate::value::Tensor;

/// Less than this is copied faster than another thread is woken.
const MIN_JOB_BYTES: usize = 256 << 10;

/// A part of a batch's buffer and what to write there.
enum Piece<'a> {
    Bytes(&'a mut [u8], &'a [u8]),
    Strided(&'a mut [u8], &'a Tensor),
    Padded(&'a mut [u8], &'a Tensor, &'a [usize]),
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Piece::Bytes(out, _) | Piece::Strided(out, _) | Piece::Padded(out, ..) => out.len(),
        }
    }

    fn write(self) {
        match self {
            Piece::Bytes(out, bytes) => out.copy_from_slice(bytes),
            Piece::Strided(out, tensor) => tensor.copy_to(out),
            Piece::Padded(out, tensor, full) => pad::copy(tensor, full, out),
        }
    }
}

/// Fills every leaf; on the calling thread alone when there is little to do, else on its pool.
pub(super) fn fill(leaves: &mut [Leaf<'_>]) {
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
        return jobs.into_iter().flatten().for_each(Piece::write);
    }
    rayon::scope(|scope| {
        for job in jobs {
            scope.spawn(|_| job.into_iter().for_each(Piece::write));
        }
    });
}

/// A leaf's rows; those that are large and contiguous cut up.
fn pieces<'a>(leaf: &'a mut Leaf<'_>) -> Vec<Piece<'a>> {
    let row_bytes = leaf.row_bytes();
    let full = &leaf.shape[1.min(leaf.shape.len())..];
    let mut pieces = Vec::with_capacity(leaf.rows.len());
    for (&tensor, out) in leaf.rows.iter().zip(leaf.buffer.chunks_exact_mut(row_bytes.max(1))) {
        match tensor.contiguous_bytes() {
            _ if leaf.is_padded => pieces.push(Piece::Padded(out, tensor, full)),
            Some(bytes) => {
                let cut = out.chunks_mut(MIN_JOB_BYTES).zip(bytes.chunks(MIN_JOB_BYTES));
                pieces.extend(cut.map(|(out, bytes)| Piece::Bytes(out, bytes)));
            }
            None => pieces.push(Piece::Strided(out, tensor)),
        }
    }
    pieces
}
