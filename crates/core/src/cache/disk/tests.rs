mod age;
mod claims;
mod folder;
mod hanging;
mod ledger;

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

#[test]
fn a_record_is_there_for_its_key_and_version_and_for_the_next_process() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert_eq!(get(&set, "a.pt", &tag("1")), None);
    assert!(put(&set, "a.pt", b"of a") && put(&set, "b.pt", b"of b"));
    assert_eq!(get(&set, "a.pt", &tag("1")).expect("there"), b"of a");
    assert_eq!(get(&set, "b.pt", &tag("1")).expect("there"), b"of b");
    assert_eq!(get(&set, "a.pt", &tag("2")), None, "the object was replaced");
    assert_eq!(get(&set, "a.pt", &of(Version::Unknown)), None, "nobody knows whether it was");
    let elsewhere = disk(dir.path(), 1 << 20).set("s3://bucket/run", Some("http://other"), false);
    assert_eq!(get(&elsewhere, "a.pt", &tag("1")), None, "another server");
    drop(set);
    let disk = disk(dir.path(), 1 << 20);
    assert_eq!(get(&disk.set("s3://bucket/run", None, false), "a.pt", &tag("1")).expect("kept"), b"of a");
    let stats = disk.stats();
    assert_eq!((stats.entries, stats.bytes >= 2 * SMALL), (2, true));
}

#[test]
fn a_new_version_takes_the_place_of_the_old_one() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    for (version, len) in [("1", 10), ("2", 30_000), ("3", 100)] {
        assert!(set.put("a.pt", &tag(version), &vec![7; len], Moment::now()));
        assert_eq!(get(&set, "a.pt", &tag(version)).expect("there"), vec![7; len]);
        assert_eq!(files(dir.path()).len(), 1);
    }
    assert_eq!(get(&set, "a.pt", &tag("1")), None);
    let page_bytes: u64 = set
        .disk
        .opened
        .lock()
        .ledger
        .as_ref()
        .map_or(0, |ledger| ledger.lock().expect("reads").expect("nobody else").sets().map(|row| row.bytes).sum());
    assert_eq!(page_bytes, bytes_in(dir.path()));
}

fn age(set: &Set, at: Moment, version: &str, or_younger: Option<Duration>) -> Option<Duration> {
    let (edition, buffers) = (tag(version), BufferPool::new(0));
    let opened = |age| Moment { wall: at.wall - age, since_boot: at.since_boot.saturating_sub(age), ..at };
    let wanted = Wanted { edition: &edition, or_since: or_younger.map(opened) };
    set.look("a.pt", wanted, &Clock::at(at), &buffers).found().map(|found| found.age)
}

#[test]
fn a_full_folder_keeps_what_it_has_or_gives_up_what_was_used_least_recently() {
    for replaces in [false, true] {
        let dir = folder();
        let set = disk(dir.path(), 100 * SMALL).set("s3://bucket/run", None, replaces);
        for number in 0..400 {
            put(&set, &format!("{number:03}.pt"), b"x");
            *set.declined_at.lock() = None;
            assert!(bytes_in(dir.path()) <= 100 * SMALL);
            for path in files(dir.path()) {
                // As if hours lay between.
                let used = fs::metadata(&path).and_then(|meta| meta.accessed()).expect("there");
                old(&path, SystemTime::now().duration_since(used).unwrap_or_default() + HOUR / 10);
            }
        }
        let has = |range: std::ops::Range<usize>| {
            range.filter(|number| get(&set, &format!("{number:03}.pt"), &tag("1")).is_some()).count()
        };
        let stats = set.disk.stats();
        if replaces {
            assert!(has(300..400) >= 60 && has(0..200) <= 10, "{} {}", has(300..400), has(0..200));
            assert!(stats.evictions >= 300, "{stats:?}");
        } else {
            assert!(has(0..100) >= 97 && has(100..400) <= 3, "{}", has(0..100));
            assert!(stats.declined >= 300 && stats.evictions == 0, "{stats:?}");
        }
    }
}

