//! Writes what fuzzing of `record` and `cache_file` begins with: few mutations of nothing are anything.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use headwater::buffer::BufferPool;
use headwater::cache::disk::Disk;
use headwater::clock::Moment;
use headwater::format::record::{Compression, pack};
use headwater::source::{Edition, Version};
use headwater::value::{DType, Dict, Tensor, Value};

fn main() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let records = seeds.join("record");
    for (number, value) in values().iter().enumerate() {
        for (name, compression) in [("plain", Compression::None), ("coded", Compression::AtLeast(0.0))] {
            let packed = pack(value, compression, &BufferPool::new(0)).expect("packed");
            let record = packed.record().expect("a record");
            fs::write(records.join(format!("{name}-{number}")), [&[0], &record[..]].concat()).expect("written");
        }
    }
    let files = seeds.join("cache_file");
    let tag = Version::ETag("\"1\"".into());
    for (name, version, size) in
        [("tag", tag.clone(), 900), ("not-of-that-version", Version::Modified(7), 900), ("not-of-that-size", tag, 901)]
    {
        fs::write(files.join(name), [&[0], &file(&Edition { version, size })[..]].concat()).expect("written");
    }
}

/// A tree of everything, and tensors of which a block comes in planes, with repeats, and sparse.
fn values() -> Vec<Value> {
    let tensor = |dtype: DType, element: &dyn Fn(u32) -> u32| {
        let bytes: Vec<u8> = (0..2048).map(element).flat_map(u32::to_le_bytes).collect();
        Value::Tensor(Tensor::from_bytes(dtype, &[bytes.len() / dtype.size()], bytes.into()).expect("a tensor"))
    };
    let strewn = |at: u32| at.wrapping_mul(0x9e37_79b9) >> 7;
    let view = Tensor::new(DType::I16, &[3, 2], &[1, 3], (0..12).collect::<Vec<u8>>().into(), 0).expect("a view");
    let leaves = vec![
        Value::None,
        Value::Bool(true),
        Value::Int(-3),
        Value::BigInt(vec![1; 9]),
        Value::Float(0.5),
        Value::Complex(1.0, -1.0),
        Value::Bytes(b"bytes"[..].into()),
        Value::Size(vec![2, -1]),
        Value::DType(DType::BF16),
        Value::Device("cpu".into()),
        Value::Tensor(view),
    ];
    let nested = vec![Value::Tuple(leaves.clone()), Value::Set(vec![Value::from("a")]), Value::List(leaves)];
    vec![
        Value::Dict(Dict::from_iter([("x", Value::List(nested)), ("name", Value::from("a"))])),
        tensor(DType::F32, &|at| (strewn(at) & 0x7ff) << 16),
        tensor(DType::I64, &|at| at / 64),
        tensor(DType::F32, &|at| if at % 11 == 0 { strewn(at) } else { at % 2 << 31 }),
        tensor(DType::BF16, &|at| strewn(at) & 0x3fff_3fff),
    ]
}

/// What the disk tier writes.
fn file(edition: &Edition) -> Vec<u8> {
    let root = std::env::temp_dir().join(format!("headwater-seeds-{}", std::process::id()));
    let disk = Arc::new(Disk::open(&root, Some(1 << 24)).expect("opens"));
    let set = disk.set("s3://bucket/run", None, false);
    assert!(set.put("a/b.pt", edition, b"record", Moment::now()));
    let shards = fs::read_dir(root.join("sets")).expect("read").flatten().flat_map(|set| fs::read_dir(set.path()));
    let files = shards.flatten().flatten().flat_map(|shard| fs::read_dir(shard.path())).flatten().flatten();
    let file = files.map(|file| fs::read(file.path()).expect("read")).next().expect("the record's");
    drop(set);
    fs::remove_dir_all(&root).expect("removed");
    file
}
