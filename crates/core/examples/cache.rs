//! The cache's tiers by themselves: hits and writes per second of several threads, and what an entry and opening cost, as one line of
//! JSON each. Beside it stands what plain code does in the same run: copying the same values, reading and writing the same files.
//!
//! ```sh
//! cargo run --release --example cache -- /nvme/scratch --records 200000 --seconds 1
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)] // a program

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headwater::Result;
use headwater::buffer::BufferPool;
use headwater::cache::disk::{Disk, Set, Wanted};
use headwater::cache::{Cache, Item, Memory, Policy, UnitId};
use headwater::clock::{Clock, Moment};
use headwater::format::record::{self, Compression};
use headwater::source::{Edition, Version};
use headwater::value::{DType, Packed, Tensor, Value};
use serde_json::json;

const THREADS: [usize; 5] = [1, 2, 4, 8, 16];
/// Units of a batch, which are looked for at once.
const BATCH: usize = 16;
/// Records that are read and written: one of a small sample and one of a large one, packed.
const SIZES: [(&str, usize); 2] = [("100 KB", 100_000), ("2.3 MB", 2_300_000)];
const FILES: usize = 64;
/// Bytes that each row of writes writes per second that it is given.
const WRITTEN: f64 = 230e6;
/// Bytes of a small value.
const SMALL: usize = 4096;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut place, mut step) = (PathBuf::from("target/bench/cache"), None);
    let (mut records, mut seconds) = (200_000, 1.0);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse::<f64>().ok());
        match &*argument {
            "--records" => records = number().map_or(records, |number| number as usize),
            "--seconds" => seconds = number().unwrap_or(seconds),
            // What a process of its own does.
            "--fill" | "--open" => step = Some(argument),
            folder => place = folder.into(),
        }
    }
    let done = match step.as_deref() {
        Some("--fill") => fill(&place, records),
        Some(_) => open(&place, records),
        None => measure(&place, records, seconds),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cache: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn measure(folder: &Path, records: usize, seconds: f64) -> Result<()> {
    memory(seconds)?;
    for (size, bytes) in SIZES {
        writes(folder, size, bytes, seconds)?;
        reads(folder, size, bytes, seconds)?;
    }
    opening(folder, records);
    Ok(())
}

/// How often `work` is done per second by so many threads; it is given a number of its own each time.
fn per_second(threads: usize, seconds: f64, work: &(impl Fn(usize) + Sync)) -> f64 {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let ends = began + Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while Instant::now() < ends {
                    work(next.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    next.into_inner() as f64 / began.elapsed().as_secs_f64()
}

/// The same of work that is done so often; only what succeeds counts, and how often it did not is told beside.
fn times_per_second(threads: usize, times: usize, work: &(impl Fn(usize) -> bool + Sync)) -> (f64, usize) {
    let (next, failed, began) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&number| number < times) {
                    if !work(number) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    ((times - failed) as f64 / began.elapsed().as_secs_f64(), failed)
}

/// A value as tiers keep it.
fn packed(bytes: usize, buffers: &BufferPool) -> Result<Packed> {
    let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let value = Value::Tensor(Tensor::from_bytes(DType::U8, &[bytes], data.into())?);
    record::pack(&value, Compression::None, buffers)
}

fn memory(seconds: f64) -> Result<()> {
    const ENTRIES: usize = 10_000;
    let (cache, buffers) = (Memory::new(1 << 30, Policy::Keep), BufferPool::new(0));
    for sample in 0..ENTRIES {
        let packed = packed(SMALL, &buffers)?;
        if let Some(room) = cache.admit(UnitId { sample, field: 0 }, packed.bytes()) {
            room.fill(Item::new(
                packed,
                Edition { version: Version::Unknown, size: SMALL as u64 },
                Duration::ZERO,
                Duration::ZERO,
            ));
        }
    }
    assert_eq!(cache.stats().entries, ENTRIES as u64, "there is room");
    for (size, bytes) in [("4 KB", SMALL)].into_iter().chain(SIZES) {
        let overhead = packed(bytes, &buffers)?.bytes() - bytes;
        println!("{}", json!({"what": "overhead of an entry in memory", "size": size, "bytes": overhead}));
    }
    let plain: Vec<Vec<u8>> = (0..ENTRIES).map(|_| vec![7; SMALL]).collect();
    let at = |number: usize, at: usize| (number * BATCH + at) * 7919 % ENTRIES;
    for threads in THREADS {
        cache.reset_counters();
        let batches = per_second(threads, seconds, &|number| {
            let units: [UnitId; BATCH] = std::array::from_fn(|one| UnitId { sample: at(number, one), field: 0 });
            let mut found = Vec::with_capacity(BATCH);
            cache.get_many(&units, &mut found);
            black_box(found);
        });
        assert_eq!(cache.stats().misses, 0, "all are there");
        let copied = per_second(threads, seconds, &|number| {
            let mut out = [0; SMALL];
            for one in 0..BATCH {
                out.copy_from_slice(&plain[at(number, one)]);
                black_box(&mut out);
            }
        });
        let (hits, plain) = (batches * BATCH as f64, copied * BATCH as f64);
        println!("{}", json!({"what": "memory hits", "threads": threads, "per_second": hits, "plain": plain}));
    }
    Ok(())
}

fn key(number: usize) -> String {
    format!("latents/latent_{number:08}.pt")
}

fn edition() -> Edition {
    Edition { version: Version::ETag("\"0123456789abcdef0123456789abcdef\"".into()), size: 1 }
}

fn put(set: &Set, number: usize, record: &[u8]) -> bool {
    set.put(&key(number), &edition(), record, Moment::now())
}

fn look(set: &Set, number: usize, buffers: &BufferPool) -> bool {
    let edition = edition();
    let wanted = Wanted { edition: &edition, or_since: None };
    set.look(&key(number), wanted, &Clock::default(), buffers).found().is_some()
}

/// A folder for one row, without what an earlier run left there.
fn emptied(folder: &Path) -> PathBuf {
    let place = folder.join("speed");
    let _ = std::fs::remove_dir_all(&place);
    place
}

/// Each row in a folder of its own, which is removed before the next one: files that take the place of others cost the file system
/// more, and so do those that it has still to write.
fn writes(folder: &Path, size: &str, bytes: usize, seconds: f64) -> Result<()> {
    let record = vec![7; bytes];
    let times = (WRITTEN * seconds) as usize / bytes + 1;
    for threads in THREADS {
        let place = emptied(folder);
        let disk = Arc::new(Disk::open(&place, Some(8 << 30))?);
        let set = disk.set(&format!("bench://{size}"), None, false);
        let (written, declined) = times_per_second(threads, times, &|number| put(&set, number, &record));
        drop(set);
        let place = emptied(folder);
        let shards = std::array::from_fn::<_, 256, _>(|shard| place.join(format!("{shard:02x}")));
        assert!(shards.iter().all(|shard| std::fs::create_dir_all(shard).is_ok()), "the folder can be written");
        let (plain, failed) = times_per_second(threads, times, &|number| {
            let arriving = place.join(format!("arriving-{number}"));
            let write = || {
                File::create_new(&arriving)?.write_all(&record)?;
                std::fs::rename(&arriving, shards[number % shards.len()].join(number.to_string()))
            };
            write().is_ok()
        });
        assert_eq!(failed, 0, "the disk works");
        println!(
            "{}",
            json!({"what": "disk writes", "size": size, "threads": threads, "per_second": written, "plain": plain,
                "declined": declined})
        );
    }
    emptied(folder);
    Ok(())
}

fn reads(folder: &Path, size: &str, bytes: usize, seconds: f64) -> Result<()> {
    let (place, buffers) = (emptied(folder), BufferPool::new(1 << 28));
    let disk = Arc::new(Disk::open(&place, Some(8 << 30))?);
    let set = disk.set(&format!("bench://{size}"), None, false);
    let packed = packed(bytes, &buffers)?;
    let record = packed.record().map_or(&[][..], |record| record);
    assert!((0..FILES).all(|number| put(&set, number, record)), "there is room");
    let files = files(&place);
    assert_eq!(files.len(), FILES, "of each record there is one file");
    let overhead = files[0].1 - bytes as u64;
    println!("{}", json!({"what": "overhead of a file", "size": size, "bytes": overhead}));
    for threads in THREADS {
        let hits = per_second(threads, seconds, &|number| {
            assert!(look(&set, number * 31 % FILES, &buffers), "all are there");
        });
        let plain = per_second(threads, seconds, &|number| {
            let (path, len) = &files[number * 31 % FILES];
            let mut buffer = buffers.take(*len as usize);
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut buffer));
            assert!(read.is_ok(), "the file is there");
            black_box(buffer);
        });
        println!(
            "{}",
            json!({"what": "disk hits", "size": size, "threads": threads, "per_second": hits, "plain": plain})
        );
    }
    emptied(folder);
    Ok(())
}

/// Files of records and their lengths.
fn files(place: &Path) -> Vec<(PathBuf, u64)> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = entries(place.join("sets")).flat_map(entries);
    let files = shards.flat_map(entries);
    files.filter_map(|path| Some((path.clone(), std::fs::metadata(path).ok()?.len()))).collect()
}

