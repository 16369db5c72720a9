//! The fuzz targets on all that is stored for them, and on mutations of it: the same ones every time, since nothing here is found by
//! luck. `make fuzz` searches on, by coverage.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[allow(unreachable_pub)] // it is a crate of its own as well
#[path = "../../../../fuzz/src/targets/mod.rs"]
mod targets;

use targets::{cache_file, pt, record, tensors};

/// Of each target; a thousand take half a second at most.
const MUTATIONS: usize = 4_000;
/// What breaks a length or a count.
const NUMBERS: [u64; 9] = [0, 1, 0x7f, 0xff, 0xffff, 1 << 31, u32::MAX as u64, i64::MAX as u64, u64::MAX];

/// What is stored for a target, by name.
fn stored(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let entries = fs::read_dir(folder).expect("there").map(|entry| entry.expect("read").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_none_or(|it| it != "txt")).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), fs::read(path).expect("read"))).collect()
}

/// Numbers, the same every time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A part of something, of 64 bytes at most.
    fn part(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len);
        from..(from + 1 + self.below(64)).min(len)
    }
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(bytes.len());
    match chance.below(8) {
        0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << chance.below(8),
        2 if !bytes.is_empty() => bytes[at] = chance.next() as u8,
        3 => {
            let number = NUMBERS[chance.below(NUMBERS.len())].to_le_bytes();
            let len = [1, 2, 4, 8][chance.below(4)].min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&number[..len]);
        }
        4 => drop(bytes.drain(chance.part(bytes.len()))),
        5 => {
            let part = bytes[chance.part(bytes.len())].to_vec();
            drop(bytes.splice(at..at, part));
        }
        6 => {
            let part = other[chance.part(other.len())].to_vec();
            let end = (at + part.len()).min(bytes.len());
            drop(bytes.splice(at..end, part));
        }
        _ => bytes.truncate(at),
    }
}

/// Has a target read what is stored, which it understands unless it is called `not-…`, and mutations of it.
fn survives(target: &str, read: impl Fn(&[u8]) -> bool) {
    let seeds = stored(target);
    for (name, seed) in &seeds {
        assert_eq!(read(seed), !name.starts_with("not-"), "`{name}` was stored as the opposite");
    }
    let (mut chance, mut understood) = (Chance(0x5eed), 0);
    for number in 0..MUTATIONS {
        let (name, seed) = &seeds[number % seeds.len()];
        let (_, other) = &seeds[chance.below(seeds.len())];
        let mut bytes = seed.clone();
        for _ in 0..=chance.below(3) {
            mutate(&mut bytes, other, &mut chance);
        }
        let Ok(was_read) = catch_unwind(AssertUnwindSafe(|| read(&bytes))) else {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{number}"));
            fs::write(&path, &bytes).expect("written");
            panic!("{target}: mutation {number}, of `{name}`, is `{}`: store it with the fix", path.display());
        };
        understood += usize::from(was_read);
    }
    assert!(understood > MUTATIONS / 100 && understood < MUTATIONS, "{understood} of {MUTATIONS} were understood");
}

#[test]
fn no_mutation_of_a_pt_file_is_more_than_an_error() {
    survives("pt", pt::read);
}

#[test]
fn no_mutation_of_other_formats_is_more_than_an_error() {
    survives("tensors", tensors::read);
}

#[test]
fn no_mutation_of_a_record_is_more_than_an_error() {
    survives("record", record::read);
}

#[test]
fn no_mutation_of_a_file_of_the_disk_tier_is_served_as_something_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = cache_file::Place::new(&folder.path().join("cache"));
    survives("cache_file", |bytes| place.read(bytes));
}
