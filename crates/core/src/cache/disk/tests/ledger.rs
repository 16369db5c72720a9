//! What the ledger says, what it says wrongly, and what is counted instead.

use std::os::unix::fs::FileExt;

use super::*;
use crate::cache::disk::rows::{Head, Rows, SetRow};

const WEEK: Duration = Duration::from_hours(7 * 24);

fn filled(root: &Path, records: usize) -> Set {
    let set = disk(root, 1 << 20).set("s3://bucket/run", None, false);
    assert!((0..records).all(|number| put(&set, &format!("{number}.pt"), b"x")));
    set
}

fn ledger_file(root: &Path) -> File {
    File::options().read(true).write(true).open(root.join(layout::LEDGER)).expect("there")
}

fn flip(root: &Path, bit: u64) {
    let (file, mut byte) = (ledger_file(root), [0]);
    file.read_exact_at(&mut byte, bit / 8).expect("read");
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).expect("written");
}

/// Says what no checksum tells from the truth.
pub(super) fn rewrite(root: &Path, rewrite: impl FnOnce(&File, &mut Rows)) {
    let file = ledger_file(root);
    rewrite(&file, &mut Rows::read(&file).expect("read"));
}

/// As a process finds the folder that has not had it open yet.
fn as_another_process() {
    OPEN.get_or_try_init(|| Ok(Open::default())).expect("open").forget();
}

fn put_in_the_end(set: &Set, key: &str) {
    let ends = Instant::now() + Duration::from_secs(20);
    while !put(set, key, b"x") {
        assert!(Instant::now() < ends, "{key} is never let in");
        *set.declined_at.lock() = None;
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_ledger_that_is_lost_or_damaged_or_of_an_earlier_format_is_made_anew() {
    // The last but one begins like one of ours, the last is one of the format before.
    let absurd = [&b"HWLEDG2\0"[..], &[255; 8], &[0; 48], &[0; 8], &[1], &[0; 7], &[255; 24], &[0; 12_000]].concat();
    let earlier = [&b"HWLEDG1\0"[..], &[0; 12_344], b"what earlier ones wrote there", &[7; 9_000]].concat();
    for damage in [Vec::new(), b"short".to_vec(), vec![255; 20_000], absurd, earlier] {
        let dir = folder();
        let set = filled(dir.path(), 10);
        fs::write(dir.path().join(layout::LEDGER), damage).expect("damaged");
        as_another_process();
        let care = Care::of(dir.path()).expect("ours");
        let sets = care.sets().expect("counted");
        assert_eq!((sets.len(), sets[0].records, sets[0].bytes), (1, 10, bytes_in(dir.path())));
        assert_eq!(fs::metadata(dir.path().join(layout::LEDGER)).expect("there").len(), 16_448);
        put_in_the_end(&set, "more.pt");
    }
}

#[test]
fn a_ledger_that_is_lost_under_way_knows_again_what_was_taken() {
    for damage in [Vec::new(), vec![0; 12_352], vec![255; 12_352]] {
        let dir = folder();
        let set = disk(dir.path(), 1 << 30).set("s3://bucket/run", None, false);
        assert!((0..10).all(|number| put(&set, &format!("{number}.pt"), b"x")));
        let care = Care::of(dir.path()).expect("ours");
        let allowance = || *set.disk.opened.lock().allowance.lock();
        assert!(allowance() > 1_000_000);
        fs::write(dir.path().join(layout::LEDGER), damage).expect("damaged");
        assert_eq!(care.taken().expect("read"), allowance());
        assert_eq!(care.bytes().expect("read"), bytes_in(dir.path()));
        let more = (10..20).filter(|number| put(&set, &format!("{number}.pt"), b"x")).count();
        assert!(more >= 9, "{more}: its set may have another row now");
        assert_eq!((care.bytes().expect("read"), care.taken().expect("read")), (bytes_in(dir.path()), allowance()));
    }
}

#[test]
fn whatever_bit_is_flipped_the_ledger_says_in_the_end_what_there_is() {
    let dir = folder();
    let set = filled(dir.path(), 10);
    let (care, allowance) = (Care::of(dir.path()).expect("ours"), || *set.disk.opened.lock().allowance.lock());
    // Of each word of the head, of the set's row, of an empty one, of the process's own row and of another's.
    let words = (0..8).chain(8..16).chain(80..88).chain(1032..1036);
    for bit in words.flat_map(|word| [0, 13, 63].map(|bit| word * 64 + bit)) {
        flip(dir.path(), bit);
        assert_eq!(care.bytes().expect("counted"), bytes_in(dir.path()), "bit {bit}");
        assert_eq!(care.taken().expect("read"), allowance(), "bit {bit}");
        let sets = care.sets().expect("read");
        assert_eq!((sets.len(), sets[0].records, sets[0].is_used), (1, 10, true), "bit {bit}");
    }
    assert!((0..10).all(|number| get(&set, &format!("{number}.pt"), &tag("1")).is_some()));
}

#[test]
fn what_an_earlier_start_of_the_machine_left_is_counted_though_it_looks_right() {
    let dir = folder();
    drop(filled(dir.path(), 10));
    // After a power cut: the ledger is an earlier one than the files.
    rewrite(dir.path(), |file, rows| {
        let (head, row) = (rows.head().expect("one"), rows.set(0).expect("the set"));
        rows.write_head(file, &Head { start: head.start ^ 1, ..head }).expect("written");
        rows.write_set(file, &SetRow { bytes: SMALL, files: 1, ..row }).expect("written");
        rows.write_taken(file, 5, 1 << 40).expect("written");
    });
    as_another_process();
    let care = Care::of(dir.path()).expect("ours");
    assert_eq!(care.bytes().expect("counted"), bytes_in(dir.path()));
    assert_eq!(care.taken().expect("read"), 0, "nobody is there who has taken any");
    rewrite(dir.path(), |_, rows| assert_eq!(rows.head().expect("one").start, crate::clock::start()));
}

#[test]
fn a_default_capacity_is_told_once_what_is_there_is_counted() {
    let dir = folder();
    drop(filled(dir.path(), 10));
    fs::remove_file(dir.path().join(layout::LEDGER)).expect("removed");
    as_another_process();
    let disk = Arc::new(Disk::open(dir.path(), None).expect("opens"));
    let set = disk.set("s3://bucket/run", None, false);
    let ends = Instant::now() + Duration::from_secs(20);
    while disk.stats().capacity == 0 {
        assert!(Instant::now() < ends, "never told");
        assert!(get(&set, "1.pt", &tag("1")).is_some(), "read all the while");
    }
    put_in_the_end(&set, "more.pt");
    assert_eq!(disk.stats().entries, 11);
}

#[test]
fn until_all_is_counted_nobody_takes_more_and_all_is_read() {
    let dir = folder();
    let set = filled(dir.path(), 10);
    let opened = set.disk.opened.lock().clone();
    let lock = || opened.ledger.as_ref().expect("a ledger").lock().expect("reads").expect("nobody else");
    // As while another thread is at it.
    opened.is_counting.store(true, Ordering::SeqCst);
    lock().count_again(0).expect("marked");
    let before = set.disk.stats();
    let let_in = (10..100).filter(|number| {
        *set.declined_at.lock() = None;
        put(&set, &format!("{number}.pt"), b"x")
    });
    let let_in = let_in.count() as u64;
    assert!(let_in <= 1 + opened_allowance(&set) / SMALL + (1 << 20) / 64 / SMALL, "what it had taken: {let_in}");
    assert!((0..10).all(|number| get(&set, &format!("{number}.pt"), &tag("1")).is_some()));
    assert!(set.disk.stats().declined > before.declined && set.disk.stats().failures == 0);
    opened.is_counting.store(false, Ordering::SeqCst);
    put_in_the_end(&set, "more.pt");
    assert!(lock().is_counted());
    assert_eq!(set.disk.stats().entries, 11 + let_in);
}

fn opened_allowance(set: &Set) -> u64 {
    *set.disk.opened.lock().allowance.lock()
}

#[test]
fn what_changes_while_it_is_counted_is_counted_again() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 30).set("s3://bucket/run", None, false);
    assert!(put(&set, "0.pt", b"x"));
    let opened = set.disk.opened.lock().clone();
    let lock = || opened.ledger.as_ref().expect("a ledger").lock().expect("reads").expect("nobody else");
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            for _ in 0..50 {
                lock().count_again(0).expect("marked");
                while !opened.count().expect("counted") {}
            }
        });
        for number in (1..).take_while(|_| !counting.is_finished()) {
            put(&set, &format!("{}.pt", number % 40), &vec![7; number * 997 % 30_000]);
        }
    });
    assert!(opened.count().expect("counted"));
    let page = lock();
    assert_eq!(page.set_bytes(), bytes_in(dir.path()));
    assert_eq!(page.set(0).expect("the set").files, files(dir.path()).len() as u64);
}

