//! Not too much at once.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::Semaphore;

use super::delegate;
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{ObjectBytes, ObjectMeta, Page, ReadRequest, Source};

/// Lets so many reads go on at once; the others wait for their turn in order.
#[derive(Debug)]
pub struct Limit {
    inner: Arc<dyn Source>,
    turns: Semaphore,
}

impl Limit {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, max_concurrent: usize) -> Self {
        Self { inner, turns: Semaphore::new(max_concurrent.max(1)) }
    }
}

#[async_trait]
impl Source for Limit {
    delegate!();

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Page>> {
        self.inner.list(prefix)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let turn = self.turns.acquire().await;
        let _turn = turn.map_err(|cause| Error::new(ErrorKind::Internal, "read", self.uri()).caused_by(cause))?;
        self.inner.read(request, buffers).await
    }
}
