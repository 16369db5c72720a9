//! The folder itself: whose it is, who else is there, and what of it is not ours.

use super::*;

#[test]
fn a_folder_that_is_not_ours_is_refused_and_left_alone() {
    let dir = folder();
    fs::write(dir.path().join("thesis.txt"), "years of work").expect("written");
    let error = Disk::open(dir.path(), Some(1 << 20)).expect_err("not ours");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.report().contains("thesis.txt"), "{}", error.report());
    assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 1);
    let error = Disk::open(&dir.path().join("thesis.txt"), Some(1 << 20)).expect_err("a file");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let newer = folder();
    fs::write(newer.path().join(layout::MARKER), "headwater cache 2\n").expect("written");
    assert_eq!(Disk::open(newer.path(), Some(1 << 20)).expect_err("newer").kind(), ErrorKind::Unsupported);
    assert_eq!(Care::of(dir.path()).expect_err("not ours").kind(), ErrorKind::Invalid);
    assert_eq!(Care::of(&dir.path().join("x")).expect_err("nothing").kind(), ErrorKind::NotFound);
}

#[test]
fn a_folder_that_is_removed_under_way_costs_a_warning_and_one_that_comes_back_is_used() {
    let dir = folder();
    let root = dir.path().join("cache");
    let mut disk = Disk::open(&root, Some(1 << 20)).expect("opens");
    disk.writing = Health::resting(Duration::from_millis(50));
    let disk = Arc::new(disk);
    let set = disk.set("s3://bucket/run", None, false);
    assert!(put(&set, "a.pt", b"x"));
    fs::remove_dir_all(&root).expect("removed");
    assert!(!put(&set, "b.pt", b"x") && get(&set, "a.pt", &tag("1")).is_none());
    assert!(disk.stats().is_off && disk.stats().failures == 1, "{:?}", disk.stats());
    assert!(!root.exists(), "who removed it, or whose mount is gone, is not helped by another one");
    let other = Disk::open(&root, Some(1 << 20)).expect("made anew, as by another process");
    std::thread::sleep(Duration::from_millis(60));
    assert!(put(&set, "b.pt", b"y"));
    assert_eq!(get(&set, "b.pt", &tag("1")).expect("there"), b"y");
    assert_eq!((other.stats().entries, disk.stats().is_off), (1, false));
}

#[test]
fn what_is_kept_is_its_owners_alone_unless_the_folder_is_others_to_write() {
    let dir = folder();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    let root = dir.path().join("above/cache");
    // As a user made it: none, closed to others, theirs to read, their group's, everybody's.
    for (given, root_has, files_have, folders_have) in [
        (None, 0o700, 0o600, 0o700),
        (Some(0o755), 0o755, 0o600, 0o700),
        (Some(0o2775), 0o2775, 0o660, 0o2770),
        (Some(0o1777), 0o1777, 0o666, 0o777),
    ] {
        if let Some(given) = given {
            fs::create_dir_all(&root).expect("made");
            fs::set_permissions(&root, fs::Permissions::from_mode(given)).expect("set");
        }
        let set = disk(&root, 1 << 20).set("s3://bucket/run", None, false);
        assert!(put(&set, "a.pt", b"x") && put(&set, "b.pt", b"x"));
        let damaged = layout::file_of(&set.folder, layout::hash_of("b.pt"));
        fs::write(&damaged, "x").expect("written");
        assert_eq!(get(&set, "b.pt", &tag("1")), None);
        let (mut kept, mut above) = (files(&root), vec![set.folder.clone()]);
        assert_eq!(kept.len(), 2);
        above.extend(kept.iter().filter_map(|path| path.parent().map(Path::to_owned)));
        kept.extend([layout::MARKER, layout::LOCK, layout::LEDGER].map(|name| root.join(name)));
        kept.push(set.folder.join(layout::ABOUT));
        above.extend([layout::SETS, layout::ARRIVING].map(|name| root.join(name)));
        assert_eq!(mode(&root), root_has);
        kept.iter().for_each(|path| assert_eq!(mode(path), files_have, "{}", path.display()));
        above.iter().for_each(|path| assert_eq!(mode(path), folders_have, "{}", path.display()));
        drop(set);
        fs::remove_dir_all(&root).expect("removed");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_read() {
    let dir = folder();
    let root = dir.path().join("cache");
    let set = disk(&root, 1 << 20).set("s3://bucket/run", None, false);
    assert!(put(&set, "a.pt", b"x"));
    drop(set);
    let is_root = rustix::process::geteuid().is_root();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o500)).expect("read-only");
    let reader = disk(&root, 1 << 20).set("s3://bucket/run", None, false);
    assert_eq!(get(&reader, "a.pt", &tag("1")).expect("there"), b"x");
    assert!(is_root || !put(&reader, "b.pt", b"x"));
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).expect("back");
}

