//! What to do with a tensor, found out on small pieces of it.

use super::entropy::{self, Coder};
use super::planes::split;
use crate::error::Result;

/// Bytes of the largest element.
pub(super) const MOST_PLANES: usize = 16;
/// Elements of a piece that is tried.
const PIECE_ELEMENTS: usize = 4096;
/// Of small tensors, at most this share is tried.
const SHARE: usize = 16;
/// Beyond this share of elements that are not zero, their places cost more than they save.
const MOST_OF_SPARSE: f64 = 0.7;
/// Repeats must save this much more than frequencies alone: they take several times as long.
const WORTH_IT: f64 = 0.9;

/// How the blocks of a tensor are coded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// Not in planes: repeats of whole elements are what there is to find.
    pub(super) is_whole: bool,
    /// Most elements are zero, here and there.
    pub(super) is_sparse: bool,
    pub(super) coders: [Coder; MOST_PLANES],
    pub(super) gain: f64,
}

impl Plan {
    /// The factor by which the pieces would shrink.
    pub fn gain(&self) -> f64 {
        self.gain
    }

    /// Tries a piece before and one after the middle.
    ///
    /// # Errors
    /// `Corrupt` when the coder fails, which it does not.
    pub fn of(bytes: &[u8], item: usize) -> Result<Self> {
        let elements = bytes.len() / item;
        let piece = PIECE_ELEMENTS.min(elements / SHARE);
        let mut plan = Self { gain: 1.0, ..Self::default() };
        if piece < 64 {
            return Ok(plan);
        }
        let mut memory = vec![0; piece * item];
        let mut coded = Vec::new();
        let (mut in_planes, mut whole, mut sparse) = (0.0, 0.0, 0.0);
        let (mut plainly, mut repeating) = ([0.0; MOST_PLANES], [0.0; MOST_PLANES]);
        for third in 1..=2 {
            let from = (elements - piece) * third / 3 * item;
            let tried = &bytes[from..from + piece * item];
            let mut planes: Vec<&mut [u8]> = memory.chunks_exact_mut(piece).collect();
            split(tried, &mut planes);
            whole += coded_len(tried, &mut coded)?;
            sparse += sparse_len(tried, item);
            for (number, plane) in planes.iter().enumerate() {
                let bits = bits_per_byte(plane);
                // No code is shorter than a bit.
                let alone = if bits > 0.0 { bits.max(1.0) / 8.0 * piece as f64 } else { 0.0 };
                plainly[number] += alone;
                repeating[number] += if bits > 0.0 && bits < 7.9 { coded_len(plane, &mut coded)? } else { alone };
            }
        }
        for (number, coder) in plan.coders.iter_mut().enumerate().take(item) {
            let repeats = repeating[number] < WORTH_IT * plainly[number];
            *coder = if repeats { Coder::Repeats } else { Coder::Huffman };
            in_planes += if repeats { repeating[number] } else { plainly[number] };
        }
        plan.is_whole = whole < WORTH_IT * in_planes;
        plan.is_sparse = sparse < WORTH_IT * in_planes.min(whole);
        // Blocks have heads, and what is nothing but constants must not be infinitely good.
        let coded = if plan.is_whole { whole } else { in_planes };
        let coded = if plan.is_sparse { sparse } else { coded } + 8.0 * item as f64;
        plan.gain = (2 * piece * item) as f64 / coded;
        Ok(plan)
    }
}

/// What a bit per element, the signs of zeros and the planes of what is not zero would take.
fn sparse_len(bytes: &[u8], item: usize) -> f64 {
    let elements = bytes.len() / item;
    let dense: Vec<u8> = bytes.chunks_exact(item).filter(|element| !is_zero(element)).flatten().copied().collect();
    let left = dense.len() / item;
    let share = left as f64 / elements as f64;
    if share > MOST_OF_SPARSE || left < 64 {
        return f64::INFINITY;
    }
    let zeros = (elements - left) as f64;
    let negative = bytes.chunks_exact(item).filter(|element| is_zero(element) && is_negative(element)).count() as f64;
    // A frame of eight flags a byte comes near to that.
    let flags = 1.05 * (bits_of(share) * elements as f64 + bits_of(negative / zeros) * zeros) / 8.0;
    let mut memory = vec![0; dense.len()];
    let mut planes: Vec<&mut [u8]> = memory.chunks_exact_mut(left).collect();
    split(&dense, &mut planes);
    flags + planes.iter().map(|plane| bits_per_byte(plane) / 8.0 * left as f64).sum::<f64>()
}

/// Bits that a flag takes which is set so often.
fn bits_of(share: f64) -> f64 {
    let part = |share: f64| if share > 0.0 { -share * share.log2() } else { 0.0 };
    part(share) + part(1.0 - share)
}

/// Whether no bit is set but the highest.
pub(super) fn is_zero(element: &[u8]) -> bool {
    element.split_last().is_none_or(|(last, others)| last << 1 == 0 && others.iter().all(|&byte| byte == 0))
}

/// Whether the highest bit is set.
pub(super) fn is_negative(element: &[u8]) -> bool {
    element.last().is_some_and(|last| last >> 7 == 1)
}

fn coded_len(bytes: &[u8], coded: &mut Vec<u8>) -> Result<f64> {
    coded.clear();
    entropy::encode(Coder::Repeats, bytes, coded)?;
    Ok(coded.len() as f64)
}

/// Bits per byte that the frequencies of bytes allow for, not less than is likely of a longer run of them.
pub(super) fn bits_per_byte(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    bytes.iter().for_each(|&byte| counts[byte as usize] += 1);
    let total = bytes.len() as f64;
    let used = counts.iter().filter(|&&count| count > 0).count();
    if used < 2 {
        return 0.0;
    }
    let bits: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| f64::from(count) / total)
        .map(|share| -share * share.log2())
        .sum();
    // Few bytes look more regular than they are.
    (bits + (used - 1) as f64 / (2.0 * std::f64::consts::LN_2 * total)).min(8.0)
}
