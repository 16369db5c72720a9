//! Several sources that hold the same objects.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::Mutex;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use xxhash_rust::xxh3::xxh3_64;

use super::breaker::Breaker;
use super::latency::Latencies;
use super::retry::known_bytes;
use super::signals::Signals;
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Metric, SourceMetrics, Timing};
use crate::source::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source, Version};

/// An answer that takes this many times what 95 of 100 took makes the next replica worth a try.
const UNUSUAL: f64 = 4.0;
const LEAST_PATIENCE: Duration = Duration::from_millis(200);
const MOST_PATIENCE: Duration = Duration::from_secs(1);
/// Where a line is so thin that most answers take longer than that, asking twice would make it thinner: twice what is usual is
/// waited, up to here, and a little more than what is usual in any case.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
const LITTLE_MORE: f64 = 1.25;
/// A page may take long: servers look for the keys that are in it. Where they did, it may take this many times as long.
const PAGE_PATIENCE: Duration = Duration::from_secs(2);
const UNUSUAL_PAGE: u32 = 3;
/// And this part of the deadline, so that another replica can be listed within it.
const DEADLINE_SHARE: u32 = 3;
/// How often a page is asked for that another replica may give instead, and the pause before the second time; twice as long
/// before the third.
const PAGE_TRIES: u32 = 3;
const PAGE_PAUSE: Duration = Duration::from_millis(100);
/// Until enough was seen, a slow replica is one that brings less than this besides.
const SLOW_BYTES_PER_SECOND: f64 = 20e6;

/// Asks the first replica, and the next one when it fails or takes unusually long; what comes first is taken.
///
/// A replica that fails repeatedly is left alone for a while (see `breaker`), and one that serves other content than the
/// others counts as failing. Content is the same when the size is the listed one and the bytes are those of the listed version,
/// or until that was read, those that were read first from whichever replica: 16 bytes per object are kept for that. Each
/// replica has versions of its own: the listed one is asked of the replica that was listed, the first.
#[derive(Debug)]
pub struct Failover {
    replicas: Vec<Replica>,
    /// Hash of what was read first, by hash of the key.
    contents: Mutex<HashMap<u64, u64>>,
    /// Of those that answered, since they were asked.
    latencies: Latencies,
    slowest_page: Mutex<Duration>,
    /// When somebody last left who was waiting for an answer.
    left: Mutex<Option<Instant>>,
    /// What whoever asks has for one request.
    deadline: Duration,
    signals: Arc<Signals>,
}

#[derive(Debug)]
struct Replica {
    source: Arc<dyn Source>,
    breaker: Breaker,
    metrics: Arc<SourceMetrics>,
}

