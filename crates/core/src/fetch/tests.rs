use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream};

use super::*;
use crate::buffer::BufferPool;
use crate::error::{ErrorKind, Result};
use crate::source::{Memory, ObjectBytes, ObjectMeta, Page, ReadRequest};

/// A source that takes its time and counts who is in it.
#[derive(Debug)]
struct Slow {
    inner: Memory,
    delay: Duration,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Slow {
    fn new(delay: Duration) -> Arc<Self> {
        let inner = Memory::new("slow");
        inner.put("small", vec![1; 10]);
        inner.put("large", vec![1; 100_000_000]);
        Arc::new(Self { inner, delay, inside: AtomicUsize::new(0), most: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Source for Slow {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn list<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<Page>> {
        stream::pending().boxed()
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        self.most.fetch_max(self.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.inner.read(request, buffers).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_never_ends_is_a_timeout_that_names_object_and_deadline() {
    let source = Deadline::new(Slow::new(Duration::from_hours(1)));
    let error = source.read(&ReadRequest::whole("small"), &BufferPool::new(0)).await.expect_err("too slow");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.to_string(), "cannot read `memory://slow/small`: not finished after 60 s, its deadline");
}

#[tokio::test(start_paused = true)]
async fn a_large_object_gets_a_second_more_per_megabyte() {
    let buffers = BufferPool::new(0);
    let in_time = Deadline::new(Slow::new(Duration::from_secs(159)));
    assert_eq!(in_time.read(&ReadRequest::whole("large"), &buffers).await.expect("in time").bytes.len(), 100_000_000);
    let too_late = Deadline::new(Slow::new(Duration::from_secs(161)));
    let error = too_late.read(&ReadRequest::whole("large"), &buffers).await.expect_err("too late");
    assert!(error.to_string().contains("after 160 s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_stalls_is_a_timeout() {
    let source = Deadline::new(Slow::new(Duration::ZERO));
    let pages: Vec<_> = source.list("").collect().await;
    assert_eq!(pages.len(), 1);
    assert_eq!(pages[0].as_ref().expect_err("stalls").kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn no_more_reads_go_on_at_once_than_allowed() {
    let slow = Slow::new(Duration::from_secs(1));
    let source = Limit::new(slow.clone(), 4);
    let (buffers, request) = (BufferPool::new(0), ReadRequest::whole("small"));
    let reads = join_all((0..20).map(|_| source.read(&request, &buffers))).await;
    assert!(reads.iter().all(Result::is_ok));
    assert_eq!(slow.most.load(Ordering::SeqCst), 4);
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = tokio::time::Instant::now();
    (work.await, began.elapsed())
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
