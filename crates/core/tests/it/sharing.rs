//! Processes and datasets that want the same objects at the same time: one fetches each, and nobody is held up by one that does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use headwater::cache::disk::care::Care;
use headwater::config::{ByteSize, DatasetConfig, FetchConfig, Span, ThrottleConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::metrics::Metric;
use headwater_testkit::server::{Class, Server};
use rustix::process::Signal;

use crate::sources::specs_of;
use crate::workers::{SAMPLES, WAITED, config, end, is_right, serving, signal, start, wait_until};

/// A server, and a folder with room for all of it.
struct Place {
    server: Server,
    folder: tempfile::TempDir,
    config: DatasetConfig,
}

impl Place {
    fn new() -> Self {
        let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
        let mut config = config(specs_of(&server, "run").swap_remove(0).1, &folder.path().join("cache"));
        config.cache.disk_capacity = Some(ByteSize(64 << 20));
        // Ports are used again, and requests are counted.
        (config.manifest_max_age, config.fetch) = (Span(Duration::ZERO), Self::fetch());
        // Nobody waits to be told to begin.
        fs::write(folder.path().join("go"), "").expect("written");
        Self { server, folder, config }
    }

    fn fetch() -> FetchConfig {
        FetchConfig { hedge: Some(0.0), ..FetchConfig::default() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn fetching(&self, fetch: FetchConfig) -> DatasetConfig {
        DatasetConfig { fetch, ..self.config.clone() }
    }

    fn start(&self, told: &str, config: &DatasetConfig) -> Child {
        start(told, config, &self.folder.path().join("home"))
    }

    fn open(&self) -> Dataset {
        Dataset::open(&self.config, uninterrupted()).expect("opens")
    }

    fn gets(&self) -> u64 {
        self.server.requests_of(Class::Get)
    }

    fn fault(&self, rules: &[&str]) {
        self.server.set_faults(rules.iter().map(|rule| rule.parse().expect("a fault")).collect());
    }
}

fn read_all(dataset: &Dataset) {
    for index in 0..SAMPLES {
        assert!(is_right(dataset, index).expect("read"), "sample {index}");
    }
}

fn waits(dataset: &Dataset) -> (u64, u64) {
    let snapshot = dataset.snapshot();
    (snapshot.raw(Metric::DiskWaits), snapshot.raw(Metric::DiskWaitsInVain))
}

fn looked_for(dataset: &Dataset) -> (u64, u64) {
    let snapshot = dataset.snapshot();
    (snapshot.raw(Metric::DiskHits), snapshot.raw(Metric::DiskMisses))
}

fn assert_nothing_is_damaged(cache: &Path) {
    let care = Care::of(cache).expect("ours");
    let checked = care.verify(|_| Ok(())).expect("checked");
    // But for those that were still to be written when their processes ended.
    assert!(checked.records >= SAMPLES as u64 - 10 && checked.damaged + checked.unreadable == 0, "{checked:?}");
    care.gc(Duration::from_hours(1), None, |_| Ok(())).expect("tidied");
    assert_eq!(care.taken().expect("read"), 0, "nobody has taken more");
}

#[test]
fn a_process_that_waits_for_its_bandwidth_keeps_nobody_waiting_and_uses_what_others_bring() {
    let place = Place::new();
    let before = place.gets();
    let slow = FetchConfig { max_bandwidth: Some(ByteSize(4_000)), ..Place::fetch() };
    let mut worker = place.start("walk", &place.fetching(slow));
    wait_until("it has begun", || place.gets() > before);
    // In which it comes to wait for all the others.
    std::thread::sleep(Duration::from_millis(500));
    let dataset = place.open();
    read_all(&dataset);
    let (waits, in_vain) = waits(&dataset);
    assert!(waits <= 4 && in_vain == 0, "{waits} waits, {in_vain} in vain");
    // Alone it would take a quarter of an hour.
    wait_until("the other one has all of it, too", || worker.try_wait().expect("asked").is_some());
    assert!(place.gets() - before <= SAMPLES as u64 * 11 / 10);
}

#[test]
fn a_process_whose_requests_hang_costs_another_one_a_few_waits_and_not_one_for_each_object() {
    let place = Place::new();
    let before = place.gets();
    let throttle = ThrottleConfig { first_byte: Some(Span(Duration::from_secs(50))), ..ThrottleConfig::default() };
    let slow = FetchConfig { throttle: Some(throttle), ..Place::fetch() };
    let worker = place.start("walk", &place.fetching(slow));
    wait_until("it has asked for many", || place.gets() >= before + 12);
    let dataset = place.open();
    read_all(&dataset);
    let (waits, in_vain) = waits(&dataset);
    assert!((1..=4).contains(&in_vain), "{waits} waits, {in_vain} in vain");
    assert_eq!(looked_for(&dataset), (0, SAMPLES as u64), "each was looked for once, however often that was");
    end(worker);
}

#[test]
fn what_is_waited_for_is_one_hit_when_it_comes_and_one_miss_when_it_does_not() {
    for (stall, waited, looked) in [("700ms", (1, 0), (1, 0)), ("1h", (1, 1), (0, 1))] {
        let place = Place::new();
        let (dataset, before) = (place.open(), place.gets());
        place.fault(&[&format!("stall={stall},times=1,on=get")]);
        let worker = place.start("hold", &place.config);
        wait_until("it asks", || place.gets() > before);
        assert!(is_right(&dataset, 0).expect("read"));
        assert_eq!((waits(&dataset), looked_for(&dataset)), (waited, looked));
        end(worker);
    }
}

#[test]
fn two_datasets_of_a_process_fetch_each_object_once() {
    let place = Place::new();
    let before = place.gets();
    place.fault(&["stall=10ms,on=get"]);
    let datasets = [place.open(), place.open()];
    std::thread::scope(|scope| datasets.iter().for_each(|dataset| drop(scope.spawn(|| read_all(dataset)))));
    let all = datasets.iter().map(waits).fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
    assert!(all.0 > 0, "they met");
    let fetched = place.gets() - before;
    assert!(fetched <= SAMPLES as u64 + all.1, "{fetched} requests, {} waits in vain", all.1);
}

#[test]
fn what_a_dataset_fetches_is_waited_for_by_another_one_of_its_process_and_by_other_processes() {
    let place = Place::new();
    let [one, other] = [place.open(), place.open()];
    let before = place.gets();
    place.fault(&["stall=1s,on=get"]);
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(is_right(&one, 0).expect("read")));
        wait_until("it asks", || place.gets() > before);
        scope.spawn(|| assert!(is_right(&other, 0).expect("read")));
        wait_until("the other one waits", || waits(&other).0 > 0);
        let ended = place.start("fetch", &place.config).wait().expect("it ends");
        assert!(ended.code() == Some(WAITED) || place.gets() == before + 1, "it waited, or was late: {ended}");
    });
}

