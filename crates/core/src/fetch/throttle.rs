//! A remote where there is none: the emulated remote of demonstrations and benchmarks.
//!
//! Every answer begins after a time to the first byte and arrives no faster than a stream's rate; all streams together no faster than
//! a total rate. What the inner source took counts towards that, so a fast one is slowed to exactly these figures and a slow one
//! not further.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;
use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use super::delegate;
use crate::buffer::BufferPool;
use crate::error::Result;
use crate::source::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source};

/// How slow to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Time to the first byte of every answer.
    pub first_byte: Duration,
    /// Rate of one stream.
    pub stream_bytes_per_second: Option<u64>,
    /// Rate of all streams together.
    pub total_bytes_per_second: Option<u64>,
}

impl fmt::Display for Throttling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms to the first byte", self.first_byte.as_millis())?;
        let mut rate = |rate: Option<u64>, what: &str| {
            rate.map_or(Ok(()), |rate| write!(f, ", {} MB/s {what}", rate as f64 / 1e6))
        };
        rate(self.stream_bytes_per_second, "per stream")?;
        rate(self.total_bytes_per_second, "in all")
    }
}

/// Answers like a remote of these figures. Never local, whatever it wraps.
#[derive(Debug)]
pub struct Throttle {
    inner: Arc<dyn Source>,
    throttling: Throttling,
    /// When the shared line has carried everything that was put on it.
    line_free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, throttling: Throttling) -> Self {
        Self { inner, throttling, line_free_at: Mutex::new(None) }
    }

    /// When an answer of `bytes` to a request of `began` has arrived.
    fn arrival(&self, began: Instant, bytes: u64) -> Instant {
        let time = |rate: Option<u64>| rate.map_or(Duration::ZERO, |rate| carried(bytes, rate));
        let first = began + self.throttling.first_byte;
        let by_stream = first + time(self.throttling.stream_bytes_per_second);
        if self.throttling.total_bytes_per_second.is_none() {
            return by_stream;
        }
        let mut free_at = self.line_free_at.lock();
        let on_line = free_at.map_or(first, |free| free.max(first)) + time(self.throttling.total_bytes_per_second);
        *free_at = Some(on_line);
        by_stream.max(on_line)
    }
}

fn carried(bytes: u64, bytes_per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)
}

#[async_trait]
impl Source for Throttle {
    delegate!();

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.inner.page(prefix, token).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let began = Instant::now();
        let meta = self.inner.head(key).await;
        sleep_until(began + self.throttling.first_byte).await;
        meta
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let began = Instant::now();
        let object = self.inner.read(request, buffers).await;
        let bytes = object.as_ref().map_or(0, |object| object.bytes.len() as u64);
        sleep_until(self.arrival(began, bytes)).await;
        object
    }
}
