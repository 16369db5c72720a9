//! Files that are damaged or cannot be read.

use super::*;

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