#[test]
fn what_fails_for_one_fails_for_those_who_waited_at_once_and_not_for_one_after_the_other() {
    const WAITING: usize = 4;
    let place = Place::new();
    let before = place.gets();
    place.fault(&["stall=1h,on=get,key=000.pt"]);
    let fetch = FetchConfig { deadline: Some(Span(Duration::from_secs(6))), retries: Some(0), ..Place::fetch() };
    let config = place.fetching(fetch);
    let mut workers = vec![place.start("fetch", &config)];
    wait_until("one asks", || place.gets() > before);
    workers.extend((0..WAITING).map(|_| place.start("fetch", &config)));
    let all = 1 + WAITING as u64;
    wait_until("all have asked", || place.gets() >= before + all);
    let ended = workers.iter_mut().filter_map(|worker| worker.try_wait().expect("asked")).count();
    workers.into_iter().for_each(end);
    assert!(ended <= 1, "{ended} had failed before the last one asked");
}

#[test]
fn processes_go_on_without_one_that_is_stopped_and_then_killed() {
    let place = Place::new();
    let before = place.gets();
    place.fault(&["stall=1h,on=get"]);
    let owner = place.start("walk", &place.config);
    wait_until("it has asked for many", || place.gets() >= before + 12);
    signal(&owner, Signal::STOP);
    place.fault(&[]);
    let mut workers: Vec<_> = (0..3).map(|_| place.start("all", &place.config)).collect();
    workers.iter_mut().for_each(|worker| assert!(worker.wait().expect("it ends").success()));
    // Who waits for it when it is killed is not told so.
    signal(&owner, Signal::KILL);
    end(owner);
    assert_nothing_is_damaged(&place.cache());
    let dataset = place.open();
    read_all(&dataset);
    assert_eq!(waits(&dataset), (0, 0), "nobody waits for the dead");
}

#[test]
fn who_waits_for_a_process_that_is_killed_fetches_at_once() {
    let place = Place::new();
    let (before, dataset) = (place.gets(), place.open());
    place.fault(&["stall=1h,on=get,times=1"]);
    let owner = place.start("fetch", &place.config);
    wait_until("it asks", || place.gets() > before);
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(is_right(&dataset, 0).expect("fetched")));
        wait_until("it is waited for", || waits(&dataset).0 > 0);
        end(owner);
    });
    assert_eq!(waits(&dataset), (1, 0));
}
