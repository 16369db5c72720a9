//! What waits to be packed is bounded. What comes when that is full is not kept, and counted; nobody waits for packing, and nothing is
//! lost but a use.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use headwater::Loader;
use headwater::config::{ByteSize, CacheConfig, DatasetConfig, LoaderConfig, Replicas};
use headwater::dataset::Dataset;
use headwater::engine::{Engine, uninterrupted};
use headwater::loader::Content;
use headwater::metrics::Metric;
use headwater::object;
use headwater::value::{DType, Tensor, Value};

use crate::on_disk::{open, written};
use crate::workers::wait_until;

const SAMPLES: usize = 24;
const ELEMENTS: usize = 25_000;
const BYTES: usize = 4 * ELEMENTS;

/// bfloat16 kept in float32: what packing has to do with.
fn content(sample: usize) -> Vec<u8> {
    let element = |at: usize| (((at + 31 * sample) as u32).wrapping_mul(0x9e37_79b9) >> 12 | 0x3f00) << 16;
    (0..ELEMENTS).map(element).flat_map(u32::to_le_bytes).collect()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for sample in 0..SAMPLES {
        let tensor = Tensor::from_bytes(DType::F32, &[ELEMENTS], content(sample).into()).expect("a tensor");
        object::save(&folder.path().join(format!("{sample:02}.pt")), &Value::Tensor(tensor)).expect("saved");
    }
    folder
}

/// With memory for all of it packed, and for `memory` bytes of it as it is.
fn dataset(folder: &Path, memory: usize) -> Dataset {
    let source = Some(Replicas::from(folder.to_str().expect("UTF-8")));
    let cache = CacheConfig { memory: Some(ByteSize(memory as u64)), ..CacheConfig::default() };
    open(&DatasetConfig { source, cache, ..DatasetConfig::default() })
}

fn read(dataset: &Dataset, sample: usize) {
    let read = dataset.get(sample, uninterrupted()).expect("read");
    let Value::Tensor(tensor) = &read.fields[0].1 else { panic!("a tensor") };
    assert!(tensor.contiguous_bytes() == Some(&content(sample)), "sample {sample}");
}

/// Keeps every thread of the engine that packs busy until it is dropped.
struct Busy(Option<Sender<()>>);

impl Busy {
    fn packers() -> Self {
        let (sender, receiver) = channel::<()>();
        let packers = Engine::current().and_then(Engine::packers).expect("threads that pack");
        let receiver = Arc::new(Mutex::new(receiver));
        // More than there are threads: they begin in this order, and what is queued later after them.
        for _ in 0..256 {
            let receiver = receiver.clone();
            packers.spawn(move || {
                // Until the sender is gone.
                let _ = receiver.lock().expect("no panic").recv();
            });
        }
        Self(Some(sender))
    }
}

#[test]
fn who_reads_by_index_does_not_wait_for_packing_be_it_stopped_altogether() {
    let folder = folder();
    let memory = SAMPLES * BYTES / 2;
    // Of the capacity, an eighth may wait.
    let waiting = memory / 8 / BYTES;
    let dataset = dataset(folder.path(), memory);
    let mut busy = Busy::packers();
    (0..SAMPLES).for_each(|sample| read(&dataset, sample));
    let snapshot = dataset.snapshot();
    assert_eq!(snapshot.raw(Metric::CacheBacklogFull), (SAMPLES - waiting) as u64);
    assert_eq!((snapshot.raw(Metric::CacheInsertions), snapshot.raw(Metric::PackedBytes)), (0, 0), "nothing is packed");

    drop(busy.0.take());
    written(&dataset, Metric::CacheInsertions, waiting as u64);
    // What was not kept is read as it is, and kept by and by.
    wait_until("everything is kept", || {
        (0..SAMPLES).for_each(|sample| read(&dataset, sample));
        dataset.snapshot().raw(Metric::CacheInsertions) == SAMPLES as u64
    });
    let before = dataset.snapshot();
    (0..SAMPLES).for_each(|sample| read(&dataset, sample));
    let after = dataset.snapshot();
    assert_eq!(after.raw(Metric::CacheHits) - before.raw(Metric::CacheHits), SAMPLES as u64);
    assert_eq!(after.raw(Metric::CacheBacklogFull), before.raw(Metric::CacheBacklogFull));
}

fn pass(loader: &Loader) {
    let mut seen = 0;
    for batch in loader.batches(uninterrupted()).expect("begins") {
        let batch = batch.expect("a batch");
        let Content::Fields(fields) = &batch.content else { panic!("collated") };
        let Value::Tensor(tensor) = &fields[0].1 else { panic!("a tensor") };
        let bytes = tensor.contiguous_bytes().expect("plain");
        for (row, &sample) in batch.indices.iter().enumerate() {
            assert!(bytes[row * BYTES..(row + 1) * BYTES] == content(sample), "sample {sample}");
            seen += 1;
        }
    }
    assert_eq!(seen, SAMPLES);
}

#[test]
fn a_loader_drops_what_waits_beyond_its_budget_and_counts_each_unit_of_it() {
    let folder = folder();
    let dataset = dataset(folder.path(), SAMPLES * BYTES / 2);
    // One thread packs a batch after all that is queued: several batches are there before it does.
    let budget = LoaderConfig {
        batch_size: 2,
        shuffle: true,
        num_threads: Some(1),
        window_bytes: Some(ByteSize(12 * BYTES as u64)),
        ..LoaderConfig::default()
    };
    let loader = Loader::new(&dataset, budget).expect("a loader");
    let counted = || {
        let snapshot = dataset.snapshot();
        (snapshot.raw(Metric::CacheInsertions), snapshot.raw(Metric::CacheBacklogFull))
    };
    pass(&loader);
    let settled = || counted().0 + counted().1 == SAMPLES as u64;
    wait_until("each unit is kept or counted", settled);
    let (kept, dropped) = counted();
    assert!(kept > 0 && dropped > 0, "{kept} kept, {dropped} dropped");
    // Whatever was dropped is read right again, and in the end everything is kept.
    wait_until("everything is kept", || {
        pass(&loader);
        counted().0 == SAMPLES as u64
    });
    assert_eq!(dataset.snapshot().raw(Metric::CacheDeclined), 0);
}
