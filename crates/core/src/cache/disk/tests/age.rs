//! Since when a record is known to be right, and of which edition.

use super::*;

#[test]
fn age_is_told_and_what_was_known_lately_is_good_of_any_version() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    let now = Moment::now();
    assert!(set.put("a.pt", &tag("1"), b"x", now));
    assert_eq!(age(&set, now.after(HOUR), "1", None), Some(HOUR));
    let clock = Clock::at(now.after(HOUR));
    set.renew("a.pt", &tag("0"), now.after(HOUR), &clock);
    assert_eq!(age(&set, now.after(HOUR), "1", None), Some(HOUR), "another version is not renewed");
    set.renew("a.pt", &tag("1"), now.after(HOUR), &clock);
    assert_eq!(age(&set, now.after(HOUR), "1", None), Some(Duration::ZERO));
    set.renew("a.pt", &tag("1"), now, &clock);
    assert_eq!(age(&set, now.after(HOUR), "1", None), Some(Duration::ZERO), "who asked later knows better");
    let of_any_version = |limit| age(&set, now.after(2 * HOUR), "2", Some(limit)).is_some();
    assert!(of_any_version(HOUR) && !of_any_version(HOUR / 2));
}

#[test]
fn what_was_noted_by_a_clock_that_was_wrong_is_as_old_as_it_is() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    let now = Moment::now();
    for wall in [now.wall + HOUR / 2, now.wall + 24 * HOUR, now.wall - 24 * HOUR] {
        assert!(set.put("a.pt", &tag("1"), b"x", Moment { wall, ..now }));
        // Also when the future has come, and for a dataset that was opened a moment after it.
        for time in [Duration::ZERO, HOUR / 4, HOUR, 24 * HOUR, 25 * HOUR] {
            assert_eq!(age(&set, now.after(time), "1", None), Some(time));
            assert_eq!(age(&set, now.after(time).after(Duration::from_secs(1)), "2", Some(time)), None);
        }
    }
    // Before the machine was started anew, which was after it was.
    let earlier = Moment { wall: now.wall - HOUR, boot: 7, since_boot: Duration::ZERO };
    let today = Moment { since_boot: 3 * HOUR, ..now };
    assert!(set.put("a.pt", &tag("1"), b"x", earlier));
    assert_eq!(age(&set, today, "1", None), Some(3 * HOUR));
    assert_eq!(age(&set, today, "2", Some(2 * HOUR)), None);
    set.renew("a.pt", &tag("1"), today, &Clock::at(today));
    assert_eq!(age(&set, today.after(HOUR), "1", None), Some(HOUR));
}

#[test]
fn a_record_that_does_not_say_since_when_it_is_known_is_of_unknown_age_and_renewed() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    let now = Moment::now();
    assert!(put(&set, "a.pt", b"x"));
    let path = layout::file_of(&set.folder, layout::hash_of("a.pt"));
    let mut bytes = fs::read(&path).expect("read");
    bytes[layout::STAMP_AT] ^= 1;
    fs::write(&path, bytes).expect("damaged");
    assert_eq!(age(&set, now, "1", None), Some(Duration::MAX));
    set.renew("a.pt", &tag("1"), now, &Clock::at(now));
    assert_eq!(age(&set, now, "1", None), Some(Duration::ZERO));
}

#[test]
fn a_file_of_another_version_is_outdated_and_not_damaged() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    let path = layout::file_of(&set.folder, layout::hash_of("a.pt"));
    for (format, len) in [1, 2].into_iter().flat_map(|format| [1, 100, 10_000].map(|len| (format, len))) {
        assert!(put(&set, "a.pt", b"x"));
        let earlier = [b"HWC", &[format][..], b"\x04\0\0\0\x02\0\0\0", &vec![7; len]].concat();
        fs::write(&path, earlier).expect("written");
        let (edition, buffers) = (tag("1"), BufferPool::new(0));
        let look = set.look("a.pt", Wanted { edition: &edition, or_since: None }, &Clock::default(), &buffers);
        assert!(matches!(look, Look::Outdated), "{look:?}");
        let checked = Care::of(dir.path()).expect("ours").verify(|_| Ok(())).expect("checked");
        assert_eq!((checked.records, checked.damaged), (1, 0));
        assert!(put(&set, "a.pt", b"y"));
        assert_eq!(get(&set, "a.pt", &tag("1")).as_deref(), Some(&b"y"[..]));
    }
    assert_eq!(set.disk.stats().quarantined, 0);
}

