//! The manifest's own order.

use super::Order;

/// Sample `n` at position `n`.
#[derive(Debug, Clone, Copy)]
pub struct Sequential {
    samples: usize,
}

impl Sequential {
    /// The order of a dataset of so many samples.
    pub fn new(samples: usize) -> Self {
        Self { samples }
    }
}

impl Order for Sequential {
    fn len(&self) -> usize {
        self.samples
    }

    fn index_at(&self, position: usize) -> usize {
        position
    }
}
