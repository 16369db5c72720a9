//! What is put in is what is found.

use super::*;

#[test]
fn a_record_is_there_for_its_key_and_version_and_for_the_next_process() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert_eq!(get(&set, "a.pt", &tag("1")), None);
    assert!(put(&set, "a.pt", b"of a") && put(&set, "b.pt", b"of b"));
    assert_eq!(get(&set, "a.pt", &tag("1")).expect("there"), b"of a");
    assert_eq!(get(&set, "b.pt", &tag("1")).expect("there"), b"of b");
    assert_eq!(get(&set, "a.pt", &tag("2")), None, "the object was replaced");
    assert_eq!(get(&set, "a.pt", &of(Version::Unknown)), None, "nobody knows whether it was");
    let elsewhere = disk(dir.path(), 1 << 20).set("s3://bucket/run", Some("http://other"), false);
    assert_eq!(get(&elsewhere, "a.pt", &tag("1")), None, "another server");
    drop(set);
    let disk = disk(dir.path(), 1 << 20);
    assert_eq!(get(&disk.set("s3://bucket/run", None, false), "a.pt", &tag("1")).expect("kept"), b"of a");
    let stats = disk.stats();
    assert_eq!((stats.entries, stats.bytes >= 2 * SMALL), (2, true));
}

#[test]
fn a_new_version_takes_the_place_of_the_old_one() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    for (version, len) in [("1", 10), ("2", 30_000), ("3", 100)] {
        assert!(set.put("a.pt", &tag(version), &vec![7; len], Moment::now()));
        assert_eq!(get(&set, "a.pt", &tag(version)).expect("there"), vec![7; len]);
        assert_eq!(files(dir.path()).len(), 1);
    }
    assert_eq!(get(&set, "a.pt", &tag("1")), None);
    let page_bytes: u64 = set
        .disk
        .opened
        .lock()
        .ledger
        .as_ref()
        .map_or(0, |ledger| ledger.lock().expect("reads").expect("nobody else").sets().map(|row| row.bytes).sum());
    assert_eq!(page_bytes, bytes_in(dir.path()));
}

#[test]
fn of_another_version_only_the_beginning_is_read() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!(put(&set, "a.pt", &vec![7; 50_000]));
    let path = layout::file_of(&set.folder, layout::hash_of("a.pt"));
    let mut bytes = fs::read(&path).expect("read");
    bytes[20_000] ^= 1;
    fs::write(&path, bytes).expect("damaged");
    let (edition, clock, buffers) = (tag("2"), Clock::default(), BufferPool::new(0));
    let look = set.look("a.pt", Wanted { edition: &edition, or_since: None }, &clock, &buffers);
    assert!(matches!(look, Look::Outdated) && set.disk.stats().quarantined == 0, "{look:?}");
}

#[test]
fn what_it_holds_is_told_without_waiting_for_who_has_the_ledger() {
    let dir = folder();
    let set = disk(dir.path(), 1 << 20).set("s3://bucket/run", None, false);
    assert!((0..3).all(|number| put(&set, &format!("{number}.pt"), b"x")));
    let before = set.disk.stats();
    let opened = set.disk.opened.lock().clone();
    let page = opened.ledger.as_ref().expect("a ledger").lock().expect("reads").expect("nobody else");
    // Whoever waits for the ledger does so for a tenth of a second.
    let began = Instant::now();
    (0..100).for_each(|_| assert_eq!(set.disk.stats(), before));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((before.entries, before.bytes), (3, page.bytes()));
}

#[test]
fn what_is_done_agrees_with_a_map() {
    let dir = folder();
    let disk = disk(dir.path(), 1 << 30);
    let sets = ["s3://one", "s3://two"].map(|uri| disk.set(uri, None, false));
    let mut model: HashMap<(usize, String), (Edition, Vec<u8>)> = HashMap::new();
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for step in 0..3_000 {
        let (set, key) = (random(2) as usize, format!("{}.pt", random(40)));
        let version = tag(&random(3).to_string());
        match random(10) {
            0..4 => {
                let record = vec![step as u8; random(20_000) as usize];
                assert!(sets[set].put(&key, &version, &record, Moment::now()));
                model.insert((set, key), (version, record));
            }
            4..9 => {
                let expected = model.get(&(set, key.clone())).filter(|(kept, _)| *kept == version);
                assert_eq!(get(&sets[set], &key, &version).as_ref(), expected.map(|(_, record)| record), "step {step}");
            }
            _ if random(30) == 0 => {
                Care::of(dir.path())
                    .expect("ours")
                    .clear(Some(["s3://one", "s3://two"][set]), |_| Ok(()))
                    .expect("cleared");
                model.retain(|(of, _), _| *of != set);
            }
            _ => {}
        }
    }
    let care = Care::of(dir.path()).expect("ours");
    assert_eq!(care.sets().expect("read").iter().map(|set| set.records).sum::<u64>(), model.len() as u64);
    assert_eq!(care.sets().expect("read").iter().map(|set| set.bytes).sum::<u64>(), bytes_in(dir.path()));
}
