mod age;
mod claims;
mod damage;
mod failing;
mod folder;
mod full;
mod hanging;
mod ledger;
mod records;
mod tidying;

use std::collections::HashMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use super::care::Care;
use super::layout::footprint;
use super::ledger::files_in;
use super::opened::{OPEN, Open, Opened};
use super::*;
use crate::buffer::BufferPool;
use crate::clock::{Clock, Moment};
use crate::error::ErrorKind;
use crate::source::{Edition, Version};

const HOUR: Duration = Duration::from_hours(1);
/// What a small record takes.
const SMALL: u64 = 4096;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn disk(root: &Path, capacity: u64) -> Arc<Disk> {
    Arc::new(Disk::open(root, Some(capacity)).expect("opens"))
}

fn of(version: Version) -> Edition {
    Edition { version, size: 9_000 }
}

fn tag(tag: &str) -> Edition {
    of(Version::ETag(tag.to_owned()))
}

fn get(set: &Set, key: &str, edition: &Edition) -> Option<Vec<u8>> {
    let wanted = Wanted { edition, or_since: None };
    set.look(key, wanted, &Clock::default(), &BufferPool::new(0)).found().map(|found| found.record.to_vec())
}

fn put(set: &Set, key: &str, record: &[u8]) -> bool {
    set.put(key, &tag("1"), record, Moment::now())
}

fn shell(script: &str, place: &Path) {
    let done = std::process::Command::new("sh").args(["-c", script, "sh"]).arg(place).status();
    assert!(done.expect("runs").success(), "{script}");
}

/// Every file of records.
fn files(root: &Path) -> Vec<PathBuf> {
    let sets = fs::read_dir(root.join(layout::SETS)).expect("sets").flatten();
    let shards = sets.flat_map(|set| layout::shards(&set.path()).collect::<Vec<_>>());
    shards.flat_map(|shard| files_in(&shard).expect("read").into_iter().map(|(path, _)| path)).collect()
}

fn bytes_in(root: &Path) -> u64 {
    files(root).iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| footprint(meta.len())).sum()
}

fn old(path: &Path, age: Duration) {
    let then = SystemTime::now() - age;
    File::open(path).expect("there").set_times(FileTimes::new().set_accessed(then)).expect("made old");
}

fn age(set: &Set, at: Moment, version: &str, or_younger: Option<Duration>) -> Option<Duration> {
    let (edition, buffers) = (tag(version), BufferPool::new(0));
    let opened = |age| Moment { wall: at.wall - age, since_boot: at.since_boot.saturating_sub(age), ..at };
    let wanted = Wanted { edition: &edition, or_since: or_younger.map(opened) };
    set.look("a.pt", wanted, &Clock::at(at), &buffers).found().map(|found| found.age)
}

/// Puts a link that leads nowhere but to itself in the place of a record, which opening then fails at.
fn spoil(set: &Set, key: &str) {
    let path = layout::file_of(&set.folder, layout::hash_of(key));
    fs::remove_file(&path).expect("there");
    std::os::unix::fs::symlink(&path, &path).expect("made");
}
