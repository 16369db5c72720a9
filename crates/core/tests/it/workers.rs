//! Processes of this program that share a folder, and do with it what they are told.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::buffer::BufferPool;
use headwater::cache::disk::{Disk, Wanted};
use headwater::clock::{Clock, Moment};
use headwater::collate::Collation;
use headwater::config::{ByteSize, CacheConfig, DatasetConfig, FetchConfig, LoaderConfig, Replicas};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::format::pt::write_pt;
use headwater::loader::{Content, Loader};
use headwater::metrics::Metric;
use headwater::sample::Sample;
use headwater::source::{Edition, SourceSpec, Version};
use headwater::value::{DType, Tensor, Value};
use headwater_testkit::server::{Server, Speed};

pub(crate) const SAMPLES: usize = 120;
pub(crate) const PROCESSES: usize = 8;
/// Room for half of it.
pub(crate) const CAPACITY: u64 = 2 << 20;
/// What a worker is told.
const TOLD: &str = "HEADWATER_TEST_WORKER";
/// How a worker says that it was given something wrong, and that it waited for another one.
const WRONG: i32 = 73;
pub(crate) const WAITED: i32 = 74;

pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn content(sample: usize) -> Vec<u8> {
    let mut chance = Chance(sample as u64 + 1);
    // Of many sizes, all of them noise.
    (0..1_000 + sample * 531).map(|_| chance.below(256) as u8).collect()
}

pub(crate) fn serving() -> Server {
    serving_at(Speed::default())
}

pub(crate) fn serving_at(speed: Speed) -> Server {
    let server = Server::start(speed).expect("starts");
    for sample in 0..SAMPLES {
        let content = content(sample);
        let tensor = Tensor::from_bytes(DType::U8, &[content.len()], content.into()).expect("a tensor");
        let object: Bytes = write_pt(&Value::Tensor(tensor)).expect("written").into();
        server.put(&format!("run/{sample:03}.pt"), object);
    }
    server
}

pub(crate) fn config(spec: SourceSpec, folder: &Path) -> DatasetConfig {
    let cache = CacheConfig {
        memory: Some(ByteSize(0)),
        disk: Some(folder.to_owned()),
        disk_capacity: Some(ByteSize(CAPACITY)),
        ..CacheConfig::default()
    };
    // Requests are counted, and one that is slow on a busy machine would be made twice.
    let fetch = FetchConfig { hedge: Some(0.0), ..FetchConfig::default() };
    DatasetConfig { source: Some(Replicas::from(spec)), cache, fetch, ..DatasetConfig::default() }
}

pub(crate) fn is_right(dataset: &Dataset, index: usize) -> headwater::Result<bool> {
    dataset.get(index, uninterrupted()).map(|sample| sample.index == index && is_as_stored(&sample))
}

/// Whether every byte is.
fn is_as_stored(sample: &Sample) -> bool {
    let Value::Tensor(tensor) = &sample.fields[0].1 else { return false };
    tensor.contiguous_bytes().is_some_and(|bytes| *bytes == content(sample.index)[..])
}

/// A process of this program that does what it is told.
pub(crate) fn start(told: &str, config: &DatasetConfig, home: &Path) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program)
        .args(["--exact", "workers::worker", "--nocapture", "--test-threads=1"])
        .env(TOLD, format!("{told} {}", serde_json::to_string(config).expect("JSON")))
        .env("HEADWATER_HOME", home)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("starts")
}