/// A folder with many records is opened, by a process that has not touched it.
fn opening(folder: &Path, records: usize) {
    let (place, arriving) = (folder.join(format!("many-{records}")), folder.join("arriving"));
    let run = |step: &str, place: &Path| {
        let program = std::env::current_exe().unwrap_or_default();
        let status = Command::new(program).arg(step).arg(place).arg("--records").arg(records.to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "{step} works");
    };
    if !place.exists() {
        let _ = std::fs::remove_dir_all(&arriving);
        run("--fill", &arriving);
        assert!(std::fs::rename(&arriving, &place).is_ok(), "the folder can be renamed");
    }
    run("--open", &place);
}

/// Makes a folder of small records.
fn fill(place: &Path, records: usize) -> Result<()> {
    let disk = Arc::new(Disk::open(place, Some(64 << 30))?);
    let set = disk.set("bench://many", None, false);
    (0..records).for_each(|number| assert!(put(&set, number, b"a small record"), "there is room"));
    Ok(())
}

fn open(place: &Path, records: usize) -> Result<()> {
    let buffers = BufferPool::new(0);
    let began = Instant::now();
    let disk = Arc::new(Disk::open(place, Some(64 << 30))?);
    let set = disk.set("bench://many", None, false);
    let found = look(&set, records / 2, &buffers);
    let stats = disk.stats();
    let seconds = began.elapsed().as_secs_f64();
    assert!(found && stats.entries == records as u64, "{records} records are there: {stats:?}");
    println!("{}", json!({"what": "opening", "records": stats.entries, "seconds": seconds}));
    Ok(())
}
