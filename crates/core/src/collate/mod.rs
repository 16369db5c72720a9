//! From samples to a batch.
//!
//! Values of one field, one per sample, become one value: tensors are stacked along a new first dimension, everything else follows
//! torch's `default_collate`. A first pass over the trees ([`plan`]) checks that they fit together and takes one pooled buffer
//! per tensor of the batch; a second ([`fill`]) copies every sample's elements to their place, in parallel pieces. Nothing is
//! allocated per sample, and each byte is written once.
//!
//! [`collate`] must run on a thread of a worker pool when there is much to copy: its pieces go to that pool.

mod fill;
mod pad;
mod plan;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::buffer::BufferPool;
use crate::error::Result;
use crate::value::Value;

/// How samples become a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Collation {
    /// Tensors of equal shape are stacked.
    #[default]
    Stack,
    /// Tensors stay apart, in a list.
    List,
    /// Tensors are filled up with zeros to the largest of the batch and stacked. Beside each tensor `x` stands a boolean tensor
    /// `x__mask`, true where there was an element, with size 1 in the dimensions that needed no filling up: it broadcasts against `x`.
    Pad,
    /// No batch is made: a list of samples.
    Samples,
}

/// What is put together: the values of one field, one per sample.
#[derive(Debug)]
pub struct Column<'a> {
    /// The field's name.
    pub name: Arc<str>,
    /// A value per sample.
    pub rows: Vec<&'a Value>,
}

/// Puts the columns of a batch together; `key_of` names a row in messages.
///
/// # Errors
/// `Invalid` when values do not fit together, naming the field, two samples, and what to do.
pub fn collate(
    columns: &[Column<'_>],
    collation: Collation,
    buffers: &BufferPool,
    key_of: &dyn Fn(usize) -> String,
) -> Result<Vec<(Arc<str>, Value)>> {
    let mut planner = plan::Planner::new(collation, buffers, key_of);
    let mut nodes = Vec::with_capacity(columns.len());
    for column in columns {
        nodes
            .extend(planner.named(&column.name, &column.rows)?.into_iter().map(|(name, node)| (Arc::from(name), node)));
    }
    let mut leaves = planner.into_leaves();
    fill::fill(&mut leaves)?;
    let tensors = leaves.into_iter().map(plan::Leaf::into_tensor).collect::<Result<Vec<_>>>()?;
    Ok(nodes.into_iter().map(|(name, node)| (name, node.into_value(&tensors))).collect())
}

#[cfg(test)]
mod tests;