#[test]
fn in_a_full_folder_a_new_version_takes_the_place_of_the_old_one() {
    for replaces in [false, true] {
        let dir = folder();
        let set = disk(dir.path(), 64 * SMALL).set("s3://bucket/run", None, replaces);
        let keys = || (0..).map(|number| format!("{number}.pt"));
        let kept = keys().take(100).filter(|key| put(&set, key, b"x")).count();
        assert!(replaces || kept < 100 && set.declined_at.lock().is_some(), "full");
        let there: Vec<_> = keys().take(100).filter(|key| get(&set, key, &tag("1")).is_some()).collect();
        for key in &there {
            let evictions = set.disk.stats().evictions;
            assert!(set.put(key, &tag("2"), b"y", Moment::now()), "{key}");
            assert_eq!(get(&set, key, &tag("2")).expect("there"), b"y");
            assert!(set.disk.stats().evictions <= evictions + 1, "no other goes for it");
        }
        let both = [tag("1"), tag("2")];
        let count = there.iter().filter(|key| both.iter().any(|version| get(&set, key, version).is_some())).count();
        assert_eq!(count, there.len(), "no other went for any");
        assert!(bytes_in(dir.path()) <= 64 * SMALL);
    }
}

#[test]
fn of_another_version_only_the_beginning_is_read() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!(put(&set, "a.pt", &vec![7; 50_000]));
    let path = layout::file_of(&set.folder, layout::hash_of("a.pt"));
    let mut bytes = fs::read(&path).expect("read");
    bytes[20_000] ^= 1;
    fs::write(&path, bytes).expect("damaged");
    let (edition, clock, buffers) = (tag("2"), Clock::default(), BufferPool::new(0));
    let look = set.look("a.pt", Wanted { edition: &edition, or_since: None }, &clock, &buffers);
    assert!(matches!(look, Look::Outdated) && set.disk.stats().quarantined == 0, "{look:?}");
}

#[test]
fn what_nobody_has_used_for_a_week_goes_though_newcomers_are_declined() {
    let dir = folder();
    let set = disk(dir.path(), 64 * SMALL).set("s3://bucket/run", None, false);
    let before = (0..64).filter(|number| put(&set, &format!("{number}.pt"), b"x")).count();
    files(dir.path()).iter().for_each(|path| old(path, 8 * 24 * HOUR));
    let mut after = 0;
    for number in 100..164 {
        // It looks in a few places each time.
        *set.declined_at.lock() = None;
        after += usize::from(put(&set, &format!("{number}.pt"), b"x"));
    }
    assert!(before >= 60 && after >= 5, "{before} {after}");
    assert!(bytes_in(dir.path()) <= 64 * SMALL);
}

#[test]
fn sets_that_nobody_uses_go_first_and_those_in_use_share() {
    let dir = folder();
    let disk = disk(dir.path(), 128 * SMALL);
    let fill = |set: &Set, count: usize| {
        let kept = (0..count).filter(|number| {
            *set.declined_at.lock() = None;
            put(set, &format!("{number}.pt"), b"x")
        });
        kept.count()
    };
    let records = |uri: &str| {
        let sets = Care::of(dir.path()).expect("ours").sets().expect("read");
        sets.into_iter()
            .find(|set| set.about.as_ref().is_some_and(|about| about.uri == uri))
            .map_or(0, |set| set.records)
    };
    let unused = disk.set("s3://unused", None, false);
    assert!(fill(&unused, 200) >= 120);
    drop(unused);
    let first = disk.set("s3://first", None, false);
    assert!(fill(&first, 100) >= 99, "the unused one went");
    assert!(records("s3://unused") <= 28, "{}", records("s3://unused"));
    assert!(fill(&first, 200) >= 120);
    let second = disk.set("s3://second", None, false);
    fill(&second, 200);
    let (one, other) = (records("s3://first"), records("s3://second"));
    assert!((50..=64).contains(&other), "half of it each: {one} and {other}");
    assert!(one >= 55, "half of it each: {one} and {other}");
}