#[test]
fn a_check_tells_of_what_cannot_be_read_and_goes_on() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!((0..10).all(|number| put(&set, &format!("{number}.pt"), b"x")));
    spoil(&set, "0.pt");
    let path = layout::file_of(&set.folder, layout::hash_of("1.pt"));
    fs::remove_file(&path).expect("there");
    shell("mkfifo \"$1\"", &path);
    fs::remove_file(set.folder.join(layout::ABOUT)).expect("there");
    shell("mkfifo \"$1\"", &set.folder.join(layout::ABOUT));
    let bytes = 8 * 129;
    let care = Care::of(dir.path()).expect("ours");
    let checked = care.verify(|_| Ok(())).expect("checked");
    assert_eq!(checked, care::Checked { records: 8, bytes, damaged: 0, unreadable: 2, put_aside: 2 });
    assert_eq!(care.sets().expect("listed").len(), 2);
    assert_eq!(care.verify(|_| Ok(())).expect("checked"), care::Checked { unreadable: 0, put_aside: 0, ..checked });
    // As in a folder that can only be read.
    let path = layout::file_of(&set.folder, layout::hash_of("2.pt"));
    fs::write(&path, vec![0; 129]).expect("damaged");
    let care = Care { opened: Arc::new(Opened::unusable(dir.path())) };
    let checked = care.verify(|_| Ok(())).expect("checked");
    assert_eq!(checked, care::Checked { records: 8, bytes, damaged: 1, unreadable: 0, put_aside: 0 });
}

#[test]
fn what_is_in_a_folder_that_can_only_be_read_is_listed_and_not_removed() {
    let dir = folder();
    let disk = disk(dir.path(), 1 << 20);
    let (one, other) = (disk.set("s3://one", None, false), disk.set("s3://other", None, false));
    assert!((0..10).all(|number| put(&one, &format!("{number}.pt"), b"x")) && put(&other, "a.pt", &vec![7; 90_000]));
    drop((one, other));
    let known = Care::of(dir.path()).expect("ours");
    let care = Care { opened: Arc::new(Opened::unusable(dir.path())) };
    let sets = |care: &Care| {
        let sets = care.sets().expect("listed").into_iter();
        sets.map(|set| (set.about.expect("said").uri, set.records, set.bytes)).collect::<Vec<_>>()
    };
    assert_eq!(sets(&care), sets(&known));
    assert_eq!(care.bytes().expect("counted"), bytes_in(dir.path()));
    assert!(care.sets().expect("listed").iter().all(|set| set.used.elapsed().expect("past") < HOUR));
    assert_eq!(care.clear(None, |_| Ok(())).expect_err("read-only").kind(), ErrorKind::Denied);
    assert_eq!(care.gc(HOUR, None, |_| Ok(())).expect_err("read-only").kind(), ErrorKind::Denied);
}

#[test]
fn a_folder_that_cannot_be_looked_at_is_not_taken_for_nothing() {
    let dir = folder();
    let place = dir.path().join("cache");
    std::os::unix::fs::symlink(&place, &place).expect("made");
    let error = Care::of(&place).expect_err("it leads to itself");
    assert_eq!(error.kind(), ErrorKind::Io, "{}", error.report());
    assert!(error.report().contains("symbolic links"), "{}", error.report());
    assert_eq!(Care::of(&dir.path().join("other")).expect_err("nothing").kind(), ErrorKind::NotFound);
}

#[test]
fn names_that_are_none_of_ours_are_no_sets() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!(put(&set, "a.pt", b"x"));
    for name in ["7", "+7", "dead", "lost+found", &format!("{:032X}", 0xabc), &"0".repeat(32)] {
        fs::create_dir(dir.path().join(layout::SETS).join(name)).expect("made");
    }
    fs::remove_file(dir.path().join(layout::LEDGER)).expect("removed");
    let sets = Care::of(dir.path()).expect("ours").sets().expect("counted");
    assert_eq!(sets.len(), 1, "{sets:?}");
}

