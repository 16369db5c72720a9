//! How fast: objects over and over, with the policies that training reads with.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use headwater::config::ByteSize;
use headwater::engine::Engine;
use headwater::fetch::{MAX_CONCURRENCY, Patience, Policies, with_policies};
use headwater::metrics::{Metric, Metrics, Snapshot};
use headwater::source::{ObjectMeta, ReadRequest, Source};
use headwater::{Error, Result};

use super::advice::Adviser;
use super::contents::Listed;
use super::report::{Finding, Found};

/// Of what is under way at once, at most.
const MEMORY: u64 = 1 << 30;
/// Readers beyond those that may read: the limit grows only while somebody waits.
const WAITING: usize = 2;
/// Readers of a local disk.
const LOCAL_READERS: usize = 8;
/// How often the number of readers follows the limit.
const TICK: Duration = Duration::from_millis(10);

/// What readers did so far.
#[derive(Debug, Default)]
struct Done {
    bytes: u64,
    seconds: Vec<f64>,
    error: Option<Error>,
}

/// What all readers share.
#[derive(Debug)]
struct Course {
    source: Arc<dyn Source>,
    objects: Vec<ObjectMeta>,
    done: Mutex<Done>,
    is_over: AtomicBool,
}

pub(super) fn measured(listed: &Listed, time: Duration, adviser: &Adviser<'_>) -> Found<()> {
    let metrics = Arc::new(Metrics::default());
    let began = Instant::now();
    let finding = match run(listed, time, &metrics) {
        Ok(done) => {
            finding(done, began.elapsed().as_secs_f64(), &metrics.snapshot(), listed.source.is_local(), adviser)
        }
        Err(error) => Finding::fail(&error, adviser.on(&error)),
    };
    (finding, Some(()))
}

fn run(listed: &Listed, time: Duration, metrics: &Arc<Metrics>) -> Result<Done> {
    let engine = Engine::current()?;
    // As many large ones as memory allows; `read` has seen that the smallest is not too large.
    let largest = listed.objects.last().map_or(1, |object| object.size).max(1);
    let at_once = (MEMORY / largest).clamp(2, MAX_CONCURRENCY as u64) as usize;
    let patience = Patience { deadline: time.max(Duration::from_secs(10)), ..Patience::default() };
    let policies = Policies { patience, max_concurrency: at_once, ..Policies::default() };
    let source = with_policies(vec![listed.source.clone()], &policies, metrics);
    let (done, is_over) = (Mutex::default(), AtomicBool::new(false));
    let course = Arc::new(Course { source, objects: listed.objects.clone(), done, is_over });
    let (began, mut cancels) = (Instant::now(), Vec::new());
    while began.elapsed() < time && !course.is_over.load(Ordering::Relaxed) {
        let limit = metrics.snapshot().raw(Metric::FetchConcurrency) as usize;
        let readers = if listed.source.is_local() { LOCAL_READERS.min(at_once) } else { limit + WAITING };
        while cancels.len() < readers {
            cancels.push(engine.spawn(read_on(course.clone(), cancels.len())));
        }
        std::thread::sleep(TICK.min(time));
    }
    course.is_over.store(true, Ordering::Relaxed);
    cancels.into_iter().for_each(|cancel| cancel());
    Ok(std::mem::take(&mut *course.done.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// One reader: an object after the other, each reader beginning with another one.
async fn read_on(course: Arc<Course>, first: usize) {
    let Ok(engine) = Engine::current() else { return };
    let mut objects = course.objects.iter().cycle().skip(first % course.objects.len().max(1));
    while !course.is_over.load(Ordering::Relaxed)
        && let Some(ObjectMeta { key, size, version }) = objects.next().cloned()
    {
        let began = Instant::now();
        let request = ReadRequest { version, size: Some(size), ..ReadRequest::whole(key) };
        let read = course.source.read(&request, engine.buffers()).await;
        let mut done = course.done.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(object) => {
                done.bytes += object.bytes.len() as u64;
                done.seconds.push(began.elapsed().as_secs_f64());
            }
            Err(error) => {
                done.error.get_or_insert(error);
                course.is_over.store(true, Ordering::Relaxed);
            }
        }
    }
}

fn finding(done: Done, elapsed: f64, counted: &Snapshot, is_local: bool, adviser: &Adviser<'_>) -> Finding {
    if let Some(error) = done.error {
        return Finding::fail(&error, adviser.on(&error));
    }
    let mut seconds = done.seconds;
    seconds.sort_unstable_by(f64::total_cmp);
    let quantile = |share: f64| seconds.get(((seconds.len() as f64 * share) as usize).min(seconds.len().max(1) - 1));
    let (Some(p50), Some(p99)) = (quantile(0.5), quantile(0.99)) else {
        let fact = format!("no object was read to its end within {elapsed:.1} s");
        return Finding::warn(fact, "give it longer, with --seconds; if that does not help, the way there is too slow");
    };
    let (per_second, requests) = (done.bytes as f64 / elapsed, seconds.len() as f64 / elapsed);
    let limit = counted.raw(Metric::FetchConcurrency);
    let at_once = if is_local { String::new() } else { format!(", {limit} at once") };
    let fact = format!(
        "{}/s, {requests:.0} requests/s, latency {:.1} ms (p50) to {:.1} ms (p99){at_once}",
        ByteSize(per_second as u64),
        p50 * 1e3,
        p99 * 1e3,
    );
    let (throttled, retries) = (counted.raw(Metric::SourceThrottled), counted.raw(Metric::SourceRetries));
    let objection = if throttled > 0 {
        let advice = "this is as fast as the server lets you: it has a quota, or shards its keys as it learns the load";
        Some((format!("asked {throttled} times to slow down"), advice))
    } else if retries > 0 {
        Some((
            format!("{retries} requests had to be repeated"),
            "the server or the way there loses requests: see its log",
        ))
    } else {
        None
    };
    let finding = Finding::unless(objection.map(|(words, advice)| (words, advice.to_owned())), fact)
        .with("bytes_per_second", per_second)
        .with("requests_per_second", requests)
        .with("p50_milliseconds", p50 * 1e3)
        .with("p99_milliseconds", p99 * 1e3)
        .with("throttled", throttled)
        .with("retries", retries);
    if is_local { finding } else { finding.with("concurrency", limit) }
}
