//! What several processes want at the same time is fetched by one of them for all, for as long as that one gets on.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use headwater::config::{ByteSize, OnChanged, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::format::pt::write_pt;
use headwater::metrics::Metric;
use headwater::value::{DType, Tensor, Value};
use headwater_testkit::server::{Class, Server, Speed};
use rustix::process::Signal;

use crate::sources::specs_of;
use crate::workers::{
    SAMPLES, WAITED, config, end, is_prepared, is_right, ready, serving, serving_at, signal, start, wait_until,
};

/// A process that has asked for an object and is answered after a time.
fn fetching(server: &Server, stall: &str, start: impl Fn() -> Child) -> Child {
    let before = server.requests_of(Class::Get);
    server.set_faults(vec![format!("stall={stall},times=1").parse().expect("a fault")]);
    let worker = start();
    wait_until("it asks", || server.requests_of(Class::Get) > before);
    worker
}

#[test]
fn a_process_that_is_stopped_while_it_fetches_is_not_waited_for_for_long() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    config.manifest_max_age = Span(Duration::ZERO);
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    // The other one begins, and gets no answer.
    let worker = fetching(&server, "1h", || start("fetch", &config, &home));
    signal(&worker, Signal::STOP);
    assert!(is_right(&dataset, 0).expect("fetched all the same"));
    let snapshot = dataset.snapshot();
    assert_eq!((snapshot.raw(Metric::DiskWaits), snapshot.raw(Metric::DiskWaitsInVain)), (1, 1));
    end(worker);
    assert!(is_right(&dataset, 1).expect("read"));
    assert_eq!(dataset.snapshot().raw(Metric::DiskWaits), 1, "nobody waits for the dead");
}

#[test]
fn a_process_that_fetches_is_waited_for() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    config.manifest_max_age = Span(Duration::ZERO);
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    let before = server.requests_of(Class::Get);
    let mut worker = fetching(&server, "700ms", || start("fetch", &config, &home));
    assert!(is_right(&dataset, 0).expect("read"));
    let snapshot = dataset.snapshot();
    assert_eq!((snapshot.raw(Metric::DiskWaits), snapshot.raw(Metric::DiskWaitsInVain)), (1, 0));
    worker.wait().expect("it ends");
    assert!(server.requests_of(Class::Get) - before <= 2, "one asked, or was gone before it had written");
}

#[test]
fn a_process_whose_source_is_silent_is_not_waited_for_for_long() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    config.manifest_max_age = Span(Duration::ZERO);
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    let worker = fetching(&server, "1h", || start("fetch", &config, &home));
    let began = Instant::now();
    assert!(is_right(&dataset, 0).expect("fetched all the same"));
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    let snapshot = dataset.snapshot();
    assert_eq!((snapshot.raw(Metric::DiskWaits), snapshot.raw(Metric::DiskWaitsInVain)), (1, 1));
    end(worker);
}

#[test]
fn of_processes_that_walk_the_same_samples_in_any_order_one_fetches_each() {
    let server = serving();
    server.set_faults(vec!["stall=20ms,on=get".parse().expect("a fault")]);
    assert_one_fetches_each(&server);
}

/// All of it takes seven seconds.
#[test]
fn of_processes_that_walk_the_same_samples_over_a_slow_line_one_fetches_each() {
    assert_one_fetches_each(&serving_at(Speed { total_rate: Some(600_000), ..Speed::default() }));
}

fn assert_one_fetches_each(server: &Server) {
    let folder = tempfile::tempdir().expect("a folder");
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let mut config = config(specs_of(server, "run").swap_remove(0).1, &cache);
    config.cache.disk_capacity = Some(ByteSize(64 << 20));
    let before = server.requests_of(Class::Get);
    let workers: Vec<_> = (0..3).map(|_| start("walk", &config, &home)).collect();
    wait_until("all are ready", || workers.iter().all(|worker| ready(folder.path(), worker.id()).exists()));
    fs::write(folder.path().join("go"), "").expect("written");
    let ends: Vec<_> = workers.into_iter().map(|mut worker| worker.wait().expect("it ends").code()).collect();
    assert!(ends.iter().all(|end| [Some(0), Some(WAITED)].contains(end)), "{ends:?}");
    assert!(ends.contains(&Some(WAITED)), "they met: {ends:?}");
    let fetched = server.requests_of(Class::Get) - before;
    // What was written while it was looked for is the exception.
    assert!(fetched <= SAMPLES as u64 * 11 / 10, "{fetched} requests for {SAMPLES} objects");
}

#[test]
fn what_was_replaced_is_fetched_by_one_process_for_all_whatever_tier_had_it() {
    for memory in [0, 64 << 20] {
        let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
        let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
        let mut config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
        (config.cache.disk_capacity, config.cache.memory) = (Some(ByteSize(64 << 20)), Some(ByteSize(memory)));
        (config.cache.ttl, config.on_changed) = (Some(Span(Duration::from_secs(8))), OnChanged::Reload);
        let mut workers: Vec<_> = (0..3).map(|_| start("again", &config, &home)).collect();
        wait_until("all are ready", || workers.iter().all(|worker| is_prepared(worker, folder.path())));
        for sample in 0..SAMPLES {
            let tensor = Tensor::from_bytes(DType::U8, &[9_000], vec![sample as u8; 9_000].into()).expect("a tensor");
            server.put(&format!("run/{sample:03}.pt"), write_pt(&Value::Tensor(tensor)).expect("written").into());
        }
        std::thread::sleep(Duration::from_secs(9));
        server.set_faults(vec!["stall=20ms,on=get".parse().expect("a fault")]);
        let before = server.requests_of(Class::Get);
        fs::write(folder.path().join("go"), "").expect("written");
        workers.iter_mut().for_each(|worker| assert!(worker.wait().expect("it ends").success()));
        let fetched = server.requests_of(Class::Get) - before;
        assert!(fetched <= SAMPLES as u64 * 11 / 10, "{fetched} requests for {SAMPLES} objects");
    }
}
