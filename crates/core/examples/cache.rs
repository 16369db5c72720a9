//! The cache's tiers by themselves: hits and writes per second of several threads, and what an entry and opening cost, as one line of
//! JSON each.
//!
//! ```sh
//! cargo run --release --example cache -- /nvme/scratch --records 200000
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)] // a program

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use headwater::Result;
use headwater::buffer::BufferPool;
use headwater::cache::disk::{Disk, Set, Wanted};
use headwater::cache::{Cache, Item, Memory, Policy, UnitId};
use headwater::source::Version;
use headwater::value::{DType, Packed, Tensor, Value};
use serde_json::json;

const THREADS: [usize; 5] = [1, 2, 4, 8, 16];
const SECONDS: f64 = 1.0;
/// Units of a batch, which are looked for at once.
const BATCH: usize = 16;
/// Records that are read and written: one of a small sample and one of a large one, packed.
const SIZES: [(&str, usize); 2] = [("100 KB", 100_000), ("2.3 MB", 2_300_000)];
const FILES: usize = 64;
/// Bytes that each row of writes writes.
const WRITTEN: usize = 230_000_000;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "target/bench/cache".to_owned());
    let number = |text: Option<String>| text.and_then(|number| number.parse().ok()).unwrap_or(200_000);
    let done = if first == "--fill" {
        let place = PathBuf::from(arguments.next().unwrap_or_default());
        fill(&place, number(arguments.next()))
    } else {
        let folder = PathBuf::from(first);
        let records = number(arguments.skip_while(|argument| argument != "--records").nth(1));
        measure(&folder, records)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cache: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn measure(folder: &Path, records: usize) -> Result<()> {
    memory()?;
    disk(folder)?;
    opening(folder, records)
}

/// Makes a folder of small records.
fn fill(place: &Path, records: usize) -> Result<()> {
    let disk = Arc::new(Disk::open(place, Some(64 << 30))?);
    let set = disk.set("bench://many", None, false);
    (0..records).for_each(|number| assert!(set.put(&key(number), &version(), b"a small record", SystemTime::now())));
    Ok(())
}

/// How often `work` is done per second by so many threads; it is given a number of its own each time.
fn per_second(threads: usize, work: &(impl Fn(usize) + Sync)) -> f64 {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let ends = began + Duration::from_secs_f64(SECONDS);
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

/// The same of work that is done so often.
fn times_per_second(threads: usize, times: usize, work: &(impl Fn(usize) + Sync)) -> f64 {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&number| number < times) {
                    work(number);
                }
            });
        }
    });
    times as f64 / began.elapsed().as_secs_f64()
}

fn packed(bytes: usize, buffers: &BufferPool) -> Result<Packed> {
    let tensor = Tensor::from_bytes(DType::U8, &[bytes], vec![7; bytes].into())?;
    Packed::new(&Value::Tensor(tensor), buffers)
}

fn memory() -> Result<()> {
    const ENTRIES: usize = 10_000;
    let (cache, buffers) = (Memory::new(1 << 30, Policy::Keep), BufferPool::new(0));
    for sample in 0..ENTRIES {
        let packed = packed(4096, &buffers)?;
        if let Some(room) = cache.admit(UnitId { sample, field: 0 }, packed.bytes()) {
            room.fill(Item::new(packed, Version::Unknown, Duration::ZERO, Duration::ZERO));
        }
    }
    let stats = cache.stats();
    let overhead = stats.bytes as f64 / stats.entries as f64 - 4096.0;
    println!("{}", json!({"what": "overhead of an entry in memory", "bytes": overhead}));
    for threads in THREADS {
        let batches = per_second(threads, &|number| {
            let units: [UnitId; BATCH] =
                std::array::from_fn(|at| UnitId { sample: (number * BATCH + at) * 7919 % ENTRIES, field: 0 });
            let mut found = Vec::with_capacity(BATCH);
            cache.get_many(&units, &mut found);
            black_box(found);
        });
        println!("{}", json!({"what": "memory hits", "threads": threads, "per_second": batches * BATCH as f64}));
    }
    Ok(())
}

fn key(number: usize) -> String {
    format!("latents/latent_{number:08}.pt")
}

fn version() -> Version {
    Version::ETag("\"0123456789abcdef0123456789abcdef\"".into())
}

fn look(set: &Set, number: usize, buffers: &BufferPool) -> bool {
    let version = version();
    let wanted = Wanted { version: &version, or_younger: None };
    set.get(&key(number), wanted, SystemTime::now(), buffers).is_some()
}

fn disk(folder: &Path) -> Result<()> {
    let place = folder.join("speed");
    // Of an earlier run.
    let _ = std::fs::remove_dir_all(&place);
    let disk = Arc::new(Disk::open(&place, Some(8 << 30))?);
    let buffers = BufferPool::new(1 << 28);
    for (size, bytes) in SIZES {
        let set = disk.set(&format!("bench://{size}"), None, false);
        let record: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        for threads in THREADS {
            // Each into a set of its own: files that take the place of others cost the file system more.
            let set = disk.set(&format!("bench://{size}/{threads}"), None, false);
            let written = times_per_second(threads, WRITTEN / bytes, &|number| {
                set.put(&key(number), &version(), &record, SystemTime::now());
            });
            println!("{}", json!({"what": "disk writes", "size": size, "threads": threads, "per_second": written}));
        }
        let kept = (0..FILES).filter(|&number| set.put(&key(number), &version(), &record, SystemTime::now())).count();
        assert_eq!(kept, FILES, "there is room");
        let files: Vec<_> = files(&place).into_iter().filter(|(_, len)| *len >= bytes as u64).collect();
        let overhead = files.first().map_or(0, |(_, len)| len - bytes as u64);
        println!("{}", json!({"what": "overhead of a file", "size": size, "bytes": overhead}));
        for threads in THREADS {
            let read = per_second(threads, &|number| {
                black_box(look(&set, number * 31 % FILES, &buffers));
            });
            let plain = per_second(threads, &|number| {
                let (path, len) = &files[number * 31 % files.len()];
                let mut buffer = buffers.take(*len as usize);
                if let Ok(mut file) = File::open(path) {
                    let _ = file.read_exact(&mut buffer);
                }
                black_box(buffer);
            });
            println!(
                "{}",
                json!({"what": "disk hits", "size": size, "threads": threads, "per_second": read, "plain_reads": plain})
            );
        }
    }
    Ok(())
}

/// Files of records and their lengths.
fn files(place: &Path) -> Vec<(PathBuf, u64)> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shards = entries(place.join("sets")).flat_map(entries);
    let files = shards.flat_map(entries);
    files.filter_map(|path| Some((path.clone(), std::fs::metadata(path).ok()?.len()))).collect()
}

/// A folder with many records, opened as a new process opens it: this one has not touched it.
fn opening(folder: &Path, records: usize) -> Result<()> {
    let place = folder.join(format!("many-{records}"));
    if !place.exists() {
        let fill = std::env::args().next().unwrap_or_default();
        let filled = std::process::Command::new(fill).arg("--fill").arg(&place).arg(records.to_string()).status();
        assert!(filled.is_ok(), "the folder is filled");
    }
    let began = Instant::now();
    let disk = Arc::new(Disk::open(&place, Some(64 << 30))?);
    let set = disk.set("bench://many", None, false);
    let found = look(&set, records / 2, &BufferPool::new(0));
    let opened = began.elapsed();
    let stats = disk.stats();
    println!(
        "{}",
        json!({"what": "opening", "records": stats.entries, "seconds": opened.as_secs_f64(), "found": found})
    );
    Ok(())
}
