//! No request takes for ever.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::timeout;

use super::delegate;
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{ObjectBytes, ObjectMeta, Page, ReadRequest, Source};

/// What every request gets.
const BASE: Duration = Duration::from_mins(1);
/// Slower than this is as good as dead.
const SLOWEST_BYTES_PER_SECOND: u64 = 1_000_000;

/// Gives every request a total deadline: 60 s, and a second more per megabyte.
///
/// A range says how long it is. The size of a whole object is asked for once the 60 s have passed and the object is not
/// there: until then it does not matter.
#[derive(Debug)]
pub struct Deadline {
    inner: Arc<dyn Source>,
}

impl Deadline {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>) -> Self {
        Self { inner }
    }

    fn exceeded(&self, op: &'static str, key: &str, after: Duration) -> Error {
        Error::new(ErrorKind::Timeout, op, self.uri_of(key))
            .because(format_args!("not finished after {} s, its deadline", after.as_secs()))
    }

    async fn more_time(&self, request: &ReadRequest) -> Option<Duration> {
        let bytes = match &request.range {
            Some(range) => range.end.saturating_sub(range.start),
            None => timeout(BASE, self.inner.head(&request.key)).await.ok()?.ok()?.size,
        };
        Some(Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND))
    }
}

#[async_trait]
impl Source for Deadline {
    delegate!();

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Page>> {
        let pages = futures_util::stream::unfold(Some(self.inner.list(prefix)), move |pages| async move {
            let mut pages = pages?;
            match timeout(BASE, pages.next()).await {
                Ok(page) => page.map(|page| (page, Some(pages))),
                Err(_) => Some((Err(self.exceeded("list", prefix, BASE)), None)),
            }
        });
        pages.boxed()
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        timeout(BASE, self.inner.head(key)).await.unwrap_or_else(|_| Err(self.exceeded("look at", key, BASE)))
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let mut read = self.inner.read(request, buffers);
        if let Ok(done) = timeout(BASE, &mut read).await {
            return done;
        }
        let more = self.more_time(request).await.unwrap_or_default();
        let expired = |_| Err(self.exceeded("read", &request.key, BASE + more));
        timeout(more, &mut read).await.unwrap_or_else(expired)
    }
}
