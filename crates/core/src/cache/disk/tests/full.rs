//! Never more than the capacity, and what goes when that is reached.

use super::*;

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
fn what_was_put_aside_goes_before_what_is_whole() {
    let dir = folder();
    let disk = disk(dir.path(), 64 * SMALL);
    let unused = disk.set("s3://unused", None, false);
    let kept = (0..50).filter(|number| put(&unused, &format!("{number}.pt"), b"x")).count();
    for path in files(dir.path()).iter().take(10) {
        fs::write(path, "damaged").expect("written");
    }
    let whole = (0..50).filter(|number| get(&unused, &format!("{number}.pt"), &tag("1")).is_some()).count();
    assert_eq!((kept, whole), (50, 40));
    drop(unused);
    // It was made after the other one.
    ledger::rewrite(dir.path(), |file, rows| {
        let row = rows.set(0).expect("the set");
        rows.write_set(file, &rows::SetRow { used: row.used - 60, ..row }).expect("written");
    });
    let set = disk.set("s3://used", None, false);
    let newcomers = (0..20).filter(|number| {
        *set.declined_at.lock() = None;
        put(&set, &format!("{number}.pt"), b"x")
    });
    assert_eq!(newcomers.count(), 20);
    let sets = Care::of(dir.path()).expect("ours").sets().expect("read");
    let records = |is_it: &dyn Fn(&care::SetInfo) -> bool| {
        sets.iter().filter(|set| is_it(set)).map(|set| set.records).sum::<u64>()
    };
    let is_unused = |set: &care::SetInfo| set.about.as_ref().is_some_and(|about| about.uri == "s3://unused");
    assert!(records(&|set| set.is_quarantine) < 10 - 5, "{sets:?}");
    assert_eq!(records(&is_unused), 40, "{sets:?}");
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
