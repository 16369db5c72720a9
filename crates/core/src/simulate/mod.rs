//! What a cache of a given size would give, before anybody buys the disk.
//!
//! A [`Plan`] is a cluster: how many nodes and ranks, what each may keep, and by which policy. [`Plan::run`] walks its epochs over
//! the [`Sizes`] of a dataset with the parts that training uses — the [order](crate::order), the [partition](Partition) among
//! ranks, the cache's [`Table`](crate::cache::Table) with its policy — and counts what has to be read. Nothing is read for it,
//! and no memory taken for what would be kept.
//!
//! A rank asks its own memory first, then the disk that its node's ranks share, then the source. What came from the source is
//! offered to both, what came from the disk to memory. A large dataset is [thinned out](Sizes), and capacities with it: shares of
//! uses stay what they are to a fraction of a percent.
//!
//! Left out are time, the prefetcher's window, and what entries take beside their bytes.

mod cluster;
mod sizes;

use std::borrow::Cow;

use crate::cache::Policy;
use crate::error::{Error, ErrorKind, Result};
use crate::order::{Order, Partition, Sequential, Shuffled};

use cluster::{Cluster, Counts, Kept};
pub use sizes::Sizes;

/// More ranks than there are in any cluster; each takes a few hundred bytes here.
const RANKS_AT_MOST: usize = 100_000;

/// More epochs than runs have.
const EPOCHS_AT_MOST: usize = 1000;

/// Uses of objects in all epochs together: a quarter of a second, and 100 MB when every one of them is kept somewhere.
const USES_AT_MOST: usize = 500_000;

/// Fewer objects would stand for none.
const OBJECTS_AT_LEAST: usize = 1000;

/// An exabyte: what all of a dataset may take when it is kept.
const PACKED_AT_MOST: f64 = 1e18;

/// What tiers hold has settled when it grows by less than this share until the end: a rank's memory fills ever more slowly, as
/// fewer and fewer of the samples it meets are new to it.
const SETTLED: f64 = 0.005;

/// A cluster that trains, and what it may keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Machines. Default: 1.
    pub nodes: usize,
    /// Training processes of each. Default: 1.
    pub ranks_per_node: usize,
    /// Memory tier of each rank, in bytes. Default: 0.
    pub memory_bytes: u64,
    /// Disk tier of each node, which its ranks share, in bytes. Default: 0, none.
    pub disk_bytes: u64,
    /// Bytes of an object as stored to bytes of it as kept. Default: 1.
    pub ratio: f64,
    /// What a full tier gives up. Default: `auto`.
    pub policy: Policy,
    /// Samples per batch and rank. Default: 1.
    pub batch_size: usize,
    /// A new random order every epoch. Default: on.
    pub shuffle: bool,
    /// What the random order is drawn from. Default: 0.
    pub seed: u64,
    /// Epochs to walk, two at least. Default: 10.
    pub epochs: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 1,
            ranks_per_node: 1,
            memory_bytes: 0,
            disk_bytes: 0,
            ratio: 1.0,
            policy: Policy::default(),
            batch_size: 1,
            shuffle: true,
            seed: 0,
            epochs: 10,
        }
    }
}

/// What an epoch cost, on all nodes together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Epoch {
    /// Share of the objects asked for that the rank's memory had, 0 to 1.
    pub memory_reuse: f64,
    /// Share of the objects asked for that memory did not have and the node's disk did, 0 to 1.
    pub disk_reuse: f64,
    /// Objects read from the source.
    pub requests: u64,
    /// Bytes read from the source, as stored.
    pub bytes: u64,
}

impl Epoch {
    /// Share of the objects asked for that cost no request, 0 to 1.
    pub fn reuse(&self) -> f64 {
        self.memory_reuse + self.disk_reuse
    }
}

/// What became of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Samples that were walked: fewer than the dataset has when some stood for all.
    pub walked_samples: u64,
    /// Every epoch. The first finds nothing.
    pub epochs: Vec<Epoch>,
    /// A usual one: the mean of those that began with tiers about as full as they ever got; else the last.
    pub usual: Epoch,
    /// Whether there was no such epoch: with more of them, reuse would go on growing.
    pub is_filling: bool,
    /// Bytes in the memory of a node's ranks in the end, mean of all nodes.
    pub memory_kept_bytes: u64,
    /// Bytes on a node's disk in the end, mean of all nodes.
    pub disk_kept_bytes: u64,
}

impl Plan {
    /// Walks the epochs.
    ///
    /// # Errors
    /// `Invalid` for numbers that cannot be meant.
    pub fn run(&self, sizes: &Sizes) -> Result<Outcome> {
        self.check(sizes)?;
        let sizes = &*self.thinned(sizes);
        let ranks = self.ranks();
        let partition = |rank| Partition::new(self.batch_size, rank, ranks, false);
        let partitions = (0..ranks).map(partition).collect::<Result<Vec<_>>>()?;
        let mut cluster = Cluster::new(self, sizes);
        let mut epochs = Vec::with_capacity(self.epochs);
        let mut kept = Vec::with_capacity(self.epochs);
        for epoch in 0..self.epochs {
            let order = self.order(sizes.walked_samples(), epoch as u64);
            epochs.push(as_epoch(cluster.walk(order.as_ref(), &partitions), sizes));
            kept.push(cluster.kept());
        }
        Ok(self.outcome(epochs, &kept, sizes))
    }

