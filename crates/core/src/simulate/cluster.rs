//! Nodes with their ranks' memory and their disks, without what would be in them.

use std::sync::Arc;

use super::{Plan, Sizes};
use crate::cache::eviction::by_policy;
use crate::cache::{Entry, Table, UnitId};
use crate::order::{Order, Partition};

/// All tiers of a cluster.
pub(super) struct Cluster<'a> {
    /// Of each rank.
    memory: Vec<Table<()>>,
    /// Of each node.
    disks: Vec<Table<()>>,
    ranks_per_node: usize,
    sizes: &'a Sizes,
    /// What each object that is walked takes when it is kept.
    packed: Vec<usize>,
    /// The most that an object takes.
    largest: usize,
    /// Whether some samples stand for all.
    is_thinned: bool,
    /// An answer of a table, reused.
    answer: Vec<Option<Arc<Entry<()>>>>,
}

/// Where objects were found in an epoch, as far as they are walked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) in_memory: u64,
    pub(super) on_disk: u64,
    pub(super) remote: u64,
    pub(super) remote_bytes: u64,
}

/// Bytes in all tiers of a kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    pub(super) memory: f64,
    pub(super) disk: f64,
}

impl Kept {
    /// Whether it is what it is at the end, less a share at most.
    pub(super) fn is_about(self, end: Self, share: f64) -> bool {
        let has = |now: f64, end: f64| now >= (1.0 - share) * end;
        has(self.memory, end.memory) && has(self.disk, end.disk)
    }
}

enum Found {
    InMemory,
    OnDisk,
    Remote,
}

impl<'a> Cluster<'a> {
    /// Empty tiers, as much smaller as the dataset was thinned out.
    pub(super) fn new(plan: &Plan, sizes: &'a Sizes) -> Self {
        // A tier larger than everything is as good as one of that size.
        let (share, everything) = (sizes.share(), plan.packed_bytes(sizes) as f64);
        let tier = |bytes: u64| {
            let capacity = ((bytes as f64).min(everything) * share).round() as usize;
            let table = Table::new(capacity, by_policy(plan.policy));
            // What a loader tells its cache.
            table.order_is_known();
            table
        };
        let packed: Vec<_> = sizes.objects().iter().map(|&bytes| plan.packed(bytes) as usize).collect();
        Self {
            memory: (0..plan.ranks()).map(|_| tier(plan.memory_bytes)).collect(),
            disks: (0..plan.nodes).map(|_| tier(plan.disk_bytes)).collect(),
            ranks_per_node: plan.ranks_per_node,
            sizes,
            largest: packed.iter().copied().max().unwrap_or(0),
            packed,
            is_thinned: (sizes.walked_samples() as u64) < sizes.samples(),
            answer: Vec::with_capacity(1),
        }
    }

    /// Walks an epoch as the ranks do: step by step, each rank its run of samples. Pads are no uses.
    pub(super) fn walk(&mut self, order: &dyn Order, partitions: &[Partition]) -> Counts {
        let (mut counts, mut from) = (Counts::default(), 0);
        while from < order.len() {
            let mut next = order.len();
            for (rank, step) in partitions.iter().filter_map(|it| it.step(order.len(), from)).enumerate() {
                let positions = step.positions.filter(|&position| position < order.len());
                positions.for_each(|position| self.use_sample(rank, order.index_at(position), &mut counts));
                next = step.next;
            }
            from = next;
        }
        counts
    }

    /// What is there now.
    pub(super) fn kept(&self) -> Kept {
        // Room too small for one of few objects would not be left by many.
        let in_table = |table: &Table<()>| match (table.stats().bytes as usize, table.capacity()) {
            (used, capacity) if self.is_thinned && capacity - used < self.largest => capacity as f64,
            (used, _) => used as f64,
        };
        let bytes = |tables: &[Table<()>]| tables.iter().map(in_table).sum();
        Kept { memory: bytes(&self.memory), disk: bytes(&self.disks) }
    }

    fn use_sample(&mut self, rank: usize, sample: usize, counts: &mut Counts) {
        let objects = self.sizes.objects_per_sample();
        for field in 0..objects {
            let object = sample * objects + field;
            match self.find(rank, UnitId { sample, field }, self.packed[object]) {
                Found::InMemory => counts.in_memory += 1,
                Found::OnDisk => counts.on_disk += 1,
                Found::Remote => {
                    counts.remote += 1;
                    counts.remote_bytes += self.sizes.objects()[object];
                }
            }
        }
    }

    /// Where a rank finds an object; nearer tiers are offered it.
    fn find(&mut self, rank: usize, unit: UnitId, bytes: usize) -> Found {
        let (memory, disk) = (&self.memory[rank], &self.disks[rank / self.ranks_per_node]);
        if is_in(memory, unit, &mut self.answer) {
            return Found::InMemory;
        }
        let found = if is_in(disk, unit, &mut self.answer) { Found::OnDisk } else { Found::Remote };
        if matches!(found, Found::Remote) {
            offer(disk, unit, bytes);
        }
        offer(memory, unit, bytes);
        found
    }
}

/// Asks a table as the cache does: it counts as a use.
fn is_in(table: &Table<()>, unit: UnitId, answer: &mut Vec<Option<Arc<Entry<()>>>>) -> bool {
    table.get_many(&[unit], answer);
    answer.pop().flatten().is_some()
}

fn offer(table: &Table<()>, unit: UnitId, bytes: usize) {
    if let Some(charge) = table.admit(&unit, bytes) {
        table.fill(unit, charge, bytes, ());
    }
}
