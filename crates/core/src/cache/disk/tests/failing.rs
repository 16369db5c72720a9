//! A disk that fails and works again.

use super::*;

/// Where a small disk is.
const SMALL_DISK: &str = "HEADWATER_TEST_SMALL_DISK";

#[test]
#[allow(clippy::disallowed_methods)] // how the test tells itself, in another process, where it is
fn a_full_disk_costs_records_until_there_is_room_again() {
    if let Some(place) = std::env::var_os(SMALL_DISK) {
        return with_a_small_disk(Path::new(&place));
    }
    let dir = folder();
    let name = "cache::disk::tests::failing::a_full_disk_costs_records_until_there_is_room_again";
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
