use std::collections::HashSet;

use super::*;

fn all(len: u64, seed: u64, epoch: u64) -> Vec<u64> {
    let permutation = Permutation::new(len, seed, epoch);
    (0..len).map(|position| permutation.at(position)).collect()
}

/// Pearson's statistic in standard deviations above its expectation: a sound generator stays within a few.
fn excess(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let chi: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
    let freedom = counts.len() as f64 - 1.0;
    (chi - freedom) / (2.0 * freedom).sqrt()
}

/// The golden sequences: only ever added to. A change here breaks the resumption of everybody's runs.
#[test]
fn sequences_stay_what_they_are_for_ever() {
    assert_eq!(all(10, 0, 0), GOLDEN_10[0]);
    assert_eq!(all(10, 0, 1), GOLDEN_10[1]);
    assert_eq!(all(10, 1, 0), GOLDEN_10[2]);
    let large = Permutation::new(1_000_000_007, 42, 3);
    let picked: Vec<_> = [0, 1, 2, 500_000_000, 1_000_000_006].map(|position| large.at(position)).into();
    assert_eq!(picked, GOLDEN_LARGE);
}

const GOLDEN_10: [[u64; 10]; 3] =
    [[1, 2, 5, 3, 8, 6, 7, 9, 0, 4], [4, 1, 9, 5, 6, 0, 8, 7, 2, 3], [8, 7, 3, 2, 5, 6, 1, 0, 9, 4]];
const GOLDEN_LARGE: [u64; 5] = [173_305_552, 832_701_509, 785_372_366, 441_482_541, 681_059_869];

#[test]
fn every_number_comes_exactly_once() {
    for len in (1..=300).chain([1_000, 4_095, 4_096, 4_097, 65_537, 1_000_003]) {
        let mut seen = vec![false; len as usize];
        for number in all(len, 7, len) {
            assert!(!std::mem::replace(&mut seen[number as usize], true), "{number} twice of {len}");
        }
    }
}

#[test]
fn nothing_repeats_within_a_billion() {
    let permutation = Permutation::new(1_000_000_000, 3, 1);
    let seen: HashSet<_> = (0..1 << 20).map(|position| permutation.at(position * 953)).collect();
    assert_eq!(seen.len(), 1 << 20);
    assert!(seen.iter().all(|&number| number < 1_000_000_000));
}

#[test]
fn every_position_gets_every_number_equally_often() {
    const SEEDS: u64 = 40_000;
    for len in [2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31] {
        let mut counts = vec![vec![0; len as usize]; len as usize];
        for seed in 0..SEEDS {
            for (position, &number) in all(len, seed, 0).iter().enumerate() {
                counts[position][number as usize] += 1;
            }
        }
        for (position, counts) in counts.iter().enumerate() {
            assert!(excess(counts) < 6.0, "position {position} of {len}: {counts:?}");
        }
    }
}

#[test]
fn every_permutation_of_a_few_numbers_is_equally_likely() {
    for (len, permutations) in [(2_u64, 2_usize), (3, 6), (4, 24), (5, 120), (6, 720), (7, 5_040)] {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..100_000 {
            *counts.entry(all(len, seed, 5)).or_insert(0_u64) += 1;
        }
        assert_eq!(counts.len(), permutations, "of {len}");
        let counts: Vec<_> = counts.into_values().collect();
        assert!(excess(&counts) < 6.0, "permutations of {len}: {}", excess(&counts));
    }
}

/// On a grid of odd sides all rounds are even permutations; this is what the even number of columns is for.
#[test]
fn half_of_all_permutations_are_odd() {
    for len in [9, 25, 49, 121] {
        let odd = (0..2_000).filter(|&seed| is_odd(&all(len, seed, 0))).count();
        assert!((880..=1_120).contains(&odd), "{odd} of 2000 permutations of {len} are odd");
    }
}

fn is_odd(numbers: &[u64]) -> bool {
    let inversions = |(at, a): (usize, &u64)| numbers[at + 1..].iter().filter(|&b| a > b).count();
    numbers.iter().enumerate().map(inversions).sum::<usize>() % 2 == 1
}

#[test]
fn neighbours_are_no_nearer_than_chance() {
    const BINS: u64 = 50;
    for len in [1_001_u64, 1_000_001, 1_000_000_001] {
        let mut counts = vec![0; BINS as usize];
        for seed in 0..200 {
            let permutation = Permutation::new(len, seed, 0);
            for position in 0..500 {
                let (a, b) = (permutation.at(position), permutation.at(position + 1));
                let distance = (b + len - a) % len - 1;
                counts[(distance / ((len - 1) / BINS)) as usize] += 1;
            }
        }
        assert!(excess(&counts) < 6.0, "{len}: {counts:?}");
    }
}

#[test]
fn an_epoch_tells_nothing_about_the_next() {
    const LEN: u64 = 2_000;
    let mut same = 0;
    let mut correlation = 0.0;
    for epoch in 0..200 {
        let (this, next) = (all(LEN, 11, epoch), all(LEN, 11, epoch + 1));
        same += this.iter().zip(&next).filter(|(a, b)| a == b).count();
        let centred = |&number: &u64| number as f64 - (LEN - 1) as f64 / 2.0;
        let covariance: f64 = this.iter().zip(&next).map(|(a, b)| centred(a) * centred(b)).sum();
        let variance: f64 = this.iter().map(|number| centred(number).powi(2)).sum();
        correlation += covariance / variance / 200.0;
    }
    // Fixed points between two random permutations: one on average, with variance one.
    assert!((130..=270).contains(&same), "{same} positions kept their number over 200 epochs");
    assert!(correlation.abs() < 0.01, "{correlation}");
}
