//! Processes that write at the same time never exceed the capacity of a folder, whatever becomes of its ledger.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater::cache::disk::Disk;
use headwater::cache::disk::care::Care;
use headwater::clock::Moment;
use headwater::source::{Edition, Version};

use crate::sources::specs_of;
use crate::workers::{CAPACITY, Chance, PROCESSES, config, end, is_prepared, metas, serving, start, wait_until};

/// In whole blocks, as the ledger counts, or more where the disk says that it takes more. Right while nothing goes.
fn blocks_in(folder: &Path) -> u64 {
    metas(folder).map(|meta| meta.len().next_multiple_of(4096).max(meta.blocks() * 512)).sum()
}

#[test]
fn processes_whose_ledger_is_removed_and_one_that_makes_it_anew_keep_to_one_capacity() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    let fill = || {
        let worker = start("fill", &config, &home);
        wait_until("it has written", || is_prepared(&worker, folder.path()));
        worker
    };
    let mut workers = vec![fill(), fill()];
    fs::remove_file(cache.join("ledger")).expect("removed");
    workers.push(fill());
    fs::write(folder.path().join("go"), "").expect("written");
    let mut most = 0;
    while workers.iter_mut().any(|worker| worker.try_wait().expect("asked").is_none()) {
        most = most.max(blocks_in(&cache));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(most > CAPACITY / 2 && most <= CAPACITY, "{most} bytes of {CAPACITY}");
    let ends: Vec<_> = workers.into_iter().map(|mut worker| worker.wait().expect("it ends").success()).collect();
    assert_eq!(ends, [true; 3]);
    let care = Care::of(&cache).expect("ours");
    let counted = care.bytes().expect("read");
    care.gc(Duration::from_hours(1), None, |_| Ok(())).expect("tidied");
    assert_eq!(care.bytes().expect("read"), counted, "nothing was counted wrongly");
}

#[test]
fn eight_processes_that_fill_a_folder_keep_to_its_capacity_at_any_moment() {
    eight_fill(|_, _| {});
}

/// Twice in a second, most often what it says of the records.
#[test]
fn eight_processes_whose_ledger_is_damaged_all_the_time_keep_to_its_capacity_and_lose_nothing() {
    eight_fill(|ledger, chance| {
        let at = if chance.below(4) == 0 { chance.below(16_448) } else { 64 + chance.below(64) };
        let (file, mut byte) = (fs::File::options().read(true).write(true).open(ledger).expect("there"), [0]);
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 1 << chance.below(8)], at).expect("damaged");
    });
}

/// Samples what the disk says while they write.
fn eight_fill(mut disturb: impl FnMut(&Path, &mut Chance)) {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    let mut workers: Vec<_> = (0..PROCESSES).map(|_| start("fill", &config, &home)).collect();
    wait_until("all are ready", || workers.iter().all(|worker| is_prepared(worker, folder.path())));
    fs::write(folder.path().join("go"), "").expect("written");
    let (mut most, mut samples, mut chance) = (0, 0, Chance(5));
    while workers.iter_mut().any(|worker| worker.try_wait().expect("asked").is_none()) {
        most = most.max(blocks_in(&cache));
        samples += 1;
        if samples % 64 == 0 {
            disturb(&cache.join("ledger"), &mut chance);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(most > CAPACITY / 4 && most <= CAPACITY, "{most} bytes of {CAPACITY}");
    let ends: Vec<_> = workers.into_iter().map(|mut worker| worker.wait().expect("it ends").success()).collect();
    assert_eq!(ends, [true; PROCESSES]);
    let care = Care::of(&cache).expect("ours");
    let checked = care.verify(|_| Ok(())).expect("checked");
    assert!(checked.records > 10 && checked.damaged == 0, "{checked:?}");
    assert_eq!(care.bytes().expect("counted"), blocks_of(&cache, checked.records));
}

/// What so many records take that were let in by those who fill.
fn blocks_of(cache: &Path, records: u64) -> u64 {
    let bytes = blocks_in(cache);
    assert_eq!(bytes, records * 61_440, "nothing but these is there");
    bytes
}

#[test]
fn a_ledger_that_is_lost_knows_again_what_a_process_has_taken_that_does_nothing() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    let idle = start("idle", &config, &home);
    wait_until("it has written", || is_prepared(&idle, folder.path()));
    let care = Care::of(&cache).expect("ours");
    let (bytes, taken) = (care.bytes().expect("counted"), care.taken().expect("read"));
    assert!(bytes == 4096 && taken > 0 && taken < CAPACITY / 4, "{bytes} {taken}");
    fs::remove_file(cache.join("ledger")).expect("removed");
    assert_eq!((care.bytes().expect("counted"), care.taken().expect("read")), (bytes, taken));

    let set = Arc::new(Disk::open(&cache, Some(CAPACITY)).expect("opens")).set("s3://bucket/run", None, false);
    let edition = Edition { version: Version::ETag("1".into()), size: 60_000 };
    let records = (CAPACITY - bytes - taken) / 61_440;
    let put = |number: u64| set.put(&number.to_string(), &edition, &vec![7; 60_000], Moment::now());
    assert_eq!((0..records).filter(|&number| put(number)).count() as u64, records, "there is room beside it");
    assert!(!put(records), "and no more");
    end(idle);
}
