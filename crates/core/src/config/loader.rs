//! How a loader walks a dataset.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ByteSize, Span};
use crate::collate::Collation;
use crate::error::{Error, ErrorKind, Result};
use crate::world;

/// More threads than any machine has use for.
const MAX_THREADS: usize = 1024;

/// Threads for the user's functions at most, where nothing is said: each of them that holds the interpreter makes the training loop
/// wait longer for it.
const MOST_TRANSFORM_THREADS: usize = 4;

/// How a loader walks a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Samples per batch and rank. Default: 1.
    pub batch_size: usize,
    /// A new random order every epoch. Default: off, the order of the keys.
    pub shuffle: bool,
    /// What the random order is drawn from, together with the epoch. Default: 0. The same on all ranks.
    pub seed: u64,
    /// Leave out the samples at the end of an epoch that do not make a full batch on every rank. Default: off; the last batch is
    /// then shorter, and padded where ranks would differ.
    pub drop_last: bool,
    /// Number of this process among those of the run. Default, with `world_size`: found out, see [`Ranks`](crate::world::Ranks).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// How many there are. Give both or neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub world_size: Option<usize>,
    /// So many consecutive ranks read the same samples: those that hold parts of one model. Default: 1. The world size is a multiple
    /// of it.
    pub replication: usize,
    /// Threads that decode and assemble. Default: as many as this process's share of the cores, shared by all of its loaders. With a
    /// number the loader has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_threads: Option<usize>,
    /// Threads that call the dataset's `transform` and `collate_fn` ahead of the consumer. Default: as many as this process's share of
    /// the cores, at most 4. 0 calls them on the consuming thread, when it asks for their batch; 1 calls them one after the other, in
    /// order. Only Python's loader has such functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform_threads: Option<usize>,
    /// Samples under way and ready ahead of the consumer, at least one batch. Default: follows the consumer, from four batches up to
    /// what `window_bytes` holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_samples: Option<usize>,
    /// Memory of what is under way and ready. Default: room for 16 batches within 64 MB and 1 GB; at most a quarter of
    /// `memory_budget`, but always two batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_bytes: Option<ByteSize>,
    /// Memory of cache, window and idle batch buffers together; batches that the user holds are not in it. Default: what these come
    /// to by themselves. More than a process's share of the memory there is is not granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<ByteSize>,
    /// How samples become a batch. Default: `stack`.
    pub collate: Collation,
    /// Hand out tensors in page-locked memory. Default: off. torch's affair: only Python's loader does it.
    pub pin_memory: bool,
    /// Hand out tensors on this device, such as `cuda` or `cuda:1`. Default: none, they stay in memory. Only Python's loader does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How long to wait for one batch. Default: no limit of its own; every read has a deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_deadline: Option<Span>,
    /// After how long a wait for one batch the log is told what it waits for, and again after twice as long. Default: 30 s; 0 never.
    pub watchdog: Span,
}

impl LoaderConfig {
    /// Reads JSON.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub fn from_json(text: &str) -> Result<Self> {
        super::from_json(text)
    }

    /// Refuses numbers that cannot be meant.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, value) in [("num_threads", self.num_threads), ("window_samples", self.window_samples)] {
            if value == Some(0) {
                return Err(
                    Error::new(ErrorKind::Invalid, "use", format_args!("{name} = 0")).because("it must be at least 1")
                );
            }
        }
        for (name, value) in [("num_threads", self.num_threads), ("transform_threads", self.transform_threads)] {
            if let Some(threads) = value.filter(|&threads| threads > MAX_THREADS) {
                return Err(Error::new(ErrorKind::Invalid, "use", format_args!("{name} = {threads}"))
                    .because(format_args!("more than {MAX_THREADS} cannot be meant; a few per core are many")));
            }
        }
        Ok(())
    }

    /// Threads that call the user's functions.
    pub fn threads_for_transforms(&self) -> usize {
        self.transform_threads.unwrap_or_else(|| world::cores().min(MOST_TRANSFORM_THREADS))
    }
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 1,
            shuffle: false,
            seed: 0,
            drop_last: false,
            rank: None,
            world_size: None,
            replication: 1,
            num_threads: None,
            transform_threads: None,
            window_samples: None,
            window_bytes: None,
            memory_budget: None,
            collate: Collation::default(),
            pin_memory: false,
            device: None,
            batch_deadline: None,
            watchdog: Span(Duration::from_secs(30)),
        }
    }
}
