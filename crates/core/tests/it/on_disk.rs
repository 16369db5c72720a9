//! What a dataset keeps on disk: found again by later runs and other processes, never of another version, and no reason to fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::ErrorKind;
use headwater::cache::disk::care::Care;
use headwater::config::{ByteSize, CacheConfig, DatasetConfig, FetchConfig, LoaderConfig, Replicas, Secrets, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::format::pt::write_pt;
use headwater::loader::Loader;
use headwater::metrics::Metric;
use headwater::source::{self, SourceSpec};
use headwater::value::{DType, Tensor, Value};
use headwater_testkit::server::{Class, Server, Speed};

use crate::sources::specs_of;

pub(crate) const SAMPLES: usize = 40;
pub(crate) const BYTES: usize = 30_000;

pub(crate) fn content(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..BYTES).map(|_| next()).collect()
}

pub(crate) fn object(seed: u64) -> Bytes {
    let tensor = Tensor::from_bytes(DType::U8, &[BYTES], content(seed).into()).expect("a tensor");
    write_pt(&Value::Tensor(tensor)).expect("written").into()
}

pub(crate) fn serving() -> Server {
    let server = Server::start(Speed::default()).expect("starts");
    (0..SAMPLES).for_each(|sample| server.put(&format!("run/{sample:02}.pt"), object(sample as u64)));
    server
}

pub(crate) fn config(spec: SourceSpec, folder: &Path) -> DatasetConfig {
    let cache = CacheConfig {
        memory: Some(ByteSize(0)),
        disk: Some(folder.to_owned()),
        disk_capacity: Some(ByteSize(1 << 30)),
        ..CacheConfig::default()
    };
    let (source, manifest_max_age) = (Some(Replicas::from(spec)), Span(Duration::ZERO));
    // Requests are counted, and one that is slow on a busy machine would be made twice.
    let fetch = FetchConfig { hedge: Some(0.0), ..FetchConfig::default() };
    DatasetConfig { source, cache, fetch, manifest_max_age, ..DatasetConfig::default() }
}

pub(crate) fn open(config: &DatasetConfig) -> Dataset {
    Dataset::open(config, uninterrupted()).expect("opens")
}

pub(crate) fn value(dataset: &Dataset, index: usize) -> headwater::Result<Vec<u8>> {
    let sample = dataset.get(index, uninterrupted())?;
    let Value::Tensor(tensor) = &sample.fields[0].1 else { panic!("a tensor") };
    Ok(tensor.contiguous_bytes().expect("plain").to_vec())
}

pub(crate) fn read_all(dataset: &Dataset) {
    for index in 0..dataset.len() {
        assert!(value(dataset, index).expect("read") == content(index as u64), "sample {index}");
    }
}

/// Waits for what is written behind.
pub(crate) fn written(dataset: &Dataset, metric: Metric, least: u64) {
    let ends = Instant::now() + Duration::from_mins(1);
    while dataset.snapshot().raw(metric) < least {
        assert!(Instant::now() < ends, "{:?} is {}", metric, dataset.snapshot().raw(metric));
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn records(folder: &Path) -> Vec<PathBuf> {
    let files = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = files(folder.join("sets")).flat_map(files);
    shards.flat_map(files).collect()
}

#[test]
fn a_later_run_asks_the_source_for_nothing_it_has_on_disk() {
    for kind in 0..5 {
        let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        let config = config(spec, &folder.path().join("cache"));
        let first = open(&config);
        read_all(&first);
        written(&first, Metric::DiskInsertions, SAMPLES as u64);
        drop(first);
        let gets = server.requests_of(Class::Get);
        let second = open(&config);
        let opening = server.requests_of(Class::Get) - gets;
        read_all(&second);
        assert_eq!(server.requests_of(Class::Get) - gets, opening, "{name}");
        assert_eq!(second.snapshot().raw(Metric::DiskHits), SAMPLES as u64, "{name}");
        let several: Vec<_> = (0..SAMPLES).collect();
        assert_eq!(second.get_many(&several, uninterrupted()).expect(name).len(), SAMPLES);
        assert_eq!(server.requests_of(Class::Get) - gets, opening, "{name}");
    }
}

#[test]
fn files_that_are_damaged_are_fetched_again() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, folder.path());
    let first = open(&config);
    read_all(&first);
    written(&first, Metric::DiskInsertions, SAMPLES as u64);
    let damaged = records(folder.path()).into_iter().filter(|path| path.extension().is_some_and(|it| it == "hwc"));
    for (number, path) in damaged.enumerate().filter(|(number, _)| number % 4 == 0) {
        let mut bytes = fs::read(&path).expect("read");
        let at = number * 700 % bytes.len();
        bytes[at] ^= 1 << (number % 8);
        fs::write(&path, bytes).expect("written");
    }
    let second = open(&config);
    let gets = server.requests_of(Class::Get);
    read_all(&second);
    assert_eq!(server.requests_of(Class::Get) - gets, SAMPLES as u64 / 4);
    assert_eq!(second.snapshot().raw(Metric::DiskQuarantined), SAMPLES as u64 / 4);
    written(&second, Metric::DiskInsertions, SAMPLES as u64 / 4);
    let third = open(&config);
    read_all(&third);
    assert_eq!(server.requests_of(Class::Get) - gets, SAMPLES as u64 / 4, "written anew");
    assert_eq!(Care::of(folder.path()).expect("ours").verify(|_| Ok(())).expect("checked").damaged, 0);
}

