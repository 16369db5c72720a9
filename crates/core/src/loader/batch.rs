//! What a loader hands out.

use std::any::Any;
use std::fmt;
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
    /// What functions of the host language's made of them ([`Loader::transformed`](super::Loader::transformed)).
    Host(HostValue),
}

/// Something of the host language's, which is passed on as it is.
#[derive(Clone)]
pub struct HostValue(Arc<dyn Any + Send + Sync>);

impl HostValue {
    /// Takes it in.
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Arc::new(value))
    }

    /// What it is, if it is that.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

/// Only the very same is equal.
impl PartialEq for HostValue {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for HostValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostValue")
    }
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
            Content::Samples(_) | Content::Host(_) => None,
        }
    }
}
