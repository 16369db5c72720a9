//! Every fault of every kind of remote: what a dataset makes of it with one healthy replica, and without.

use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::config::{ByteSize, DatasetConfig, FetchConfig, Replicas, Span};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::source::{SourceSpec, is_sha256_checked};
use headwater::value::Value;
use headwater::{Error, ErrorKind};
use headwater_testkit::server::{Rule, Server, Speed};

use crate::sources::specs_of;

const SAMPLES: usize = 6;
/// Elements of a sample: several parts, and on the Hub a large file.
const ELEMENTS: usize = 20_000;
/// Of the slowest error, so that a run takes a minute and not an hour.
const DEADLINE: Duration = Duration::from_secs(2);

/// A fault, and what an error says when every replica has it. `None`: the samples come all the same.
const FAULTS: &[(&str, Option<&[ErrorKind]>)] = {
    use ErrorKind::{Changed, Denied, NotFound, Timeout, Unavailable};
    &[
        ("status=503,retry-after=1", Some(&[Unavailable])),
        ("status=429", Some(&[Unavailable])),
        ("status=500", Some(&[Unavailable])),
        ("reset-before", Some(&[Unavailable])),
        ("reset-mid", Some(&[Unavailable])),
        ("stall=1h", Some(&[Timeout])),
        ("stall-mid", Some(&[Timeout])),
        ("drip=100ms", Some(&[Timeout])),
        ("truncate", Some(&[Unavailable])),
        ("short-length", Some(&[Unavailable, Changed])),
        ("long", Some(&[Unavailable])),
        ("whole-for-range", None),
        ("wrong-range", Some(&[Unavailable])),
        ("swap", Some(&[Changed])),
        ("swap-before", Some(&[Changed])),
        ("expired", Some(&[Denied])),
        ("denied", Some(&[Denied])),
        ("redirect-loop", Some(&[Unavailable])),
        ("login-page", Some(&[Unavailable, Changed])),
        ("flip", Some(&[Unavailable])),
        ("missing", Some(&[NotFound])),
    ]
};
/// Where servers name no checksum that is cheap, nobody can tell a wrong bit.
fn has_checksum(kind: &str) -> bool {
    match kind {
        "Azure" | "HTTP" => false,
        "HF" => is_sha256_checked(),
        _ => true,
    }
}

/// What a fault comes to where it is another thing: a commit of the Hub holds what it held, whatever is pushed.
fn expected(kind: &str, fault: &str, elsewhere: Option<&'static [ErrorKind]>) -> Option<&'static [ErrorKind]> {
    match (kind, fault) {
        ("HF", "swap") => Some(&[ErrorKind::Unavailable]),
        ("HF", "swap-before") => None,
        _ => elsewhere,
    }
}

fn content(sample: usize) -> Vec<u8> {
    (0..ELEMENTS).map(|n| (n * 31 + sample * 7) as u8).collect()
}

/// A `.npy` file of bytes.
fn npy(elements: &[u8]) -> Bytes {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}", elements.len());
    let header = format!("{header:<117}\n");
    let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(elements);
    file.into()
}

fn serving() -> Server {
    let server = Server::start(Speed::default()).expect("starts");
    (0..SAMPLES).for_each(|sample| server.put(&format!("run/{sample}.npy"), npy(&content(sample))));
    server
}

fn dataset(replicas: Vec<SourceSpec>, in_parts: bool) -> Dataset {
    dataset_within(DEADLINE, replicas, in_parts)
}

fn dataset_within(deadline: Duration, replicas: Vec<SourceSpec>, in_parts: bool) -> Dataset {
    let fetch = FetchConfig {
        deadline: Some(Span(deadline)),
        no_progress_timeout: Some(Span(Duration::from_millis(400))),
        retries: Some(3),
        part_size: Some(ByteSize(if in_parts { 4096 } else { 0 })),
        ..FetchConfig::default()
    };
    let mut config = DatasetConfig { fetch, ..DatasetConfig::default() };
    config.fields.insert("x".to_owned(), Replicas(replicas));
    config.manifest_max_age = Span(Duration::ZERO);
    Dataset::open(&config, uninterrupted()).expect("opens")
}

