//! Several sources that hold the same objects.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use xxhash_rust::xxh3::xxh3_64;

use super::breaker::Breaker;
use super::latency::Latencies;
use super::retry::known_bytes;
use super::signals::Signals;
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::source::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source, Version};

/// An answer that takes this many times what 95 of 100 took makes the next replica worth a try.
const UNUSUAL: f64 = 4.0;
const LEAST_PATIENCE: Duration = Duration::from_millis(200);
const MOST_PATIENCE: Duration = Duration::from_secs(1);
/// Until enough was seen, a slow replica is one that brings less than this besides.
const SLOW_BYTES_PER_SECOND: f64 = 20e6;

/// Asks the first replica, and the next one when it fails or takes unusually long; what comes first is taken.
///
/// A replica that fails repeatedly is left alone for a while (see `breaker`), and one that serves other content than the
/// others counts as failing. Content is the same when the size is the listed one and the bytes are those that were read first,
/// from whichever replica: 16 bytes per object are kept for that. Each replica has versions of its own: the listed one is asked
/// of the replica that was listed, the first.
#[derive(Debug)]
pub struct Failover {
    replicas: Vec<Replica>,
    /// Hash of what was read first, by hash of the key.
    contents: Mutex<HashMap<u64, u64>>,
    latencies: Latencies,
    signals: Arc<Signals>,
}

#[derive(Debug)]
struct Replica {
    source: Arc<dyn Source>,
    breaker: Breaker,
}

impl Failover {
    /// Joins replicas, in order of preference; there is at least one.
    pub fn new(sources: Vec<Arc<dyn Source>>, signals: Arc<Signals>) -> Self {
        let replicas = sources.into_iter().map(|source| Replica { source, breaker: Breaker::default() }).collect();
        Self { replicas, contents: Mutex::default(), latencies: Latencies::default(), signals }
    }

    /// Replicas to ask, in order: those whose breakers allow it first, the others when all of those fail.
    fn order(&self) -> Vec<usize> {
        let (mut allowed, resting): (Vec<_>, Vec<_>) =
            (0..self.replicas.len()).partition(|&at| self.replicas[at].breaker.allows());
        allowed.extend(resting);
        allowed
    }

    fn patience(&self, bytes: u64) -> Duration {
        match self.latencies.p95(bytes) {
            Some(p95) => p95.mul_f64(UNUSUAL).clamp(LEAST_PATIENCE, MOST_PATIENCE.max(p95 * 2)),
            None => MOST_PATIENCE + Duration::from_secs_f64(bytes as f64 / SLOW_BYTES_PER_SECOND),
        }
    }

    async fn read_from(&self, at: usize, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let replica = &self.replicas[at];
        replica.breaker.asked();
        let began = Instant::now();
        let version = if at == 0 { request.version.clone() } else { Version::Unknown };
        let own = ReadRequest { version, ..request.clone() };
        let read = replica.source.read(&own, buffers).await;
        let read = match read {
            Ok(object) => self.checked(replica, request, object),
            // No version was asked for: it is the size that is another.
            Err(error) if error.kind() == ErrorKind::Changed && own.version == Version::Unknown => {
                self.signals.count(Metric::ReplicaRefused);
                let name = replica.source.uri_of(&request.key);
                Err(Error::new(ErrorKind::Corrupt, "read", name)
                    .because("the replica serves other content")
                    .caused_by(error))
            }
            Err(error) => Err(error),
        };
        match &read {
            Ok(_) => self.succeeded(at, began),
            Err(error) => self.failed(at, error),
        }
        read
    }

    fn succeeded(&self, at: usize, began: Instant) {
        if self.replicas[at].breaker.succeeded(began) {
            tracing::warn!("`{}` is back: it is read from again", self.replicas[at].source.uri());
            self.signals.subtract(Metric::ReplicasOpen, 1);
        }
    }

    /// What an object's absence or replacement says of a replica is nothing about the others that it holds.
    fn failed(&self, at: usize, error: &Error) {
        let counts = matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Denied | ErrorKind::Corrupt | ErrorKind::Io
        );
        if counts && self.replicas[at].breaker.failed() {
            tracing::warn!("`{}` is left alone for a while: {}", self.replicas[at].source.uri(), error.report());
            self.signals.count(Metric::ReplicaBreakerOpened);
            // Other fields have replicas too.
            self.signals.add(Metric::ReplicasOpen, 1);
        }
    }

    /// The object, if it is the one that was listed and that others serve.
    fn checked(&self, replica: &Replica, request: &ReadRequest, object: ObjectBytes) -> Result<ObjectBytes> {
        let refused = |words: String| {
            self.signals.count(Metric::ReplicaRefused);
            Error::new(ErrorKind::Corrupt, "read", replica.source.uri_of(&request.key)).because(words)
        };
        if let Some(size) = request.size.filter(|&size| size != object.meta.size) {
            return Err(refused(format!(
                "the replica serves other content: {} bytes instead of the listed {size}",
                object.meta.size
            )));
        }
        // Whoever names no size takes the object as it is now, so that other bytes are no lie.
        if request.range.is_none() && request.size.is_some() {
            let (key, content) = (xxh3_64(request.key.as_bytes()), xxh3_64(&object.bytes));
            let first = *self.contents.lock().entry(key).or_insert(content);
            if first != content {
                return Err(refused("the replica serves other bytes than were read first".to_owned()));
            }
        }
        Ok(object)
    }

    /// The first replica's answer that is one, for what needs no race.
    async fn first<'a, T, F: Future<Output = Result<T>> + Send>(
        &'a self,
        op: &'static str,
        name: &str,
        ask: impl Fn(usize, &'a dyn Source) -> F + Send + Sync,
    ) -> Result<T> {
        let mut errors = Vec::new();
        for at in self.order() {
            self.replicas[at].breaker.asked();
            let began = Instant::now();
            match ask(at, self.replicas[at].source.as_ref()).await {
                Ok(done) => {
                    self.succeeded(at, began);
                    return Ok(done);
                }
                Err(error) => {
                    self.failed(at, &error);
                    errors.push(error);
                }
            }
        }
        Err(all_failed(op, name, &errors))
    }
}

