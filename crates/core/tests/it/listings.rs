//! Listings that never end, go in circles or cannot be true: errors in words, within their deadline.

use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::config::{DatasetConfig, FetchConfig, Replicas, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::source::SourceSpec;
use headwater::{Error, ErrorKind};
use headwater_testkit::server::{Class, Server, Speed};

use crate::sources::specs_of;

const SAMPLES: usize = 30;

fn serving() -> Server {
    let server = Server::start(Speed::default()).expect("starts");
    (0..SAMPLES).for_each(|n| server.put(&format!("run/{n:04}.pt"), Bytes::from_static(b"x")));
    server.set_page_objects(10);
    server
}

fn open(spec: SourceSpec, deadline: Duration) -> Result<Dataset, Error> {
    let fetch = FetchConfig { deadline: Some(Span(deadline)), retries: Some(1), ..FetchConfig::default() };
    let manifest_max_age = Span(Duration::ZERO);
    let config =
        DatasetConfig { source: Some(Replicas::from(spec)), fetch, manifest_max_age, ..DatasetConfig::default() };
    Dataset::open(&config, uninterrupted())
}

/// What opening says of one kind of remote under a fault.
fn refused(kind: usize, fault: &str) -> Error {
    let server = serving();
    let (name, spec) = specs_of(&server, "run").swap_remove(kind);
    server.add_fault(fault.parse().expect("a fault"));
    let error = open(spec, Duration::from_secs(20)).err().unwrap_or_else(|| panic!("{name}: {fault} was believed"));
    assert!(server.faults_done() > 0, "{name}: {fault}");
    error
}

#[test]
fn a_listing_that_drips_ends_at_its_deadline() {
    for kind in 0..5 {
        let server = serving();
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        server.add_fault("drip=200ms,on=list".parse().expect("a fault"));
        let began = Instant::now();
        let error = open(spec, Duration::from_secs(1)).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Timeout, "{name}: {}", error.report());
        assert!(error.report().contains("not finished after 1 s, its deadline"), "{name}: {}", error.report());
        // Generous: what matters is that it ends by itself.
        assert!(began.elapsed() < Duration::from_secs(20), "{name}: {:?}", began.elapsed());
    }
}

#[test]
fn a_listing_that_goes_in_a_circle_is_an_error() {
    // To the page that it is, and to one before.
    for (here, there) in [("0019%2E", "0009%2E"), ("0029%2E", "0009%2E")] {
        let server = serving();
        server.put("run/0030.pt", Bytes::from_static(b"x"));
        let spec = specs_of(&server, "run").swap_remove(3).1;
        server.add_fault(format!("rewrite={here}=>{there},on=list").parse().expect("a fault"));
        let error = open(spec, Duration::from_secs(20)).expect_err("a circle");
        assert!(error.report().contains("goes in a circle"), "{}", error.report());
        assert!(server.requests_of(Class::List) < 20, "{}", server.requests_of(Class::List));
    }
}

#[test]
fn a_listing_that_has_more_and_does_not_say_where_is_an_error() {
    let error = refused(0, "rewrite=NextContinuationToken=>Elsewhere,on=list");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert!(error.report().contains("the listing goes on, and the server does not say how"), "{}", error.report());
}

#[test]
fn sizes_that_cannot_be_true_are_not_believed() {
    for (kind, one, sizes) in [
        (0, "<Size>1<", ["<Size>18446744073709551615<", "<Size>-1<", "<Size><", "<Size>1e9<"]),
        (1, "\"1\"", ["\"18446744073709551615\"", "\"-1\"", "\"\"", "\"1e9\""]),
        (
            2,
            "<Content-Length>1<",
            [
                "<Content-Length>18446744073709551615<",
                "<Content-Length>-1<",
                "<Content-Length><",
                "<Content-Length>1e9<",
            ],
        ),
        (3, "\"size\":1", ["\"size\":18446744073709551615", "\"size\":-1", "\"size\":\"\"", "\"size\":1.5"]),
    ] {
        for size in sizes {
            let error = refused(kind, &format!("rewrite={one}=>{size},on=list"));
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{size}: {}", error.report());
        }
    }
}

#[test]
fn a_listing_goes_on_where_it_began_wherever_a_link_points() {
    let server = serving();
    let (elsewhere, spec) = (serving(), specs_of(&server, "run").swap_remove(3).1);
    server.add_fault(
        format!("rewrite={}=>{},on=list", server.endpoint(), elsewhere.endpoint()).parse().expect("a fault"),
    );
    assert_eq!(open(spec, Duration::from_secs(20)).expect("opens").len(), SAMPLES);
    assert!(server.faults_done() > 0);
    assert_eq!(elsewhere.requests_of(Class::List), 0);
}

#[test]
fn publishing_that_never_ends_is_a_timeout() {
    let server = serving();
    for (name, spec) in specs_of(&server, "run").into_iter().take(3) {
        let dataset = open(spec, Duration::from_secs(1)).expect(name);
        server.set_faults(vec!["stall=1h,on=any".parse().expect("a fault")]);
        let error = dataset.publish("published", uninterrupted()).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Timeout, "{name}: {}", error.report());
        server.set_faults(Vec::new());
    }
}

#[test]
fn a_web_folder_asks_for_sizes_one_by_one_and_only_of_what_it_will_read() {
    let server = serving();
    (0..SAMPLES).for_each(|n| server.put(&format!("run/{n:04}.json"), Bytes::from_static(b"{}")));
    let spec = specs_of(&server, "run").swap_remove(4).1;
    // Each is tried again by itself, and has a deadline of its own.
    server.add_fault("status=503,on=head,share=0.2".parse().expect("a fault"));
    let dataset = open(spec, Duration::from_secs(20));
    let heads = server.requests_of(Class::Head);
    assert_eq!(dataset.expect("opens").len(), SAMPLES);
    assert!((SAMPLES as u64..2 * SAMPLES as u64).contains(&heads), "{heads}");
}
