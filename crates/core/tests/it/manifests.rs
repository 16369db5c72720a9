//! One lists, the others read: published manifests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headwater::config::{DatasetConfig, Replicas, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::source::SourceSpec;
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
