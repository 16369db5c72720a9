//! What the cache keeps expires: by a clock of its own, with one question per value, and as the dataset is told to take changes.

use std::time::Duration;

use bytes::Bytes;
use headwater::ErrorKind;
use headwater::clock::Clock;
use headwater::config::{ByteSize, CacheConfig, DatasetConfig, LoaderConfig, OnChanged, Replicas, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::format::pt::write_pt;
use headwater::loader::Loader;
use headwater::source::SourceSpec;
use headwater::value::{DType, Tensor, Value};
use headwater_testkit::server::{Class, Server, Speed};

use crate::sources::specs_of;

const SAMPLES: usize = 6;
const HOUR: Duration = Duration::from_hours(1);

fn object(value: u8) -> Bytes {
    let tensor = Tensor::from_bytes(DType::U8, &[10], vec![value; 10].into()).expect("a tensor");
    write_pt(&Value::Tensor(tensor)).expect("written").into()
}

fn serving() -> Server {
    let server = Server::start(Speed::default()).expect("starts");
    (0..SAMPLES).for_each(|sample| server.put(&format!("run/{sample}.pt"), object(sample as u8)));
    server
}

fn open(spec: SourceSpec, on_changed: OnChanged) -> (Clock, Dataset) {
    let clock = Clock::manual();
    let cache = CacheConfig { memory: Some(ByteSize(1 << 20)), ttl: Some(Span(HOUR)), ..CacheConfig::default() };
    let (source, manifest_max_age) = (Some(Replicas::from(spec)), Span(Duration::ZERO));
    let config = DatasetConfig { source, cache, on_changed, manifest_max_age, ..DatasetConfig::default() };
    (clock.clone(), Dataset::open_by(&config, clock, uninterrupted()).expect("opens"))
}

fn value(dataset: &Dataset, index: usize) -> headwater::Result<u8> {
    let sample = dataset.get(index, uninterrupted())?;
    let Value::Tensor(tensor) = &sample.fields[0].1 else { panic!("a tensor") };
    Ok(tensor.contiguous_bytes().expect("plain")[0])
}

fn asked(server: &Server) -> (u64, u64) {
    (server.requests_of(Class::Get), server.requests_of(Class::Head))
}

#[test]
fn a_value_is_used_until_it_expires_and_then_costs_one_question() {
    for kind in [0, 1, 2, 4] {
        let server = serving();
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        let (clock, dataset) = open(spec, OnChanged::Error);
        assert_eq!(value(&dataset, 3).expect(name), 3);
        let (gets, heads) = asked(&server);
        clock.advance(HOUR.saturating_sub(Duration::from_nanos(1)));
        assert_eq!(value(&dataset, 3).expect(name), 3);
        assert_eq!(asked(&server), (gets, heads), "{name}: not before");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(value(&dataset, 3).expect(name), 3);
        assert_eq!(asked(&server), (gets, heads + 1), "{name}: the same, as one question told");
        clock.advance(HOUR / 2);
        assert_eq!(value(&dataset, 3).expect(name), 3);
        assert_eq!(asked(&server), (gets, heads + 1), "{name}: renewed");
    }
}

#[test]
fn what_was_replaced_is_noticed_when_it_expires() {
    for (on_changed, kind) in [(OnChanged::Error, 0), (OnChanged::Reload, 0), (OnChanged::Reload, 4)] {
        let server = serving();
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        let (clock, dataset) = open(spec, on_changed);
        assert_eq!(value(&dataset, 3).expect(name), 3);
        server.put("run/3.pt", object(77));
        assert_eq!(value(&dataset, 3).expect(name), 3, "{name}: nobody asks yet");
        clock.advance(HOUR);
        match on_changed {
            OnChanged::Error => {
                assert_eq!(value(&dataset, 3).expect_err("replaced").kind(), ErrorKind::Changed);
            }
            OnChanged::Reload => {
                assert_eq!(value(&dataset, 3).expect(name), 77);
                let before = asked(&server);
                assert_eq!(value(&dataset, 3).expect(name), 77);
                assert_eq!(asked(&server), before, "{name}: kept as it is now");
            }
        }
    }
}

#[test]
fn a_commit_does_not_expire() {
    let server = serving();
    let (clock, dataset) = open(specs_of(&server, "run").swap_remove(3).1, OnChanged::Error);
    assert_eq!(value(&dataset, 3).expect("read"), 3);
    let before = asked(&server);
    clock.advance(1000 * HOUR);
    assert_eq!(value(&dataset, 3).expect("read"), 3);
    assert_eq!(asked(&server), before);
}

#[test]
fn a_local_file_is_read_again() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("0.pt"), object(5)).expect("written");
    let (clock, dataset) = open(SourceSpec::from(dir.path().to_str().expect("UTF-8")), OnChanged::Reload);
    assert_eq!(value(&dataset, 0).expect("read"), 5);
    std::fs::write(dir.path().join("0.pt"), object(6)).expect("written");
    assert_eq!(value(&dataset, 0).expect("kept"), 5);
    clock.advance(HOUR);
    assert_eq!(value(&dataset, 0).expect("read"), 6);
}

#[test]
fn a_loader_asks_ahead_each_at_another_time_and_once() {
    let server = serving();
    let (clock, dataset) = open(specs_of(&server, "run").swap_remove(0).1, OnChanged::Error);
    let loader = Loader::new(&dataset, LoaderConfig { batch_size: 2, drop_last: false, ..LoaderConfig::default() });
    let loader = loader.expect("a loader");
    let walk = || {
        let mut batches = loader.batches(uninterrupted()).expect("begins");
        while let Some(batch) = batches.next_batch(uninterrupted()) {
            batch.expect("a batch");
        }
    };
    walk();
    // Packed behind: until all of them are there.
    let ends = std::time::Instant::now() + Duration::from_secs(20);
    while dataset.snapshot().raw(headwater::metrics::Metric::CacheEntries) < SAMPLES as u64 {
        assert!(std::time::Instant::now() < ends, "they are never packed");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (gets, heads) = asked(&server);
    clock.advance(HOUR.mul_f64(0.95));
    walk();
    let (_, some) = asked(&server);
    assert!(some > heads && some < heads + SAMPLES as u64, "{} of {SAMPLES} a little early", some - heads);
    clock.advance(HOUR.mul_f64(0.05));
    walk();
    assert_eq!(asked(&server), (gets, heads + SAMPLES as u64), "all of them by now, and each once");
}
