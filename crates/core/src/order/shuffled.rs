//! A new random order every epoch.

use super::{Order, Permutation};

/// Samples in the order of a [`Permutation`], which seed and epoch choose.
#[derive(Debug, Clone, Copy)]
pub struct Shuffled {
    samples: usize,
    permutation: Permutation,
}

impl Shuffled {
    /// The order of an epoch.
    pub fn new(samples: usize, seed: u64, epoch: u64) -> Self {
        Self { samples, permutation: Permutation::new(samples as u64, seed, epoch) }
    }
}

impl Order for Shuffled {
    fn len(&self) -> usize {
        self.samples
    }

    fn index_at(&self, position: usize) -> usize {
        self.permutation.at(position as u64) as usize
    }
}
