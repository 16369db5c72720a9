//! What objects become in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Inner;
use crate::buffer::capacity_for;
use crate::codec;
use crate::error::Result;
use crate::manifest::Manifest;

/// Before one was unpacked, a compressed object is taken to be a quarter of what it holds; tensors seldom compress better.
const FIRST_GUESS: u64 = 4 * UNIT;
/// The ratio is kept as an integer of so many parts.
const UNIT: u64 = 1024;

/// The most that a compressed object of this dataset was seen to grow when unpacked.
#[derive(Debug)]
pub(super) struct Expansion {
    most: AtomicU64,
}

impl Default for Expansion {
    fn default() -> Self {
        Self { most: AtomicU64::new(FIRST_GUESS) }
    }
}

impl Expansion {
    /// Learns from an object that was unpacked.
    pub(super) fn saw(&self, key: &str, stored: usize, unpacked: usize) {
        if is_compressed(key) {
            self.most.fetch_max((unpacked as u64).saturating_mul(UNIT) / (stored as u64).max(1), Ordering::Relaxed);
        }
    }
}

fn is_compressed(name: &str) -> bool {
    !codec::by_suffix(name).0.suffix().is_empty()
}

/// What all objects of a dataset take as stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    plain: u64,
    compressed: u64,
}

impl Stored {
    /// Adds up what a manifest lists.
    pub(super) fn of(manifest: &Manifest, fields: usize) -> Self {
        let mut stored = Self { plain: 0, compressed: 0 };
        for (index, field) in (0..manifest.len()).flat_map(|index| (0..fields).map(move |field| (index, field))) {
            let suffix = manifest.object_suffix(index, field).unwrap_or_default();
            let bytes = manifest.object_size(index, field).unwrap_or_default();
            *(if is_compressed(suffix) { &mut stored.compressed } else { &mut stored.plain }) += bytes;
        }
        stored
    }
}

impl Inner {
    /// Memory that all samples take as values, as far as is known.
    pub(super) fn memory_of_all(&self) -> u64 {
        let stored = &self.stored;
        stored.plain + stored.compressed.saturating_mul(self.expansion.most.load(Ordering::Relaxed)) / UNIT
    }

    /// Memory that a sample takes: to be read and unpacked, and then as values.
    pub(crate) fn memory_of(&self, index: usize) -> Result<(u64, u64)> {
        let (mut reading, mut values) = (0, 0);
        for field in 0..self.names.len() {
            let stored = self.manifest.object_size(index, field)?;
            reading += capacity_for(stored as usize) as u64;
            if is_compressed(self.manifest.object_suffix(index, field)?) {
                let unpacked = stored.saturating_mul(self.expansion.most.load(Ordering::Relaxed)) / UNIT;
                reading += capacity_for(unpacked as usize) as u64;
                values += unpacked;
            } else {
                values += stored;
            }
        }
        Ok((reading, values))
    }
}
