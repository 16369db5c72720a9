//! The sorted list of samples: which object is which field of which sample.
//!
//! A manifest is made once ([`join()`] over one [`Listing`] per field), kept on disk ([`store`]) and read everywhere: a
//! million samples of two fields take about 100 MB, since keys share one arena, object names are derived from them by the
//! field's [`KeyPattern`], and entity tags are stored as the 16 bytes they spell out.
//!
//! Two fingerprints identify it. The *order* fingerprint covers field names and keys: two manifests that agree in it give
//! every index the same sample. The *content* fingerprint covers sizes and versions.

mod guess;
mod join;
mod listing;
mod pattern;
pub mod store;
mod strings;
mod versions;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, ErrorKind, Result};
use crate::source::{ObjectMeta, Version};

pub use guess::guess_pairs;
pub use join::{FieldListing, Joined, Missing, OnMissing, join};
pub use listing::Listing;
pub use pattern::KeyPattern;
use strings::Strings;
use versions::Versions;

/// The sorted list of samples with, per field, each object's key, size and version.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    keys: Strings,
    fields: Vec<Field>,
    missing: Missing,
    origin: Option<Origin>,
    order_fingerprint: String,
    content_fingerprint: String,
}

/// What a manifest was made of: tells it from those of other datasets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where the objects of each field were listed, without secrets; the name is empty for one source of all fields.
    pub places: BTreeMap<String, String>,
    /// Servers that those were reached by, without secrets, where one URI may mean several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, String>,
    /// Patterns of fields.
    pub pairs: BTreeMap<String, String>,
    /// What was done about samples that lack an object.
    pub on_missing: OnMissing,
}

/// One field's column.
#[derive(Debug, Clone, PartialEq)]
struct Field {
    name: Arc<str>,
    /// Folder of the field's objects below its source, with a trailing slash unless empty.
    folder: String,
    pattern: KeyPattern,
    /// The few suffixes that occur (`.pt`, `.pt.zst`), and which one each object has.
    suffixes: Vec<String>,
    suffix_of: Vec<u8>,
    sizes: Vec<u64>,
    versions: Versions,
}

impl Field {
    fn object_key(&self, key: &str, index: usize) -> String {
        let suffix = &self.suffixes[usize::from(self.suffix_of[index])];
        self.pattern.object_key(&self.folder, key, suffix)
    }
}

impl Manifest {
    fn new(keys: Strings, fields: Vec<Field>, missing: Missing) -> Self {
        let mut order = Xxh3::new();
        let mut content = Xxh3::new();
        for field in &fields {
            absorb(&mut order, field.name.as_bytes());
            for (index, size) in field.sizes.iter().enumerate() {
                content.update(&size.to_le_bytes());
                absorb(&mut content, field.versions.encoded(index));
            }
        }
        for key in keys.iter() {
            absorb(&mut order, key.as_bytes());
        }
        Self {
            keys,
            fields,
            missing,
            origin: None,
            order_fingerprint: format!("{:032x}", order.digest128()),
            content_fingerprint: format!("{:032x}", content.digest128()),
        }
    }

    /// The same, with what it was made of.
    #[must_use]
    pub fn of(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// The same, with no versions of the fields for which `is_known` is false.
    #[must_use]
    pub(crate) fn keeping_versions(mut self, is_known: impl Fn(usize) -> bool) -> Self {
        let samples = self.len();
        for (_, field) in self.fields.iter_mut().enumerate().filter(|(number, _)| !is_known(*number)) {
            field.versions = Versions::default();
            (0..samples).for_each(|_| field.versions.push(&Version::Unknown));
        }
        Self { origin: self.origin, ..Self::new(self.keys, self.fields, self.missing) }
    }

    /// What it was made of, if whoever made it said so.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Of every field its name, the folder of its objects below its source, and the pattern of their names.
    pub fn patterns(&self) -> impl ExactSizeIterator<Item = (&str, &str, &KeyPattern)> {
        self.fields.iter().map(|field| (&*field.name, &*field.folder, &field.pattern))
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the fields, in order.
    pub fn field_names(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.fields.iter().map(|field| &field.name)
    }

    /// Key of a sample.
    ///
    /// # Errors
    /// `OutOfRange`.
    pub fn key(&self, index: usize) -> Result<&str> {
        self.keys.get(index).ok_or_else(|| {
            Error::new(ErrorKind::OutOfRange, "take sample", index)
                .because(format_args!("the dataset has {} samples", self.len()))
        })
    }

    /// Index of the sample with a key.
    pub fn index_of(&self, key: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.keys.get(middle)?.cmp(key) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The object that is field number `field` of sample `index`.
    ///
    /// # Errors
    /// `OutOfRange`.
    pub fn object(&self, index: usize, field: usize) -> Result<ObjectMeta> {
        let key = self.key(index)?;
        let column = self.column(field)?;
        Ok(ObjectMeta {
            key: column.object_key(key, index),
            size: column.sizes[index],
            version: column.versions.get(index),
        })
    }

    /// Size of the object that is field number `field` of sample `index`, in bytes as stored.
    ///
    /// # Errors
    /// `OutOfRange`.
    pub fn object_size(&self, index: usize, field: usize) -> Result<u64> {
        self.key(index)?;
        Ok(self.column(field)?.sizes[index])
    }

    /// Suffix of the object that is field number `field` of sample `index`: of its format and its compression.
    ///
    /// # Errors
    /// `OutOfRange`.
    pub fn object_suffix(&self, index: usize, field: usize) -> Result<&str> {
        self.key(index)?;
        let column = self.column(field)?;
        Ok(&column.suffixes[usize::from(column.suffix_of[index])])
    }

    fn column(&self, field: usize) -> Result<&Field> {
        let column = self.fields.get(field);
        column.ok_or_else(|| Error::new(ErrorKind::OutOfRange, "take field", field).because("there is no such field"))
    }

    /// Objects that samples lack, so that those samples are not in the manifest.
    pub fn missing(&self) -> &Missing {
        &self.missing
    }

    /// Identifies field names and keys: what index and order mean.
    pub fn order_fingerprint(&self) -> &str {
        &self.order_fingerprint
    }

    /// Identifies sizes and versions: what the objects contain.
    pub fn content_fingerprint(&self) -> &str {
        &self.content_fingerprint
    }

    /// Identifies sizes alone: what the objects contain, as far as is known where versions are not.
    pub fn size_fingerprint(&self) -> String {
        let mut sizes = Xxh3::new();
        self.fields.iter().flat_map(|field| &field.sizes).for_each(|size| sizes.update(&size.to_le_bytes()));
        format!("{:032x}", sizes.digest128())
    }

    /// Whether every object has an entity tag. A time of change says nothing of the contents of a copy.
    pub fn has_entity_tags(&self) -> bool {
        let has_tag = |field: &Field, index| matches!(field.versions.get(index), Version::ETag(_));
        self.fields.iter().all(|field| (0..self.len()).all(|index| has_tag(field, index)))
    }

    /// Bytes of all objects, as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.fields.iter().flat_map(|field| &field.sizes).sum()
    }

    /// Memory this manifest takes.
    pub fn memory_bytes(&self) -> usize {
        let columns = |field: &Field| field.suffix_of.len() + 8 * field.sizes.len() + field.versions.memory_bytes();
        self.keys.memory_bytes() + self.fields.iter().map(columns).sum::<usize>()
    }
}

fn absorb(hash: &mut Xxh3, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests;
