//! What is tidied up, and what is not.

use std::collections::HashSet;

use super::*;

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

fn sets(root: &Path) -> Vec<care::SetInfo> {
    Care::of(root).expect("ours").sets().expect("read")
}

#[test]
fn a_source_of_which_nothing_is_left_is_none_any_more_unless_somebody_uses_it() {
    let dir = folder();
    let disk = disk(dir.path(), 1 << 30);
    let [used, unused] = ["s3://used", "s3://unused"].map(|uri| disk.set(uri, None, false));
    assert!([&used, &unused].iter().all(|set| put(set, "a.pt", b"x")));
    drop(unused);
    let care = Care::of(dir.path()).expect("ours");
    assert_eq!(care.clear(None, |_| Ok(())).expect("cleared").records, 2);
    assert_eq!(sets(dir.path()).iter().map(|set| set.id.clone()).collect::<Vec<_>>(), [format!("{:032x}", used.id)]);
    assert_eq!(fs::read_dir(dir.path().join(layout::SETS)).expect("read").count(), 1);
    assert!(put(&used, "a.pt", b"x"));
    let again = disk.set("s3://unused", None, false);
    assert!(put(&again, "a.pt", b"y") && get(&again, "a.pt", &tag("1")).is_some());
    let uris = sets(dir.path()).into_iter().filter_map(|set| set.about.map(|about| about.uri));
    assert_eq!(uris.collect::<HashSet<_>>().len(), 2);

    // What somebody else has put there stays, and its folder.
    fs::write(again.folder.join("thesis.txt"), "years of work").expect("written");
    let place = again.folder.clone();
    drop(again);
    care.clear(None, |_| Ok(())).expect("cleared");
    assert!(place.join("thesis.txt").exists() && place.join(layout::ABOUT).exists());
}

#[test]
fn a_source_that_others_have_only_read_is_not_unused() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!((0..10).all(|number| put(&set, &format!("{number}.pt"), b"x")));
    // One process has read it for two months, of which the ledger knows nothing.
    files(dir.path()).iter().for_each(|path| old(path, 60 * 24 * HOUR));
    assert!(get(&set, "7.pt", &tag("1")).is_some());
    drop(set);
    ledger::rewrite(dir.path(), |file, rows| {
        let row = rows.set(0).expect("the set");
        rows.write_set(file, &rows::SetRow { used: row.used - 60 * 24 * 3_600, ..row }).expect("written");
    });
    let care = Care::of(dir.path()).expect("ours");
    let tidy = || care.gc(30 * 24 * HOUR, None, |_| Ok(())).expect("tidied").records;
    assert_eq!(tidy(), 0, "one of them was read a moment ago");
    files(dir.path()).iter().for_each(|path| old(path, 60 * 24 * HOUR));
    assert_eq!(tidy(), 10);
    assert_eq!(sets(dir.path()).len(), 0);
}

/// More sources than there are rows for.
#[test]
fn where_every_row_is_taken_the_oldest_source_gives_way_some_files_at_a_time() {
    let dir = folder();
    let disk = disk(dir.path(), 1 << 30);
    let uri = |number: usize| format!("s3://bucket/{number}");
    let oldest = disk.set(&uri(0), None, false);
    assert!((0..100).all(|number| put(&oldest, &format!("{number}.pt"), b"x")));
    let folder = oldest.folder.clone();
    drop(oldest);
    let others: Vec<_> = (1..rows::SETS).map(|number| disk.set(&uri(number), None, false)).collect();
    assert!(others.iter().all(|set| put(set, "a.pt", b"x")));
    let newcomer = disk.set(&uri(rows::SETS), None, false);
    let there = || layout::shards(&folder).map(|shard| files_in(&shard).expect("read").len()).sum::<usize>();
    let (mut shards, mut left) = (0, there());
    while !put(&newcomer, "a.pt", b"x") {
        let now = there();
        assert!(now < left && left - now < 10, "of a shard at a time: {left} and {now}");
        (shards, left) = (shards + 1, now);
    }
    assert!(shards > 50 && !folder.exists(), "{shards}");
    assert!(others.iter().all(|set| get(set, "a.pt", &tag("1")).is_some()), "what is used stays");
    assert_eq!(Care::of(dir.path()).expect("ours").bytes().expect("read"), bytes_in(dir.path()));
}
