//! Neighbouring ranges as one request.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;
use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::delegate;
use super::signals::Signals;
use crate::buffer::BufferPool;
use crate::error::Result;
use crate::metrics::Metric;
use crate::source::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source, Version};

/// Ranges further apart than this are cheaper apart: what lies between them takes longer than a request of its own.
pub const GAP_BYTES: u64 = 64 << 10;
/// A request that grew to this is long enough.
const MOST_BYTES: u64 = 8 << 20;
/// How long the first of several waits for the others: nothing beside a request, and enough for whoever asks for them in turn.
const GATHERED_FOR: Duration = Duration::from_micros(300);

/// Gathers small ranges of one object that are asked for at the same time, and asks for those that lie close together as one.
/// Whole objects and large ranges pass at once.
#[derive(Debug)]
pub struct Coalesce {
    inner: Arc<dyn Source>,
    gap_bytes: u64,
    gathering: Mutex<HashMap<(String, Version), Vec<Wish>>>,
    signals: Arc<Signals>,
}

#[derive(Debug)]
struct Wish {
    range: Range<u64>,
    answer: oneshot::Sender<Result<ObjectBytes>>,
}

impl Coalesce {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, gap_bytes: u64, signals: Arc<Signals>) -> Self {
        Self { inner, gap_bytes, gathering: Mutex::default(), signals }
    }

    /// Reads what was gathered; one answer for each wish.
    async fn serve(&self, request: &ReadRequest, wishes: Vec<Wish>, buffers: &BufferPool) {
        let groups = grouped(wishes, self.gap_bytes);
        let reads = groups.into_iter().map(|(range, wishes)| async move {
            self.signals.add(Metric::SourceRangesCoalesced, wishes.len() as u64 - 1);
            let read = self.inner.read(&ReadRequest { range: Some(range.clone()), ..request.clone() }, buffers).await;
            if read.is_err() && wishes.len() > 1 {
                // What is wrong with one need not be wrong with the others: each asks by itself.
                return;
            }
            for wish in wishes {
                let part = |object: &ObjectBytes| {
                    let at = (wish.range.start - range.start) as usize..(wish.range.end - range.start) as usize;
                    ObjectBytes { bytes: object.bytes.slice(at), meta: object.meta.clone() }
                };
                let _ = wish.answer.send(read.as_ref().map(part).map_err(Clone::clone));
            }
        });
        futures_util::future::join_all(reads).await;
    }
}

/// Wishes that lie close together, each group with the range that holds them all.
fn grouped(mut wishes: Vec<Wish>, gap_bytes: u64) -> Vec<(Range<u64>, Vec<Wish>)> {
    wishes.sort_unstable_by_key(|wish| (wish.range.start, wish.range.end));
    let mut groups: Vec<(Range<u64>, Vec<Wish>)> = Vec::new();
    for wish in wishes {
        match groups.last_mut() {
            Some((range, group))
                if wish.range.start <= range.end.saturating_add(gap_bytes)
                    && wish.range.end.saturating_sub(range.start) <= MOST_BYTES =>
            {
                range.end = range.end.max(wish.range.end);
                group.push(wish);
            }
            _ => groups.push((wish.range.clone(), vec![wish])),
        }
    }
    groups
}

#[async_trait]
impl Source for Coalesce {
    delegate!();

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.inner.page(prefix, token).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let small =
            request.range.clone().filter(|range| range.start < range.end && range.end - range.start < MOST_BYTES);
        let Some(range) = small else { return self.inner.read(request, buffers).await };
        let (answer, answered) = oneshot::channel();
        let key = (request.key.clone(), request.version.clone());
        let is_first = {
            let mut gathering = self.gathering.lock();
            let wishes = gathering.entry(key.clone()).or_default();
            wishes.push(Wish { range, answer });
            wishes.len() == 1
        };
        if is_first {
            // Whoever leaves while gathering leaves nobody waiting.
            let wishes = {
                let gathered = Gathered { of: self, key, is_taken: false.into() };
                sleep(GATHERED_FOR).await;
                gathered.take()
            };
            self.serve(request, wishes, buffers).await;
        }
        match answered.await {
            Ok(read) => read,
            // Nobody asked for this one, or together with others in vain.
            Err(_) => self.inner.read(request, buffers).await,
        }
    }
}

/// Wishes that one caller has promised to serve.
struct Gathered<'a> {
    of: &'a Coalesce,
    key: (String, Version),
    is_taken: std::sync::atomic::AtomicBool,
}

impl Gathered<'_> {
    fn take(&self) -> Vec<Wish> {
        self.is_taken.store(true, std::sync::atomic::Ordering::Relaxed);
        self.of.gathering.lock().remove(&self.key).unwrap_or_default()
    }
}

impl Drop for Gathered<'_> {
    fn drop(&mut self) {
        // Nothing is there any more when they were taken: the lock is not let go in between.
        if !*self.is_taken.get_mut() {
            drop(self.take());
        }
    }
}
