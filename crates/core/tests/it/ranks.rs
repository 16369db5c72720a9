//! Ranks of one run, as loaders walk: equal steps, and together one sequence.

use std::path::Path;

use headwater::Loader;
use headwater::config::{DatasetConfig, LoaderConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::loader::Batch;
use headwater::value::{DType, Tensor, Value};
use tempfile::TempDir;

fn folder(samples: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for sample in 0..samples {
        let tensor = Tensor::from_bytes(DType::U8, &[1], vec![sample as u8].into()).expect("tensor");
        let path = folder.path().join(format!("{sample:03}.pt"));
        headwater::object::save(&path, &Value::Tensor(tensor)).expect("saved");
    }
    folder
}

fn open(folder: &Path) -> Dataset {
    let config = DatasetConfig::from_json(&format!(r#"{{"source": "{}"}}"#, folder.display())).expect("configuration");
    Dataset::open(&config, uninterrupted()).expect("opens")
}

/// How a run is shared out.
#[derive(Debug, Clone, Copy)]
struct Shape {
    batch_size: usize,
    world_size: usize,
    replication: usize,
    drop_last: bool,
}

impl Shape {
    fn of_step(self) -> usize {
        self.batch_size * self.world_size / self.replication
    }

    fn loader(self, dataset: &Dataset, rank: usize) -> headwater::Result<Loader> {
        let Self { batch_size, world_size, replication, drop_last } = self;
        let ranks =
            LoaderConfig { rank: Some(rank), world_size: Some(world_size), replication, ..LoaderConfig::default() };
        Loader::new(dataset, LoaderConfig { batch_size, drop_last, shuffle: true, seed: 5, ..ranks })
    }

    /// An epoch of every rank.
    fn walk(self, dataset: &Dataset) -> Vec<Vec<Batch>> {
        let pass = |rank| {
            let loader = self.loader(dataset, rank).expect("loader");
            let batches: Vec<_> =
                loader.batches(uninterrupted()).expect("begins").map(|batch| batch.expect("batch")).collect();
            assert_eq!(batches.len(), loader.len(), "{self:?}");
            batches
        };
        (0..self.world_size).map(pass).collect()
    }
}

/// Samples of a batch that are no pads.
fn real(batch: &Batch) -> Vec<usize> {
    let pads = batch.pads.iter().flatten().chain(std::iter::repeat(&false));
    batch.indices.iter().zip(pads).filter(|(_, pad)| !**pad).map(|(index, _)| *index).collect()
}

/// What each step gave to all ranks together, each sample once.
fn steps(shape: Shape, ranks: &[Vec<Batch>]) -> Vec<Vec<usize>> {
    let apart: Vec<_> = ranks.iter().step_by(shape.replication).collect();
    (0..apart[0].len()).map(|step| apart.iter().flat_map(|batches| real(&batches[step])).collect()).collect()
}

fn check(shape: Shape, dataset: &Dataset, order: &[usize]) {
    let samples = order.len();
    if shape.drop_last && samples < shape.of_step() {
        for rank in 0..shape.world_size {
            let message = shape.loader(dataset, rank).expect_err("no step").to_string();
            assert!(message.contains("make no full batch"), "{message}");
        }
        return;
    }
    let ranks = shape.walk(dataset);
    assert!(ranks.iter().all(|batches| batches.len() == ranks[0].len()), "equal steps: {shape:?}, {samples}");
    for same in ranks.chunks(shape.replication) {
        assert!(same.iter().all(|batches| batches == &same[0]), "replicas: {shape:?}, {samples}");
    }
    for step in 0..ranks[0].len() {
        let sizes: Vec<_> = ranks.iter().map(|batches| batches[step].indices.len()).collect();
        assert!(sizes.iter().all(|&size| size == sizes[0] && size > 0), "{shape:?}, {samples}: {sizes:?}");
    }
    let together = steps(shape, &ranks).concat();
    let end = if shape.drop_last { samples - samples % shape.of_step() } else { samples };
    assert_eq!(together, order[..end], "{shape:?}");
    let pads: usize = ranks.iter().flatten().map(|batch| batch.indices.len() - real(batch).len()).sum();
    assert!(pads < shape.world_size, "{pads} pads: {shape:?}, {samples}");
}

#[test]
fn equal_steps_exactly_once_apart_from_marked_pads_for_1_to_17_samples_on_1_to_5_ranks_with_and_without_drop_last() {
    for samples in 1..=17 {
        let folder = folder(samples);
        let dataset = open(folder.path());
        let alone = Shape { batch_size: 1, world_size: 1, replication: 1, drop_last: false };
        let order = steps(alone, &alone.walk(&dataset)).concat();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..samples).collect::<Vec<_>>());
        for world_size in 1..=5 {
            for replication in (1..=world_size).filter(|replication| world_size % replication == 0) {
                for (batch_size, drop_last) in [(1, false), (1, true), (3, false), (3, true)] {
                    check(Shape { batch_size, world_size, replication, drop_last }, &dataset, &order);
                }
            }
        }
    }
}

#[test]
fn a_step_holds_the_same_samples_at_every_world_size_with_the_same_product() {
    let folder = folder(31);
    let dataset = open(folder.path());
    for drop_last in [false, true] {
        let walked = [(12, 1, 1), (6, 2, 1), (4, 3, 1), (3, 4, 1), (6, 4, 2), (12, 4, 4)].map(|shape| {
            let (batch_size, world_size, replication) = shape;
            let shape = Shape { batch_size, world_size, replication, drop_last };
            steps(shape, &shape.walk(&dataset))
        });
        assert!(walked.windows(2).all(|pair| pair[0] == pair[1]), "{walked:?}");
        assert_eq!(walked[0].len(), if drop_last { 2 } else { 3 });
    }
}

#[test]
fn ranks_that_cannot_read_the_same_are_refused() {
    let folder = folder(4);
    let dataset = open(folder.path());
    let shape = Shape { batch_size: 1, world_size: 4, replication: 3, drop_last: false };
    let message = shape.loader(&dataset, 0).expect_err("refused").to_string();
    assert_eq!(message, "cannot use `replication = 3`: the world size, which is 4, must be a multiple of it");
}
