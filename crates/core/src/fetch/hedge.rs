//! A second request when the first one takes unusually long.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;
use async_trait::async_trait;
use futures_util::future::{Either, select};
use tokio::time::{Instant, sleep};

use super::delegate;
use super::latency::Latencies;
use super::retry::known_bytes;
use super::signals::Signals;
use crate::buffer::BufferPool;
use crate::error::Result;
use crate::metrics::Metric;
use crate::source::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source};

/// Second requests per request, at most. Twice as many would cost a busy source more than they save.
pub const HEDGE_BUDGET: f64 = 0.05;
/// Budget that is kept for a bad moment, in requests.
const MOST_SAVED: f64 = 20.0;
/// How much longer than 95 of 100 requests one takes before it is unusual: just above, there are many, and they are nearly done.
const UNUSUAL: f64 = 1.25;
const AT_LEAST_LATER: Duration = Duration::from_millis(2);

/// Asks a second time when an answer takes longer than 95 of 100 did, and takes what comes first; the other is dropped.
///
/// A budget keeps the second requests to a share of all, so that a source that is slow altogether is not asked twice as much.
#[derive(Debug)]
pub struct Hedge {
    inner: Arc<dyn Source>,
    share: f64,
    latencies: Latencies,
    budget: Mutex<f64>,
    signals: Arc<Signals>,
}

impl Hedge {
    /// Wraps a source; `share` is of second requests in all.
    pub fn new(inner: Arc<dyn Source>, share: f64, signals: Arc<Signals>) -> Self {
        Self { inner, share, latencies: Latencies::default(), budget: Mutex::new(1.0), signals }
    }

    /// When to ask again, if the budget allows it then.
    fn patience(&self, bytes: u64) -> Option<Duration> {
        let mut budget = self.budget.lock();
        *budget = (*budget + self.share).min(MOST_SAVED);
        drop(budget);
        self.latencies.p95(bytes).map(|p95| p95.mul_f64(UNUSUAL).max(p95 + AT_LEAST_LATER))
    }

    fn may_ask_again(&self) -> bool {
        let mut budget = self.budget.lock();
        let may = *budget >= 1.0;
        if may {
            *budget -= 1.0;
        }
        may
    }
}

#[async_trait]
impl Source for Hedge {
    delegate!();

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.inner.page(prefix, token).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let bytes = known_bytes(request).unwrap_or_default();
        let began = Instant::now();
        // What an answer took counts from the first request: else the rare long ones would never be seen.
        let seen = |read: Result<ObjectBytes>| {
            if read.is_ok() {
                self.latencies.record(bytes, began.elapsed());
            }
            read
        };
        let patience = self.patience(bytes);
        let first = self.inner.read(request, buffers);
        let Some(patience) = patience else { return seen(first.await) };
        let first = match select(first, pin!(sleep(patience))).await {
            Either::Left((read, _)) => return seen(read),
            Either::Right(((), first)) => first,
        };
        if !self.may_ask_again() {
            return seen(first.await);
        }
        self.signals.count(Metric::SourceHedges);
        let (read, other, is_second) = match select(first, self.inner.read(request, buffers)).await {
            Either::Left((read, second)) => (read, second, false),
            Either::Right((read, first)) => (read, first, true),
        };
        if read.is_ok() {
            if is_second {
                self.signals.count(Metric::SourceHedgesWon);
            }
            return seen(read);
        }
        // One that failed says nothing of the other.
        seen(other.await)
    }
}
