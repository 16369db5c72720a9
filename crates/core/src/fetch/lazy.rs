//! A replica that could not be reached at first.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::buffer::BufferPool;
use crate::error::Result;
use crate::source::{self, Listed, ObjectBytes, ObjectMeta, ReadRequest, Source, SourceSpec, Transport};

/// Opens a source when it is asked for something, again and again until that succeeds.
#[derive(Debug)]
pub struct Lazy {
    spec: SourceSpec,
    transport: Transport,
    uri: String,
    endpoint: Option<String>,
    opened: OnceCell<Arc<dyn Source>>,
}

impl Lazy {
    /// Asks nothing yet; `endpoint` is what the source will say of itself.
    pub fn new(spec: SourceSpec, endpoint: Option<String>, transport: Transport) -> Self {
        let uri = spec.shown_uri().trim_end_matches('/').to_owned();
        Self { spec, transport, uri, endpoint, opened: OnceCell::new() }
    }

    async fn source(&self) -> Result<&Arc<dyn Source>> {
        self.opened.get_or_try_init(|| source::open_with(&self.spec, &self.transport)).await
    }
}

#[async_trait]
impl Source for Lazy {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.source().await?.page(prefix, token).await
    }

    fn publish<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.source().await?.publish(key, bytes).await })
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.source().await?.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        self.source().await?.read(request, buffers).await
    }
}