fn read(dataset: &Dataset, sample: usize) -> Result<Vec<u8>, Error> {
    let read = dataset.get(sample, uninterrupted())?;
    match &read.fields[0].1 {
        Value::Tensor(tensor) => Ok(tensor.contiguous_bytes().expect("contiguous").to_vec()),
        other => panic!("a tensor, not {other:?}"),
    }
}

/// All samples come with a healthy replica; what comes without.
fn outcome(kind: usize, fault: &str, expected: Option<&[ErrorKind]>) -> String {
    let in_parts = fault.contains("range");
    let (bad, healthy) = (serving(), serving());
    let spec = |server: &Server| specs_of(server, "run").swap_remove(kind).1;
    let name = specs_of(&bad, "run")[kind].0;

    let with_healthy = dataset(vec![spec(&bad), spec(&healthy)], in_parts);
    bad.set_faults(vec![fault.parse::<Rule>().expect("a rule")]);
    for sample in 0..SAMPLES {
        let got = read(&with_healthy, sample).unwrap_or_else(|error| panic!("{name}, {fault}: {}", error.report()));
        assert!(got == content(sample), "{name}, {fault}: sample {sample} is another");
    }
    assert!(bad.faults_done() > 0, "{name}: {fault} never happened");
    assert_eq!(bad.tokens_leaked() + healthy.tokens_leaked(), 0, "{name}, {fault}");

    let alone = serving();
    let alone_dataset = dataset(vec![spec(&alone)], in_parts);
    alone.set_faults(vec![fault.parse::<Rule>().expect("a rule")]);
    let began = Instant::now();
    match (read(&alone_dataset, 0), expected) {
        (Ok(got), None) => {
            assert!(got == content(0), "{name}, {fault}");
            "delivered".to_owned()
        }
        (Err(error), Some(kinds)) => {
            assert!(kinds.contains(&error.kind()), "{name}, {fault}: {:?} {}", error.kind(), error.report());
            // Generous: what matters is that it ends by itself.
            assert!(began.elapsed() < DEADLINE + Duration::from_secs(20), "{name}, {fault}: {:?}", began.elapsed());
            format!("{:?}", error.kind())
        }
        (Ok(_), Some(_)) => panic!("{name}, {fault}: nobody noticed"),
        (Err(error), None) => panic!("{name}, {fault}: {}", error.report()),
    }
}

#[test]
fn every_fault_of_every_remote_is_survived_with_one_healthy_replica_and_a_documented_error_without() {
    let kinds: Vec<_> = specs_of(&serving(), "run").into_iter().map(|(name, _)| name).collect();
    // Cells wait far more than they work.
    let rows: Vec<_> = std::thread::scope(|scope| {
        let row = |fault: &'static str, expected| {
            let cells: Vec<_> = (0..kinds.len())
                .map(|kind| {
                    if fault == "flip" && !has_checksum(kinds[kind]) {
                        return None;
                    }
                    Some(outcome(kind, fault, self::expected(kinds[kind], fault, expected)))
                })
                .collect();
            (fault, cells)
        };
        let threads: Vec<_> =
            FAULTS.iter().map(|&(fault, expected)| scope.spawn(move || row(fault, expected))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the row holds")).collect()
    });
    let told =
        |cell: Option<String>| cell.map_or("no checksum to tell".to_owned(), |alone| format!("all samples | {alone}"));
    let rows = rows.into_iter().map(|(fault, cells)| (fault, cells.into_iter().map(told).collect())).collect();
    show("fault", &kinds, rows);
}

