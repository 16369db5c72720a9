//! The loader as a user of the crate sees it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use headwater::config::{DatasetConfig, LoaderConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::loader::{Batch, Content};
use headwater::state::State;
use headwater::value::{DType, Dict, Tensor, Value};
use headwater::{ErrorKind, Loader, object};
use tempfile::TempDir;

/// `count` samples of two fields; what is in them follows from their number.
pub(crate) fn folder(count: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for field in ["a", "b"] {
        std::fs::create_dir(folder.path().join(field)).expect("folder");
    }
    for n in 0..count {
        let tensor = |size: usize| {
            let bytes: Vec<u8> = (0..size * 4).map(|at| (at * 7 + n * 13) as u8).collect();
            Tensor::from_bytes(DType::F32, &[size / 4, 4], bytes.into()).expect("tensor")
        };
        let value = Value::Dict(Dict::from_iter([("x", Value::from(tensor(64))), ("n", Value::from(n as i64))]));
        object::save(&folder.path().join(format!("a/{n:04}.pt")), &value).expect("saved");
        object::save(&folder.path().join(format!("b/{n:04}.pt")), &Value::Tensor(tensor(16))).expect("saved");
    }
    folder
}

pub(crate) fn open(folder: &Path, more: &str) -> Dataset {
    let uri = folder.to_str().expect("UTF-8");
    let config = DatasetConfig::from_json(&format!(r#"{{"source": "{uri}"{more}}}"#)).expect("configuration");
    Dataset::open(&config, uninterrupted()).expect("opens")
}

pub(crate) const REMOTE: &str = r#", "fetch": {"throttle": {"first_byte": "2ms", "stream_rate": "50MB"}}"#;
pub(crate) const NO_CACHE: &str = r#", "cache": {"memory": 0}"#;

pub(crate) fn config(batch_size: usize) -> LoaderConfig {
    LoaderConfig { batch_size, shuffle: true, seed: 3, ..LoaderConfig::default() }
}

pub(crate) fn pass(loader: &Loader) -> Vec<Batch> {
    loader.batches(uninterrupted()).expect("begins").map(|batch| batch.expect("batch")).collect()
}

pub(crate) fn indices(batches: &[Batch]) -> Vec<Vec<usize>> {
    batches.iter().map(|batch| batch.indices.clone()).collect()
}

/// The batch that reading its samples one by one makes.
pub(crate) fn check(dataset: &Dataset, batch: &Batch) {
    for (row, &index) in batch.indices.iter().enumerate() {
        let sample = dataset.get(index, uninterrupted()).expect("sample");
        for (name, value) in &sample.fields {
            let batched = batch.field(name).expect("field");
            match (value, batched) {
                (Value::Tensor(one), Value::Tensor(all)) => assert_row(one, all, row),
                (Value::Dict(one), Value::Dict(all)) => {
                    let (Some(Value::Tensor(one)), Some(Value::Tensor(all))) = (one.get("x"), all.get("x")) else {
                        panic!("x is a tensor")
                    };
                    assert_row(one, all, row);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn assert_row(one: &Tensor, all: &Tensor, row: usize) {
    assert_eq!(&all.shape()[1..], one.shape());
    let bytes = all.contiguous_bytes().expect("contiguous");
    assert_eq!(&bytes[row * one.nbytes()..(row + 1) * one.nbytes()], one.contiguous_bytes().expect("contiguous"));
}

#[test]
fn the_same_batches_whatever_the_threads_the_cache_and_the_source() {
    let folder = folder(30);
    let reference = open(folder.path(), NO_CACHE);
    let mut seen: Option<Vec<Batch>> = None;
    for more in ["", NO_CACHE, r#", "cache": {"memory": "20kB"}"#, REMOTE] {
        for threads in [None, Some(1), Some(2), Some(8)] {
            let dataset = open(folder.path(), more);
            let loader = Loader::new(&dataset, LoaderConfig { num_threads: threads, ..config(4) }).expect("loader");
            let batches: Vec<_> = [pass(&loader), pass(&loader)].concat();
            assert_eq!(batches.len(), 16);
            match &seen {
                None => batches.iter().for_each(|batch| check(&reference, batch)),
                Some(seen) => assert_eq!(&batches, seen, "{more} {threads:?}"),
            }
            seen = Some(batches);
        }
    }
}

#[test]
fn every_epoch_has_every_sample_once_in_another_order() {
    let folder = folder(21);
    let loader = Loader::new(&open(folder.path(), ""), config(4)).expect("loader");
    let epochs: Vec<Vec<usize>> = (0..3).map(|_| indices(&pass(&loader)).concat()).collect();
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..21).collect::<Vec<_>>());
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    loader.set_epoch(1);
    assert_eq!(indices(&pass(&loader)).concat(), epochs[1]);
    let unshuffled = LoaderConfig { shuffle: false, ..config(4) };
    let loader = Loader::new(&open(folder.path(), ""), unshuffled).expect("loader");
    assert_eq!(indices(&pass(&loader)).concat(), (0..21).collect::<Vec<_>>());
}

#[test]
fn a_run_goes_on_from_every_step_with_any_batch_and_world_size() {
    let folder = folder(26);
    let dataset = open(folder.path(), "");
    let whole = indices(&pass(&Loader::new(&dataset, config(4)).expect("loader"))).concat();
    for stop in 0..=7 {
        let first = Loader::new(&dataset, config(4)).expect("loader");
        let mut batches = first.batches(uninterrupted()).expect("begins");
        (0..stop).for_each(|_| drop(batches.next()));
        let state = State::from_json(&first.state().to_json()).expect("state");
        for (batch_size, world_size) in [(4, 1), (3, 2), (1, 5), (26, 1)] {
            let ranks: Vec<_> = (0..world_size)
                .map(|rank| {
                    let loader = Loader::new(
                        &dataset,
                        LoaderConfig { rank: Some(rank), world_size: Some(world_size), ..config(batch_size) },
                    )
                    .expect("loader");
                    loader.restore(&state).expect("restored");
                    loader.set_epoch(0);
                    (pass(&loader), loader.state())
                })
                .collect();
            let mut rest = Vec::new();
            for step in 0..ranks[0].0.len() {
                for (batches, _) in &ranks {
                    let pads = batches[step].pads.as_ref().expect("pads");
                    rest.extend(
                        batches[step].indices.iter().zip(pads).filter(|(_, pad)| !**pad).map(|(index, _)| *index),
                    );
                }
            }
            assert_eq!(rest, whole[(stop * 4).min(26)..], "from step {stop} with {batch_size} × {world_size}");
            assert!(ranks.iter().all(|(_, state)| (state.epoch, state.position) == (1, 0)));
        }
    }
}

#[test]
fn leaving_a_pass_begins_the_next_epoch_and_older_passes_do_not_move_the_state() {
    let folder = folder(20);
    let loader = Loader::new(&open(folder.path(), ""), config(4)).expect("loader");
    let mut first = loader.batches(uninterrupted()).expect("begins");
    first.next();
    assert_eq!((loader.state().epoch, loader.state().position), (0, 4));
    let mut second = loader.batches(uninterrupted()).expect("begins");
    assert_eq!((loader.state().epoch, loader.state().position), (1, 0));
    first.next();
    assert_eq!((loader.state().epoch, loader.state().position), (1, 0));
    second.next();
    assert_eq!((loader.state().epoch, loader.state().position), (1, 4));
}

#[test]
fn a_taken_batch_counts_once_it_is_handed_out_and_readiness_is_known_without_waiting() {
    let folder = folder(10);
    let loader = Loader::new(&open(folder.path(), ""), config(4)).expect("loader");
    let mut batches = loader.batches(uninterrupted()).expect("begins");
    let mut taken = Vec::new();
    for _ in 0..3 {
        while !batches.is_ready() {
            std::thread::yield_now();
        }
        taken.push(batches.take_next(uninterrupted()).expect("some").expect("batch").1);
    }
    for (behind, position) in taken.iter().zip([0, 4, 8]) {
        assert_eq!(loader.state().position, position);
        behind.hand_out(Duration::ZERO);
    }
    assert_eq!(loader.state().position, 10);
    assert!(!batches.is_ready(), "the end is no batch");
    assert!(batches.take_next(uninterrupted()).is_none());
    assert_eq!((loader.state().epoch, loader.state().position), (1, 0));
}

#[test]
fn reuse_is_what_fits_and_ready_is_what_came_in_time() {
    let folder = folder(40);
    let dataset = open(folder.path(), &format!(r#"{REMOTE}, "cache": {{"memory": "10MB"}}"#));
    let loader = Loader::new(&dataset, config(4)).expect("loader");
    let count = |name: &str| {
        let snapshot = loader.snapshot();
        let found = snapshot.iter().find(|(info, _)| info.name == name);
        match found.expect("a metric").1 {
            headwater::metrics::Number::Whole(count) => count,
            headwater::metrics::Number::Seconds(_) => panic!("a count"),
        }
    };
    pass(&loader);
    assert_eq!((count("loader_units_asked_total"), count("loader_units_reused_total")), (80, 0));
    // Packing goes on behind the last batch.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while count("cache_memory_entries") < 80 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    pass(&loader);
    assert_eq!((count("loader_units_asked_total"), count("loader_units_reused_total")), (160, 80));
    assert_eq!(count("source_requests_total"), 80, "the second epoch asked for nothing");
    assert!(count("loader_units_ready_total") >= 80);
}

#[test]
fn pads_are_marked_and_not_reused() {
    let folder = folder(10);
    let dataset = open(folder.path(), "");
    let last: Vec<Batch> = (0..4)
        .map(|rank| {
            let config = LoaderConfig { rank: Some(rank), world_size: Some(4), shuffle: false, ..config(2) };
            pass(&Loader::new(&dataset, config).expect("loader")).pop().expect("a batch")
        })
        .collect();
    assert_eq!(indices(&last), [[8], [9], [0], [1]]);
    let pads: Vec<_> = last.iter().map(|batch| batch.pads.clone().expect("pads")[0]).collect();
    assert_eq!(pads, [false, false, true, true]);
    let dropping = LoaderConfig { drop_last: true, rank: Some(0), world_size: Some(4), ..config(2) };
    let batches = pass(&Loader::new(&dataset, dropping).expect("loader"));
    assert_eq!((batches.len(), &batches[0].pads), (1, &None));
}

#[test]
fn a_damaged_object_is_named_and_ends_the_pass() {
    let folder = folder(12);
    std::fs::write(folder.path().join("b/0006.pt"), b"nonsense").expect("written");
    let config = LoaderConfig { shuffle: false, ..config(2) };
    let loader = Loader::new(&open(folder.path(), ""), config).expect("loader");
    let outcomes: Vec<_> = loader.batches(uninterrupted()).expect("begins").collect();
    assert_eq!(outcomes.len(), 4);
    let error = outcomes[3].as_ref().expect_err("damaged");
    assert!(error.to_string().contains("0006.pt"), "{error}");
    assert_eq!(loader.state().position, 6, "the batch that failed was not handed out");
}

#[test]
fn a_batch_that_takes_too_long_names_the_object() {
    let folder = folder(4);
    let dataset = open(folder.path(), r#", "fetch": {"throttle": {"first_byte": "1h"}}"#);
    let deadline = Some(headwater::config::Span(Duration::from_millis(10)));
    let config = LoaderConfig { batch_deadline: deadline, shuffle: false, ..config(2) };
    let loader = Loader::new(&dataset, config).expect("loader");
    let error = loader.batches(uninterrupted()).expect("begins").next().expect("waits").expect_err("too late");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let words = error.to_string();
    assert!(words.contains("waiting for `") && words.contains("a/0000.pt` for "), "{words}");
    assert!(words.ends_with(" s and for 3 other objects"), "{words}");
}

#[test]
fn samples_apart_are_the_datasets_own_and_nobody_elses() {
    let folder = folder(6);
    let dataset = open(folder.path(), "");
    let config = LoaderConfig { collate: headwater::collate::Collation::Samples, ..config(3) };
    let loader = Loader::new(&dataset, config).expect("loader");
    let mut places = BTreeMap::new();
    for batch in [pass(&loader), pass(&loader)].concat() {
        let Content::Samples(samples) = batch.content else { panic!("samples") };
        for sample in samples {
            assert_eq!(sample, dataset.get(sample.index, uninterrupted()).expect("sample"));
            let Some(Value::Tensor(tensor)) = sample.field("b").cloned() else { panic!("a tensor") };
            *places.entry(tensor.storage().0.as_ptr() as usize).or_insert(0) += 1;
            std::mem::forget(tensor);
        }
    }
    assert!(places.values().all(|&uses| uses == 1), "two samples in one place");
}

#[test]
fn what_cannot_be_meant_is_refused_when_the_loader_is_made() {
    let folder = folder(4);
    let dataset = open(folder.path(), "");
    let refused = |config: LoaderConfig| Loader::new(&dataset, config).expect_err("refused").to_string();
    assert!(refused(config(0)).contains("a batch holds at least one sample"));
    assert!(refused(LoaderConfig { num_threads: Some(0), ..config(1) }).contains("num_threads"));
    assert!(refused(LoaderConfig { drop_last: true, ..config(5) }).contains("make no full batch of 5"));
    let tiny = LoaderConfig { memory_budget: Some(headwater::config::ByteSize(1)), ..config(1) };
    assert!(refused(tiny).contains("are needed"));
}
