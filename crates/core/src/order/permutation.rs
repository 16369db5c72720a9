//! A permutation of `0..n` that is computed, not stored.
//!
//! A Feistel network over the smallest grid of nearly equal sides that holds `n` numbers (Black and Rogaway, "Ciphers with
//! arbitrary finite domains", 2002): a number is a cell `(row, column)`, and rounds in turn add a keyed hash of one
//! coordinate to the other. The number of columns is even: on a grid of odd sides every round is an even permutation, and half
//! of all orders would never occur. What lands in a cell beyond `n` is sent through again; as the grid is less than two columns
//! too large, that is rare. No memory per sample, about a hundred nanoseconds per position.
//!
//! This is order version 1 of `docs/formats.md`: it must give the same sequence for ever.

use super::mix::{below, mix, mix_all};

/// With 20 rounds no test here tells the permutations of even two to seven numbers from random ones; with 12, those of five
/// and six are 7 and 20 standard deviations off. Large sets need fewer, but 100 ns per sample are nothing.
const ROUNDS: usize = 20;

/// A permutation of `0..len`, chosen by seed and epoch.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    len: u64,
    rows: u64,
    columns: u64,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` for this seed and epoch.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let root = len.isqrt();
        let rows = (root + u64::from(root * root < len)).max(1);
        let keys = std::array::from_fn(|round| mix_all(&[seed, epoch, len, round as u64]));
        Self { len, rows, columns: len.div_ceil(rows).max(1).next_multiple_of(2), keys }
    }

    /// Where a position is sent.
    ///
    /// # Panics
    /// When `position` is not below the length.
    pub fn at(&self, position: u64) -> u64 {
        assert!(position < self.len, "position {position} of a permutation of {}", self.len);
        let mut number = self.encipher(position);
        while number >= self.len {
            number = self.encipher(number);
        }
        number
    }

    fn encipher(&self, number: u64) -> u64 {
        let (mut row, mut column) = (number / self.columns, number % self.columns);
        for keys in self.keys.as_chunks::<2>().0 {
            row = add(row, below(mix(column ^ keys[0]), self.rows), self.rows);
            column = add(column, below(mix(row ^ keys[1]), self.columns), self.columns);
        }
        row * self.columns + column
    }
}

/// Adds within `0..modulus`; both are below it already.
fn add(a: u64, b: u64, modulus: u64) -> u64 {
    let sum = a + b;
    if sum >= modulus { sum - modulus } else { sum }
}

#[cfg(test)]
mod tests;
