//! No faster than allowed.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;
use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::delegate;
use super::retry::known_bytes;
use crate::buffer::BufferPool;
use crate::error::Result;
use crate::source::{Gate, Listed, ObjectBytes, ObjectMeta, ReadRequest, Source};

/// What may come at once after a pause, in seconds of the rate: so that an idle moment is not lost.
const BURST: Duration = Duration::from_millis(250);

/// Begins reads no sooner than a rate over all of them allows, one after the other. Bytes are booked before they are asked for where
/// their number is known, else afterwards; what was never asked for is given back.
#[derive(Debug)]
pub struct Bandwidth {
    inner: Arc<dyn Source>,
    bytes_per_second: u64,
    /// When everything booked so far has come at that rate.
    booked_until: Mutex<Option<Instant>>,
    /// Whoever is next.
    next: Semaphore,
    /// For whoever is next: it need not wait for as long as it thought.
    given_back: Notify,
}

impl Bandwidth {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, bytes_per_second: u64) -> Self {
        Self {
            inner,
            bytes_per_second: bytes_per_second.max(1),
            booked_until: Mutex::new(None),
            next: Semaphore::new(1),
            given_back: Notify::new(),
        }
    }

    /// Waits until all that was booked before has come, and books bytes.
    async fn turn<'a>(&'a self, bytes: u64, gate: Option<&'a Gate>) -> Booking<'a> {
        // Never closed: without a turn, nothing would be worse than to go at once.
        let _next = self.next.acquire().await;
        loop {
            let Some(until) = *self.booked_until.lock() else { break };
            if timeout_at(until, self.given_back.notified()).await.is_err() {
                break;
            }
        }
        self.book(bytes);
        Booking { of: self, bytes, gate }
    }

    fn book(&self, bytes: u64) {
        let now = Instant::now();
        let mut booked = self.booked_until.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *booked = Some(booked.map_or(earliest, |until| until.max(earliest)) + self.time_of(bytes));
    }

    fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64)
    }
}

/// Bytes that were booked, while they may be given back.
struct Booking<'a> {
    of: &'a Bandwidth,
    bytes: u64,
    gate: Option<&'a Gate>,
}

impl Drop for Booking<'_> {
    fn drop(&mut self) {
        if self.gate.is_none_or(Gate::is_open) {
            return;
        }
        let mut booked = self.of.booked_until.lock();
        *booked = booked.and_then(|until| until.checked_sub(self.of.time_of(self.bytes)));
        drop(booked);
        self.of.given_back.notify_one();
    }
}

#[async_trait]
impl Source for Bandwidth {
    delegate!();

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.inner.page(prefix, token).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let known = known_bytes(request);
        let _booking = self.turn(known.unwrap_or(0), request.gate.as_deref()).await;
        let read = self.inner.read(request, buffers).await;
        if let (None, Ok(object)) = (known, &read) {
            self.book(object.bytes.len() as u64);
        }
        read
    }
}
