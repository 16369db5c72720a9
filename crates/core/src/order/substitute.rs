//! Which sample stands in for one that cannot be read.

use super::mix::{below, mix_all};

/// Keeps substitutes apart from everything else that is drawn from the same seed.
const DOMAIN: u64 = 0x5355_4253_5449_5455; // "SUBSTITU"

/// Index of the sample that stands in at a position, for the `attempt`-th time (from 0) that one is needed there.
///
/// A pure function, so that every run substitutes alike. The drawn sample may be the failed one, or fail itself: the
/// next attempt draws again.
pub fn substitute(samples: usize, seed: u64, epoch: u64, position: u64, attempt: u64) -> usize {
    below(mix_all(&[DOMAIN, seed, epoch, position, attempt]), samples as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_what_they_are_and_differ_by_everything() {
        let draw = |seed, epoch, position, attempt| substitute(1_000_000, seed, epoch, position, attempt);
        assert_eq!([draw(0, 0, 0, 0), draw(1, 0, 0, 0), draw(0, 1, 0, 0), draw(0, 0, 1, 0), draw(0, 0, 0, 1)], GOLDEN);
    }

    const GOLDEN: [usize; 5] = [652_736, 967_626, 541_076, 124_239, 17_939];

    #[test]
    fn draws_are_spread_evenly() {
        let mut counts = [0_u32; 10];
        (0..100_000).for_each(|position| counts[substitute(10, 3, 1, position, 0)] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
