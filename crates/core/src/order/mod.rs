//! Which sample comes at which position of an epoch.
//!
//! An [`Order`] is a pure function of a position: no state, no memory per sample. One implementation per file.

mod sequential;

use std::fmt::Debug;

pub use sequential::Sequential;

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
