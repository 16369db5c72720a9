//! One lists, the others read: published manifests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::config::{DatasetConfig, OnChanged, Replicas, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::format::pt::write_pt;
use headwater::manifest::OnMissing;
use headwater::source::{SourceOptions, SourceSpec};
use headwater::value::{DType, Tensor, Value};
use headwater::{Error, ErrorKind};
use headwater_testkit::server::{Class, Server, Speed};

use crate::sources::specs_of;

const BESIDE: &str = "_headwater.manifest";

fn serving(samples: usize) -> Server {
    let server = Server::start(Speed::default()).expect("starts");
    for sample in 0..samples {
        for field in ["a", "b"] {
            server.put(&format!("run/{field}/{sample}.pt"), Bytes::from_static(b"x"));
        }
    }
    server
}

fn config(spec: SourceSpec, manifest: Option<&str>) -> DatasetConfig {
    let source = Some(Replicas::from(spec));
    let manifest_max_age = Span(Duration::ZERO);
    DatasetConfig { source, manifest: manifest.map(str::to_owned), manifest_max_age, ..DatasetConfig::default() }
}

fn index(config: &DatasetConfig) -> (Dataset, u64) {
    let listed = Arc::new(AtomicU64::new(0));
    let dataset = Dataset::index(config, &listed, uninterrupted()).expect("indexed");
    (dataset, listed.load(Ordering::Relaxed))
}

#[test]
fn a_manifest_beside_the_data_saves_the_others_from_listing() {
    for kind in 0..5 {
        let server = serving(7);
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        let (dataset, listed) = index(&config(spec.clone(), None));
        assert_eq!((dataset.len(), listed), (7, 14), "{name}");
        match dataset.publish("published", uninterrupted()) {
            Ok(place) => assert!(place.ends_with(&format!("run/{BESIDE}")), "{name}: {place}"),
            Err(error) => {
                assert!(["HF", "HTTP"].contains(&name), "{name}: {}", error.report());
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                // Whoever can write there does it otherwise.
                let file = tempfile::tempdir().expect("folder");
                let path = file.path().join("m");
                dataset.publish(path.to_str().expect("UTF-8"), uninterrupted()).expect("written");
                server.put(&format!("run/{BESIDE}"), std::fs::read(path).expect("there").into());
            }
        }
        let before = server.requests_of(Class::List);
        let opened = Dataset::open(&config(spec, Some("published")), uninterrupted()).expect("opened");
        assert_eq!(opened.manifest(), dataset.manifest(), "{name}");
        // Opening a source may ask for one name, to see whether it is there.
        assert!(server.requests_of(Class::List) - before <= 1, "{name}");
    }
}

#[test]
fn a_folder_is_published_beside_and_its_manifest_is_no_sample() {
    let dir = tempfile::tempdir().expect("folder");
    for sample in 0..3 {
        std::fs::write(dir.path().join(format!("{sample}.pt")), "x").expect("written");
    }
    let spec = SourceSpec::from(dir.path().to_str().expect("UTF-8"));
    let (dataset, _) = index(&config(spec.clone(), None));
    dataset.publish("published", uninterrupted()).expect("written");
    std::fs::write(dir.path().join("later.pt"), "x").expect("written");
    let opened = Dataset::open(&config(spec.clone(), Some("published")), uninterrupted()).expect("opened");
    assert_eq!(opened.len(), 3, "as it was published");
    assert_eq!(index(&config(spec, None)).0.len(), 4);
}

