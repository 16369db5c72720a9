//! What a loader hands out.

use std::sync::Arc;

use crate::sample::Sample;
use crate::value::Value;

/// One batch of one rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The pass it belongs to.
    pub epoch: u64,
    /// Index of each sample in the manifest.
    pub indices: Vec<usize>,
    /// Which of them are pads: they repeat samples so that all ranks have equally many. `None` with `drop_last`, where there are
    /// none.
    pub pads: Option<Vec<bool>>,
    /// The samples.
    pub content: Content,
}

/// The samples of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Put together: one value per field.
    Fields(Vec<(Arc<str>, Value)>),
    /// Apart, for whoever puts them together otherwise. Their memory is theirs alone.
    Samples(Vec<Sample>),
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no sample; a loader hands out none such.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The value of a field, when samples were put together.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match &self.content {
            Content::Fields(fields) => fields.iter().find(|(field, _)| &**field == name).map(|(_, value)| value),
            Content::Samples(_) => None,
        }
    }
}
