//! One training example.

use std::sync::Arc;

use crate::value::Value;

/// One training example: its place in the dataset, its key, and one decoded value per field.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Position in the manifest.
    pub index: usize,
    /// Name that its objects share.
    pub key: String,
    /// Field names and values, in the dataset's field order.
    pub fields: Vec<(Arc<str>, Value)>,
}

impl Sample {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| &**field == name).map(|(_, value)| value)
    }
}