#[test]
fn a_clock_that_is_put_forward_makes_nobody_forget() {
    let dir = folder();
    let set = disk(dir.path(), 64 * SMALL).set("s3://bucket/run", None, false);
    let kept = (0..64).filter(|number| put(&set, &format!("{number}.pt"), b"x")).count() as u64;
    drop(set);
    // Eight days, since the ledger was begun and all of it was used.
    let ahead = WEEK + 24 * HOUR;
    files(dir.path()).iter().for_each(|path| old(path, ahead));
    rewrite(dir.path(), |file, rows| {
        let (head, row) = (rows.head().expect("one"), rows.set(0).expect("the set"));
        rows.write_head(file, &Head { started: head.started - ahead.as_secs(), ..head }).expect("written");
        rows.write_set(file, &SetRow { used: row.used - ahead.as_secs(), ..row }).expect("written");
    });
    assert_eq!(Care::of(dir.path()).expect("ours").gc(24 * HOUR, None, |_| Ok(())).expect("tidied").records, 0);
    let set = disk(dir.path(), 64 * SMALL).set("s3://bucket/run", None, false);
    for number in 100..164 {
        *set.declined_at.lock() = None;
        put(&set, &format!("{number}.pt"), b"x");
    }
    let there = (0..64).filter(|number| get(&set, &format!("{number}.pt"), &tag("1")).is_some()).count() as u64;
    assert_eq!((there, set.disk.stats().evictions), (kept, 0));
}