impl Failover {
    /// Joins replicas, in order of preference; there is at least one. Whoever asks waits until a deadline.
    pub fn new(sources: Vec<Arc<dyn Source>>, deadline: Duration, signals: Arc<Signals>) -> Self {
        let replicas = sources.into_iter().map(|source| {
            let metrics = signals.of_replica(&source.name());
            // It is not left alone yet, whatever the process that this one was forked from knew.
            metrics.set(Metric::ReplicasOpen, 0);
            Replica { source, breaker: Breaker::default(), metrics }
        });
        let replicas = replicas.collect();
        Self {
            replicas,
            contents: Mutex::default(),
            latencies: Latencies::default(),
            slowest_page: Mutex::default(),
            left: Mutex::default(),
            deadline,
            signals,
        }
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
            Some(p95) => {
                let slow = (p95 * 2).min(LAST_PATIENCE.max(p95.mul_f64(LITTLE_MORE)));
                p95.mul_f64(UNUSUAL).clamp(LEAST_PATIENCE, MOST_PATIENCE.max(slow))
            }
            None => MOST_PATIENCE + Duration::from_secs_f64(bytes as f64 / SLOW_BYTES_PER_SECOND),
        }
    }

    fn page_patience(&self) -> Duration {
        let usual = (*self.slowest_page.lock() * UNUSUAL_PAGE).min(LAST_PATIENCE * UNUSUAL_PAGE);
        PAGE_PATIENCE.max(usual).min(self.deadline / DEADLINE_SHARE)
    }

    /// Whether another one is worth asking.
    fn has_other(&self, at: usize) -> bool {
        self.replicas.iter().enumerate().any(|(other, replica)| other != at && !replica.breaker.is_open())
    }

    /// Asks a replica, and notes what that says of it. How long an answer took comes with it.
    async fn ask<T>(&self, at: usize, asking: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
        self.replicas[at].breaker.asked();
        let began = Instant::now();
        match asking.await {
            Ok(answer) => {
                self.succeeded(at, began);
                let took = began.elapsed();
                self.replicas[at].metrics.time(Timing::Answer, took.as_nanos() as u64);
                Ok((answer, took))
            }
            Err(error) => {
                self.replicas[at].metrics.record(&[(Metric::ReplicaErrors, 1)]);
                self.failed(at, &error);
                Err(error)
            }
        }
    }

    async fn read_from(&self, at: usize, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let replica = &self.replicas[at];
        let version = if at == 0 { request.version.clone() } else { Version::Unknown };
        let own = ReadRequest { version, ..request.clone() };
        match replica.source.read(&own, buffers).await {
            Ok(object) => self.checked(at, &own, object),
            // No version was asked for: it is the size that is another.
            Err(error) if error.kind() == ErrorKind::Changed && own.version == Version::Unknown => {
                Err(self.refused(at, request, "the replica serves other content").caused_by(error))
            }
            Err(error) => Err(error),
        }
    }

    fn succeeded(&self, at: usize, began: Instant) {
        if self.replicas[at].breaker.succeeded(began) {
            tracing::warn!("`{}` is back: it is read from again", self.replicas[at].source.uri());
            self.replicas[at].metrics.record(&[(Metric::ReplicasOpen, 1_u64.wrapping_neg())]);
        }
    }

    /// What an object's absence or replacement says of a replica is nothing about the others that it holds.
    fn failed(&self, at: usize, error: &Error) {
        let counts = matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Denied | ErrorKind::Corrupt | ErrorKind::Io
        );
        if counts && self.replicas[at].breaker.failed() {
            self.left_alone(at, error);
        }
    }

    fn left_alone(&self, at: usize, error: &Error) {
        tracing::warn!("`{}` is left alone for a while: {}", self.replicas[at].source.uri(), error.report());
        // Other fields have replicas too: of all together there may be several.
        self.replicas[at].metrics.record(&[(Metric::ReplicaBreakerOpened, 1), (Metric::ReplicasOpen, 1)]);
    }

    /// It did not answer in time.
    fn outrun(&self, at: usize, op: &'static str, name: String) {
        let words = "it did not answer in several times the usual time";
        self.failed(at, &Error::new(ErrorKind::Timeout, op, name).because(words));
    }

    fn refused(&self, at: usize, request: &ReadRequest, words: impl std::fmt::Display) -> Error {
        self.replicas[at].metrics.record(&[(Metric::ReplicaRefused, 1)]);
        Error::new(ErrorKind::Corrupt, "read", self.replicas[at].source.uri_of(&request.key)).because(words)
    }

    /// The object, if it is the one that was listed and that others serve.
    fn checked(&self, at: usize, request: &ReadRequest, object: ObjectBytes) -> Result<ObjectBytes> {
        if let Some(size) = request.size.filter(|&size| size != object.meta.size) {
            let words = format_args!(
                "the replica serves other content: {} bytes instead of the listed {size}",
                object.meta.size
            );
            return Err(self.refused(at, request, words));
        }
        // Whoever names no size takes the object as it is now, so that other bytes are no lie.
        if request.range.is_none() && request.size.is_some() {
            let (key, content) = (xxh3_64(request.key.as_bytes()), xxh3_64(&object.bytes));
            let known = match self.contents.lock().entry(key) {
                Entry::Occupied(mut known) => {
                    let before = *known.get();
                    if request.version != Version::Unknown {
                        known.insert(content);
                    }
                    before
                }
                Entry::Vacant(unknown) => *unknown.insert(content),
            };
            if known != content {
                if request.version == Version::Unknown {
                    return Err(self.refused(at, request, "the replica serves other bytes than were read first"));
                }
                self.signals.count(Metric::ReplicaRefused);
                tracing::warn!(
                    "another replica than `{}` served other bytes of `{}` than the listed version has",
                    self.replicas[at].source.uri(),
                    request.key
                );
            }
        }
        Ok(object)
    }

    /// Asks the replicas in order, the next one when one fails or patience with it is over: the first answer, whose it is, and how
    /// long that one took.
    async fn race<'a, T, F: Future<Output = Result<T>> + Send>(
        &'a self,
        op: &'static str,
        name: impl Fn(&'a dyn Source) -> String + Send,
        patience: Duration,
        ask: impl Fn(usize, &'a dyn Source) -> F,
    ) -> Result<(usize, T, Duration)> {
        let order = self.order();
        let mut waiting = order.iter();
        let mut asked = FuturesUnordered::new();
        let ask = |at: usize| {
            let asking = self.ask(at, ask(at, self.replicas[at].source.as_ref()));
            async move { (at, asking.await) }
        };
        let mut silent = Silent { of: self, op, name, patience, asked: Vec::new(), is_over: false };
        let mut errors = Vec::new();
        let mut until = Instant::now();
        loop {
            // Another replica, once the patience with the last one is over or none is left that might answer.
            if let Some(&at) = (asked.is_empty() || Instant::now() >= until).then(|| waiting.next()).flatten() {
                if at != order[0] {
                    self.signals.count(Metric::ReplicaFailovers);
                }
                asked.push(ask(at));
                silent.asked.push((at, Instant::now()));
                until = Instant::now() + patience;
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
                Some((at, Ok((answer, took)))) => {
                    // Whoever was asked before and has not answered yet was outrun by far; whoever was asked later was not.
                    let before = silent.asked.iter().position(|(asked, _)| *asked == at);
                    silent.asked.truncate(before.unwrap_or_default());
                    silent.is_over = true;
                    return Ok((at, answer, took));
                }
                Some((at, Err(error))) => {
                    silent.asked.retain(|(asked, _)| *asked != at);
                    errors.push(error);
                    until = Instant::now();
                }
                None if waiting.len() == 0 => return Err(all_failed(op, &(silent.name)(self), &errors)),
                None => {}
            }
        }
    }
}

