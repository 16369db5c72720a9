//! Disks that fail under a loader and work again later: every batch is right meanwhile, and records are kept again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headwater::cache::disk::care::Care;
use headwater::config::LoaderConfig;
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::loader::{Content, Loader};
use headwater::metrics::Metric;
use headwater::value::Value;
use headwater_testkit::server::Class;

use crate::mounts::{break_down, make_read_only, mend, with_a_small_disk, with_fuse};
use crate::on_disk::{SAMPLES, config, content, open, serving, written};
use crate::sources::specs_of;

/// Every byte of every batch is compared.
fn epoch(dataset: &Dataset) {
    let config = LoaderConfig { batch_size: 4, ..LoaderConfig::default() };
    let loader = Loader::new(dataset, config).expect("a loader");
    let mut samples = 0;
    for batch in loader.batches(uninterrupted()).expect("begins") {
        let batch = batch.expect("a batch");
        let Content::Fields(fields) = &batch.content else { panic!("put together") };
        let Value::Tensor(tensor) = &fields[0].1 else { panic!("a tensor") };
        let expected: Vec<u8> = batch.indices.iter().flat_map(|&index| content(index as u64)).collect();
        assert!(tensor.contiguous_bytes().expect("plain") == expected, "{:?}", batch.indices);
        samples += batch.len();
    }
    assert_eq!(samples, SAMPLES);
}

/// A disk is tried again after half a minute.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let ends = Instant::now() + Duration::from_mins(2);
    while !is_so() {
        assert!(Instant::now() < ends, "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_full_disk_costs_a_loader_records_until_there_is_room_again() {
    with_a_small_disk(
        "failing_disk::a_full_disk_costs_a_loader_records_until_there_is_room_again",
        "8m",
        with_a_full_disk,
    );
}

fn with_a_full_disk(place: &Path) {
    let (server, folder) = (serving(), place.join("cache"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &folder);
    let dataset = open(&config);
    // Room for some of what there is to write, which takes more than a megabyte.
    let mut ballast = File::create(place.join("ballast")).expect("made");
    while ballast.write_all(&[7; 4096]).is_ok() {}
    let full = ballast.metadata().expect("told").len();
    ballast.set_len(full - (300 << 10)).expect("cut off");
    epoch(&dataset);
    written(&dataset, Metric::DiskFailures, 1);
    let snapshot = dataset.snapshot();
    assert_eq!(snapshot.raw(Metric::DiskOff), 1);
    let kept = snapshot.raw(Metric::DiskInsertions);
    assert!((1..SAMPLES as u64 / 2).contains(&kept), "{kept}");
    epoch(&dataset);

    fs::remove_file(place.join("ballast")).expect("removed");
    drop(ballast);
    until("all is written", || {
        epoch(&dataset);
        records(&folder) == SAMPLES as u64
    });
    assert_eq!(dataset.snapshot().raw(Metric::DiskOff), 0);
    let checked = Care::of(&folder).expect("ours").verify(|_| Ok(())).expect("checked");
    assert_eq!((checked.records, checked.damaged, checked.unreadable), (SAMPLES as u64, 0, 0));
    let later = open(&config);
    let asked = server.requests_of(Class::Get);
    epoch(&later);
    assert_eq!(server.requests_of(Class::Get), asked, "all is read from disk");
}

fn records(folder: &Path) -> u64 {
    Care::of(folder).expect("ours").sets().expect("read").iter().map(|set| set.records).sum()
}

#[test]
fn a_disk_that_breaks_costs_a_loader_its_records_until_it_works_again() {
    with_fuse(
        "failing_disk::a_disk_that_breaks_costs_a_loader_its_records_until_it_works_again",
        with_a_disk_that_breaks,
    );
}

fn with_a_disk_that_breaks(place: &Path) {
    let (server, folder) = (serving(), place.join("cache"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &folder);
    let dataset = open(&config);
    epoch(&dataset);
    written(&dataset, Metric::DiskInsertions, SAMPLES as u64);
    let asked = server.requests_of(Class::Get);
    epoch(&dataset);
    assert_eq!(server.requests_of(Class::Get), asked, "all is read from disk");

    let set = set(&folder);
    break_down(&set);
    let error = fs::read_dir(&set).expect_err("it is broken");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    epoch(&dataset);
    assert_eq!(server.requests_of(Class::Get), asked + SAMPLES as u64, "nothing is read from disk");
    let snapshot = dataset.snapshot();
    let failures = snapshot.raw(Metric::DiskFailures);
    assert!(snapshot.raw(Metric::DiskOff) == 1 && failures > 0, "{failures}");

    mend(&set);
    until("it is read again", || {
        let before = server.requests_of(Class::Get);
        epoch(&dataset);
        server.requests_of(Class::Get) == before
    });
    written(&dataset, Metric::DiskHits, 2 * SAMPLES as u64);
    assert_eq!(dataset.snapshot().raw(Metric::DiskOff), 0);
    let checked = Care::of(&folder).expect("ours").verify(|_| Ok(())).expect("checked");
    assert_eq!((checked.records, checked.damaged), (SAMPLES as u64, 0), "nothing was put aside");
}

#[test]
fn a_disk_that_turns_read_only_costs_a_loader_what_is_new_and_is_read_until_it_can_be_written() {
    with_a_small_disk(
        "failing_disk::a_disk_that_turns_read_only_costs_a_loader_what_is_new_and_is_read_until_it_can_be_written",
        "8m",
        with_a_read_only_disk,
    );
}

fn with_a_read_only_disk(place: &Path) {
    let (server, folder) = (serving(), place.join("cache"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &folder);
    let dataset = open(&config);
    for index in 0..SAMPLES / 2 {
        assert!(dataset.get(index, uninterrupted()).is_ok());
    }
    written(&dataset, Metric::DiskInsertions, SAMPLES as u64 / 2);
    make_read_only(place);
    let error = fs::write(folder.join("x"), "x").expect_err("it can only be read");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
    let asked = server.requests_of(Class::Get);
    epoch(&dataset);
    assert_eq!(server.requests_of(Class::Get), asked + SAMPLES as u64 / 2, "what was there is read");
    written(&dataset, Metric::DiskFailures, 1);
    assert_eq!(dataset.snapshot().raw(Metric::DiskOff), 1);
    assert_eq!(records_by_looking(&folder), SAMPLES / 2);

    // Who comes to it as it is reads, too.
    let later = open(&config);
    epoch(&later);
    assert_eq!(later.snapshot().raw(Metric::DiskHits), SAMPLES as u64 / 2);

    mend(place);
    until("all is written", || {
        epoch(&dataset);
        records_by_looking(&folder) == SAMPLES
    });
    assert_eq!(dataset.snapshot().raw(Metric::DiskOff), 0);
    let checked = Care::of(&folder).expect("ours").verify(|_| Ok(())).expect("checked");
    assert_eq!((checked.records, checked.damaged, checked.unreadable), (SAMPLES as u64, 0, 0));
}

fn records_by_looking(folder: &Path) -> usize {
    let files = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = files(set(folder)).filter(|shard| shard.is_dir());
    shards.flat_map(files).filter(|file| file.extension().is_some_and(|suffix| suffix == "hwc")).count()
}

/// The folder of the only set.
fn set(folder: &Path) -> PathBuf {
    let mut sets = fs::read_dir(folder.join("sets")).expect("read").map(|set| set.expect("read").path());
    sets.next().expect("one")
}
