//! Normal random numbers whose bits are the same everywhere.
//!
//! A table of the inverse cumulative distribution at 4,096 steps, read with linear interpolation. The table is made by
//! summing up the density, whose values follow from each other by multiplication alone, so that no platform's `exp` has a say.
//! Beyond the last step (one in 4,096 on either side) the tail is a straight line to ±4.5; what matters here is rounded to
//! eight bits of precision.

use std::sync::LazyLock;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const STEPS: usize = 4096;
const TAIL: f64 = 4.5;
/// Distance of the points at which the density is summed up.
const GRID: f64 = 1.0 / 4096.0;

static TABLE: LazyLock<Vec<f32>> = LazyLock::new(inverse_distribution);

/// A stream of normal numbers, chosen by seed and stream number.
pub(super) struct Normal {
    bits: ChaCha8Rng,
}

impl Normal {
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut bits = ChaCha8Rng::from_seed(key);
        bits.set_stream(stream);
        Self { bits }
    }

    /// A whole number below `bound`, all but equally likely.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.bits.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    pub(super) fn fill(&mut self, values: &mut [f32]) {
        let table = &TABLE[..];
        for value in values {
            let bits = self.bits.next_u32();
            // 12 bits choose the step, 20 the place within it.
            let step = (bits >> 20) as usize;
            let within = (bits & 0xF_FFFF) as f32 / (1 << 20) as f32;
            *value = table[step] + within * (table[step + 1] - table[step]);
        }
    }
}

/// The numbers below which 0/4096, 1/4096 … 4096/4096 of the distribution lie.
fn inverse_distribution() -> Vec<f32> {
    let points = (TAIL / GRID) as usize;
    // density(x + g) = density(x) · exp(-x·g) · exp(-g²/2), and exp(-x·g) gains a factor exp(-g²) per point.
    let (half_square, square) = (exp_of_small(-GRID * GRID / 2.0), exp_of_small(-GRID * GRID));
    let (mut density, mut slope) = (1.0_f64, 1.0_f64);
    let mut cumulative = vec![0.0_f64; points + 1];
    for at in 1..=points {
        let next = density * slope * half_square;
        cumulative[at] = cumulative[at - 1] + f64::midpoint(density, next);
        (density, slope) = (next, slope * square);
    }
    let whole = cumulative[points];
    let mut upper = Vec::with_capacity(STEPS / 2 + 1);
    let mut at = 0;
    for step in 0..STEPS / 2 {
        let wanted = whole * step as f64 / (STEPS / 2) as f64;
        while cumulative[at + 1] < wanted {
            at += 1;
        }
        let within = (wanted - cumulative[at]) / (cumulative[at + 1] - cumulative[at]);
        upper.push(((at as f64 + within) * GRID) as f32);
    }
    upper.push(TAIL as f32);
    let lower = upper[1..].iter().rev().map(|x| -x);
    lower.chain(upper.iter().copied()).collect()
}

/// `exp` for arguments so small that four terms are exact.
fn exp_of_small(x: f64) -> f64 {
    1.0 + x * (1.0 + x / 2.0 * (1.0 + x / 3.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_moments_and_quantiles_of_the_normal_distribution() {
        let mut values = vec![0.0; 1 << 20];
        Normal::new(1, 2).fill(&mut values);
        let moment = |power: i32| values.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.004, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.01, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.1, "fourth moment {}", moment(4));
        let within_one = values.iter().filter(|x| x.abs() < 1.0).count() as f64 / values.len() as f64;
        assert!((within_one - 0.6827).abs() < 0.002, "within one: {within_one}");
    }

    #[test]
    fn streams_and_seeds_differ() {
        let first = |seed, stream| {
            let mut values = [0.0; 4];
            Normal::new(seed, stream).fill(&mut values);
            values.map(f32::to_bits)
        };
        assert_ne!(first(0, 0), first(0, 1));
        assert_ne!(first(0, 0), first(1, 0));
        assert_eq!(first(3, 4), first(3, 4));
    }
}
