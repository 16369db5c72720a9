//! Files of the disk tier: whatever stands where a record should be, looking for it gives the end of that file or nothing, and
//! leaves the folder usable.
//!
//! The checksum is made right first; so is the record's length, unless the first byte says to leave it.
#![no_main]

use headwater::clock::Moment;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use headwater::buffer::BufferPool;
use headwater::cache::disk::{Disk, Set, Wanted};
use headwater::source::Version;
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::Xxh3;

// As `docs/formats.md` has them.
const HEAD_BYTES: usize = 32;
const ALIGNMENT: usize = 64;
const KEY: &str = "a/b.pt";

/// A set, and the file of its only object.
static PLACE: LazyLock<(Set, PathBuf)> = LazyLock::new(|| {
    let root = std::env::temp_dir().join(format!("headwater-fuzz-{}", std::process::id()));
    let disk = Arc::new(Disk::open(&root, Some(1 << 24)).expect("opens"));
    let set = disk.set("s3://bucket/run", None, false);
    assert!(set.put(KEY, &version(), b"record", Moment::now()));
    let file = files(&root.join("sets")).into_iter().find(|file| file.extension().is_some_and(|it| it == "hwc"));
    (set, file.expect("the record's"))
});

fuzz_target!(|data: &[u8]| {
    let Some((&told, file)) = data.split_first() else { return };
    let (set, path) = &*PLACE;
    let file = sealed(file, told & 1 == 0);
    fs::write(path, &file).expect("written");
    let (version, now) = (version(), Moment::now());
    set.renew(KEY, &version, now);
    let found = set.look(KEY, Wanted { version: &version, or_younger: None }, now, &BufferPool::new(0)).found();
    if let Some(found) = found {
        assert!(file.ends_with(&found.record) && found.version == version);
    }
    assert!(set.is_read(), "a file is no reason to leave the disk alone");
});

fn version() -> Version {
    Version::ETag("\"1\"".into())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn sealed(file: &[u8], with_length: bool) -> Vec<u8> {
    let mut file = file.to_vec();
    if file.len() < HEAD_BYTES {
        return file;
    }
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
    let record_at = (HEAD_BYTES + number(4) + number(8)).next_multiple_of(ALIGNMENT);
    if let Some(len) = file.len().checked_sub(record_at).filter(|_| with_length) {
        file[16..24].copy_from_slice(&(len as u64).to_le_bytes());
    }
    let mut hash = Xxh3::new();
    hash.update(&file[..HEAD_BYTES - 8]);
    hash.update(&file[HEAD_BYTES..]);
    file[HEAD_BYTES - 8..HEAD_BYTES].copy_from_slice(&hash.digest().to_le_bytes());
    file
}
