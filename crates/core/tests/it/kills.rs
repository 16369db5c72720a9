//! Processes that share a folder and are killed, stopped and forked at any moment: nothing wrong is served, nothing has to be tidied
//! up by hand, and nobody waits for who is no more.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::buffer::BufferPool;
use headwater::cache::Policy;
use headwater::cache::disk::care::Care;
use headwater::cache::disk::{Disk, Wanted};
use headwater::clock::{Clock, Moment};
use headwater::collate::Collation;
use headwater::config::{ByteSize, CacheConfig, DatasetConfig, LoaderConfig, OnChanged, Replicas, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::format::pt::write_pt;
use headwater::loader::{Content, Loader};
use headwater::metrics::Metric;
use headwater::sample::Sample;
use headwater::source::{Edition, SourceSpec, Version};
use headwater::value::{DType, Tensor, Value};
use headwater_testkit::server::{Class, Server, Speed};

use crate::sources::specs_of;

pub(crate) const SAMPLES: usize = 120;
pub(crate) const PROCESSES: usize = 8;
const KILLS: usize = 200;
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

fn serving_at(speed: Speed) -> Server {
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
    DatasetConfig { source: Some(Replicas::from(spec)), cache, ..DatasetConfig::default() }
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
        .args(["--exact", "kills::worker", "--nocapture", "--test-threads=1"])
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
        // As many records as it may.
        "fill" => {
            let folder = config.cache.disk.as_ref().expect("a folder");
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
            let (clock, buffers, wanted) =
                (Clock::default(), BufferPool::new(0), Wanted { edition: &edition, or_since: None });
            for number in kept {
                let key = format!("{}-{number}", std::process::id());
                let found = set.look(&key, wanted, &clock, &buffers).found().expect("nothing goes");
                assert!(found.record.len() == 60_000 && found.record.iter().all(|&byte| byte == 7));
            }
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

fn say_prepared_and_wait(folder: &Path) {
    fs::write(folder.join(format!("prepared-{}", std::process::id())), "").expect("written");
    wait_until("all are ready", || folder.join("go").exists());
}

fn is_prepared(worker: &Child, folder: &Path) -> bool {
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

/// A process that has asked for an object and is answered after a time.
fn fetching(server: &Server, stall: &str, start: impl Fn() -> Child) -> Child {
    let before = server.requests_of(Class::Get);
    server.set_faults(vec![format!("stall={stall},times=1").parse().expect("a fault")]);
    let worker = start();
    wait_until("it asks", || server.requests_of(Class::Get) > before);
    worker
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

/// In whole blocks, as the ledger counts, or more where the disk says that it takes more. Right while nothing goes.
fn blocks_in(folder: &Path) -> u64 {
    metas(folder).map(|meta| meta.len().next_multiple_of(4096).max(meta.blocks() * 512)).sum()
}

fn sizes(folder: &Path) -> impl Iterator<Item = u64> {
    metas(folder).map(|meta| meta.len())
}

fn metas(folder: &Path) -> impl Iterator<Item = fs::Metadata> {
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = entries(folder.join("sets")).flat_map(entries);
    let files = shards.flat_map(entries).chain(entries(folder.join("arriving")));
    files.filter_map(|file| fs::metadata(file).ok())
}

#[test]
fn processes_that_are_killed_stopped_and_forked_leave_nothing_wrong_behind() {
    use rustix::process::Signal;
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    let mut chance = Chance(11);
    let start = || start("read", &config, &home);
    let mut workers: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    // Whose children are still there.
    let mut dead = Vec::new();
    let mut most = 0;
    for kill in 0..KILLS {
        std::thread::sleep(Duration::from_millis(5 + chance.below(40)));
        most = most.max(bytes_in(&cache));
        let at = chance.below(PROCESSES as u64) as usize;
        if let Some(status) = workers[at].try_wait().expect("asked") {
            panic!("a worker ended: {status}");
        }
        if kill % 5 == 0 {
            let stopped = chance.below(PROCESSES as u64) as usize;
            signal(&workers[stopped], Signal::STOP);
            std::thread::sleep(Duration::from_millis(chance.below(150)));
            signal(&workers[stopped], Signal::CONT);
        }
        signal(&workers[at], Signal::KILL);
        let mut killed = std::mem::replace(&mut workers[at], start());
        killed.wait().expect("reaped");
        dead.push(killed);
    }
    std::thread::sleep(Duration::from_millis(300));
    for mut worker in workers {
        let ended = worker.try_wait().expect("asked");
        assert!(ended.is_none(), "a worker ended: {ended:?}");
        end(worker);
    }
    assert!(most > CAPACITY / 2 && most <= CAPACITY, "{most}");

    // With the children of the dead still there: nothing is locked, nothing is left, nothing is damaged.
    let care = Care::of(&cache).expect("ours");
    let checked = care.verify(|_| Ok(())).expect("checked");
    assert!(checked.records > 20 && checked.damaged == 0, "{checked:?}");
    care.gc(Duration::from_hours(1), None, |_| Ok(())).expect("tidied");
    assert_eq!(fs::read_dir(cache.join("arriving")).expect("read").count(), 0);
    let sets = care.sets().expect("read");
    assert!(sets.iter().all(|set| !set.is_used && !set.is_quarantine), "{sets:?}");
    assert_eq!(care.taken().expect("read"), 0, "nobody has taken more");
    // Nothing goes while what is there is read, and all of it comes out as it was stored.
    let keeping = CacheConfig { policy: Policy::Keep, ..config.cache.clone() };
    let keeping = Dataset::open(&DatasetConfig { cache: keeping, ..config.clone() }, uninterrupted()).expect("opens");
    for index in 0..SAMPLES {
        assert!(is_right(&keeping, index).expect("read"), "sample {index}");
    }
    assert_eq!(keeping.snapshot().raw(Metric::DiskHits), checked.records);
    drop(keeping);
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    care.clear(None, |_| Ok(())).expect("cleared");
    for index in 0..SAMPLES {
        assert!(is_right(&dataset, index).expect("read"), "sample {index}");
    }
    assert_eq!(dataset.snapshot().raw(Metric::DiskWaits), 0, "nobody is waited for");
    dead.into_iter().for_each(end);
}

#[test]
fn a_process_that_is_stopped_while_it_fetches_is_not_waited_for_for_long() {
    use rustix::process::Signal;
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
fn a_process_that_is_stopped_with_the_lock_keeps_nobody_from_reading() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    assert!(is_right(&dataset, 0).expect("read"));
    let worker = start("lock", &config, &home);
    wait_until("it locks", || cache.join("arriving").join("locked").exists());
    for index in 1..SAMPLES {
        assert!(is_right(&dataset, index).expect("read"), "sample {index}");
    }
    end(worker);
    wait_until("it is written again", || {
        (0..SAMPLES).for_each(|index| assert!(is_right(&dataset, index).expect("read")));
        dataset.snapshot().raw(Metric::DiskInsertions) >= 3
    });
}