#[test]
fn the_first_makes_a_manifest_where_it_is_to_be_and_the_others_wait_for_it() {
    let server = Arc::new(serving(5));
    let shared = tempfile::tempdir().expect("folder");
    let place = shared.path().join("sub/run.manifest");
    let place = place.to_str().expect("UTF-8").to_owned();
    let spec = specs_of(&server, "run").swap_remove(0).1;
    let others: Vec<_> = (0..3)
        .map(|_| {
            let others = DatasetConfig { follow: true, ..config(spec.clone(), Some(&place)) };
            std::thread::spawn(move || Dataset::open(&others, uninterrupted()).expect("opened"))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let before = server.requests_of(Class::List);
    let first = Dataset::open(&config(spec.clone(), Some(&place)), uninterrupted()).expect("listed");
    let listings = server.requests_of(Class::List) - before;
    for other in others {
        assert_eq!(other.join().expect("opened").manifest(), first.manifest());
    }
    assert_eq!(server.requests_of(Class::List) - before, listings, "nobody else listed");
    // From an object store as from a folder.
    let remote = format!("{}/shared/run.manifest", spec.uri.trim_end_matches("/run"));
    let mut over_s3 = config(spec.clone(), Some(&remote));
    over_s3.storage_options.insert("s3".to_owned(), spec.options.clone());
    let made = Dataset::open(&over_s3, uninterrupted()).expect("listed and written");
    let read = Dataset::open(&DatasetConfig { follow: true, ..over_s3 }, uninterrupted()).expect("read");
    assert_eq!(read.manifest(), made.manifest());
}

fn refused(config: &DatasetConfig) -> Error {
    Dataset::open(config, uninterrupted()).expect_err("refused")
}

#[test]
fn a_manifest_that_does_not_come_or_fit_is_an_error_in_words() {
    let server = serving(3);
    let spec = specs_of(&server, "run").swap_remove(0).1;
    let error = refused(&config(spec.clone(), Some("published")));
    assert!(error.kind() == ErrorKind::NotFound && error.report().contains("headwater index"), "{}", error.report());
    let dir = tempfile::tempdir().expect("folder");
    let place = dir.path().join("m").to_str().expect("UTF-8").to_owned();
    let mut waiting = DatasetConfig { follow: true, ..config(spec.clone(), Some(&place)) };
    waiting.manifest_timeout = Span(Duration::from_millis(500));
    let error = refused(&waiting);
    assert!(error.kind() == ErrorKind::Timeout && error.report().contains("is rank 0 listing?"), "{}", error.report());
    std::fs::write(&place, "no manifest").expect("written");
    assert_eq!(refused(&config(spec.clone(), Some(&place))).kind(), ErrorKind::Corrupt);
    let (dataset, _) = index(&config(spec.clone(), None));
    dataset.publish(&place, uninterrupted()).expect("written");
    let mut other = DatasetConfig { manifest: Some(place), ..DatasetConfig::default() };
    other.fields.insert("c".to_owned(), Replicas::from(spec));
    let error = refused(&other);
    assert!(error.report().contains("it is of other fields: `a`, `b`"), "{}", error.report());
}

#[test]
fn a_manifest_that_is_published_needs_no_right_to_list() {
    for kind in 0..5 {
        let server = serving(4);
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        let file = tempfile::tempdir().expect("folder");
        let path = file.path().join("m");
        index(&config(spec.clone(), None)).0.publish(path.to_str().expect("UTF-8"), uninterrupted()).expect("written");
        server.put(&format!("run/{BESIDE}"), std::fs::read(path).expect("there").into());
        server.add_fault("denied,on=list".parse().expect("a fault"));
        let opened = Dataset::open(&config(spec.clone(), Some("published")), uninterrupted()).expect(name);
        assert_eq!(opened.len(), 4, "{name}");
        assert_eq!(refused(&config(spec, None)).kind(), ErrorKind::Denied, "{name}");
    }
}

#[test]
fn who_may_not_list_hears_that_what_is_not_there_is_denied_and_waits_all_the_same() {
    let server = Arc::new(serving(4));
    let spec = specs_of(&server, "run").swap_remove(0).1;
    let mut waiting = DatasetConfig { follow: true, ..config(spec.clone(), Some("published")) };
    server.add_fault(format!("denied,on=get,key={BESIDE}").parse().expect("a fault"));
    waiting.manifest_timeout = Span(Duration::from_millis(600));
    let error = refused(&waiting);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    for words in ["access denied (AccessDenied)", "is rank 0 listing?", "who may not list"] {
        assert!(error.report().contains(words), "{}", error.report());
    }
    waiting.manifest_timeout = Span(Duration::from_mins(1));
    let other = std::thread::spawn(move || Dataset::open(&waiting, uninterrupted()).expect("opened").len());
    std::thread::sleep(Duration::from_millis(500));
    server.set_faults(Vec::new());
    index(&config(spec, None)).0.publish("published", uninterrupted()).expect("published");
    assert_eq!(other.join().expect("opened"), 4);
}

#[test]
fn who_has_no_credentials_does_not_wait() {
    let server = serving(2);
    let mut spec = specs_of(&server, "run").swap_remove(1).1;
    spec.options = [("endpoint", &*server.gcs()), ("service_account_key", "{}")].into_iter().collect();
    let mut waiting = DatasetConfig { follow: true, ..config(spec, Some("published")) };
    waiting.manifest_timeout = Span(Duration::from_mins(10));
    let began = Instant::now();
    let error = refused(&waiting);
    assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Invalid), "{}", error.report());
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
}

