//! Large objects in several parts at once.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::try_join_all;

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

/// Reads an object of known, large size as ranges, all of one version, each of which is retried and hedged on its own.
///
/// The first range says which version the others have to be. A source that does not answer ranges is asked for the whole.
/// The parts are copied together, at a tenth of what a fast network takes to bring them.
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

    async fn read_parts(&self, request: &ReadRequest, whole: Range<u64>, buffers: &BufferPool) -> Result<ObjectBytes> {
        let part = |start: u64, version: &Version| {
            let range = start..(start + self.part_bytes).min(whole.end);
            ReadRequest { range: Some(range), version: version.clone(), ..request.clone() }
        };
        let starts = (whole.start..whole.end).step_by(self.part_bytes as usize).skip(1);
        let mut buffer = buffers.take((whole.end - whole.start) as usize);
        let first = part(whole.start, &request.version);
        let (meta, rest) = if request.version == Version::Unknown {
            // Which version there is has to be known before the others can be asked for the same.
            let first = self.inner.read(&first, buffers).await?;
            if first.meta.version == Version::Unknown {
                // Parts of what has no version might be of two.
                return Err(Error::new(ErrorKind::Unsupported, "read", self.uri_of(&request.key)));
            }
            buffer[..first.bytes.len()].copy_from_slice(&first.bytes);
            let requests: Vec<_> = starts.map(|start| part(start, &first.meta.version)).collect();
            let rest = try_join_all(requests.iter().map(|part| self.inner.read(part, buffers))).await?;
            (first.meta, requests.into_iter().zip(rest).collect::<Vec<_>>())
        } else {
            let requests: Vec<_> =
                std::iter::once(first).chain(starts.map(|start| part(start, &request.version))).collect();
            let read = try_join_all(requests.iter().map(|part| self.inner.read(part, buffers))).await?;
            (read[0].meta.clone(), requests.into_iter().zip(read).collect())
        };
        for (part, read) in &rest {
            let range = part.range.clone().unwrap_or_default();
            if read.meta.size != meta.size || read.meta.version != meta.version {
                return Err(Error::new(ErrorKind::Changed, "read", self.uri_of(&request.key))
                    .because("it was replaced while its parts were read"));
            }
            let at = (range.start - whole.start) as usize;
            buffer[at..at + read.bytes.len()].copy_from_slice(&read.bytes);
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
        let large = whole.filter(|range| range.end.saturating_sub(range.start) >= FEWEST_PARTS * self.part_bytes);
        let Some(whole) = large else { return self.inner.read(request, buffers).await };
        match self.read_parts(request, whole, buffers).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => self.inner.read(request, buffers).await,
            read => read,
        }
    }
}