#[test]
fn a_loader_reuses_what_the_disk_has_room_for() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, folder.path());
    // Noise does not shrink: a record takes eight blocks.
    let record = 8 * 4096;
    config.cache.disk_capacity = Some(ByteSize(record * SAMPLES as u64 / 2));
    let dataset = open(&config);
    let loader = LoaderConfig { batch_size: 4, ..LoaderConfig::default() };
    let loader = Loader::new(&dataset, loader).expect("a loader");
    let mut reused = Vec::new();
    for _ in 0..6 {
        let before = loader.snapshot().raw(Metric::UnitsReused);
        loader.batches(uninterrupted()).expect("begins").for_each(|batch| drop(batch.expect("a batch")));
        reused.push(loader.snapshot().raw(Metric::UnitsReused) - before);
        std::thread::sleep(Duration::from_millis(1100));
    }
    let snapshot = dataset.snapshot();
    assert!(snapshot.raw(Metric::DiskBytes) <= record * SAMPLES as u64 / 2);
    assert_eq!(reused[0], 0);
    assert!(reused[2..].iter().all(|&reused| (18..=20).contains(&reused)), "{reused:?}");
}

#[test]
fn a_folder_that_is_read_from_is_no_place_for_records_and_local_files_need_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("a.pt"), object(0)).expect("written");
    let spec = SourceSpec::from(data.to_str().expect("UTF-8"));
    for place in [data.clone(), data.join("below"), folder.path().to_owned()] {
        let error = Dataset::open(&config(spec.clone(), &place), uninterrupted()).expect_err("it is read from");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
        assert!(error.report().contains("is read from"), "{}", error.report());
    }
    let foreign = folder.path().join("other");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("thesis.txt"), "x").expect("written");
    let error = Dataset::open(&config(spec.clone(), &foreign), uninterrupted()).expect_err("not ours");
    assert!(error.kind() == ErrorKind::Invalid && error.report().contains("thesis.txt"), "{}", error.report());
    let dataset = open(&config(spec, &folder.path().join("cache")));
    read_all(&dataset);
    assert_eq!(dataset.snapshot().raw(Metric::DiskMisses) + dataset.snapshot().raw(Metric::DiskInsertions), 0);
}

#[test]
fn a_folder_that_vanishes_costs_records_and_no_sample() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let place = folder.path().join("cache");
    let config = config(specs_of(&server, "run").swap_remove(0).1, &place);
    let dataset = open(&config);
    (0..10).for_each(|index| drop(value(&dataset, index).expect("read")));
    written(&dataset, Metric::DiskInsertions, 10);
    fs::remove_dir_all(&place).expect("removed");
    read_all(&dataset);
    read_all(&dataset);
    written(&dataset, Metric::DiskFailures, 1);
    assert_eq!(dataset.snapshot().raw(Metric::DiskOff), 1);
    assert!(!place.exists());
}