#[test]
fn a_damaged_file_is_put_aside_and_never_served() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    for number in 0..64 {
        put(&set, &format!("{number}.pt"), &[number; 100]);
    }
    for (number, path) in files(dir.path()).into_iter().enumerate().filter(|(number, _)| number % 4 == 0) {
        let mut bytes = fs::read(&path).expect("read");
        match number % 3 {
            0 => bytes.truncate(number * 2),
            1 => bytes[100 + number] ^= 1,
            _ => bytes.extend_from_slice(b"more"),
        }
        fs::write(&path, bytes).expect("written");
    }
    let served = (0..64).filter(|number| {
        let got = get(&set, &format!("{number}.pt"), &tag("1"));
        assert!(got.as_ref().is_none_or(|got| *got == vec![*number; 100]), "{number}");
        got.is_some()
    });
    assert_eq!(served.count(), 48);
    assert_eq!(set.disk.stats().quarantined, 16);
    let sets = Care::of(dir.path()).expect("ours").sets().expect("read");
    let aside = sets.iter().find(|set| set.is_quarantine).expect("put aside");
    assert_eq!(aside.records, 16);
    // Of what was cut off, nobody knows how long it was.
    assert!(sets.iter().map(|set| set.bytes).sum::<u64>() >= bytes_in(dir.path()));
    let care = Care::of(dir.path()).expect("ours");
    assert_eq!(
        care.verify(|_| Ok(())).expect("checked"),
        care::Checked { records: 48, bytes: 48 * (128 + 100), ..Default::default() }
    );
    assert_eq!(care.bytes().expect("read"), bytes_in(dir.path()));
    assert_eq!(care.taken().expect("read"), *set.disk.opened.lock().allowance.lock());
    let served = (0..64).filter(|number| get(&set, &format!("{number}.pt"), &tag("1")).is_some()).count();
    assert_eq!((served, set.disk.stats().quarantined), (48, 16), "once each");
}

/// Puts a link that leads nowhere but to itself in the place of a record, which opening then fails at.
fn spoil(set: &Set, key: &str) {
    let path = layout::file_of(&set.folder, layout::hash_of(key));
    fs::remove_file(&path).expect("there");
    std::os::unix::fs::symlink(&path, &path).expect("made");
}

#[test]
fn a_file_that_cannot_be_read_is_put_aside_and_the_rest_is_read() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!((0..20).all(|number| put(&set, &format!("{number}.pt"), b"x")));
    (0..5).for_each(|number| spoil(&set, &format!("{number}.pt")));
    let taken = layout::file_of(&set.folder, layout::hash_of("5.pt"));
    fs::remove_file(&taken).and_then(|()| fs::create_dir(&taken)).expect("a folder in its place");
    fs::write(taken.join("thesis.txt"), "years of work").expect("written");
    let there = (0..20).filter(|number| get(&set, &format!("{number}.pt"), &tag("1")).is_some()).count();
    let stats = set.disk.stats();
    assert_eq!((there, stats.quarantined, stats.failures, stats.is_off), (14, 5, 0, false));
    assert!((0..5).all(|number| put(&set, &format!("{number}.pt"), b"x")), "written anew");
    assert!(!put(&set, "5.pt", b"x"), "its place is taken");
    let there = (0..20).filter(|number| get(&set, &format!("{number}.pt"), &tag("1")).is_some()).count();
    assert_eq!((there, set.disk.stats().is_off), (19, false));
    let care = Care::of(dir.path()).expect("ours");
    drop(set);
    care.clear(None, |_| Ok(())).expect("cleared");
    assert!(taken.join("thesis.txt").exists() && bytes_in(dir.path()) == 0);
}

#[test]
fn a_disk_of_which_no_file_can_be_read_is_left_alone() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!((0..20).all(|number| put(&set, &format!("{number}.pt"), b"x")));
    (0..20).for_each(|number| spoil(&set, &format!("{number}.pt")));
    assert!((0..20).all(|number| get(&set, &format!("{number}.pt"), &tag("1")).is_none()));
    let stats = set.disk.stats();
    assert_eq!((stats.failures, stats.is_off, stats.quarantined), (1, true, 7));
}

#[test]
fn what_it_holds_is_told_without_waiting_for_who_has_the_ledger() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!((0..3).all(|number| put(&set, &format!("{number}.pt"), b"x")));
    let before = set.disk.stats();
    let opened = set.disk.opened.lock().clone();
    let page = opened.ledger.as_ref().expect("a ledger").lock().expect("reads").expect("nobody else");
    // Whoever waits for the ledger does so for a tenth of a second.
    let began = Instant::now();
    (0..100).for_each(|_| assert_eq!(set.disk.stats(), before));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((before.entries, before.bytes), (3, page.bytes()));
}

#[test]
fn threads_that_write_at_once_never_exceed_the_capacity_and_lose_nothing() {
    let dir = folder();
    let capacity = 200 * SMALL;
    let disk = disk(dir.path(), capacity);
    let set = Arc::new(disk.set("s3://bucket/run", None, true));
    let start = Arc::new(Barrier::new(8));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (set, start, root) = (set.clone(), start.clone(), dir.path());
            scope.spawn(move || {
                start.wait();
                for number in 0..100 {
                    let key = format!("{}.pt", (thread * 37 + number * 11) % 300);
                    let record = vec![thread as u8; 10 + number * 120];
                    put(&set, &key, &record);
                    assert!(bytes_in(root) <= capacity);
                    let _ = get(&set, &key, &tag("1"));
                }
            });
        }
    });
    let care = Care::of(dir.path()).expect("ours");
    assert_eq!(care.sets().expect("read").iter().map(|set| set.bytes).sum::<u64>(), bytes_in(dir.path()));
    let checked = care.verify(|_| Ok(())).expect("checked");
    assert_eq!((checked.damaged, checked.records), (0, files(dir.path()).len() as u64));
    assert_eq!(fs::read_dir(dir.path().join(layout::ARRIVING)).expect("read").count(), 0);
}