#[allow(clippy::print_stdout)] // the table is for reading
fn show(title: &str, kinds: &[&str], rows: Vec<(&str, Vec<String>)>) {
    let line = |first: &str, cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("{cell:<28}")).collect();
        println!("{first:<28}{}", cells.concat());
    };
    line(title, kinds.iter().map(|&kind| kind.to_owned()).collect());
    rows.into_iter().for_each(|(fault, cells)| line(fault, cells));
}

/// What goes wrong with pages of listings.
const LISTING_FAULTS: &[&str] = &[
    "status=503,retry-after=1",
    "status=503,retry-after=120",
    "status=429",
    "status=500",
    "status=400",
    "reset-before",
    "stall=1h",
    "drip=100ms",
    "cut",
    "expired",
    "denied",
    "redirect-loop",
    "login-page",
    "error-page",
    "missing",
];

/// Opened while the first replica has this fault with its listings, from one page on.
fn listed(kind: usize, fault: &str, after: u64) -> String {
    let (bad, healthy) = (serving(), serving());
    [&bad, &healthy].iter().for_each(|server| server.set_page_objects(2));
    let specs: Vec<_> = [&bad, &healthy].iter().map(|server| specs_of(server, "run").swap_remove(kind).1).collect();
    let name = specs_of(&bad, "run")[kind].0;
    bad.set_faults(vec![format!("{fault},on=list,after={after}").parse::<Rule>().expect("a rule")]);
    let began = Instant::now();
    // Longer than a page is waited for, or the deadline would come first.
    let dataset = dataset_within(Duration::from_secs(20), specs, false);
    assert_eq!(dataset.len(), SAMPLES, "{name}, {fault}");
    for sample in 0..SAMPLES {
        let got = read(&dataset, sample).unwrap_or_else(|error| panic!("{name}, {fault}: {}", error.report()));
        assert!(got == content(sample), "{name}, {fault}: sample {sample} is another");
    }
    // Generous: what matters is that nobody waits for a deadline after another.
    assert!(began.elapsed() < Duration::from_secs(30), "{name}, {fault} after {after}: {:?}", began.elapsed());
    let happened = bad.faults_done() > 0;
    assert!(happened || after > 0, "{name}: {fault} never happened");
    if happened { "all samples".to_owned() } else { "all samples | has no such page".to_owned() }
}

/// Opened and read while everything that the first replica is asked has this fault.
fn from_the_start(kind: usize, fault: &str) -> String {
    let (bad, healthy) = (serving(), serving());
    let specs: Vec<_> = [&bad, &healthy].iter().map(|server| specs_of(server, "run").swap_remove(kind).1).collect();
    let name = specs_of(&bad, "run")[kind].0;
    if name == "HTTP" && fault == "short-length" {
        // Only this server tells sizes, and not all of it is wrong: whose size is right cannot be told.
        return "size from there".to_owned();
    }
    bad.set_faults(vec![format!("{fault},on=any").parse::<Rule>().expect("a rule")]);
    let dataset = dataset_within(Duration::from_secs(20), specs, fault.contains("range"));
    for sample in 0..SAMPLES {
        let got = read(&dataset, sample).unwrap_or_else(|error| panic!("{name}, {fault}: {}", error.report()));
        assert!(got == content(sample), "{name}, {fault}: sample {sample} is another");
    }
    "all samples".to_owned()
}

#[test]
fn every_fault_that_a_replica_has_from_the_start_is_survived_with_another_one() {
    let kinds: Vec<_> = specs_of(&serving(), "run").into_iter().map(|(name, _)| name).collect();
    let columns = kinds.len();
    let rows: Vec<_> = std::thread::scope(|scope| {
        let row = move |fault| (0..columns).map(|kind| from_the_start(kind, fault)).collect::<Vec<_>>();
        let sound = FAULTS.iter().filter(|(fault, _)| *fault != "flip");
        let threads: Vec<_> = sound.map(|&(fault, _)| (fault, scope.spawn(move || row(fault)))).collect();
        threads.into_iter().map(|(fault, row)| (fault, row.join().expect("the row holds"))).collect()
    });
    show("fault from the start", &kinds, rows);
}

