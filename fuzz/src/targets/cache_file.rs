//! Files of the disk tier: whatever stands where a record should be, looking for it gives the end of that file or nothing, and
//! leaves the folder usable.
//!
//! The checksum, which leaves the stamp out, is made right first; so is the record's length, unless the first byte says to leave it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater::buffer::BufferPool;
use headwater::cache::disk::{Disk, Set, Wanted};
use headwater::clock::{Clock, Moment};
use headwater::source::{Edition, Version};
use xxhash_rust::xxh3::Xxh3;

// As `docs/formats.md` has them.
const CHECKSUM_AT: usize = 32;
const STAMP_AT: usize = 40;
const HEAD_BYTES: usize = 72;
const ALIGNMENT: usize = 64;
const KEY: &str = "a/b.pt";

/// A set, and the file of its only object.
pub struct Place {
    set: Set,
    file: PathBuf,
}

impl Place {
    /// In an empty folder.
    pub fn new(root: &Path) -> Self {
        let disk = Arc::new(Disk::open(root, Some(1 << 24)).expect("opens"));
        let set = disk.set("s3://bucket/run", None, false);
        assert!(set.put(KEY, &edition(), b"record", Moment::now()));
        let file = files(&root.join("sets")).into_iter().find(|file| file.extension().is_some_and(|it| it == "hwc"));
        Self { set, file: file.expect("the record's") }
    }

    /// Whether they are the record's file.
    pub fn read(&self, data: &[u8]) -> bool {
        let Some((&told, file)) = data.split_first() else { return false };
        let file = sealed(file, told & 1 == 0);
        fs::write(&self.file, &file).expect("written");
        let (edition, clock) = (edition(), Clock::default());
        self.set.renew(KEY, &edition, Moment::now(), &clock);
        let found =
            self.set.look(KEY, Wanted { edition: &edition, or_since: None }, &clock, &BufferPool::new(0)).found();
        if let Some(found) = &found {
            assert!(file.ends_with(&found.record) && found.edition == edition);
        }
        assert!(self.set.is_read(), "a file is no reason to leave the disk alone");
        found.is_some()
    }
}

fn edition() -> Edition {
    Edition { version: Version::ETag("\"1\"".into()), size: 900 }
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
    hash.update(&file[..CHECKSUM_AT]);
    hash.update(&file[HEAD_BYTES..]);
    file[CHECKSUM_AT..STAMP_AT].copy_from_slice(&hash.digest().to_le_bytes());
    file
}
