//! What is drawn at random about a sample.

use super::mix::mix_all;

/// Keeps these seeds apart from everything else that is drawn from the same seed.
const DOMAIN: u64 = 0x5341_4D50_5345_4544; // "SAMPSEED"

/// Seed of whatever a user's function draws about a sample in an epoch; below 2^63, as generators of other languages take it.
///
/// A pure function, so that it is the same on every thread, at every world size, and after a resume.
pub fn sample_seed(seed: u64, epoch: u64, index: u64) -> u64 {
    mix_all(&[DOMAIN, seed, epoch, index]) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_stay_what_they_are_and_differ_by_everything() {
        let seeds = [sample_seed(0, 0, 0), sample_seed(1, 0, 0), sample_seed(0, 1, 0), sample_seed(0, 0, 1)];
        assert_eq!(seeds, GOLDEN);
        assert!(seeds.iter().all(|&seed| i64::try_from(seed).is_ok()));
    }

    const GOLDEN: [u64; 4] =
        [7_443_337_876_512_362_187, 2_136_468_688_317_688_052, 2_586_534_680_502_630_889, 2_502_545_234_923_501_550];
}
