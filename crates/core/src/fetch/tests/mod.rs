mod failover;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{Either, join_all, select};
use tokio::time::{Instant, sleep};

use super::*;
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Metric, Metrics};
use crate::source::{Gate, Listed, Memory, ObjectBytes, ObjectMeta, ReadRequest, Version, list_sorted};

const HOUR: Duration = Duration::from_hours(1);

/// What a scripted source does with a request.
enum Act {
    After(Duration),
    Fail(Error),
}

type Script = Box<dyn Fn(usize, &ReadRequest) -> Act + Send + Sync>;

/// Objects in memory behind a script: what happens to the n-th read.
struct Scripted {
    inner: Memory,
    script: Script,
    reads: AtomicUsize,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    fn new(name: &str, script: impl Fn(usize, &ReadRequest) -> Act + Send + Sync + 'static) -> Arc<Self> {
        let inner = Memory::new(name);
        inner.put("small", vec![1; 10]);
        inner.put("large", (0..100_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        let script = Box::new(script);
        let (reads, inside, most) = <(AtomicUsize, AtomicUsize, AtomicUsize)>::default();
        Arc::new(Self { inner, script, reads, inside, most })
    }

    fn slow(delay: Duration) -> Arc<Self> {
        Self::new("slow", move |_, _| Act::After(delay))
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Source for Scripted {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        match (self.script)(usize::MAX, &ReadRequest::whole("")) {
            Act::After(delay) => sleep(delay).await,
            Act::Fail(error) => return Err(error),
        }
        self.inner.page(prefix, token).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let act = (self.script)(number, request);
        if let Act::After(delay) = &act {
            sleep(*delay).await;
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
        match act {
            Act::Fail(error) => Err(error),
            Act::After(_) => self.inner.read(request, buffers).await,
        }
    }
}

/// A source that can be switched off.
fn switched(name: &str) -> (Arc<AtomicBool>, Arc<Scripted>) {
    let is_off = Arc::new(AtomicBool::new(false));
    let switch = is_off.clone();
    let source = Scripted::new(name, move |_, _| {
        if switch.load(Ordering::SeqCst) {
            Act::Fail(error(ErrorKind::Unavailable, "connection refused"))
        } else {
            Act::After(Duration::from_millis(10))
        }
    });
    (is_off, source)
}

fn error(kind: ErrorKind, words: &str) -> Error {
    Error::new(kind, "read", "it").because(words)
}

fn signals() -> (Arc<Metrics>, Arc<Signals>) {
    let metrics = Arc::new(Metrics::default());
    (metrics.clone(), Arc::new(Signals::new(metrics, "memory://")))
}

fn counted(metrics: &Metrics, metric: Metric) -> u64 {
    metrics.snapshot().raw(metric)
}

fn pool() -> BufferPool {
    BufferPool::new(0)
}

fn sized(key: &str, size: u64) -> ReadRequest {
    ReadRequest { size: Some(size), ..ReadRequest::whole(key) }
}

fn retry(inner: Arc<dyn Source>) -> Retry {
    Retry::new(inner, Patience::default(), signals().1)
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (work.await, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_read_that_never_ends_is_a_timeout_that_names_object_and_deadline() {
    let source = retry(Scripted::slow(HOUR));
    let error = source.read(&sized("small", 10), &pool()).await.expect_err("too slow");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.to_string(), "cannot read `memory://slow/small`: not finished after 60 s, its deadline");
}

#[tokio::test(start_paused = true)]
async fn a_large_object_gets_a_second_more_per_megabyte_whether_its_size_is_known_or_not() {
    for request in [sized("large", 100_000_000), ReadRequest::whole("large")] {
        let in_time = retry(Scripted::slow(Duration::from_secs(159)));
        assert_eq!(in_time.read(&request, &pool()).await.expect("in time").bytes.len(), 100_000_000);
        let too_late = retry(Scripted::slow(Duration::from_secs(161)));
        let error = too_late.read(&request, &pool()).await.expect_err("too late");
        assert!(error.to_string().contains("after 160 s"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_stalls_is_a_timeout() {
    let error = retry(Scripted::slow(HOUR)).page("", None).await.expect_err("stalls");
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_after_pauses_that_grow() {
    let failing = Scripted::new("flaky", |number, _| match number {
        0..4 => Act::Fail(error(ErrorKind::Unavailable, "on purpose")),
        _ => Act::After(Duration::ZERO),
    });
    let (metrics, signals) = signals();
    let source = Retry::new(failing.clone(), Patience::default(), signals);
    let (read, took) = timed(source.read(&sized("small", 10), &pool())).await;
    assert_eq!(read.expect("at last").bytes.len(), 10);
    // 100, 200, 400 and 800 ms, less up to half.
    assert!((750..=1500).contains(&took.as_millis()), "{took:?}");
    assert_eq!((failing.reads(), counted(&metrics, Metric::SourceRetries)), (5, 4));
}

#[tokio::test(start_paused = true)]
async fn what_will_not_pass_is_not_tried_again() {
    for kind in [ErrorKind::NotFound, ErrorKind::Denied, ErrorKind::Changed, ErrorKind::Invalid, ErrorKind::OutOfRange]
    {
        let failing = Scripted::new("closed", move |_, _| Act::Fail(error(kind, "on purpose")));
        let found = retry(failing.clone()).read(&sized("small", 10), &pool()).await.expect_err("closed");
        assert_eq!((found.kind(), failing.reads()), (kind, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_says_when_to_come_back_is_believed() {
    let busy = Scripted::new("busy", |number, _| match number {
        0 => Act::Fail(error(ErrorKind::Unavailable, "busy").throttled(Some(Duration::from_secs(7)))),
        _ => Act::After(Duration::ZERO),
    });
    let (metrics, signals) = signals();
    let source = Retry::new(busy, Patience::default(), signals);
    let (read, took) = timed(source.read(&sized("small", 10), &pool())).await;
    assert!(read.is_ok() && took.as_secs() == 7, "{took:?}");
    assert_eq!(counted(&metrics, Metric::SourceThrottled), 1);
    // One that asks for more than there is time is an error at once.
    let closed = Scripted::new("busy", |_, _| {
        Act::Fail(error(ErrorKind::Unavailable, "busy").throttled(Some(Duration::from_mins(2))))
    });
    let (read, took) = timed(retry(closed).read(&sized("small", 10), &pool())).await;
    assert!(read.is_err() && took.is_zero(), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_after_several_attempts_tells_of_them() {
    let failing = Scripted::new("flaky", |number, _| match number {
        0 => Act::Fail(error(ErrorKind::Unavailable, "reset")),
        1 => Act::Fail(error(ErrorKind::Timeout, "stalled")),
        _ => Act::After(HOUR),
    });
    let text = retry(failing).read(&sized("small", 10), &pool()).await.expect_err("never").to_string();
    let words =
        ["not finished after 60 s", "attempt 1: cannot read `it`: reset", "attempt 2: cannot read `it`: stalled"];
    assert!(words.iter().all(|words| text.contains(words)), "{text}");
    let failing = Scripted::new("down", |_, _| Act::Fail(error(ErrorKind::Unavailable, "down")));
    let (read, took) = timed(retry(failing.clone()).read(&sized("small", 10), &pool())).await;
    let text = read.expect_err("down").to_string();
    assert!(text.contains("down: the last of 9 attempts") && took < Duration::from_mins(1), "{text}, {took:?}");
}

#[tokio::test(start_paused = true)]
async fn no_more_reads_go_on_at_once_than_allowed() {
    let slow = Scripted::slow(Duration::from_secs(1));
    let source = Limit::new(slow.clone(), 4, signals().1);
    let (buffers, request) = (pool(), ReadRequest::whole("small"));
    let reads = join_all((0..40).map(|_| source.read(&request, &buffers))).await;
    assert!(reads.iter().all(Result::is_ok));
    assert_eq!(slow.most.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_limit_grows_with_throughput_and_shrinks_when_the_remote_complains() {
    let slow = Scripted::slow(Duration::from_millis(100));
    let (_, signals) = signals();
    let source = Limit::new(slow.clone(), 64, signals.clone());
    let (buffers, request) = (pool(), ReadRequest::whole("small"));
    join_all((0..2000).map(|_| source.read(&request, &buffers))).await;
    assert_eq!(slow.most.load(Ordering::SeqCst), 64, "more streams carry more, so all are used");
    assert_eq!(source.limit(), 64);
    signals.throttled();
    join_all((0..64).map(|_| source.read(&request, &buffers))).await;
    assert_eq!(source.limit(), 42);
    slow.most.store(0, Ordering::SeqCst);
    join_all((0..42).map(|_| source.read(&request, &buffers))).await;
    join_all((0..200).map(|_| source.read(&request, &buffers))).await;
    assert!(slow.most.load(Ordering::SeqCst) <= 42, "{}", slow.most.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn hedging_cuts_the_rare_long_waits_and_costs_few_requests() {
    // 2 of 100 requests stall for a second; the others take 10 to 20 ms.
    let script = |number: usize, _: &ReadRequest| {
        let hash = xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes());
        Act::After(if hash.is_multiple_of(50) {
            Duration::from_secs(1)
        } else {
            Duration::from_millis(10 + hash / 50 % 10)
        })
    };
    let requests = 4000;
    let mut p99 = Vec::new();
    for share in [0.0, HEDGE_BUDGET] {
        let stalling = Scripted::new("stalling", script);
        let source = Hedge::new(stalling.clone(), share, signals().1);
        let mut took = Vec::new();
        for _ in 0..requests {
            took.push(timed(source.read(&sized("small", 10), &pool())).await.1);
        }
        took.sort_unstable();
        p99.push(took[requests * 99 / 100]);
        let extra = stalling.reads() - requests;
        assert!(extra <= requests * 6 / 100, "{extra} further requests");
    }
    assert!(p99[1] < p99[0] / 5, "{p99:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_slow_altogether_is_not_asked_twice_as_much() {
    let slow =
        Scripted::new("slow", |number, _| Act::After(Duration::from_millis(if number < 100 { 10 } else { 500 })));
    let source = Hedge::new(slow.clone(), HEDGE_BUDGET, signals().1);
    for _ in 0..300 {
        source.read(&sized("small", 10), &pool()).await.expect("read");
    }
    assert!(slow.reads() <= 300 + 15 + 1, "{}", slow.reads());
}

#[tokio::test(start_paused = true)]
async fn a_failing_first_request_does_not_take_the_second_with_it() {
    let script = |number: usize, _: &ReadRequest| match number {
        100 => Act::After(Duration::from_millis(300)),
        101 => Act::Fail(error(ErrorKind::Unavailable, "the second one")),
        _ => Act::After(Duration::from_millis(10)),
    };
    let source = Hedge::new(Scripted::new("flaky", script), HEDGE_BUDGET, signals().1);
    for _ in 0..101 {
        source.read(&sized("small", 10), &pool()).await.expect("one of the two");
    }
}

#[tokio::test(start_paused = true)]
async fn bandwidth_is_what_was_allowed() {
    let source = Bandwidth::new(Scripted::slow(Duration::ZERO), 100_000_000);
    let request = sized("large", 100_000_000);
    let ((), took) = timed(async {
        for _ in 0..5 {
            source.read(&request, &pool()).await.expect("read");
        }
    })
    .await;
    assert!((3700..=4000).contains(&took.as_millis()), "the last of five begins when four have come: {took:?}");
}

/// Reads as far as its gate, and drops the read there.
async fn come_and_go(source: &dyn Source, request: ReadRequest) {
    let gate = Arc::new(Gate::default());
    let request = ReadRequest { gate: Some(gate.clone()), ..request };
    let (reading, buffers) = (request, pool());
    let reading = source.read(&reading, &buffers);
    assert!(matches!(select(reading, pin!(gate.reached())).await, Either::Right(_)), "it stops there");
}

#[tokio::test(start_paused = true)]
async fn a_read_stops_at_its_gate_only_once_it_has_its_turn_and_gives_that_back_when_it_is_dropped() {
    let (slow, (_, signals)) = (Scripted::slow(HOUR), signals());
    let source = Limit::new(slow.clone(), 2, signals);
    let (buffers, request) = (pool(), sized("small", 10));
    let (first, second) = (source.read(&request, &buffers), source.read(&request, &buffers));
    let third = come_and_go(&source, request.clone());
    let (_, took) = timed(select(select(first, second), pin!(third))).await;
    assert_eq!((took, slow.reads()), (HOUR, 2), "not while others have all turns");
    for _ in 0..10 {
        let ((), took) = timed(come_and_go(&source, request.clone())).await;
        assert_eq!((took, slow.reads()), (Duration::ZERO, 2), "nothing was asked for, and the turn is free");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_let_on_at_its_gate_reads() {
    let slow = Scripted::slow(HOUR);
    let source =
        with_policies(vec![slow.clone()], &Policies { bandwidth: Some(10), ..Policies::default() }, &Arc::default());
    let gate = Arc::new(Gate::default());
    let request = ReadRequest { gate: Some(gate.clone()), ..sized("small", 10) };
    let (reading, buffers) = (request, pool());
    let mut reading = source.read(&reading, &buffers);
    assert!(matches!(select(&mut reading, pin!(gate.reached())).await, Either::Right(_)), "it stops there");
    assert_eq!(slow.reads(), 0);
    gate.open();
    assert_eq!(reading.await.expect_err("an hour is too long").kind(), ErrorKind::Timeout);
    assert!(slow.reads() > 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_before_it_is_asked_for_takes_no_bandwidth() {
    let fast = Scripted::slow(Duration::ZERO);

    let source =
        with_policies(vec![fast.clone()], &Policies { bandwidth: Some(10), ..Policies::default() }, &Arc::default());
    source.read(&sized("small", 10), &pool()).await.expect("read");
    let all = (0..100).map(|_| come_and_go(source.as_ref(), sized("small", 10)));
    let (_, took) = timed(join_all(all)).await;
    assert!(took <= Duration::from_secs(1), "for what was read, and no more: {took:?}");
    let (_, took) = timed(source.read(&sized("small", 10), &pool())).await;
    assert!(took <= Duration::from_millis(1), "{took:?}");
    assert_eq!(fast.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_bandwidth_is_neither_slowness_nor_lateness() {
    let ((_, first), (_, second)) = (switched("first"), switched("second"));
    let metrics = Arc::<Metrics>::default();
    let patience = Patience { deadline: Duration::from_secs(2), ..Patience::default() };
    let policies = Policies { bandwidth: Some(10), patience, ..Policies::default() };
    let source = with_policies(vec![first.clone(), second.clone()], &policies, &metrics);
    let (buffers, request) = (pool(), sized("small", 10));
    let (reads, took) = timed(join_all((0..100).map(|_| source.read(&request, &buffers)))).await;
    assert!(reads.iter().all(Result::is_ok) && took > Duration::from_secs(90), "10 bytes a second: {took:?}");
    assert_eq!((first.reads(), second.reads()), (100, 0));
    assert_eq!(counted(&metrics, Metric::SourceHedges) + counted(&metrics, Metric::ReplicaFailovers), 0);
}

#[tokio::test(start_paused = true)]
async fn a_large_object_is_read_in_parts_of_one_version() {
    let slow = Scripted::new("parts", |_, request| {
        let bytes = request.range.as_ref().map_or(100_000_000, |range| range.end - range.start);
        Act::After(Duration::from_millis(bytes / 100_000))
    });
    let (metrics, signals) = signals();
    let source = Parts::new(slow.clone(), PART_BYTES, signals);
    let whole = slow.inner.read(&ReadRequest::whole("large"), &pool()).await.expect("read");
    let request = ReadRequest { version: whole.meta.version.clone(), ..sized("large", 100_000_000) };
    let (read, took) = timed(source.read(&request, &pool())).await;
    let read = read.expect("read");
    assert!(read.bytes == whole.bytes && read.meta == whole.meta);
    assert!(took < Duration::from_millis(90), "all parts at once: {took:?}");
    assert_eq!((slow.reads(), counted(&metrics, Metric::SourceReadsInParts)), (12, 1));
    // Where no version is asked for, the first part says which.
    let read = source.read(&sized("large", 100_000_000), &pool()).await.expect("read");
    assert!(read.bytes == whole.bytes);
    let part = ReadRequest { range: Some(5..60_000_005), ..request };
    assert!(source.read(&part, &pool()).await.expect("read").bytes == whole.bytes.slice(5..60_000_005));
}

#[tokio::test(start_paused = true)]
async fn parts_of_two_versions_are_never_joined() {
    let slow = Scripted::slow(Duration::from_millis(10));
    let source = Parts::new(slow.clone(), PART_BYTES, signals().1);
    let replacing = async {
        sleep(Duration::from_millis(15)).await;
        slow.inner.put("large", vec![9; 100_000_000]);
    };
    let request = sized("large", 100_000_000);
    let buffers = pool();
    let (read, ()) = futures_util::future::join(source.read(&request, &buffers), replacing).await;
    assert_eq!(read.expect_err("replaced").kind(), ErrorKind::Changed);
}

#[tokio::test(start_paused = true)]
async fn a_source_without_ranges_is_asked_for_the_whole() {
    let plain = Scripted::new("plain", |_, request| match request.range {
        Some(_) => Act::Fail(error(ErrorKind::Unsupported, "no ranges here")),
        None => Act::After(Duration::ZERO),
    });
    let source = Parts::new(plain, PART_BYTES, signals().1);
    assert_eq!(source.read(&sized("large", 100_000_000), &pool()).await.expect("whole").bytes.len(), 100_000_000);
}

#[tokio::test(start_paused = true)]
async fn neighbouring_ranges_become_one_request_and_far_ones_do_not() {
    let slow = Scripted::slow(Duration::from_millis(10));
    let (metrics, signals) = signals();
    let source = Coalesce::new(slow.clone(), GAP_BYTES, signals);
    let ranges = [0..100, 50..150, 200..300, 70_000..70_100, 90_000_000..90_000_100];
    let requests: Vec<_> =
        ranges.iter().map(|range| ReadRequest { range: Some(range.clone()), ..ReadRequest::whole("large") }).collect();
    let buffers = pool();
    let reads = join_all(requests.iter().map(|request| source.read(request, &buffers))).await;
    let whole = slow.inner.read(&ReadRequest::whole("large"), &pool()).await.expect("read").bytes;
    for (range, read) in ranges.iter().zip(reads) {
        assert!(read.expect("read").bytes == whole.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    assert_eq!((slow.reads(), counted(&metrics, Metric::SourceRangesCoalesced)), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_range_that_is_wrong_spoils_no_neighbour_and_a_caller_who_leaves_none_either() {
    let slow = Scripted::slow(Duration::from_millis(10));
    let source = Coalesce::new(slow, GAP_BYTES, signals().1);
    let ask = |range| ReadRequest { range: Some(range), ..ReadRequest::whole("small") };
    let (good, bad, buffers) = (ask(0..5), ask(5..50), pool());
    let (first, second) = futures_util::future::join(source.read(&good, &buffers), source.read(&bad, &buffers)).await;
    assert_eq!(first.expect("fine").bytes.len(), 5);
    assert_eq!(second.expect_err("beyond").kind(), ErrorKind::OutOfRange);
    let leaver = tokio::time::timeout(Duration::from_micros(100), source.read(&good, &buffers));
    let (left, stayed) = futures_util::future::join(leaver, source.read(&good, &buffers)).await;
    assert!(left.is_err());
    assert_eq!(stayed.expect("asks by itself").bytes.len(), 5);
}

fn ten_megabytes() -> Arc<Memory> {
    let memory = Memory::new("fast");
    memory.put("x", vec![7; 10_000_000]);
    Arc::new(memory)
}

#[tokio::test(start_paused = true)]
async fn an_emulated_stream_begins_and_runs_as_it_was_told() {
    let throttling = Throttling {
        first_byte: Duration::from_millis(30),
        stream_bytes_per_second: Some(100_000_000),
        ..Throttling::default()
    };
    let source = Throttle::new(ten_megabytes(), throttling);
    assert!(!source.is_local() && source.read_blocking(&ReadRequest::whole("x"), &BufferPool::new(0)).is_none());
    let (object, took) = timed(source.read(&ReadRequest::whole("x"), &BufferPool::new(0))).await;
    assert_eq!(object.expect("read").bytes.len(), 10_000_000);
    assert!((130..132).contains(&took.as_millis()), "{took:?}");
    let (_, took) = timed(source.head("x")).await;
    assert!((30..32).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn emulated_streams_share_their_line() {
    let throttling = Throttling {
        first_byte: Duration::from_millis(30),
        stream_bytes_per_second: Some(100_000_000),
        total_bytes_per_second: Some(200_000_000),
    };
    let source = Throttle::new(ten_megabytes(), throttling);
    let (buffers, request) = (BufferPool::new(0), ReadRequest::whole("x"));
    let (reads, took) = timed(join_all((0..8).map(|_| source.read(&request, &buffers)))).await;
    assert!(reads.iter().all(Result::is_ok));
    assert!((430..432).contains(&took.as_millis()), "80 MB at 200 MB/s and 30 ms: {took:?}");
    let (_, took) = timed(source.read(&request, &buffers)).await;
    assert!((130..132).contains(&took.as_millis()), "alone again, a stream has its own rate: {took:?}");
}
