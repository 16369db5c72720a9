//! A disk that does not answer, as those behind a network do, costs nothing but its records. It is a folder of a FUSE file system that
//! nobody serves, in a name space of its own; where there is no FUSE to be had, there is nothing to be shown.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use headwater::config::ByteSize;
use headwater::metrics::Metric;

use crate::on_disk::{BYTES, SAMPLES, config, open, read_all, serving, value, written};
use crate::sources::specs_of;

/// Where the folder is, told to the process that may mount.
const HANGING: &str = "HEADWATER_TEST_HANGING";
/// There is no FUSE.
const NO_FUSE: i32 = 77;

#[test]
#[allow(clippy::disallowed_methods)] // how the test tells itself, in another process, where it is
fn writing_that_hangs_is_given_up_and_memory_keeps_all() {
    if let Some(place) = std::env::var_os(HANGING) {
        return with_writing_that_hangs(Path::new(&place));
    }
    let (dir, program) = (tempfile::tempdir().expect("a folder"), std::env::current_exe().expect("this program"));
    let script = "(exec 3<>/dev/fuse) 2>/dev/null || exit 77; exec 3<>/dev/fuse; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(program);
    command.args(["--exact", "hanging::writing_that_hangs_is_given_up_and_memory_keeps_all", "--nocapture"]);
    let done = command.env(HANGING, dir.path()).output().expect("runs");
    let is_fine = done.status.success() || done.status.code() == Some(NO_FUSE);
    assert!(is_fine, "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
}

fn with_writing_that_hangs(place: &Path) {
    let server = serving();
    let folder = place.join("cache");
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, &folder);
    config.cache.memory = Some(ByteSize(100_000_000));
    let dataset = open(&config);
    assert_eq!(value(&dataset, 0).expect("read").len(), BYTES);
    written(&dataset, Metric::DiskInsertions, 1);
    let script = "mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none \"$1\"";
    let mounted = Command::new("sh").args(["-c", script, "sh"]).arg(folder.join("arriving")).status();
    assert!(mounted.expect("runs").success());
    let began = Instant::now();
    read_all(&dataset);
    written(&dataset, Metric::CacheInsertions, SAMPLES as u64);
    assert!(began.elapsed() < Duration::from_secs(9), "nothing waited for the disk: {:?}", began.elapsed());
    written(&dataset, Metric::DiskOff, 1);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    dataset.clear_cache();
    read_all(&dataset);
    written(&dataset, Metric::CacheInsertions, 2 * SAMPLES as u64);
    let snapshot = dataset.snapshot();
    assert_eq!(snapshot.raw(Metric::CacheBacklogFull), 0, "memory has a backlog of its own");
    assert_eq!(snapshot.raw(Metric::DiskInsertions), 1, "the one before");
}
