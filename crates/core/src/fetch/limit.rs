//! Not too much at once, and not too little.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::sync::Mutex;
use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::delegate;
use super::signals::Signals;
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::source::{Gate, Listed, ObjectBytes, ObjectMeta, ReadRequest, Source};

/// Requests under way at once to begin with: hides 30 ms of latency of objects of a few megabytes.
const FIRST_LIMIT: usize = 32;
/// Shorter than this, throughput is mostly chance.
const SHORTEST_WINDOW: Duration = Duration::from_millis(60);
/// Windows until a higher limit has brought nothing.
const WINDOWS: u32 = 3;
/// What the best throughput is worth a window later.
const FORGETS: f64 = 0.97;
/// A higher limit is kept when throughput grew by a fifth of what the limit did; requests under way cost memory and connections.
const WORTH_IT: f64 = 0.2;
/// And is raised again at once when it grew by half of that.
const PROMISING: f64 = 0.5;
/// Before a limit that was good is tried half as high again. Twice as long after every time that did not make it grow further,
/// up to the longest: trying costs new connections and fresh memory.
const CONTENT_FOR: Duration = Duration::from_secs(5);
const CONTENT_LONGEST: Duration = Duration::from_secs(320);
/// After it was asked for fewer requests, the limit stays down for so long.
const HUMBLE_FOR: Duration = Duration::from_secs(2);
/// What a request costs besides its bytes, in bytes: so that throughput of small objects is counted in requests.
const REQUEST_BYTES: u64 = 64 << 10;

/// Lets so many requests go on at once; the others wait for their turn in order. How many is found out: the limit grows while that
/// brings throughput, and shrinks by a third when the remote asks for fewer requests.
#[derive(Debug)]
pub struct Limit {
    inner: Arc<dyn Source>,
    turns: Semaphore,
    pace: Mutex<Pace>,
    waiting: AtomicUsize,
    signals: Arc<Signals>,
}

/// How the limit is found.
#[derive(Debug)]
struct Pace {
    limit: usize,
    most: usize,
    /// Permits to take away as they come back.
    debt: usize,
    window: Window,
    /// Windows since the limit changed. What ends in the first began before that, or all at once with others, or had to connect
    /// first.
    windows: u32,
    /// The best throughput of those after the first, lately.
    best: f64,
    /// Grows by half instead of twofold.
    is_careful: bool,
    /// Throughput before the last growth, and the limit it came with.
    before: Option<(f64, usize)>,
    content_until: Option<Instant>,
    content_next: Duration,
    throttles: u64,
    humble_until: Option<Instant>,
}

/// What more requests at once brought, by [`WORTH_IT`] and [`PROMISING`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gain {
    Nothing,
    Part,
    Whole,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    bytes: u64,
    done: usize,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { began: now, bytes: 0, done: 0 }
    }
}

impl Pace {
    fn new(most: usize) -> Self {
        let limit = most.clamp(1, FIRST_LIMIT);
        let window = Window::new(Instant::now());
        Self {
            limit,
            most: most.max(1),
            debt: 0,
            window,
            windows: 0,
            best: 0.0,
            is_careful: false,
            before: None,
            content_until: None,
            content_next: CONTENT_FOR,
            throttles: 0,
            humble_until: None,
        }
    }

    /// Takes note of a request that ended; the new limit, if there is one. Where nobody waits for a turn, a higher one would
    /// change nothing.
    fn ended(&mut self, now: Instant, bytes: Option<u64>, throttles: u64, is_full: bool) -> Option<usize> {
        if throttles > self.throttles {
            self.throttles = throttles;
            if self.humble_until.is_none_or(|until| now >= until) {
                self.humble_until = Some(now + HUMBLE_FOR);
                self.before = None;
                self.content_next = CONTENT_FOR;
                self.window = Window::new(now);
                return self.change((self.limit * 2 / 3).max(1));
            }
            return None;
        }
        self.window.bytes += bytes.map_or(0, |bytes| bytes + REQUEST_BYTES);
        self.window.done += 1;
        let time = now - self.window.began;
        if self.window.done < self.limit || time < SHORTEST_WINDOW && self.windows > 0 {
            return None;
        }
        let window = std::mem::replace(&mut self.window, Window::new(now));
        let rate = window.bytes as f64 / time.as_secs_f64();
        self.windows += 1;
        if self.windows == 1 {
            // What this window counts was partly under way before it began, which may look like a quarter more. What is beyond
            // that, though many had to connect first, needs no second window.
            if self.before.is_none_or(|before| self.gain(rate / 1.25, before) < Gain::Whole) {
                return None;
            }
        }
        self.best = rate.max(FORGETS * self.best);
        if !is_full || self.humble_until.is_some_and(|until| now < until) {
            return None;
        }
        self.judge(now)
    }

    /// What the limit brought over the one before.
    fn gain(&self, rate: f64, (before, limit): (f64, usize)) -> Gain {
        match (rate / before - 1.0) / (self.limit as f64 / limit as f64 - 1.0) {
            share if share < WORTH_IT => Gain::Nothing,
            share if share < PROMISING => Gain::Part,
            _ => Gain::Whole,
        }
    }