#[test]
fn what_is_done_agrees_with_a_map() {
    let dir = folder();
    let disk = disk(dir.path(), 1 << 30);
    let sets = ["s3://one", "s3://two"].map(|uri| disk.set(uri, None, false));
    let mut model: HashMap<(usize, String), (Edition, Vec<u8>)> = HashMap::new();
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for step in 0..3_000 {
        let (set, key) = (random(2) as usize, format!("{}.pt", random(40)));
        let version = tag(&random(3).to_string());
        match random(10) {
            0..4 => {
                let record = vec![step as u8; random(20_000) as usize];
                assert!(sets[set].put(&key, &version, &record, Moment::now()));
                model.insert((set, key), (version, record));
            }
            4..9 => {
                let expected = model.get(&(set, key.clone())).filter(|(kept, _)| *kept == version);
                assert_eq!(get(&sets[set], &key, &version).as_ref(), expected.map(|(_, record)| record), "step {step}");
            }
            _ if random(30) == 0 => {
                Care::of(dir.path())
                    .expect("ours")
                    .clear(Some(["s3://one", "s3://two"][set]), |_| Ok(()))
                    .expect("cleared");
                model.retain(|(of, _), _| *of != set);
            }
            _ => {}
        }
    }
    let care = Care::of(dir.path()).expect("ours");
    assert_eq!(care.sets().expect("read").iter().map(|set| set.records).sum::<u64>(), model.len() as u64);
    assert_eq!(care.sets().expect("read").iter().map(|set| set.bytes).sum::<u64>(), bytes_in(dir.path()));
}

#[test]
fn tidying_up_removes_what_nobody_needs_and_nothing_else() {
    let dir = folder();
    let disk = disk(dir.path(), 1 << 30);
    let (used, unused) = (disk.set("s3://used", None, false), disk.set("s3://unused", None, false));
    for number in 0..20 {
        assert!(put(&used, &format!("{number}.pt"), &[1; 9000]) && put(&unused, &format!("{number}.pt"), &[1; 9000]));
    }
    drop(unused);
    let stray = dir.path().join(layout::ARRIVING).join("400-7");
    fs::write(&stray, "left by a process that was killed").expect("written");
    let care = Care::of(dir.path()).expect("ours");
    assert_eq!(care.gc(HOUR, None, |_| Ok(())).expect("tidied").records, 0, "all of it was used a moment ago");
    let removed = care.gc(Duration::ZERO, None, |_| Ok(()));
    // Seconds are what the ledger knows.
    std::thread::sleep(Duration::from_millis(1100));
    let again = care.gc(Duration::ZERO, None, |_| Ok(())).expect("tidied");
    assert_eq!(removed.expect("tidied").records + again.records, 20);
    assert_eq!(files(dir.path()).len(), 20);
    let removed = care.gc(HOUR, Some(100_000), |_| Ok(())).expect("tidied");
    assert!(bytes_in(dir.path()) <= 100_000 && removed.records >= 10, "{removed:?}");
    assert_eq!(care.clear(Some("s3://none"), |_| Ok(())).expect_err("none").kind(), ErrorKind::NotFound);
    care.clear(None, |_| Ok(())).expect("cleared");
    assert_eq!(files(dir.path()).len(), 0);
    assert!(put(&used, "a.pt", b"x"), "whoever uses it goes on");
}

/// Where a small disk is.
const SMALL_DISK: &str = "HEADWATER_TEST_SMALL_DISK";