#[test]
fn what_a_replica_lists_or_serves_has_no_version_and_is_not_kept() {
    let (first, second) = (serving(), serving());
    let folder = tempfile::tempdir().expect("a folder");
    let specs = [&first, &second].map(|server| specs_of(server, "run").swap_remove(0).1);
    let [spec, _] = specs.clone();
    let mut config = config(spec, folder.path());
    config.source = Some(Replicas(specs.into()));
    // Listed by the first, served by the second; and listed by the second.
    let dataset = open(&config);
    first.kill().expect("killed");
    read_all(&dataset);
    let later = open(&config);
    read_all(&later);
    for dataset in [&dataset, &later] {
        let snapshot = dataset.snapshot();
        assert_eq!(snapshot.raw(Metric::DiskInsertions) + snapshot.raw(Metric::PackBytes), 0);
    }
    assert_eq!(later.snapshot().raw(Metric::DiskMisses), 0, "nor looked for");
    first.revive().expect("revived");
    let dataset = open(&config);
    read_all(&dataset);
    written(&dataset, Metric::DiskInsertions, SAMPLES as u64);
}

#[test]
fn a_published_manifest_of_times_finds_what_a_server_of_tags_gave() {
    let data = tempfile::tempdir().expect("a folder");
    let server = serving();
    for sample in 0..SAMPLES {
        fs::write(data.path().join(format!("{sample:02}.pt")), object(sample as u64)).expect("written");
    }
    let local = DatasetConfig {
        source: Some(Replicas::from(SourceSpec::from(data.path().to_str().expect("UTF-8")))),
        ..DatasetConfig::default()
    };
    let place = data.path().join("run.manifest");
    let place = place.to_str().expect("UTF-8");
    open(&local).publish(place, uninterrupted()).expect("published");
    for (name, spec) in specs_of(&server, "run") {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config(spec, &folder.path().join("cache"));
        config.manifest = Some(place.to_owned());
        let first = open(&config);
        read_all(&first);
        assert_eq!(first.snapshot().raw(Metric::DiskHits), 0, "{name}");
        written(&first, Metric::DiskInsertions, SAMPLES as u64);
        let second = open(&config);
        let gets = server.requests_of(Class::Get);
        read_all(&second);
        assert_eq!(server.requests_of(Class::Get), gets, "{name}");
        assert_eq!(second.snapshot().raw(Metric::DiskHits), SAMPLES as u64, "{name}");
    }
}

#[test]
fn a_run_that_only_reads_what_is_there_uses_it_and_remakes_nothing() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let place = folder.path().join("cache");
    let config = config(specs_of(&server, "run").swap_remove(0).1, &place);
    let first = open(&config);
    read_all(&first);
    written(&first, Metric::DiskInsertions, SAMPLES as u64);
    drop(first);
    let care = Care::of(&place).expect("ours");
    assert!(care.sets().expect("read").iter().all(|set| !set.is_used));
    let second = open(&config);
    read_all(&second);
    assert!(care.sets().expect("read").iter().all(|set| set.is_used));
    // As a worker opens it, whose disk has gone since.
    let pinned = second.pinned(Secrets::Include).expect("described");
    fs::remove_dir_all(&place).expect("removed");
    let third = Dataset::reopen(&pinned, uninterrupted()).expect("opens");
    read_all(&third);
    assert!(!place.exists());
    assert_eq!(third.snapshot().raw(Metric::DiskOff), 1);
}

#[test]
fn a_password_in_an_endpoint_is_not_written_down() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let mut spec = specs_of(&server, "run").swap_remove(0).1;
    let endpoint = server.endpoint().replace("http://", "http://somebody:hidden-word@");
    spec.options.set("endpoint", endpoint);
    let dataset = open(&config(spec, folder.path()));
    read_all(&dataset);
    written(&dataset, Metric::DiskInsertions, SAMPLES as u64);
    let sets = Care::of(folder.path()).expect("ours").sets().expect("read");
    assert!(sets.len() == 1 && !format!("{sets:?}").contains("hidden-word"), "{sets:?}");
    let about = fs::read_to_string(folder.path().join("sets").join(&sets[0].id).join("about.json")).expect("there");
    assert!(!about.contains("hidden-word"), "{about}");
}

#[tokio::test]
async fn accounts_of_azure_are_told_apart() {
    let endpoint = |account: &str| {
        let options = [("account", account), ("anonymous", "true")].into_iter().collect();
        let spec = SourceSpec { uri: "az://container/run".to_owned(), options };
        async move { source::probe(&spec).await.expect("understood").endpoint().map(str::to_owned) }
    };
    assert_ne!(endpoint("one").await, endpoint("other").await);
}
