//! Which sample comes at which position of an epoch, and whose it is.
//!
//! An [`Order`] is a pure function of a position: no state, no memory per sample. [`Sequential`] and [`Shuffled`] are the
//! two there are; [`Partition`] cuts a pass into steps and ranks; [`substitute()`] says what stands in for a sample that
//! cannot be read, [`sample_seed()`] what is drawn about one. All of it is fixed for ever (order version 1 in `docs/formats.md`): nothing here may change what it
//! returns, since runs resume by it.

mod mix;
mod partition;
mod permutation;
mod sample_seed;
mod sequential;
mod shuffled;
mod substitute;

use std::fmt::Debug;

pub use partition::{Partition, Step};
pub use permutation::Permutation;
pub use sample_seed::sample_seed;
pub use sequential::Sequential;
pub use shuffled::Shuffled;
pub use substitute::substitute;

/// The sequence of sample indices of one pass.
pub trait Order: Debug + Send + Sync {
    /// Number of positions.
    fn len(&self) -> usize;

    /// Whether there is no position.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the sample at a position below [`Order::len`].
    fn index_at(&self, position: usize) -> usize;
}