/// What such a process does; nothing in the run of all tests.
#[test]
fn worker() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let (what, config) = told.split_once(' ').expect("two words");
    let config = DatasetConfig::from_json(config).expect("a configuration");
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    let mut chance = Chance(u64::from(std::process::id()));
    let folder = config.cache.disk.as_ref().and_then(|folder| folder.parent()).expect("a folder");
    fs::write(ready(folder, std::process::id()), "").expect("written");
    match what {
        "read" => loop {
            let index = chance.below(SAMPLES as u64) as usize;
            match is_right(&dataset, index) {
                Ok(true) => {}
                Ok(false) => std::process::exit(WRONG),
                Err(error) => {
                    // Only that the test is over.
                    assert!(error.is_transient(), "{}", error.report());
                    return;
                }
            }
            if chance.below(200) == 0 {
                leave_a_child();
            }
        },
        "all" => (0..SAMPLES).for_each(|index| assert!(is_right(&dataset, index).expect("read"))),
        // Until it is stopped in the middle of it, where the server never answers.
        "fetch" => {
            drop(is_right(&dataset, 0));
            std::process::exit(if dataset.snapshot().raw(Metric::DiskWaits) > 0 { WAITED } else { 0 });
        }
        // And is there until it has written it.
        "hold" => {
            drop(is_right(&dataset, 0));
            std::thread::sleep(Duration::from_hours(1));
        }
        // Each in another order.
        "walk" => {
            wait_until("all are ready", || folder.join("go").exists());
            let order = LoaderConfig { shuffle: true, seed: u64::from(std::process::id()), ..LoaderConfig::default() };
            let loader = Loader::new(&dataset, LoaderConfig { batch_size: 4, collate: Collation::Samples, ..order })
                .expect("a loader");
            for batch in loader.batches(uninterrupted()).expect("begins") {
                let Content::Samples(samples) = batch.expect("read").content else { panic!("samples") };
                assert!(samples.iter().all(is_as_stored));
            }
            assert_eq!(dataset.snapshot().raw(Metric::DiskWaitsInVain), 0);
            // What it has fetched for others, too, it does not take with it.
            wait_until("all is written", || {
                let snapshot = dataset.snapshot();
                let done = [Metric::DiskInsertions, Metric::DiskDeclined, Metric::CacheBacklogFull];
                done.map(|metric| snapshot.raw(metric)).iter().sum::<u64>() >= snapshot.raw(Metric::SourceRequests)
            });
            std::process::exit(if dataset.snapshot().raw(Metric::DiskWaits) > 0 { WAITED } else { 0 });
        }
        // What they all have, once it has been replaced.
        "again" => {
            let folder = config.cache.disk.as_ref().and_then(|folder| folder.parent()).expect("a folder");
            (0..SAMPLES).for_each(|index| assert!(is_right(&dataset, index).expect("read")));
            say_prepared_and_wait(folder);
            let start = chance.below(SAMPLES as u64) as usize;
            (0..SAMPLES).for_each(|index| drop(dataset.get((start + index) % SAMPLES, uninterrupted()).expect("read")));
        }
        "fill" => fill(config.cache.disk.as_ref().expect("a folder")),
        // With what it took to write its only record, and more.
        "idle" => {
            let folder = config.cache.disk.as_ref().expect("a folder");
            let set = Arc::new(Disk::open(folder, Some(CAPACITY)).expect("opens")).set("s3://bucket/run", None, false);
            assert!(set.put(
                "idle",
                &Edition { version: Version::ETag("1".into()), size: 1 },
                &[7; 1_000],
                Moment::now()
            ));
            say_prepared_and_wait(folder.parent().expect("a folder"));
        }
        "lock" => {
            let folder = config.cache.disk.expect("a folder");
            let file = fs::File::options().read(true).write(true).open(folder.join("lock")).expect("there");
            lock_ledger(&file);
            fs::write(folder.join("arriving").join("locked"), "").expect("written");
            std::thread::sleep(Duration::from_hours(1));
        }
        other => panic!("{other}"),
    }
}

/// Writes as many records as it may.
fn fill(folder: &Path) {
    let set = Arc::new(Disk::open(folder, Some(CAPACITY)).expect("opens")).set("s3://bucket/run", None, false);
    let edition = Edition { version: Version::ETag("1".into()), size: 60_000 };
    let put = |number: usize| {
        let key = format!("{}-{number}", std::process::id());
        set.put(&key, &edition, &vec![7; 60_000], Moment::now())
    };
    // Not while it is unknown what the others have taken.
    let mut kept = vec![0];
    kept.retain(|&number| put(number));
    say_prepared_and_wait(folder.parent().expect("a folder"));
    for number in 1..300 {
        if put(number) {
            kept.push(number);
        } else {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let (clock, buffers, wanted) = (Clock::default(), BufferPool::new(0), Wanted { edition: &edition, or_since: None });
    for number in kept {
        let key = format!("{}-{number}", std::process::id());
        let found = set.look(&key, wanted, &clock, &buffers).found().expect("nothing goes");
        assert!(found.record.len() == 60_000 && found.record.iter().all(|&byte| byte == 7));
    }
}

fn say_prepared_and_wait(folder: &Path) {
    fs::write(folder.join(format!("prepared-{}", std::process::id())), "").expect("written");
    wait_until("all are ready", || folder.join("go").exists());
}

pub(crate) fn is_prepared(worker: &Child, folder: &Path) -> bool {
    folder.join(format!("prepared-{}", worker.id())).exists()
}

/// What a process writes beside the cache's folder when it has opened that.
pub(crate) fn ready(folder: &Path, process: u32) -> PathBuf {
    folder.join(format!("ready-{process}"))
}

/// Its first byte.
#[allow(unsafe_code)]
fn lock_ledger(file: &fs::File) {
    use std::os::fd::AsRawFd;
    // SAFETY: all zeros are a lock, and the call reads nothing else.
    let locked = unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        (lock.l_type, lock.l_len) = (libc::F_WRLCK as libc::c_short, 1);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLKW, &raw mut lock)
    };
    assert_eq!(locked, 0);
}

/// A forked child that lives on and holds every descriptor.
#[allow(unsafe_code)]
fn leave_a_child() {
    // SAFETY: the child only waits, which is async-signal-safe.
    unsafe {
        if libc::fork() == 0 {
            libc::sleep(20);
            libc::_exit(0);
        }
    }
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let ends = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < ends, "waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(pid, signal);
}

/// And what it left behind.
pub(crate) fn end(mut child: Child) {
    let pid = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    let _ = child.wait();
}

/// While some go and others come this is more than there is at any time: less than what blocks are larger than their contents.
pub(crate) fn bytes_in(folder: &Path) -> u64 {
    sizes(folder).sum()
}

fn sizes(folder: &Path) -> impl Iterator<Item = u64> {
    metas(folder).map(|meta| meta.len())
}

pub(crate) fn metas(folder: &Path) -> impl Iterator<Item = fs::Metadata> {
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = entries(folder.join("sets")).flat_map(entries);
    let files = shards.flat_map(entries).chain(entries(folder.join("arriving")));
    files.filter_map(|file| fs::metadata(file).ok())
}