/// Replicas that were asked and have not answered. When nobody waits any more, because another one answered or a deadline has
/// passed, that counts against those whose time was up. Of many who leave together only one counts: they may have lost interest.
struct Silent<'a, N: Fn(&'a dyn Source) -> String> {
    of: &'a Failover,
    op: &'static str,
    name: N,
    patience: Duration,
    asked: Vec<(usize, Instant)>,
    /// Another one answered.
    is_over: bool,
}

impl<'a, N: Fn(&'a dyn Source) -> String> Drop for Silent<'a, N> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut left = self.of.left.lock();
            if left.is_some_and(|left| left.elapsed() < self.patience) {
                return;
            }
            *left = Some(Instant::now());
        }
        for (at, began) in self.asked.drain(..) {
            if began.elapsed() >= self.patience {
                self.of.outrun(at, self.op, (self.name)(self.of.replicas[at].source.as_ref()));
            }
        }
    }
}

/// One error of all. Its kind is the one that leaves most hope: what may pass, before what will not. What one replica lacks, one
/// that is down may have: it was listed somewhere.
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

impl Failover {
    fn listed_in(&self, took: Duration) {
        let mut slowest = self.slowest_page.lock();
        *slowest = took.max(*slowest);
    }

    /// A page that only this replica can give. When it does not, the listing has to begin anew, at another one if there is one.
    async fn next_page(&self, at: usize, prefix: &str, token: Option<&str>) -> Result<Listed> {
        let replica = &self.replicas[at];
        let gone = |words: String| Err(Error::new(ErrorKind::Changed, "list", replica.source.uri()).because(words));
        if replica.breaker.is_open() && self.has_other(at) {
            return gone("the replica that was being listed fails, another one is there".to_owned());
        }
        for number in 1.. {
            let error = match self.page_in_time(at, prefix, token).await {
                Ok(listed) => return Ok(listed),
                Err(error) if !self.has_other(at) => return Err(error),
                Err(error) => error,
            };
            // Asked again, it may give the page after all.
            let pause = error.retry_after().unwrap_or(PAGE_PAUSE * number);
            if error.kind() == ErrorKind::Unavailable && number < PAGE_TRIES && pause < self.page_patience() {
                sleep(pause).await;
                continue;
            }
            if replica.breaker.open() {
                self.left_alone(at, &error);
            }
            return gone(format!("another replica is there, and this one failed: {}", error.report()));
        }
        gone("it was asked more often than there are numbers".to_owned())
    }

