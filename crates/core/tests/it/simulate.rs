//! What is simulated is what loaders do.

use std::path::Path;

use headwater::cache::Policy;
use headwater::config::{DatasetConfig, LoaderConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::metrics::Number;
use headwater::simulate::{Plan, Sizes};
use headwater::value::{DType, Tensor, Value};
use headwater::{Loader, object};
use tempfile::TempDir;

const SAMPLES: usize = 400;
const SEED: u64 = 5;
const BATCH: usize = 8;
const WARM: usize = 6;
const MEASURED: usize = 6;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for number in 0..SAMPLES {
        let tensor = Tensor::from_bytes(DType::U8, &[4096], vec![number as u8; 4096].into()).expect("tensor");
        object::save(&folder.path().join(format!("{number}.pt")), &Value::Tensor(tensor)).expect("saved");
    }
    folder
}

/// A rank with a cache of its own, as in a process of its own.
fn rank(folder: &Path, memory: u64, rank: usize, world_size: usize) -> Loader {
    let uri = folder.to_str().expect("UTF-8");
    let cache = format!(r#"{{"memory": {memory}, "compression": "none"}}"#);
    let config = format!(r#"{{"source": "{uri}", "cache": {cache}}}"#);
    let config = DatasetConfig::from_json(&config).expect("configuration");
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    let (batch_size, shuffle, seed) = (BATCH, true, SEED);
    Loader::new(
        &dataset,
        LoaderConfig {
            batch_size,
            shuffle,
            seed,
            rank: Some(rank),
            world_size: Some(world_size),
            ..LoaderConfig::default()
        },
    )
    .expect("loader")
}

fn count(loader: &Loader, name: &str) -> u64 {
    let snapshot = loader.snapshot();
    match snapshot.iter().find(|(info, _)| info.name == name).expect("a metric").1 {
        Number::Whole(count) => count,
        Number::Seconds(_) => panic!("a count"),
    }
}

fn walk(loader: &Loader, epochs: usize) {
    for _ in 0..epochs {
        loader.batches(uninterrupted()).expect("begins").for_each(|batch| drop(batch.expect("batch")));
    }
}

/// What a cache charges for a sample.
fn charged(folder: &Path) -> u64 {
    let loader = rank(folder, 1 << 30, 0, 1);
    walk(&loader, 3);
    count(&loader, "cache_memory_bytes") / count(&loader, "cache_memory_entries")
}

#[test]
fn loaders_reuse_what_was_simulated() {
    let folder = folder();
    let sample_bytes = charged(folder.path());
    for (ranks, share) in [(1, 0.5), (2, 0.5), (2, 0.25)] {
        let memory_bytes = (share * (SAMPLES as u64 * sample_bytes) as f64) as u64;
        let loaders: Vec<_> = (0..ranks).map(|it| rank(folder.path(), memory_bytes, it, ranks)).collect();
        loaders.iter().for_each(|loader| walk(loader, WARM));
        let sum = |name| loaders.iter().map(|loader| count(loader, name)).sum::<u64>();
        let (asked, reused) = (sum("loader_units_asked_total"), sum("loader_units_reused_total"));
        loaders.iter().for_each(|loader| walk(loader, MEASURED));
        let (asked, reused) = (sum("loader_units_asked_total") - asked, sum("loader_units_reused_total") - reused);
        assert_eq!(asked, (MEASURED * SAMPLES) as u64);

        let sizes = Sizes::equal(SAMPLES as u64, sample_bytes, 1).expect("sizes");
        let plan = Plan {
            ranks_per_node: ranks,
            memory_bytes,
            policy: Policy::Auto,
            batch_size: BATCH,
            seed: SEED,
            epochs: WARM + MEASURED,
            ..Plan::default()
        };
        let simulated = plan.run(&sizes).expect("outcome").usual.reuse();
        let found = reused as f64 / asked as f64;
        // Two ranks meet what each keeps by chance: of 2400 uses, half of them reused, 1 % is one standard deviation.
        assert!((found - simulated).abs() < 0.04, "{found} instead of {simulated}: {ranks} ranks, {share}");
    }
}
