//! Values kept for their next use.
//!
//! A [`Cache`] is asked before anything is read and told after something was. It knows units by number, never where they
//! come from or how they decode; the dataset brings the two together. One implementation per file; [`None`] is the one that
//! keeps nothing.

mod none;

use std::fmt::Debug;

use crate::value::Value;

pub use none::None;

/// One value of the dataset: field `field` of sample `sample`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnitId {
    /// Index of the sample in the manifest.
    pub sample: usize,
    /// Number of the field.
    pub field: usize,
}

/// Keeps values for their next use.
pub trait Cache: Debug + Send + Sync {
    /// The value, if it is there. What is handed out is the caller's own: nothing that is written to it comes back.
    fn get(&self, unit: UnitId) -> Option<Value>;

    /// Offers a value that was just read. The cache may decline.
    fn offer(&self, unit: UnitId, value: &Value);
}
