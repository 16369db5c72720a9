//! Records on disk whose objects were replaced, or that have become too old to be used without asking.

use std::time::Duration;

use headwater::ErrorKind;
use headwater::cache::Policy;
use headwater::clock::Clock;
use headwater::config::{ByteSize, OnChanged, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::metrics::{Metric, Snapshot};
use headwater_testkit::server::Class;

use crate::on_disk::{SAMPLES, config, content, object, open, read_all, records, serving, value, written};
use crate::sources::specs_of;

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn an_object_that_was_replaced_is_never_served_as_it_was() {
    for kind in [0, 1, 2, 4] {
        let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        let config = config(spec, folder.path());
        let first = open(&config);
        read_all(&first);
        written(&first, Metric::DiskInsertions, SAMPLES as u64);
        server.put("run/03.pt", object(1003));
        let second = open(&config);
        assert!(value(&second, 3).expect(name) == content(1003), "{name}");
        written(&second, Metric::DiskInsertions, 1);
        assert_eq!(records(folder.path()).len(), SAMPLES, "{name}: it took the place of the other");
        let third = open(&config);
        let gets = server.requests_of(Class::Get);
        assert!(value(&third, 3).expect(name) == content(1003), "{name}");
        assert_eq!(server.requests_of(Class::Get), gets, "{name}");
        // Who still has the old listing is not given the new object for the old one.
        assert_eq!(value(&first, 3).map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::Changed), "{name}");
    }
}

#[test]
fn what_was_replaced_is_kept_anew_though_the_folder_is_full() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, folder.path());
    config.cache.disk_capacity = Some(ByteSize(8 * 4096 * SAMPLES as u64 / 2));
    config.cache.policy = Policy::Keep;
    let first = open(&config);
    for index in 0..SAMPLES {
        assert!(value(&first, index).expect("read") == content(index as u64));
        // One after the other, so that those first read are those kept.
        let done = |snapshot: &Snapshot| snapshot.raw(Metric::DiskInsertions) + snapshot.raw(Metric::DiskDeclined);
        while index < SAMPLES / 4 && done(&first.snapshot()) <= index as u64 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    server.put("run/03.pt", object(1003));
    let second = open(&config);
    for index in SAMPLES - 5..SAMPLES {
        assert!(value(&second, index).expect("read") == content(index as u64));
    }
    written(&second, Metric::DiskDeclined, 1);
    assert!(value(&second, 3).expect("read") == content(1003));
    written(&second, Metric::DiskInsertions, 1);
    let gets = server.requests_of(Class::Get);
    assert!(value(&second, 3).expect("read") == content(1003));
    assert_eq!(server.requests_of(Class::Get), gets, "it took the place of the other");
}

#[test]
fn what_was_replaced_is_kept_anew_in_a_full_folder_by_whoever_had_it_in_memory_too() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, folder.path());
    config.cache.disk_capacity = Some(ByteSize(8 * 4096 * SAMPLES as u64 / 2));
    config.cache.memory = Some(ByteSize(16 << 20));
    config.cache.policy = Policy::Keep;
    config.cache.ttl = Some(Span(HOUR));
    config.on_changed = OnChanged::Reload;
    let clock = Clock::manual();
    let dataset = Dataset::open_by(&config, clock.clone(), uninterrupted()).expect("opens");
    let done = || dataset.snapshot().raw(Metric::DiskInsertions) + dataset.snapshot().raw(Metric::DiskDeclined);
    let few = SAMPLES - 5;
    for index in 0..few {
        assert!(value(&dataset, index).expect("read") == content(index as u64));
        // Those first read are those kept.
        while index < SAMPLES / 4 && done() <= index as u64 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    written(&dataset, Metric::DiskDeclined, 1);
    server.put("run/03.pt", object(1003));
    clock.advance(HOUR);
    for index in few..SAMPLES {
        assert!(value(&dataset, index).expect("read") == content(index as u64));
    }
    let before = dataset.snapshot();
    assert!(value(&dataset, 3).expect("as it is now") == content(1003));
    written(&dataset, Metric::DiskInsertions, before.raw(Metric::DiskInsertions) + 1);
}

#[test]
fn what_is_on_disk_expires_by_the_clock_on_the_wall_and_costs_one_question() {
    for on_changed in [OnChanged::Error, OnChanged::Reload] {
        let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
        let mut config = config(specs_of(&server, "run").swap_remove(0).1, folder.path());
        config.cache.ttl = Some(Span(HOUR));
        config.on_changed = on_changed;
        let clock = Clock::manual();
        let open = || Dataset::open_by(&config, clock.clone(), uninterrupted()).expect("opens");
        let asked = || (server.requests_of(Class::Get), server.requests_of(Class::Head));
        let first = open();
        read_all(&first);
        written(&first, Metric::DiskInsertions, SAMPLES as u64);
        clock.advance(HOUR / 2);
        let second = open();
        let (gets, heads) = asked();
        assert!(value(&second, 3).expect("read") == content(3));
        assert_eq!(asked(), (gets, heads), "not yet");
        clock.advance(HOUR / 2);
        assert!(value(&second, 3).expect("read") == content(3));
        assert_eq!(asked(), (gets, heads + 1), "the same, as one question told");
        assert!(value(&open(), 3).expect("read") == content(3));
        assert_eq!(asked(), (gets, heads + 1), "for everybody");
        server.put("run/03.pt", object(2003));
        clock.advance(HOUR);
        let replaced = value(&second, 3);
        match on_changed {
            OnChanged::Error => assert_eq!(replaced.expect_err("replaced").kind(), ErrorKind::Changed),
            OnChanged::Reload => {
                assert!(replaced.expect("as it is now") == content(2003));
                written(&second, Metric::DiskInsertions, 1);
                let gets = server.requests_of(Class::Get);
                assert!(value(&second, 3).expect("as it is now") == content(2003));
                assert_eq!(server.requests_of(Class::Get), gets, "what was read since it was opened is good");
            }
        }
    }
}

#[test]
fn what_was_fetched_ahead_from_disk_grows_older_until_it_is_read() {
    let (server, folder) = (serving(), tempfile::tempdir().expect("a folder"));
    let mut config = config(specs_of(&server, "run").swap_remove(0).1, folder.path());
    config.cache.ttl = Some(Span(HOUR));
    config.cache.memory = Some(ByteSize(10 << 20));
    config.on_changed = OnChanged::Reload;
    let clock = Clock::manual();
    let open = || Dataset::open_by(&config, clock.clone(), uninterrupted()).expect("opens");
    let first = open();
    read_all(&first);
    written(&first, Metric::DiskInsertions, SAMPLES as u64);
    clock.advance(HOUR / 2);
    let second = open();
    assert_eq!(second.prefetch(&[3, 4], uninterrupted()).expect("queued"), 2);
    written(&second, Metric::PrefetchFetched, 2);
    server.put("run/03.pt", object(2003));
    clock.advance(HOUR / 4);
    assert!(value(&second, 4).expect("read") == content(4), "young enough");
    clock.advance(HOUR / 4);
    assert!(value(&second, 3).expect("read") == content(2003), "too old to be used without asking");
    // Nor did memory take it for younger than it was.
    server.put("run/04.pt", object(2004));
    assert!(value(&second, 4).expect("read") == content(2004));
}