    /// A page of a replica. How long it is waited for hangs on whether there is another one.
    async fn page_in_time(&self, at: usize, prefix: &str, token: Option<&str>) -> Result<Listed> {
        let source = self.replicas[at].source.as_ref();
        let mut asking = pin!(self.ask(at, source.page(prefix, token)));
        loop {
            match timeout(self.page_patience(), &mut asking).await {
                Ok(answer) => {
                    let (listed, took) = answer?;
                    self.listed_in(took);
                    return Ok(listed);
                }
                Err(_) if self.has_other(at) => {
                    let words = "no page came in several times the usual time";
                    return Err(Error::new(ErrorKind::Timeout, "list", source.uri()).because(words));
                }
                Err(_) => {}
            }
        }
    }
}

#[async_trait]
impl Source for Failover {
    fn uri(&self) -> &str {
        self.replicas[0].source.uri()
    }

    fn endpoint(&self) -> Option<&str> {
        self.replicas[0].source.endpoint()
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
            return self.next_page(at, prefix, token).await.map(|listed| own(at, listed));
        }
        let name = |source: &dyn Source| source.uri().to_owned();
        let patience = self.page_patience();
        let (at, listed, took) = self.race("list", name, patience, |_, source| source.page(prefix, None)).await?;
        self.listed_in(took);
        Ok(own(at, listed))
    }

    fn leads_nowhere(&self, token: &str) -> bool {
        let of = token.split_once(':').and_then(|(at, _)| at.parse::<usize>().ok());
        let Some(at) = of.filter(|&at| at < self.replicas.len()) else { return false };
        if self.replicas[at].breaker.open() {
            let error = Error::new(ErrorKind::Unavailable, "list", self.replicas[at].source.uri());
            self.left_alone(at, &error.because("its listing goes in a circle"));
        }
        self.has_other(at)
    }

    /// Of another than the first, the version is left out as well.
    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let name = |source: &dyn Source| source.uri_of(key);
        let (at, meta, took) = self.race("look at", name, self.patience(0), |_, source| source.head(key)).await?;
        self.latencies.record(0, took);
        Ok(if at == 0 { meta } else { ObjectMeta { version: Version::Unknown, ..meta } })
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let bytes = known_bytes(request).unwrap_or_default();
        let name = |source: &dyn Source| source.uri_of(&request.key);
        let read = self.race("read", name, self.patience(bytes), |at, _| self.read_from(at, request, buffers)).await;
        let (at, mut object, took) = read?;
        self.latencies.record(bytes, took);
        if at > 0 {
            object.meta.version = Version::Unknown;
        }
        Ok(object)
    }
}