#[test]
#[allow(clippy::disallowed_methods)] // how the test tells itself, in another process, where it is
fn a_full_disk_costs_records_until_there_is_room_again() {
    if let Some(place) = std::env::var_os(SMALL_DISK) {
        return with_a_small_disk(Path::new(&place));
    }
    let dir = folder();
    let name = "cache::disk::tests::a_full_disk_costs_records_until_there_is_room_again";
    let program = std::env::current_exe().expect("this program");
    // In a name space of its own anybody may mount what only this process sees.
    let script = "mount -t tmpfs -o size=1m none \"$1\" && exec \"$2\" --exact \"$3\" --nocapture";
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    let done = command.arg(dir.path()).arg(program).arg(name).env(SMALL_DISK, dir.path()).output().expect("runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
}

fn with_a_small_disk(place: &Path) {
    let root = place.join("cache");
    let mut disk = Disk::open(&root, Some(1 << 30)).expect("opens");
    disk.writing = Health::resting(Duration::from_millis(50));
    let disk = Arc::new(disk);
    let set = disk.set("s3://bucket/run", None, false);
    let record = |number: usize| vec![number as u8; 50_000];
    let kept = (0..40).filter(|&number| put(&set, &format!("{number}.pt"), &record(number))).count();
    assert!((10..20).contains(&kept), "{kept}");
    let stats = disk.stats();
    assert!(stats.is_off && stats.failures >= 1, "{stats:?}");
    assert_eq!(fs::read_dir(root.join(layout::ARRIVING)).expect("read").count(), 0, "half a file takes no room");
    for number in 0..40 {
        let got = get(&set, &format!("{number}.pt"), &tag("1"));
        assert!(got.as_ref().is_none_or(|got| *got == record(number)));
        assert_eq!(got.is_some(), number < kept, "what was there before is read");
    }
    Care::of(&root).expect("ours").clear(None, |_| Ok(())).expect("cleared");
    std::thread::sleep(Duration::from_millis(60));
    assert!(put(&set, "a.pt", &record(1)), "there is room again");
    let stats = disk.stats();
    assert!(!stats.is_off && stats.entries == 1, "{stats:?}");

    let run = |words: &str| {
        let script = format!("set -e; place='{}'; {words}", place.display());
        assert!(std::process::Command::new("sh").args(["-c", &script]).status().expect("runs").success(), "{words}");
    };
    run("mount --bind $place $place; mount -o remount,bind,ro $place");
    assert!(!put(&set, "b.pt", &record(2)) && disk.stats().is_off, "what turns read-only is not written");
    assert_eq!(get(&set, "a.pt", &tag("1")).expect("read all the same"), record(1));
    // As a process finds it that has never opened it.
    OPEN.get_or_try_init(|| Ok(Open::default())).expect("open").forget();
    let reader = Arc::new(Disk::open(&root, None).expect("opens")).set("s3://bucket/run", None, false);
    assert_eq!(get(&reader, "a.pt", &tag("1")).expect("and by who comes later"), record(1));
    assert!(!put(&reader, "b.pt", &record(2)) && matches!(reader.claim("b.pt"), Claim::Nobodys));
    let idle = Arc::new(Disk::open(&root, None).expect("opens")).set("s3://bucket/run", None, false);
    run("umount $place");
    assert_eq!(get(&idle, "a.pt", &tag("1")).expect("there"), record(1));
    assert!(idle.joined.lock().is_none(), "it is not opened again with every record");
    std::thread::sleep(Duration::from_millis(60));
    assert!(put(&set, "b.pt", &record(2)), "it can be written again");
}

#[test]
fn threads_that_write_at_once_decline_nothing_while_there_is_room() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 30).set("s3://bucket/run", None, false);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let set = &set;
            scope.spawn(move || {
                (0..200)
                    .for_each(|number| assert!(put(set, &format!("{thread}-{number}.pt"), b"x"), "{thread} {number}"));
            });
        }
    });
    assert_eq!(set.disk.stats().declined, 0);
}

#[test]
fn a_failure_is_over_once_the_disk_answers_though_the_folder_is_full() {
    let dir = folder();
    let mut disk = Disk::open(dir.path(), Some(64 * SMALL)).expect("opens");
    disk.writing = Health::resting(Duration::from_millis(50));
    let disk = Arc::new(disk);
    let set = disk.set("s3://bucket/run", None, false);
    for number in 0..100 {
        put(&set, &format!("{number}.pt"), b"x");
    }
    set.writing_hangs();
    std::thread::sleep(Duration::from_millis(120));
    *set.declined_at.lock() = None;
    assert!(!put(&set, "new.pt", b"x"), "full");
    std::thread::sleep(Duration::from_millis(120));
    *set.declined_at.lock() = None;
    let turn = disk.writing.begin();
    assert!(turn.is_some());
    assert!(disk.writing.begin().is_some(), "one at a time for ever: it answered, and is not taken for well");
}