/// One error of all. Its kind is the one that leaves most hope: what may pass, before what will not.
pub(crate) fn all_failed(op: &'static str, name: &str, errors: &[Error]) -> Error {
    let rank = |error: &&Error| match error.kind() {
        ErrorKind::Timeout | ErrorKind::Unavailable => 0,
        ErrorKind::Changed => 1,
        ErrorKind::Corrupt => 2,
        ErrorKind::Denied => 3,
        ErrorKind::NotFound => 5,
        _ => 4,
    };
    let kind = errors.iter().min_by_key(rank).map_or(ErrorKind::Internal, Error::kind);
    let reports: Vec<_> = errors.iter().map(Error::report).collect();
    let pause = errors.iter().filter_map(Error::retry_after).min();
    let error = Error::new(kind, op, name).because(format_args!("every replica failed: {}", reports.join("; ")));
    // Pages and clients that are throttled everywhere slow down.
    if errors.iter().all(Error::is_throttled) { error.throttled(pause) } else { error.retried_after(pause) }
}

#[async_trait]
impl Source for Failover {
    fn uri(&self) -> &str {
        self.replicas[0].source.uri()
    }

    fn is_pinned(&self) -> bool {
        self.replicas[0].source.is_pinned()
    }

    fn credentials(&self) -> String {
        self.replicas[0].source.credentials()
    }

    fn uri_of(&self, key: &str) -> String {
        self.replicas[0].source.uri_of(key)
    }

    /// To the first one: the others are made from it.
    fn publish<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        self.replicas[0].source.publish(key, bytes)
    }

    /// Tokens name the replica that gave them, since only that one understands them. Versions of another than the first are
    /// left out: the first will be asked for them.
    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        let (of, token) = match token.and_then(|token| token.split_once(':')) {
            Some((at, token)) => (at.parse::<usize>().ok(), Some(token)),
            None => (None, None),
        };
        let own = |at: usize, mut listed: Listed| {
            listed.next.iter_mut().for_each(|token| *token = format!("{at}:{token}"));
            if at > 0 {
                listed.objects.iter_mut().for_each(|object| object.version = Version::Unknown);
            }
            listed
        };
        if let Some(at) = of.filter(|&at| at < self.replicas.len()) {
            return self.replicas[at].source.page(prefix, token).await.map(|listed| own(at, listed));
        }
        let (at, listed) =
            self.first("list", self.uri(), |at, source| async move {
                source.page(prefix, None).await.map(|page| (at, page))
            })
            .await?;
        Ok(own(at, listed))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.first("look at", &self.uri_of(key), |_, source| source.head(key)).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let bytes = known_bytes(request).unwrap_or_default();
        let began = Instant::now();
        let order = self.order();
        let mut waiting = order.iter().copied();
        let mut asked = FuturesUnordered::new();
        let ask = |at: usize| async move { (at, self.read_from(at, request, buffers).await) };
        let mut slow = Vec::new();
        let mut errors = Vec::new();
        let mut until = began;
        loop {
            // Another replica, once the patience with the last one is over or none is left that might answer.
            if let Some(at) = (asked.is_empty() || Instant::now() >= until).then(|| waiting.next()).flatten() {
                if at != order[0] {
                    self.signals.count(Metric::ReplicaFailovers);
                }
                asked.push(ask(at));
                slow.push(at);
                until = Instant::now() + self.patience(bytes);
            }
            let answered = if waiting.len() == 0 {
                asked.next().await
            } else {
                match select(asked.next(), pin!(sleep_until(until))).await {
                    Either::Left((answered, _)) => answered,
                    Either::Right(_) => continue,
                }
            };
            match answered {
                Some((at, Ok(object))) => {
                    self.latencies.record(bytes, began.elapsed());
                    // Whoever was asked before and has not answered yet was outrun by far.
                    let outrun = slow.iter().take_while(|&&other| other != at);
                    for &other in outrun.filter(|&&other| !errors.iter().any(|(failed, _)| *failed == other)) {
                        let words = "it did not answer in several times the usual time";
                        let error =
                            Error::new(ErrorKind::Timeout, "read", self.replicas[other].source.uri_of(&request.key));
                        self.failed(other, &error.because(words));
                    }
                    return Ok(object);
                }
                Some((at, Err(error))) => {
                    errors.push((at, error));
                    until = Instant::now();
                }
                None if waiting.len() == 0 => {
                    let errors: Vec<_> = errors.into_iter().map(|(_, error)| error).collect();
                    return Err(all_failed("read", &self.uri_of(&request.key), &errors));
                }
                None => {}
            }
        }
    }
}
