//! The one hash behind every order, fixed for ever.
//!
//! Stafford's variant 13 of the 64-bit finaliser, as in `SplitMix64` (Steele, Lea, Flood 2014): every input bit changes every
//! output bit with probability one half. Orders are promised to stay what they are, so this must never change; the golden
//! sequences in `permutation` hold it.

/// The increment of `SplitMix64`: 2^64 divided by the golden ratio, odd.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes one word.
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Mixes several words into one; the order of the words matters.
pub(super) fn mix_all(words: &[u64]) -> u64 {
    words.iter().fold(GAMMA, |state, &word| mix(state.wrapping_add(GAMMA) ^ mix(word.wrapping_add(GAMMA))))
}

/// Maps a mixed word to `0..bound` (Lemire's multiply-shift; the bias is below `bound / 2^64`).
pub(super) fn below(word: u64, bound: u64) -> u64 {
    ((u128::from(word) * u128::from(bound)) >> 64) as u64
}