#[test]
fn what_a_machine_that_was_put_back_finds_from_its_future_is_of_unknown_age_until_it_is_renewed() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    let now = Moment::now();
    for later in [Duration::from_nanos(1), HOUR] {
        assert!(set.put("a.pt", &tag("1"), b"x", now.after(later)));
        assert_eq!(age(&set, now, "1", None), Some(Duration::MAX));
        assert_eq!(age(&set, now, "2", Some(HOUR)), None, "nor is it good of any version");
        set.renew("a.pt", &tag("1"), now, &Clock::at(now));
        assert_eq!(age(&set, now, "1", None), Some(Duration::ZERO));
    }
}

#[test]
fn what_others_renew_while_it_is_read_is_never_taken_for_old() {
    let dir = folder();
    let (set, other) = (disk(dir.path(), 1 << 20), disk(dir.path(), 1 << 20));
    let [set, other] = [set, other].map(|disk| disk.set("s3://bucket/run", None, false));
    let (clock, buffers, edition, opened) = (Clock::default(), BufferPool::new(0), tag("1"), Moment::now());
    assert!(put(&set, "a.pt", b"x"));
    let is_done = AtomicBool::new(false);
    let ages: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                other.renew("a.pt", &edition, Moment::now(), &Clock::default());
            }
        });
        let wanted = Wanted { edition: &edition, or_since: Some(opened) };
        let look = |_| set.look("a.pt", wanted, &clock, &buffers).found().expect("there").age;
        let ages = (0..5_000).map(look).collect();
        is_done.store(true, Ordering::Relaxed);
        ages
    });
    // A stamp that is read while it is written says nothing; that is once in a while.
    let unknown = ages.iter().filter(|&&age| age == Duration::MAX).count();
    assert!(unknown < 50, "{unknown} of {}", ages.len());
    assert!(ages.iter().all(|&age| age < HOUR || age == Duration::MAX), "{ages:?}");
}

#[test]
fn what_was_replaced_in_the_same_second_is_told_by_its_size() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("https://host/run", None, false);
    let [old, new] = [900, 901].map(|size| Edition { version: Version::Modified(7_000_000_000), size });
    let now = Moment::now();
    assert!(set.put("a.pt", &old, b"old", now));
    assert_eq!(get(&set, "a.pt", &old).as_deref(), Some(&b"old"[..]));
    assert_eq!(get(&set, "a.pt", &new), None);
    let clock = Clock::at(now.after(HOUR));
    set.renew("a.pt", &new, now.after(HOUR), &clock);
    let wanted = Wanted { edition: &old, or_since: None };
    let found = set.look("a.pt", wanted, &clock, &BufferPool::new(0)).found().expect("there");
    assert_eq!((found.age, found.edition), (HOUR, old), "not renewed by what was found of another");
}

#[test]
fn what_was_read_in_another_way_is_outdated_and_gives_way() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    let mut file = layout::head("a.pt", &tag("1"), b"x", Moment::now()).expect("a head");
    file[12] = 1;
    file.extend_from_slice(b"x");
    layout::reseal(&mut file);
    assert!(put(&set, "a.pt", b"x"));
    fs::write(layout::file_of(&set.folder, layout::hash_of("a.pt")), file).expect("written");
    let (edition, buffers) = (tag("1"), BufferPool::new(0));
    let look = set.look("a.pt", Wanted { edition: &edition, or_since: None }, &Clock::default(), &buffers);
    assert!(matches!(look, Look::Outdated), "{look:?}");
    assert!(put(&set, "a.pt", b"y"));
    assert_eq!(get(&set, "a.pt", &tag("1")).as_deref(), Some(&b"y"[..]));
    assert_eq!(set.disk.stats().quarantined, 0);
}
