//! A disk that does not answer, as those behind a network do, costs nothing but its records. It is a folder of a FUSE file system that
//! nobody serves.

use std::path::Path;
use std::time::{Duration, Instant};

use headwater::config::ByteSize;
use headwater::metrics::Metric;

use crate::mounts::{hang, with_fuse};
use crate::on_disk::{BYTES, SAMPLES, config, open, read_all, serving, value, written};
use crate::sources::specs_of;

#[test]
fn writing_that_hangs_is_given_up_and_memory_keeps_all() {
    with_fuse("hanging::writing_that_hangs_is_given_up_and_memory_keeps_all", with_writing_that_hangs);
}

fn with_writing_that_hangs(place: &Path) {
    let server = serving();
    let folder = place.join("cache");
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, &folder);
    config.cache.memory = Some(ByteSize(100_000_000));
    let dataset = open(&config);
    assert_eq!(value(&dataset, 0).expect("read").len(), BYTES);
    written(&dataset, Metric::DiskInsertions, 1);
    hang(&folder.join("arriving"));
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
