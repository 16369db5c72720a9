//! What is kept of what was read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ByteSize, Span};
use crate::cache::Policy;
use crate::error::Result;

/// Default of a loader's cache at most: enough for many datasets, and no surprise on a large machine.
const DEFAULT_MEMORY: u64 = 4_000_000_000;

/// The cache of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Capacity of the memory tier of each process. Default: nothing for a dataset alone; once a loader walks it, the smaller of 4 GB and
    /// a quarter of the memory there is, shared by the ranks of this machine. More than a process's share of that memory is not
    /// granted. `"0"` keeps nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Folder of the disk tier, which all processes of a machine share and later runs find again: an empty or new one, on a local
    /// disk. Default: none. Local sources are not kept there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<PathBuf>,
    /// Bytes that the folder may take. Default: four fifths of what is free there when it is opened, and of what it has already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_capacity: Option<ByteSize>,
    /// What a full tier gives up. Default: `auto`, which keeps what is there when a loader walks epochs and gives up the least recently
    /// used before. Set `lru` when only few samples are used, again and again.
    pub policy: Policy,
    /// Whether tensors are kept compressed. Default: `auto`, those that shrink by a quarter at least, or with a disk by a tenth, unless
    /// memory has room for all of the dataset as it is.
    pub compression: Compression,
    /// How long a value is used without asking whether its object is still the same. Default: for ever. Of a pinned source, such
    /// as a commit of the Hub, it is for ever in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
}

/// How entries are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Compressed, lossless, where that gains enough.
    #[default]
    #[serde(alias = "zstd")]
    Auto,
    /// As they are.
    None,
}

impl CacheConfig {
    /// Reads JSON.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub fn from_json(text: &str) -> Result<Self> {
        super::from_json(text)
    }

    /// What loaders of a machine use together when nothing else is said, given the memory that there is.
    pub fn default_memory(limit: u64) -> u64 {
        DEFAULT_MEMORY.min(limit / 4)
    }
}