#[test]
fn what_cannot_be_put_aside_is_not_counted_there() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!(put(&set, "a.pt", &vec![7; 50_000]));
    let path = layout::file_of(&set.folder, layout::hash_of("a.pt"));
    let place = layout::file_of(&layout::set_folder(dir.path(), layout::QUARANTINE_ID), layout::hash_of("a.pt"));
    fs::create_dir_all(place.join("somebody's")).expect("made");
    let bytes = fs::read(&path).expect("read");
    fs::write(&path, vec![7; bytes.len()]).expect("damaged");
    assert_eq!(get(&set, "a.pt", &tag("1")), None);
    assert!(path.exists(), "it stays where it is");
    assert_eq!(Care::of(dir.path()).expect("ours").bytes().expect("counted"), bytes_in(dir.path()));
}

#[test]
fn those_who_make_a_folder_together_all_have_it() {
    for _ in 0..50 {
        let dir = folder();
        let root = dir.path().join("cache");
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            let open = || {
                start.wait();
                Disk::open(&root, Some(1 << 20)).map(drop)
            };
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            opening.into_iter().for_each(|thread| thread.join().expect("no panic").expect("opens"));
        });
    }
}

#[test]
fn files_that_others_removed_make_room_again() {
    let dir = folder();
    let set = disk(dir.path(), 64 * SMALL).set("s3://bucket/run", None, false);
    assert!((0..100).filter(|number| put(&set, &format!("{number}.pt"), b"x")).count() >= 60);
    files(dir.path()).iter().for_each(|path| fs::remove_file(path).expect("removed"));
    *set.declined_at.lock() = None;
    *set.disk.opened.lock().counted_at.lock() = None;
    let ends = Instant::now() + Duration::from_secs(20);
    while !put(&set, "a.pt", b"x") {
        assert!(Instant::now() < ends, "never counted");
        *set.declined_at.lock() = None;
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(bytes_in(dir.path()) <= 64 * SMALL);
}

#[test]
fn a_folder_that_another_one_takes_the_place_of_is_left_alone() {
    let dir = folder();
    let root = dir.path().join("cache");
    let set = disk(&root, 100 * SMALL).set("s3://bucket/run", None, false);
    assert!((0..50).all(|number| put(&set, &format!("{number}.pt"), b"x")));
    fs::rename(&root, dir.path().join("aside")).expect("renamed");
    let other = disk(&root, 100 * SMALL).set("s3://bucket/run", None, false);
    for number in 0..200 {
        put(&set, &format!("{number}.pt"), b"x");
        put(&other, &format!("{}.pt", number + 500), b"x");
        *set.declined_at.lock() = None;
        *other.declined_at.lock() = None;
    }
    assert!(bytes_in(&root) <= 100 * SMALL, "{}", bytes_in(&root));
    assert!(bytes_in(&dir.path().join("aside")) == 50 * SMALL);
}

#[test]
fn a_process_with_a_smaller_capacity_leaves_the_records_of_others_alone() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 30).set("s3://bucket/run", None, false);
    assert!((0..10).all(|number| put(&set, &format!("{number}.pt"), &vec![7; 100_000])));
    let small = disk(dir.path(), 64 << 10).set("s3://bucket/run", None, false);
    for number in 0..10 {
        let _ = get(&small, &format!("{number}.pt"), &tag("1"));
    }
    let there = (0..10).filter(|number| get(&set, &format!("{number}.pt"), &tag("1")).is_some()).count();
    assert_eq!((there, small.disk.stats().quarantined), (10, 0), "sound records were put aside");
}

#[test]
fn a_file_in_the_place_of_a_shard_stops_nobody() {
    for replaces in [false, true] {
        let dir = folder();
        let set = disk(dir.path(), 64 * SMALL).set("s3://bucket/run", None, replaces);
        assert!(put(&set, "0.pt", b"x"));
        let free = layout::shards(&set.folder).find(|shard| !shard.exists()).expect("one");
        fs::write(&free, "somebody's").expect("written");
        for number in 1..200 {
            *set.declined_at.lock() = None;
            put(&set, &format!("{number}.pt"), b"x");
        }
        let stats = set.disk.stats();
        let care = Care::of(dir.path()).expect("ours");
        assert!(care.verify(|_| Ok(())).is_ok());
        let gc = care.gc(HOUR, None, |_| Ok(()));
        let clear = care.clear(None, |_| Ok(()));
        assert!(free.is_file());
        assert_eq!(stats.failures, 0, "one stray file turns the tier off");
        assert!(gc.is_ok() && clear.is_ok());
    }
}

#[test]
fn a_file_in_the_place_of_a_set_stops_nobody() {
    let dir = folder();
    let root = dir.path().join("cache");
    drop(disk(&root, 1 << 20));
    fs::write(root.join(layout::SETS).join(format!("{:032x}", 77)), "somebody's").expect("written");
    let first = Arc::new(Disk::open(&root, Some(1 << 20)).expect("opens"));
    let care = Care::of(&root).expect("ours");
    assert!(!first.stats().is_off, "off because of one file: {:?}", first.stats());
    assert!(care.gc(HOUR, None, |_| Ok(())).is_ok());
}