#[test]
fn where_nothing_can_be_written_nothing_is_listed_to_be_written_there() {
    let server = serving(2);
    for kind in [3, 4] {
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        let place = format!("{}/m.manifest", spec.uri);
        let mut config = config(spec.clone(), Some(&place));
        config.storage_options.insert(place.split(':').next().expect("a scheme").to_owned(), spec.options);
        let before = [Class::List, Class::Head].map(|class| server.requests_of(class));
        let error = refused(&config);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {}", error.report());
        assert!(error.report().contains("nothing can be written there"), "{name}: {}", error.report());
        let after = [Class::List, Class::Head].map(|class| server.requests_of(class));
        // Whether a server is there at all, of the data and of the place.
        assert!(after[0] - before[0] <= 2 && after[1] == before[1], "{name}: {before:?} {after:?}");
        assert!(Dataset::check_place(&config, "published").is_err(), "{name}");
        assert!(Dataset::check_place(&config, "/tmp/m").is_ok(), "{name}");
    }
}

#[test]
fn waiting_ends_in_time_though_a_read_is_under_way() {
    let server = serving(2);
    let spec = specs_of(&server, "run").swap_remove(0).1;
    index(&config(spec.clone(), None)).0.publish("published", uninterrupted()).expect("published");
    server.add_fault(format!("stall=60s,on=get,key={BESIDE}").parse().expect("a fault"));
    let mut waiting = DatasetConfig { follow: true, ..config(spec, Some("published")) };
    waiting.manifest_timeout = Span(Duration::from_millis(600));
    let began = Instant::now();
    let error = refused(&waiting);
    assert!(error.kind() == ErrorKind::Timeout && error.report().contains("under way"), "{}", error.report());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_place_with_a_signature_is_refused_without_showing_it() {
    let server = serving(1);
    let spec = specs_of(&server, "run").swap_remove(0).1;
    let error = refused(&config(spec, Some("https://host/folder/run.manifest?X-Amz-Signature=hidden")));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!error.report().contains("hidden"), "{}", error.report());
}

#[test]
fn waiting_asks_for_the_manifest_alone_and_survives_a_store_in_trouble() {
    let server = serving(4);
    let spec = specs_of(&server, "run").swap_remove(0).1;
    let place = format!("{}/shared/run.manifest", spec.uri.trim_end_matches("/run"));
    let mut waiting = DatasetConfig { follow: true, ..config(spec.clone(), Some(&place)) };
    waiting.storage_options.insert("s3".to_owned(), spec.options.clone());
    waiting.manifest_timeout = Span(Duration::from_secs(2));
    waiting.fetch.retries = Some(0);
    server.add_fault("status=503,on=any,share=0.5".parse().expect("a fault"));
    let error = refused(&waiting);
    assert_eq!(error.kind(), ErrorKind::Timeout, "{}", error.report());
    assert_eq!(server.requests_of(Class::List), 0);
    assert!(server.requests_of(Class::Get) > 2, "{}", server.requests_of(Class::Get));
}

/// Objects of equal names and sizes are taken for the same; those of another dataset are told.
#[test]
fn a_manifest_of_another_dataset_is_refused_and_one_of_the_same_objects_elsewhere_is_not() {
    let (server, copy) = (serving(5), serving(5));
    let of = |server: &Server, folder: &str, kind: usize| specs_of(server, folder).swap_remove(kind).1;
    let file = tempfile::tempdir().expect("folder");
    let place = file.path().join("m").to_str().expect("UTF-8").to_owned();
    index(&config(of(&server, "run", 0), None)).0.publish(&place, uninterrupted()).expect("written");
    for kind in 0..5 {
        let same = Dataset::open(&config(of(&copy, "run", kind), Some(&place)), uninterrupted()).expect("the same");
        assert_eq!(same.len(), 5);
    }
    for field in ["a", "b"] {
        (0..5).for_each(|sample| copy.put(&format!("other/{field}/{sample}.pt"), Bytes::from_static(b"longer")));
        (0..2).for_each(|sample| copy.put(&format!("fewer/{field}/{sample}.pt"), Bytes::from_static(b"x")));
    }
    for (folder, words) in [("other", "has 6 bytes, not 1"), ("fewer", "there is no `s3://bucket/fewer/a/2.pt`")] {
        let error = refused(&config(of(&copy, folder, 0), Some(&place)));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for words in [words, "s3://bucket/run"] {
            assert!(error.report().contains(words), "{}", error.report());
        }
    }
    // Stores say so, too, of what is not there to who may not list.
    copy.add_fault("denied,on=head".parse().expect("a fault"));
    let error = refused(&config(of(&copy, "fewer", 0), Some(&place)));
    assert_eq!(error.kind(), ErrorKind::Denied);
    for words in ["`s3://bucket/run`", "`s3://bucket/fewer`", "access denied"] {
        assert!(error.report().contains(words), "{}", error.report());
    }
    let mut skipping = config(of(&server, "run", 0), Some(&place));
    skipping.on_missing = OnMissing::Skip;
    assert!(refused(&skipping).report().contains("on_missing"), "{}", refused(&skipping).report());
}

