//! No faster than allowed.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;
use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use super::delegate;
use super::retry::known_bytes;
use crate::buffer::BufferPool;
use crate::error::Result;
use crate::source::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source};

/// What may come at once after a pause, in seconds of the rate: so that an idle moment is not lost.
const BURST: Duration = Duration::from_millis(250);

/// Begins reads no sooner than a rate over all of them allows. Bytes are booked before they are asked for where their number is
/// known, else afterwards.
#[derive(Debug)]
pub struct Bandwidth {
    inner: Arc<dyn Source>,
    bytes_per_second: u64,
    /// When everything booked so far has come at that rate.
    booked_until: Mutex<Option<Instant>>,
}

impl Bandwidth {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, bytes_per_second: u64) -> Self {
        Self { inner, bytes_per_second: bytes_per_second.max(1), booked_until: Mutex::new(None) }
    }

    /// Books bytes; when they may be asked for.
    fn book(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let mut booked = self.booked_until.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = booked.map_or(earliest, |until| until.max(earliest));
        *booked = Some(from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64));
        from
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
        sleep_until(self.book(known.unwrap_or(0))).await;
        let read = self.inner.read(request, buffers).await;
        if let (None, Ok(object)) = (known, &read) {
            self.book(object.bytes.len() as u64);
        }
        read
    }
}
