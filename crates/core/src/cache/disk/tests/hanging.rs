//! A disk that does not answer: a folder of a FUSE file system that nobody serves, in a name space of its own. Where there is no
//! FUSE to be had, such a test says that it was left out, and fails where `CI` is `true`.

use super::*;

/// Where the folder is, told to the process that may mount.
const HANGING: &str = "HEADWATER_TEST_HANGING";
/// There is no FUSE.
const NO_FUSE: i32 = 77;

/// From now on, whatever is below a folder hangs.
fn hang(place: &Path) {
    shell("mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none \"$1\"", place);
}

/// Whoever hangs there is told that it is gone.
fn let_go(place: &Path) {
    shell("umount -i -l -f \"$1\"", place);
}

#[allow(clippy::disallowed_methods)] // how a test tells itself, in another process, where it is
fn where_mounts_are_own(name: &str, test: impl FnOnce(&Path)) {
    if let Some(place) = std::env::var_os(HANGING) {
        return test(Path::new(&place));
    }
    let (dir, program) = (folder(), std::env::current_exe().expect("this program"));
    let script = "(exec 3<>/dev/fuse) 2>/dev/null || exit 77; exec 3<>/dev/fuse; exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(program);
    command.args(["--exact", &format!("cache::disk::tests::hanging::{name}"), "--nocapture"]);
    let done = command.env(HANGING, dir.path()).output().expect("runs");
    if done.status.code() == Some(NO_FUSE) {
        let words = format!("{name} needs FUSE: /dev/fuse cannot be opened");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{words}");
        // Not what is kept from whoever looks at a test that passed.
        let _ = io::Write::write_all(&mut io::stderr(), format!("left out: {words}\n").as_bytes());
        return;
    }
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let ends = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < ends, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

const REST: Duration = Duration::from_millis(50);

fn resting(root: &Path) -> Arc<Disk> {
    let mut disk = Disk::open(root, Some(1 << 20)).expect("opens");
    (disk.reading, disk.writing) = (Health::resting(REST), Health::resting(REST));
    Arc::new(disk)
}

#[test]
fn while_a_read_hangs_nobody_reads() {
    where_mounts_are_own("while_a_read_hangs_nobody_reads", |root| {
        let disk = resting(root);
        let set = disk.set("s3://bucket/run", None, false);
        assert!(put(&set, "a.pt", b"x"));
        hang(&set.folder);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| get(&set, "a.pt", &tag("1")));
            until("it reads", || disk.reading.is_busy());
            assert!(set.is_read());
            set.reading_hangs();
            std::thread::sleep(2 * REST);
            assert!(!set.is_read() && disk.stats().is_off, "it hangs still");
            assert_eq!(get(&set, "b.pt", &tag("1")), None, "at once");
            let_go(&set.folder);
            assert_eq!(reading.join().expect("no panic"), None);
        });
        std::thread::sleep(2 * REST);
        assert!(set.is_read());
        assert_eq!(get(&set, "a.pt", &tag("1")).expect("there"), b"x");
        assert!(!disk.stats().is_off);
    });
}

#[test]
fn while_a_write_hangs_nobody_writes_and_all_read() {
    where_mounts_are_own("while_a_write_hangs_nobody_writes_and_all_read", |root| {
        let disk = resting(root);
        let set = disk.set("s3://bucket/run", None, false);
        assert!(put(&set, "a.pt", b"x"));
        let arriving = root.join(layout::ARRIVING);
        hang(&arriving);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| put(&set, "b.pt", b"y"));
            until("it writes", || disk.writing.is_busy());
            set.writing_hangs();
            std::thread::sleep(2 * REST);
            assert!(!set.may_admit(1) && matches!(set.claim("b.pt"), Claim::Nobodys) && !put(&set, "c.pt", b"z"));
            assert_eq!(get(&set, "a.pt", &tag("1")).expect("there"), b"x");
            assert!(disk.stats().is_off);
            let_go(&arriving);
            assert!(!writing.join().expect("no panic"));
        });
        std::thread::sleep(2 * REST);
        assert!(put(&set, "b.pt", b"y") && !disk.stats().is_off);
    });
}

#[test]
fn a_folder_that_hangs_when_it_is_opened_is_left_alone_until_it_answers() {
    where_mounts_are_own("a_folder_that_hangs_when_it_is_opened_is_left_alone_until_it_answers", |root| {
        drop(resting(root));
        hang(root);
        let began = Instant::now();
        let mut disk = Disk::open(root, Some(1 << 20)).expect("goes on without");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(disk.stats().is_off);
        let_go(root);
        (disk.reading, disk.writing) = (Health::resting(REST), Health::resting(REST));
        let set = Arc::new(disk).set("s3://bucket/run", None, false);
        assert!(put(&set, "a.pt", b"x"));
        assert_eq!(get(&set, "a.pt", &tag("1")).expect("there"), b"x");
    });
}

#[test]
fn a_folder_that_hangs_while_it_is_opened_keeps_no_other_one_from_being_opened() {
    where_mounts_are_own("a_folder_that_hangs_while_it_is_opened_keeps_no_other_one_from_being_opened", |root| {
        let (one, other) = (root.join("one"), root.join("other"));
        drop(resting(&one));
        // As a process finds it that has never opened it.
        OPEN.get_or_try_init(|| Ok(Open::default())).expect("open").forget();
        hang(&one.join(layout::SETS));
        assert!(Disk::open(&one, Some(1 << 20)).expect("goes on without").stats().is_off);
        let set = resting(&other).set("s3://bucket/run", None, false);
        assert!(put(&set, "a.pt", b"x"), "while a thread hangs at the first one");
        let_go(&one.join(layout::SETS));
    });
}
