//! Large objects in several parts at once.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::delegate;
use super::signals::Signals;
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::source::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source, Version};

/// Bytes of a part. Smaller ones would pay more latency than they hide.
pub const PART_BYTES: u64 = 8 << 20;
/// An object of fewer parts than this is asked for whole.
const FEWEST_PARTS: u64 = 4;

/// Parts of one object that are asked for at once.
const PARTS_AT_ONCE: usize = 16;
/// A part that failed in a way that may pass is asked for again at once; whoever reads the object begins anew after that.
const TRIES: usize = 3;

/// Reads an object of known, large size as ranges, all of one version.
///
/// Only an entity tag says that parts belong together: of what has none, such as a time of change, the whole is asked for, and so
/// it is where a source does not answer ranges. Memory for the whole is taken once all parts have come, so that a size that is
/// not true costs nothing. The parts are copied together, at a tenth of what a fast network takes to bring them.
#[derive(Debug)]
pub struct Parts {
    inner: Arc<dyn Source>,
    part_bytes: u64,
    signals: Arc<Signals>,
}

impl Parts {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, part_bytes: u64, signals: Arc<Signals>) -> Self {
        Self { inner, part_bytes: part_bytes.max(1), signals }
    }

    async fn read_part(&self, part: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let mut tries = 1;
        loop {
            match self.inner.read(part, buffers).await {
                Err(error) if error.is_transient() && !error.is_throttled() && tries < TRIES => tries += 1,
                read => return read,
            }
        }
    }

    async fn read_parts(&self, request: &ReadRequest, whole: Range<u64>, buffers: &BufferPool) -> Result<ObjectBytes> {
        let part = |start: u64, version: &Version| {
            let range = start..start.saturating_add(self.part_bytes).min(whole.end);
            ReadRequest { range: Some(range), version: version.clone(), ..request.clone() }
        };
        let is_weak = |version: &Version| !matches!(version, Version::ETag(tag) if !tag.starts_with("W/"));
        let mut starts = (whole.start..whole.end).step_by(self.part_bytes as usize);
        let mut read = Vec::new();
        let mut version = request.version.clone();
        if version == Version::Unknown {
            // Which version there is has to be known before the others can be asked for the same.
            let first = self.read_part(&part(whole.start, &version), buffers).await?;
            version = first.meta.version.clone();
            read.push(first);
            starts.next();
        }
        if is_weak(&version) {
            return Err(Error::new(ErrorKind::Unsupported, "read", self.uri_of(&request.key)));
        }
        let rest = stream::iter(starts).map(|start| {
            let part = part(start, &version);
            async move { self.read_part(&part, buffers).await }
        });
        read.extend(rest.buffered(PARTS_AT_ONCE).try_collect::<Vec<_>>().await?);
        let meta = read[0].meta.clone();
        let is_one = |part: &ObjectBytes| part.meta.size == meta.size && part.meta.version == meta.version;
        if !read.iter().all(is_one) {
            return Err(Error::new(ErrorKind::Changed, "read", self.uri_of(&request.key))
                .because("it was replaced while its parts were read"));
        }
        let mut buffer = buffers.take((whole.end - whole.start) as usize);
        let mut at = 0;
        for part in read {
            buffer[at..at + part.bytes.len()].copy_from_slice(&part.bytes);
            at += part.bytes.len();
        }
        self.signals.count(Metric::SourceReadsInParts);
        Ok(ObjectBytes { bytes: buffer.freeze(), meta })
    }
}

#[async_trait]
impl Source for Parts {
    delegate!();

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.inner.page(prefix, token).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let whole = request.range.clone().or(request.size.map(|size| 0..size));
        let large =
            whole.filter(|range| range.end.saturating_sub(range.start) >= FEWEST_PARTS.saturating_mul(self.part_bytes));
        let Some(whole) = large else { return self.inner.read(request, buffers).await };
        match self.read_parts(request, whole, buffers).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => self.inner.read(request, buffers).await,
            read => read,
        }
    }
}