/// As they were written before they had an origin.
#[test]
fn a_manifest_that_does_not_say_what_it_was_made_of_is_compared_by_a_few_objects() {
    let server = serving(5);
    let spec = |folder| specs_of(&server, folder).swap_remove(0).1;
    let file = tempfile::tempdir().expect("folder");
    let place = file.path().join("m").to_str().expect("UTF-8").to_owned();
    index(&config(spec("run"), None)).0.publish(&place, uninterrupted()).expect("written");
    let bytes = std::fs::read(&place).expect("there");
    let header_len = u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes"));
    let (header, columns) = bytes[16..bytes.len() - 8].split_at(usize::try_from(header_len).expect("short"));
    let mut header: serde_json::Value = serde_json::from_slice(header).expect("JSON");
    assert!(header.as_object_mut().expect("an object").remove("origin").is_some());
    let header = header.to_string();
    let mut old = [&bytes[..8], &(header.len() as u64).to_le_bytes(), header.as_bytes(), columns].concat();
    old.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&old).to_le_bytes());
    std::fs::write(&place, old).expect("written");
    assert_eq!(Dataset::open(&config(spec("run"), Some(&place)), uninterrupted()).expect("the same").len(), 5);
    server.put("other/a/0.pt", Bytes::from_static(b"x"));
    let error = refused(&config(spec("other"), Some(&place)));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for words in ["does not say what it was made of", "there is no `s3://bucket/other/a/2.pt`"] {
        assert!(error.report().contains(words), "{}", error.report());
    }
}

#[test]
fn a_pattern_that_fields_have_anyhow_is_no_difference() {
    let (server, file) = (serving(3), tempfile::tempdir().expect("folder"));
    let place = file.path().join("m").to_str().expect("UTF-8").to_owned();
    let spec = specs_of(&server, "run").swap_remove(0).1;
    index(&config(spec.clone(), None)).0.publish(&place, uninterrupted()).expect("written");
    let mut saying = config(spec, Some(&place));
    saying.pairs.insert("a".to_owned(), "*".to_owned());
    assert_eq!(Dataset::open(&saying, uninterrupted()).expect("opened").len(), 3);
    saying.pairs.insert("a".to_owned(), "0*".to_owned());
    assert!(refused(&saying).report().contains("pairs"), "{}", refused(&saying).report());
}

#[test]
fn one_uri_at_another_endpoint_is_another_place() {
    let (server, other) = (serving(3), Server::start(Speed::default()).expect("starts"));
    for field in ["a", "b"] {
        (0..3).for_each(|sample| other.put(&format!("run/{field}/{sample}.pt"), Bytes::from_static(b"longer")));
    }
    let file = tempfile::tempdir().expect("folder");
    let place = file.path().join("m").to_str().expect("UTF-8").to_owned();
    let of = |server: &Server| specs_of(server, "run").swap_remove(0).1;
    let with_user = server.endpoint().replace("//", "//user:hidden@");
    let given: SourceOptions = [("endpoint", &*with_user)].into_iter().collect();
    let spec = SourceSpec { options: given.merged(&of(&server).options), ..of(&server) };
    index(&config(spec, None)).0.publish(&place, uninterrupted()).expect("written");
    let error = refused(&config(of(&other), Some(&place)));
    for words in [server.endpoint().trim_start_matches("http://"), &other.endpoint(), "has 6 bytes, not 1"] {
        assert!(error.report().contains(words), "{}", error.report());
    }
    let kept = std::fs::read(&place).expect("there");
    assert!(!kept.windows(6).any(|bytes| bytes == b"hidden"), "a manifest holds no secret");
}

