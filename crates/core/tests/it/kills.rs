//! Processes that are killed, stopped and forked at any moment: nothing wrong is served, nothing has to be tidied up by hand, and
//! nobody waits for who is no more.

use std::fs;
use std::time::Duration;

use headwater::cache::Policy;
use headwater::cache::disk::care::Care;
use headwater::config::{CacheConfig, DatasetConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::metrics::Metric;
use rustix::process::Signal;

use crate::sources::specs_of;
use crate::workers::{
    CAPACITY, Chance, PROCESSES, SAMPLES, bytes_in, config, end, is_right, serving, signal, start, wait_until,
};

const KILLS: usize = 200;

#[test]
fn processes_that_are_killed_stopped_and_forked_leave_nothing_wrong_behind() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    let mut chance = Chance(11);
    let start = || start("read", &config, &home);
    let mut workers: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    // Whose children are still there.
    let mut dead = Vec::new();
    let mut most = 0;
    for kill in 0..KILLS {
        std::thread::sleep(Duration::from_millis(5 + chance.below(40)));
        most = most.max(bytes_in(&cache));
        let at = chance.below(PROCESSES as u64) as usize;
        if let Some(status) = workers[at].try_wait().expect("asked") {
            panic!("a worker ended: {status}");
        }
        if kill % 5 == 0 {
            let stopped = chance.below(PROCESSES as u64) as usize;
            signal(&workers[stopped], Signal::STOP);
            std::thread::sleep(Duration::from_millis(chance.below(150)));
            signal(&workers[stopped], Signal::CONT);
        }
        signal(&workers[at], Signal::KILL);
        let mut killed = std::mem::replace(&mut workers[at], start());
        killed.wait().expect("reaped");
        dead.push(killed);
    }
    std::thread::sleep(Duration::from_millis(300));
    for mut worker in workers {
        let ended = worker.try_wait().expect("asked");
        assert!(ended.is_none(), "a worker ended: {ended:?}");
        end(worker);
    }
    assert!(most > CAPACITY / 2 && most <= CAPACITY, "{most}");

    // With the children of the dead still there: nothing is locked, nothing is left, nothing is damaged.
    let care = Care::of(&cache).expect("ours");
    let checked = care.verify(|_| Ok(())).expect("checked");
    assert!(checked.records > 20 && checked.damaged == 0, "{checked:?}");
    care.gc(Duration::from_hours(1), None, |_| Ok(())).expect("tidied");
    assert_eq!(fs::read_dir(cache.join("arriving")).expect("read").count(), 0);
    let sets = care.sets().expect("read");
    assert!(sets.iter().all(|set| !set.is_used && !set.is_quarantine), "{sets:?}");
    assert_eq!(care.taken().expect("read"), 0, "nobody has taken more");
    // Nothing goes while what is there is read, and all of it comes out as it was stored.
    let keeping = CacheConfig { policy: Policy::Keep, ..config.cache.clone() };
    let keeping = Dataset::open(&DatasetConfig { cache: keeping, ..config.clone() }, uninterrupted()).expect("opens");
    for index in 0..SAMPLES {
        assert!(is_right(&keeping, index).expect("read"), "sample {index}");
    }
    assert_eq!(keeping.snapshot().raw(Metric::DiskHits), checked.records);
    drop(keeping);
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    care.clear(None, |_| Ok(())).expect("cleared");
    for index in 0..SAMPLES {
        assert!(is_right(&dataset, index).expect("read"), "sample {index}");
    }
    assert_eq!(dataset.snapshot().raw(Metric::DiskWaits), 0, "nobody is waited for");
    dead.into_iter().for_each(end);
}

#[test]
fn a_process_that_is_stopped_with_the_lock_keeps_nobody_from_reading() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    let config = config(specs_of(&server, "run").swap_remove(0).1, &cache);
    let dataset = Dataset::open(&config, uninterrupted()).expect("opens");
    assert!(is_right(&dataset, 0).expect("read"));
    let worker = start("lock", &config, &home);
    wait_until("it locks", || cache.join("arriving").join("locked").exists());
    for index in 1..SAMPLES {
        assert!(is_right(&dataset, index).expect("read"), "sample {index}");
    }
    end(worker);
    wait_until("it is written again", || {
        (0..SAMPLES).for_each(|index| assert!(is_right(&dataset, index).expect("read")));
        dataset.snapshot().raw(Metric::DiskInsertions) >= 3
    });
}
