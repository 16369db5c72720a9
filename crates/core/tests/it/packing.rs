//! Packed records in the memory tier: never more memory than it may take, whatever is packed and read at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headwater::buffer::BufferPool;
use headwater::cache::{Cache, Item, Memory, Policy, UnitId};
use headwater::format::Limits;
use headwater::format::record::{Compression, memory_for, open, pack};
use headwater::source::{Edition, Version};
use headwater::value::{DType, Tensor, Value};
use headwater_testkit::allocation::{height_of, is_counted};
use xxhash_rust::xxh3::Xxh3;

const CAPACITY: usize = 100 << 20;
const THREADS: usize = 16;
const ROUNDS: usize = 60;

/// From 64 KB to 20 MB; every third shrinks to a third, every third to nearly nothing.
fn value(seed: usize) -> Value {
    let len = (64_000 << (seed % 9)).min(20_000_000) / 4 * 4;
    let mut state = seed as u64 | 1;
    let element = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match seed % 3 {
            0 => state as u32,
            1 => (state as u32 & 0x7ff) << 16,
            _ => seed as u32,
        }
    };
    let bytes: Vec<u8> = (0..len / 4).map(element).flat_map(u32::to_le_bytes).collect();
    Value::Tensor(Tensor::from_bytes(DType::F32, &[len / 4], Bytes::from(bytes)).expect("a tensor"))
}

#[test]
fn the_memory_of_packed_values_never_exceeds_the_capacity_by_a_byte() {
    for policy in [Policy::Lru, Policy::Keep] {
        let (cache, buffers) = (Memory::new(CAPACITY, policy), BufferPool::new(0));
        let values: Vec<_> = (0..27).map(value).collect();
        let (done, most, hits) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    most.fetch_max(buffers.lent_bytes(), Ordering::Relaxed);
                    assert!(cache.stats().bytes <= CAPACITY as u64, "{}", cache.stats().bytes);
                }
            });
            let work = |thread: usize| {
                for round in 0..ROUNDS {
                    let sample = (thread * 7 + round * 11) % values.len();
                    let (unit, mut found) = (UnitId { sample, field: 0 }, Vec::new());
                    cache.get_many(&[unit], &mut found);
                    if let Some(Some(lease)) = found.pop() {
                        assert_eq!(lease.value().value(), &values[sample], "{sample}");
                        hits.fetch_add(1, Ordering::Relaxed);
                    } else if let Some(room) = cache.admit(unit, memory_for(&values[sample])) {
                        let packed = pack(&values[sample], Compression::AtLeast(1.25), &buffers).expect("packed");
                        room.fill(Item::new(
                            packed,
                            Edition { version: Version::Unknown, size: 0 },
                            Duration::ZERO,
                            Duration::ZERO,
                        ));
                    }
                }
            };
            let working: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
            let ended: Vec<_> = working.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            ended.into_iter().for_each(|ended| ended.expect("no assertion failed"));
        });
        assert!(hits.into_inner() > 0 && cache.stats().entries > 3, "{:?}", cache.stats());
        assert!(most.into_inner() <= CAPACITY, "in buffers themselves");
    }
}

#[test]
fn whatever_nests_no_deeper_than_is_read_can_be_packed() {
    let mut value = Value::Int(7);
    let buffers = BufferPool::new(0);
    for depth in 1..=Limits::default().max_depth {
        value = Value::List(vec![value]);
        pack(&value, Compression::None, &buffers).unwrap_or_else(|error| panic!("{depth}: {}", error.report()));
    }
}

/// As `docs/formats.md` has it: a record of a tree, and nothing else.
fn record_of(tree: &[u8]) -> Bytes {
    let mut record = [&b"HWR\x01"[..], &(tree.len() as u32).to_le_bytes(), &[0; 24], tree].concat();
    record.resize(record.len().next_multiple_of(64), 0);
    let mut hash = Xxh3::new();
    hash.update(&record[..24]);
    hash.update(&record[32..]);
    record[24..32].copy_from_slice(&hash.digest().to_le_bytes());
    record.into()
}

#[test]
fn lists_that_tell_of_more_than_there_is_take_little_memory() {
    // Lists in lists, each of as many nodes as there are bytes left or nearly so, and then no node.
    for kind in [9, 10, 11, 12] {
        // 98,304, in seven bits per byte.
        let mut tree: Vec<u8> = (0..60).flat_map(|_| [kind, 0x80, 0x80, 6]).collect();
        tree.resize(100_000, 0xff);
        let record = record_of(&tree);
        let (height, error) = height_of(|| open(&record).expect_err("no node"));
        assert!(error.report().contains("unknown kind 255"), "{}", error.report());
        assert!(is_counted() && height < 2_000_000, "{height} bytes for lists of kind {kind}");
    }
}