#[test]
fn objects_of_equal_names_and_sizes_are_told_by_hashes_where_both_places_have_them() {
    let server = serving(3);
    for field in ["a", "b"] {
        (0..3).for_each(|sample| server.put(&format!("twin/{field}/{sample}.pt"), Bytes::from_static(b"y")));
    }
    let of = |folder: &str| specs_of(&server, folder).swap_remove(0).1;
    index(&config(of("run"), None)).0.publish("published", uninterrupted()).expect("written");
    let place = format!("{}/{BESIDE}", of("run").uri);
    let mut twin = config(of("twin"), Some(&place));
    twin.storage_options.insert("s3".to_owned(), of("run").options);
    let error = refused(&twin);
    for words in ["s3://bucket/run`", "s3://bucket/twin`", "s3://bucket/twin/a/0.pt", "on_changed = \"reload\""] {
        assert!(error.report().contains(words), "{}", error.report());
    }
    twin.on_changed = OnChanged::Reload;
    assert_eq!(Dataset::open(&twin, uninterrupted()).expect("opened").len(), 3);
}

/// What `of` made of each place's objects says nothing of the versions in another kind of place.
#[test]
fn a_manifest_of_one_kind_of_place_reads_the_same_objects_in_every_other() {
    let values: Vec<u8> = (0..4).collect();
    let (disk, server, file) = (tempfile::tempdir(), Server::start(Speed::default()), tempfile::tempdir());
    let (disk, server, file) = (disk.expect("folder"), server.expect("starts"), file.expect("folder"));
    for &value in &values {
        let tensor = Tensor::from_bytes(DType::U8, &[100], vec![value; 100].into()).expect("a tensor");
        let bytes = write_pt(&Value::Tensor(tensor)).expect("written");
        std::fs::write(disk.path().join(format!("{value}.pt")), &bytes).expect("written");
        server.put(&format!("run/{value}.pt"), bytes.into());
    }
    let mut places = specs_of(&server, "run");
    places.push(("disk", SourceSpec::from(disk.path().to_str().expect("UTF-8"))));
    for (publisher, spec) in &places {
        let place = file.path().join(publisher).to_str().expect("UTF-8").to_owned();
        index(&config(spec.clone(), None)).0.publish(&place, uninterrupted()).expect("written");
        for (reader, spec) in &places {
            let dataset = Dataset::open(&config(spec.clone(), Some(&place)), uninterrupted()).expect("opened");
            for (index, &value) in values.iter().enumerate() {
                let read = dataset.get(index, uninterrupted());
                let sample = read.unwrap_or_else(|error| panic!("{publisher} in {reader}: {}", error.report()));
                let Value::Tensor(tensor) = &sample.fields[0].1 else { panic!("a tensor") };
                assert_eq!(tensor.contiguous_bytes(), Some(&vec![value; 100][..]), "{publisher} in {reader}");
            }
        }
    }
}

#[test]
fn a_folder_that_was_published_on_its_disk_is_read_over_http() {
    let dir = tempfile::tempdir().expect("folder");
    let values: Vec<u8> = (0..6).collect();
    for &value in &values {
        let tensor = Tensor::from_bytes(DType::U8, &[100], vec![value; 100].into()).expect("a tensor");
        let bytes = write_pt(&Value::Tensor(tensor)).expect("written");
        std::fs::write(dir.path().join(format!("{value}.pt")), bytes).expect("written");
    }
    let disk = config(SourceSpec::from(dir.path().to_str().expect("UTF-8")), None);
    index(&disk).0.publish("published", uninterrupted()).expect("written");
    let server = Server::start(Speed::default()).expect("starts");
    for entry in std::fs::read_dir(dir.path()).expect("readable") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        server.put(&format!("run/{name}"), std::fs::read(&path).expect("there").into());
    }
    let spec = specs_of(&server, "run").swap_remove(4).1;
    let dataset = Dataset::open(&config(spec, Some("published")), uninterrupted()).expect("opened");
    assert_eq!(server.requests_of(Class::List), 1, "whether it is there");
    for (index, &value) in values.iter().enumerate() {
        let sample = dataset.get(index, uninterrupted()).expect("read");
        let Value::Tensor(tensor) = &sample.fields[0].1 else { panic!("a tensor") };
        assert_eq!(tensor.contiguous_bytes(), Some(&vec![value; 100][..]));
    }
}