    /// What all of a dataset takes when it is kept, in bytes: a disk of that size holds everything.
    pub fn packed_bytes(&self, sizes: &Sizes) -> u64 {
        let sizes = self.thinned(sizes);
        let packed: f64 = sizes.objects().iter().map(|&bytes| self.packed(bytes) as f64).sum();
        (packed / sizes.share()).ceil() as u64
    }

    /// Disks to compare, in bytes, ascending: half, once, twice and four times this plan's as far as these are smaller than what
    /// holds everything, and that. Without a disk: none, a quarter, half, everything.
    pub fn disks_to_compare(&self, sizes: &Sizes) -> Vec<u64> {
        let everything = self.packed_bytes(sizes);
        let disk = self.disk_bytes;
        let disks = match disk {
            0 => [0, everything / 4, everything / 2, everything],
            _ => [disk / 2, disk, disk.saturating_mul(2), disk.saturating_mul(4)],
        };
        let mut disks: Vec<_> = disks.into_iter().filter(|&disk| disk < everything).chain([everything]).collect();
        disks.dedup();
        disks
    }

    /// What is walked of a dataset, so that any number of epochs ends soon.
    fn thinned<'a>(&self, sizes: &'a Sizes) -> Cow<'a, Sizes> {
        sizes.thinned((USES_AT_MOST / self.epochs.max(1)).max(OBJECTS_AT_LEAST))
    }

    /// Training processes of all nodes.
    fn ranks(&self) -> usize {
        self.nodes * self.ranks_per_node
    }

    /// What an object takes when it is kept.
    fn packed(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.ratio).ceil().max(1.0) as u64
    }

    fn order(&self, samples: usize, epoch: u64) -> Box<dyn Order> {
        if self.shuffle {
            Box::new(Shuffled::new(samples, self.seed, epoch))
        } else {
            Box::new(Sequential::new(samples))
        }
    }

    fn check(&self, sizes: &Sizes) -> Result<()> {
        let wrong = |what: std::fmt::Arguments<'_>, reason: &str| {
            Err(Error::new(ErrorKind::Invalid, "use", what).because(reason))
        };
        let counts = [("nodes", self.nodes), ("ranks_per_node", self.ranks_per_node), ("batch_size", self.batch_size)];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return wrong(format_args!("{name} = 0"), "it must be at least 1");
        }
        if self.nodes.saturating_mul(self.ranks_per_node) > RANKS_AT_MOST {
            let reason = format!("more than {RANKS_AT_MOST} ranks in all cannot be meant");
            return wrong(format_args!("nodes = {}", self.nodes), &reason);
        }
        if !(self.ratio.is_finite() && self.ratio > 0.0) {
            return wrong(
                format_args!("ratio = {}", self.ratio),
                "it is bytes as stored to bytes as kept, such as 2.9",
            );
        }
        if self.packed_bytes(sizes) as f64 > PACKED_AT_MOST {
            return wrong(
                format_args!("ratio = {}", self.ratio),
                "what is kept of the dataset would exceed an exabyte",
            );
        }
        if !(2..=EPOCHS_AT_MOST).contains(&self.epochs) {
            let reason = format!("the first finds nothing, so walk 2 at least, and {EPOCHS_AT_MOST} at most");
            return wrong(format_args!("epochs = {}", self.epochs), &reason);
        }
        Ok(())
    }

    fn outcome(&self, epochs: Vec<Epoch>, kept: &[Kept], sizes: &Sizes) -> Outcome {
        let end = kept.last().copied().unwrap_or_default();
        // An epoch begins with what the one before it left.
        let settled = (1..epochs.len()).find(|&epoch| kept[epoch - 1].is_about(end, SETTLED));
        let usual = mean(&epochs[settled.unwrap_or(epochs.len() - 1)..]);
        let of_node = |bytes: f64| (bytes / sizes.share() / self.nodes as f64) as u64;
        Outcome {
            walked_samples: sizes.walked_samples() as u64,
            epochs,
            usual,
            is_filling: settled.is_none(),
            memory_kept_bytes: of_node(end.memory),
            disk_kept_bytes: of_node(end.disk),
        }
    }
}

/// What was counted of the samples that were walked, for all.
fn as_epoch(counts: Counts, sizes: &Sizes) -> Epoch {
    let uses = (counts.in_memory + counts.on_disk + counts.remote) as f64;
    let all = (sizes.samples() * sizes.objects_per_sample() as u64) as f64;
    Epoch {
        memory_reuse: counts.in_memory as f64 / uses,
        disk_reuse: counts.on_disk as f64 / uses,
        requests: (counts.remote as f64 / uses * all).round() as u64,
        bytes: (counts.remote_bytes as f64 / sizes.share()).round() as u64,
    }
}

fn mean(epochs: &[Epoch]) -> Epoch {
    let mean = |of: fn(&Epoch) -> f64| epochs.iter().map(of).sum::<f64>() / epochs.len() as f64;
    Epoch {
        memory_reuse: mean(|epoch| epoch.memory_reuse),
        disk_reuse: mean(|epoch| epoch.disk_reuse),
        requests: mean(|epoch| epoch.requests as f64).round() as u64,
        bytes: mean(|epoch| epoch.bytes as f64).round() as u64,
    }
}

#[cfg(test)]
mod tests;