#[test]
fn links_in_the_place_of_ledger_and_lock_lead_nowhere() {
    for name in [layout::LEDGER, layout::LOCK] {
        let dir = folder();
        let thesis = dir.path().join("thesis.txt");
        fs::write(&thesis, "years of work").expect("written");
        fs::set_permissions(&thesis, fs::Permissions::from_mode(0o600)).expect("set");
        let root = dir.path().join("cache");
        fs::create_dir(&root).expect("made");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).expect("set");
        fs::write(root.join(layout::MARKER), layout::MARKER_TEXT).expect("written");
        std::os::unix::fs::symlink(&thesis, root.join(name)).expect("made");
        let set = disk(&root, 1 << 20).set("s3://bucket/run", None, false);
        let _ = put(&set, "a.pt", b"x");
        let mode = fs::metadata(&thesis).expect("there").permissions().mode() & 0o777;
        let text = fs::read(&thesis).expect("read");
        assert!(text == b"years of work" && mode == 0o600, "{name}: {} bytes, mode {mode:o}", text.len());
    }
}

/// Where the folder is, told to the process that becomes another user.
const ANOTHER: &str = "HEADWATER_TEST_ANOTHER_USER";
const STRANGER: u32 = 12_345;

#[test]
#[allow(clippy::disallowed_methods, clippy::print_stderr)] // how the test tells itself, in another process, where it is
fn whoever_shares_a_folder_writes_renews_and_notes_use_as_its_owner_does() {
    if let Some(place) = std::env::var_os(ANOTHER) {
        return as_another_user(Path::new(&place));
    }
    let name = "whoever_shares_a_folder_writes_renews_and_notes_use_as_its_owner_does";
    if !rustix::process::geteuid().is_root() {
        return eprintln!("{name}: skipped, since only root becomes another user");
    }
    let dir = folder();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("set");
    // Of a group, and of everybody.
    for mode in [0o2770, 0o1777] {
        let root = dir.path().join(format!("{mode:o}"));
        fs::create_dir(&root).expect("made");
        std::os::unix::fs::chown(&root, None, Some(STRANGER)).expect("given");
        fs::set_permissions(&root, fs::Permissions::from_mode(mode)).expect("set");
        let set = disk(&root, 1 << 20).set("s3://bucket/run", None, false);
        let now = Moment::now();
        assert!(set.put("a.pt", &tag("1"), b"x", now) && set.put("c.pt", &tag("1"), b"x", now));
        let path = layout::file_of(&set.folder, layout::hash_of("c.pt"));
        old(&path, 2 * HOUR);
        // Reading may change the time of access by itself, and never this one.
        let then = FileTimes::new().set_modified(SystemTime::now() - 2 * HOUR);
        File::open(&path).and_then(|file| file.set_times(then)).expect("made old");
        let program = std::env::current_exe().expect("this program");
        let mut command = std::process::Command::new(program);
        command.args(["--exact", &format!("cache::disk::tests::folder::{name}"), "--nocapture"]);
        let done = command.env(ANOTHER, &root).output().expect("runs");
        assert!(done.status.success(), "{mode:o}: {}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
        let age = age(&set, now.after(2 * HOUR), "1", None).expect("there");
        assert!(age < HOUR, "{mode:o}: renewed: {age:?}");
        let used = fs::metadata(&path).and_then(|meta| meta.modified()).expect("there");
        assert!(used.elapsed().expect("past") < HOUR, "{mode:o}: noted");
        assert_eq!(get(&set, "b.pt", &tag("1")).expect("there"), b"of another");
    }
}

#[allow(unsafe_code)]
fn as_another_user(place: &Path) {
    // SAFETY: each call reads its arguments alone; all threads become another user.
    let became = unsafe { [libc::setgroups(0, std::ptr::null()), libc::setgid(STRANGER), libc::setuid(STRANGER)] };
    assert_eq!(became, [0; 3]);
    let set = disk(place, 1 << 20).set("s3://bucket/run", None, false);
    assert_eq!(get(&set, "c.pt", &tag("1")).expect("there"), b"x");
    let later = Moment::now().after(HOUR);
    set.renew("a.pt", &tag("1"), later, &Clock::at(later));
    assert!(put(&set, "b.pt", b"of another"));
    assert_eq!((set.disk.stats().failures, set.disk.stats().is_off), (0, false));
}