#[test]
fn every_fault_of_a_listing_is_survived_with_one_healthy_replica() {
    let kinds: Vec<_> = specs_of(&serving(), "run").into_iter().map(|(name, _)| name).collect();
    // Cells wait far more than they work.
    let tables: Vec<(u64, Vec<_>)> = std::thread::scope(|scope| {
        let columns = kinds.len();
        let row = move |fault, after| (0..columns).map(|kind| listed(kind, fault, after)).collect::<Vec<_>>();
        let table = |after| LISTING_FAULTS.iter().map(move |&fault| (fault, scope.spawn(move || row(fault, after))));
        let tables = [0, 1, 2].map(|after| (after, table(after).collect::<Vec<_>>()));
        let joined = |(fault, row): (_, ScopedJoinHandle<'_, _>)| (fault, row.join().expect("the row holds"));
        tables.into_iter().map(|(after, rows)| (after, rows.into_iter().map(joined).collect())).collect()
    });
    tables.into_iter().for_each(|(after, rows)| show(&format!("fault after {after} pages"), &kinds, rows));
}

#[test]
fn a_replica_that_is_down_at_the_start_is_read_from_once_it_is_up() {
    let (first, second) = (Arc::new(serving()), serving());
    let specs: Vec<_> = [&*first, &second].map(|server| specs_of(server, "run").swap_remove(0).1).into();
    first.kill().expect("killed");
    let dataset = dataset(specs, false);
    for sample in 0..SAMPLES {
        assert!(read(&dataset, sample).expect("from the second") == content(sample));
    }
    assert_eq!(first.requests(), 0);
    first.revive().expect("revived");
    std::thread::sleep(Duration::from_millis(1100));
    let before = first.requests();
    for sample in 0..SAMPLES {
        assert!(read(&dataset, sample).expect("from either") == content(sample));
    }
    assert!(first.requests() > before, "the breaker let one try");
}

/// Replicas of two kinds, whose versions have nothing in common, one of which fails every now and then.
#[test]
fn large_objects_come_whole_from_one_replica_or_the_other_however_often_one_fails() {
    for rule in ["reset-mid,share=0.3", "status=503,share=0.3", "truncate,share=0.3", "stall=2s,share=0.05"] {
        let (bad, healthy) = (serving(), serving());
        let specs = vec![specs_of(&bad, "run").swap_remove(0).1, specs_of(&healthy, "run").swap_remove(1).1];
        let dataset = dataset(specs, true);
        bad.set_faults(vec![rule.parse::<Rule>().expect("a rule")]);
        for sample in 0..SAMPLES {
            let got = read(&dataset, sample).unwrap_or_else(|error| panic!("{rule}: {}", error.report()));
            assert!(got == content(sample), "{rule}: sample {sample}");
        }
        assert!(bad.faults_done() > 0 || rule.starts_with("stall"), "{rule}");
    }
}

#[test]
fn a_replica_that_serves_other_bytes_is_refused_in_parts_too() {
    let (first, forged) = (serving(), serving());
    let specs = [&first, &forged].map(|server| specs_of(server, "run").swap_remove(0).1).into();
    let dataset = dataset(specs, true);
    assert!(read(&dataset, 0).expect("from the first") == content(0));
    forged.put("run/0.npy", npy(&content(5)));
    first.kill().expect("killed");
    let error = read(&dataset, 0).expect_err("forged");
    assert!(error.report().contains("the replica serves other"), "{}", error.report());
}

#[test]
fn one_refusal_while_opening_is_no_failure() {
    for kind in 0..5 {
        let server = serving();
        let (name, spec) = specs_of(&server, "run").swap_remove(kind);
        server.set_faults(vec!["status=503,retry-after=0,times=1,on=any".parse::<Rule>().expect("a rule")]);
        assert!(read(&dataset(vec![spec], false), 1).expect(name) == content(1), "{name}");
    }
}