    /// Grows, stays or goes back, by what throughput did.
    fn judge(&mut self, now: Instant) -> Option<usize> {
        if let Some(before) = self.before {
            let gain = self.gain(self.best, before);
            if gain < Gain::Whole && self.windows < WINDOWS {
                return None;
            }
            self.before = None;
            if gain < Gain::Whole {
                // The remote, or this machine, is at its end: no higher, and back where that brought nothing.
                self.content_until = Some(now + self.content_next);
                self.content_next = (2 * self.content_next).min(CONTENT_LONGEST);
                self.is_careful = true;
                return if gain == Gain::Nothing { self.change(before.1) } else { None };
            }
            self.content_next = CONTENT_FOR;
        } else if self.content_until.is_some_and(|until| now < until) {
            return None;
        }
        self.before = Some((self.best, self.limit));
        let more = if self.is_careful { self.limit.div_ceil(2) } else { self.limit };
        self.change((self.limit + more).min(self.most))
    }

    fn change(&mut self, limit: usize) -> Option<usize> {
        if limit == self.limit {
            self.before = None;
            return None;
        }
        self.limit = limit;
        (self.windows, self.best) = (0, 0.0);
        Some(limit)
    }
}

impl Limit {
    /// Wraps a source.
    pub fn new(inner: Arc<dyn Source>, max_concurrent: usize, signals: Arc<Signals>) -> Self {
        let pace = Pace::new(max_concurrent);
        signals.set(Metric::FetchConcurrency, pace.limit as u64);
        signals.set(Metric::FetchConcurrencyMax, max_concurrent as u64);
        Self { inner, turns: Semaphore::new(pace.limit), pace: Mutex::new(pace), waiting: AtomicUsize::new(0), signals }
    }

    /// Requests that may be under way at present.
    pub fn limit(&self) -> usize {
        self.pace.lock().limit
    }

    /// Whoever has a turn gives it back by its own deadline, which is inside.
    async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        let _waiting = Waiting::new(&self.waiting);
        let turn = self.turns.acquire().await;
        turn.map_err(|cause| Error::new(ErrorKind::Internal, "read", self.uri()).caused_by(cause))
    }

    async fn in_turn<T>(
        &self,
        gate: Option<&Gate>,
        asking: impl Future<Output = Result<T>>,
        bytes: fn(&T) -> u64,
    ) -> Result<T> {
        let turn = self.turn().await?;
        if let Some(gate) = gate {
            gate.pass().await;
        }
        let answer = asking.await;
        self.ended(turn, answer.as_ref().ok().map(bytes));
        answer
    }

    fn ended(&self, turn: SemaphorePermit<'_>, bytes: Option<u64>) {
        let mut pace = self.pace.lock();
        let before = pace.limit;
        let is_full = self.waiting.load(Ordering::Relaxed) > 0;
        if let Some(limit) = pace.ended(Instant::now(), bytes, self.signals.throttles(), is_full) {
            self.signals.set(Metric::FetchConcurrency, limit as u64);
            if limit > before {
                let more = limit - before;
                let repaid = more.min(pace.debt);
                pace.debt -= repaid;
                self.turns.add_permits(more - repaid);
            } else {
                let fewer = before - limit;
                pace.debt += fewer - self.turns.forget_permits(fewer);
            }
        }
        if pace.debt > 0 {
            pace.debt -= 1;
            turn.forget();
        }
    }
}

/// Counts who waits, for as long as they do.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Source for Limit {
    delegate!();

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        self.in_turn(None, self.inner.page(prefix, token), |_| 0).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.in_turn(None, self.inner.head(key), |_| 0).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let asking = self.inner.read(request, buffers);
        self.in_turn(request.gate.as_deref(), asking, |object| object.bytes.len() as u64).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends requests as if the remote carried `capacity` bytes a second at most and each stream 1 MB/s. What ends first after a
    /// change takes twice as long.
    fn settle(pace: &mut Pace, capacity: f64, windows: usize) -> usize {
        let mut now = Instant::now();
        for _ in 0..windows {
            let limit = pace.limit;
            let rate = capacity.min(limit as f64 * 1e6);
            let rate = if pace.windows == 0 { rate / 2.0 } else { rate };
            now += Duration::from_secs_f64(limit as f64 * 1e6 / rate).max(SHORTEST_WINDOW);
            for _ in 0..limit {
                pace.ended(now, Some(1_000_000), 0, true);
            }
        }
        pace.limit
    }

    #[test]
    fn grows_while_throughput_grows_and_no_further() {
        for (streams, limits) in [(10, 8..=32), (40, 36..=81), (100, 81..=182), (10_000, 256..=256)] {
            let limit = settle(&mut Pace::new(256), f64::from(streams) * 1e6, 200);
            assert!(limits.contains(&limit), "{limit} for a remote that carries {streams} streams");
        }
    }

    #[test]
    fn is_never_over_what_was_allowed_nor_under_one() {
        assert_eq!(settle(&mut Pace::new(4), 1e9, 100), 4);
        let mut pace = Pace::new(0);
        assert_eq!(pace.limit, 1);
        let mut now = Instant::now();
        for throttles in 1..20 {
            now += HUMBLE_FOR;
            pace.ended(now, None, throttles, true);
        }
        assert_eq!(pace.limit, 1);
    }

    #[test]
    fn shrinks_once_for_a_burst_of_complaints_and_recovers() {
        let mut pace = Pace::new(256);
        let now = Instant::now();
        for throttles in 1..=10 {
            pace.ended(now, None, throttles, true);
        }
        assert_eq!(pace.limit, FIRST_LIMIT * 2 / 3);
        let mut later = now + HUMBLE_FOR;
        for _ in 0..40 {
            later += Duration::from_secs(1);
            for _ in 0..pace.limit {
                pace.ended(later, Some(1_000_000), 10, true);
            }
        }
        assert!(pace.limit > FIRST_LIMIT * 2 / 3, "{}", pace.limit);
    }
}
