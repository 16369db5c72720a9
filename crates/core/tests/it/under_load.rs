//! What may happen to a folder while eight processes read and write there: it is removed, and bits of its files flip. Each process goes
//! on, and every byte that one is given is compared.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use headwater::cache::disk::care::Care;
use headwater::config::{ByteSize, DatasetConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::metrics::Metric;
use headwater_testkit::server::{Class, Server};

use crate::sources::specs_of;
use crate::workers::{
    CAPACITY, Chance, PROCESSES, SAMPLES, bytes_in, config, end, is_right, ready, serving, start, wait_until,
};

struct Reading {
    server: Server,
    folder: tempfile::TempDir,
    config: DatasetConfig,
    workers: Vec<Child>,
}

impl Reading {
    /// Processes that have opened the folder, and read samples in any order until they are ended.
    fn begin(capacity: u64) -> Self {
        let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
        let mut config = config(specs_of(&server, "run").swap_remove(0).1, &folder.path().join("cache"));
        config.cache.disk_capacity = Some(ByteSize(capacity));
        let home = folder.path().join("home");
        let workers: Vec<_> = (0..PROCESSES).map(|_| start("read", &config, &home)).collect();
        wait_until("all are ready", || workers.iter().all(|worker| ready(folder.path(), worker.id()).exists()));
        Self { server, folder, config, workers }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// That was none of them given a wrong byte, or an error.
    fn all_go_on(&mut self) {
        for worker in &mut self.workers {
            let ended = worker.try_wait().expect("asked");
            assert!(ended.is_none(), "a worker ended: {ended:?}");
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.workers.drain(..).for_each(end);
    }
}

#[test]
fn a_folder_that_is_removed_under_load_costs_records_and_no_process() {
    let mut reading = Reading::begin(CAPACITY);
    let cache = reading.cache();
    wait_until("it is in use", || bytes_in(&cache) > CAPACITY / 4);
    // Whoever is writing just now may bring something between.
    wait_until("it is gone", || fs::remove_dir_all(&cache).is_ok() || !cache.exists());
    let asked = reading.server.requests_of(Class::Get);
    let enough = asked + 100 * PROCESSES as u64;
    wait_until("all is read from the source", || reading.server.requests_of(Class::Get) > enough);
    reading.all_go_on();
    assert!(!cache.exists(), "a mount may have gone: nobody makes another folder in its place");

    let dataset = Dataset::open(&reading.config, uninterrupted()).expect("opens");
    for index in 0..SAMPLES {
        assert!(is_right(&dataset, index).expect("read"), "sample {index}");
    }
    wait_until("who comes later keeps records there", || dataset.snapshot().raw(Metric::DiskInsertions) > 0);
    reading.all_go_on();
}

fn records(cache: &Path) -> Vec<PathBuf> {
    let files = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = files(cache.join("sets")).filter(|set| !set.ends_with(format!("{:032x}", 1))).flat_map(files);
    shards.flat_map(files).filter(|file| file.extension().is_some_and(|it| it == "hwc")).collect()
}

/// In place, as a disk does it.
fn flip(file: &Path, chance: &mut Chance) -> std::io::Result<()> {
    let mut file = fs::File::options().read(true).write(true).open(file)?;
    let at = chance.below(file.metadata()?.len());
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ 1 << chance.below(8)])
}

#[test]
fn bits_that_flip_in_one_percent_of_files_are_never_served() {
    let mut reading = Reading::begin(1 << 30);
    let (cache, mut chance, mut flipped) = (reading.cache(), Chance(5), 0);
    wait_until("all is there", || records(&cache).len() == SAMPLES);
    for _ in 0..100 {
        let files = records(&cache);
        for _ in 0..files.len().div_ceil(100) {
            // It may just have been put aside.
            flipped += u64::from(flip(&files[chance.below(files.len() as u64) as usize], &mut chance).is_ok());
        }
        std::thread::sleep(Duration::from_millis(10));
        reading.all_go_on();
    }
    reading.all_go_on();
    reading.workers.drain(..).for_each(end);
    assert!(flipped > 50, "{flipped}");

    let care = Care::of(&cache).expect("ours");
    let first = care.verify(|_| Ok(())).expect("checked");
    let aside: u64 = care.sets().expect("read").iter().filter(|set| set.is_quarantine).map(|set| set.records).sum();
    // Those of one object are put aside one in place of the other.
    assert!(aside > 10 && first.damaged == first.put_aside, "{aside}, {first:?}");
    assert_eq!(care.verify(|_| Ok(())).expect("checked").damaged, 0);
    let dataset = Dataset::open(&reading.config, uninterrupted()).expect("opens");
    for index in 0..SAMPLES {
        assert!(is_right(&dataset, index).expect("read"), "sample {index}");
    }
    assert_eq!(dataset.snapshot().raw(Metric::DiskQuarantined), 0);
}
