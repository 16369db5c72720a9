//! Again, until a deadline.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};

use super::signals::Signals;
use super::{Policies, delegate};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::source::{self, Listed, ObjectBytes, ObjectMeta, ReadRequest, Source, SourceSpec};

/// How long to try, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// What every request gets in all, pauses included. Default: 60 s, in which a restarting gateway is back.
    pub deadline: Duration,
    /// Slower than this is as good as dead: a second more per so many bytes. Default: 1 MB/s.
    pub slowest_bytes_per_second: u64,
    /// Further tries after the first. Default: 8, which pauses make 20 s of.
    pub retries: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self { deadline: Duration::from_mins(1), slowest_bytes_per_second: 1_000_000, retries: 8 }
    }
}

impl Patience {
    /// What a request of so many bytes gets in all.
    pub fn for_bytes(&self, bytes: u64) -> Duration {
        self.deadline + Duration::from_secs(bytes / self.slowest_bytes_per_second.max(1))
    }
}

/// The pause before the first further try; each later one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Whoever waits for a dataset to open wants to know soon that an address is wrong.
const OPEN_RETRIES: usize = 3;
/// Attempts that an error tells of.
const ATTEMPTS_SHOWN: usize = 3;

/// Tries again what may pass — after a pause that doubles and is jittered, or that the remote names — until a total deadline,
/// whose error tells of the attempts.
///
/// A range or a listed size says how long a request may take. Where neither is known, the object's size is asked for once the
/// base has passed and the object is not there: until then it does not matter.
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn Source>,
    patience: Patience,
    signals: Arc<Signals>,
}

impl Retry {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, patience: Patience, signals: Arc<Signals>) -> Self {
        Self { inner, patience, signals }
    }

    async fn until_done<T, F: Future<Output = Result<T>> + Send>(
        &self,
        op: &'static str,
        name: impl Fn() -> String + Send + Sync,
        request: Option<&ReadRequest>,
        attempt: impl Fn() -> F + Send + Sync,
    ) -> Result<T> {
        let mut bytes = request.and_then(known_bytes);
        let began = Instant::now();
        let mut allowed = self.patience.for_bytes(bytes.unwrap_or_default());
        let mut failures = Failures::default();
        for number in 0.. {
            let mut trying = std::pin::pin!(attempt());
            let mut tried = timeout_at(began + allowed, &mut trying).await;
            if let (Err(_), Some(request), None) = (&tried, request, bytes) {
                let head = timeout_at(Instant::now() + self.patience.deadline, self.inner.head(&request.key)).await;
                bytes = Some(head.ok().and_then(Result::ok).map_or(0, |meta| meta.size));
                allowed = self.patience.for_bytes(bytes.unwrap_or_default());
                tried = timeout_at(began + allowed, &mut trying).await;
            }
            let error = match tried {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.signals.count(Metric::SourceTimeouts);
                    let waited = format!("not finished after {} s, its deadline{failures}", allowed.as_secs());
                    return Err(Error::new(ErrorKind::Timeout, op, name()).because(waited));
                }
            };
            if error.is_throttled() {
                self.signals.throttled();
            }
            let pause = error.retry_after().unwrap_or_else(|| pause_before(number));
            if !error.is_transient() || number >= self.patience.retries || began.elapsed() + pause >= allowed {
                return Err(if number == 0 {
                    error
                } else {
                    error.because(format_args!("the last of {} attempts", number + 1))
                });
            }
            failures.note(&error);
            self.signals.count(Metric::SourceRetries);
            tracing::debug!("trying again in {} ms: {}", pause.as_millis(), error.report());
            sleep(pause).await;
        }
        Err(Error::new(ErrorKind::Internal, op, name()).because("there were more attempts than there are numbers"))
    }
}

/// Opens a source: again where that may help, and not for longer than anything else may take. What will not pass shows within
/// a second.
///
/// # Errors
/// Those of [`source::open_with`], and `Timeout`.
pub async fn open(spec: &SourceSpec, policies: &Policies) -> Result<Arc<dyn Source>> {
    let allowed = policies.patience.deadline;
    let ends = Instant::now() + allowed;
    let mut failures = Failures::default();
    loop {
        let opened = timeout_at(ends, source::open_with(spec, &policies.transport)).await;
        let error = match opened {
            Ok(Ok(source)) => return Ok(source),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(Error::new(ErrorKind::Timeout, "open", spec.shown_uri())
                    .because(format_args!("not finished after {} s, its deadline{failures}", allowed.as_secs())));
            }
        };
        let pause = error.retry_after().unwrap_or_else(|| pause_before(failures.count));
        if !error.is_transient()
            || failures.count >= policies.patience.retries.min(OPEN_RETRIES)
            || Instant::now() + pause >= ends
        {
            return Err(error);
        }
        failures.note(&error);
        sleep(pause).await;
    }
}

/// Bytes that a request is for, where that can be told.
pub(super) fn known_bytes(request: &ReadRequest) -> Option<u64> {
    request.range.as_ref().map(|range| range.end.saturating_sub(range.start)).or(request.size)
}

/// Twice as long each time, less up to half of it: so that those who failed together do not come back together.
fn pause_before(number: usize) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << number.min(16)).min(LONGEST_PAUSE);
    full.mul_f64(super::signals::jitter())
}

/// Attempts that failed, for the error at the end.
#[derive(Default)]
struct Failures {
    count: usize,
    shown: Vec<String>,
}

impl Failures {
    fn note(&mut self, error: &Error) {
        self.count += 1;
        if self.shown.len() < ATTEMPTS_SHOWN {
            self.shown.push(error.report());
        }
    }
}

impl std::fmt::Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, error) in self.shown.iter().enumerate() {
            write!(f, "; attempt {}: {error}", number + 1)?;
        }
        let more = self.count - self.shown.len();
        if more > 0 { write!(f, "; and {more} more") } else { Ok(()) }
    }
}

#[async_trait]
impl Source for Retry {
    delegate!(told);

    fn publish<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let all = ReadRequest { size: Some(bytes.len() as u64), ..ReadRequest::whole(key) };
            self.until_done("write", || self.uri_of(key), Some(&all), || self.inner.publish(key, bytes.clone())).await
        })
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.until_done("list", || self.uri().to_owned(), None, || self.inner.page(prefix, token)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.until_done("look at", || self.uri_of(key), None, || self.inner.head(key)).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let name = || self.uri_of(&request.key);
        self.until_done("read", name, Some(request), || self.inner.read(request, buffers)).await
    }
}
