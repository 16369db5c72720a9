//! Raw reading through the fetch policies, without decoding: what the core makes of a remote.
//!
//! ```sh
//! cargo run --release --example read -- s3://bucket/run --seconds 5 endpoint=http://localhost:9000
//! ```
//!
//! Reads every object round after round until the time is over, and prints one line of JSON. `bytes` and `objects` are of
//! all that time; those of its second half are `settled_…`. `--tasks` says how many reads are asked for at once.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use headwater::engine::{Engine, uninterrupted};
use headwater::fetch::{Policies, with_policies};
use headwater::metrics::Metrics;
use headwater::source::{ReadRequest, Source, SourceSpec, list_sorted, open_with};
use headwater::{Error, ErrorKind, Result};
use serde_json::json;

struct Options {
    spec: SourceSpec,
    policies: Policies,
    seconds: f64,
    tasks: usize,
}

/// A read that ended: when, how long it took, how many bytes it brought.
type Done = (Duration, Duration, usize);

fn main() -> ExitCode {
    match read(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("read: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let policies = Policies::default();
    let mut options = Options { spec: SourceSpec::default(), policies, seconds: 5.0, tasks: 512 };
    while let Some(argument) = arguments.next() {
        let number = |value: Option<String>| value.and_then(|value| value.parse::<f64>().ok());
        let wrong = || Error::new(ErrorKind::Invalid, "use argument", &argument).because("expected a number after it");
        match &*argument {
            "--seconds" => options.seconds = number(arguments.next()).ok_or_else(wrong)?,
            "--tasks" => options.tasks = number(arguments.next()).ok_or_else(wrong)? as usize,
            "--max-concurrency" => {
                options.policies.max_concurrency = number(arguments.next()).ok_or_else(wrong)? as usize;
            }
            "--hedge" => options.policies.hedge = number(arguments.next()).ok_or_else(wrong)?,
            _ => match argument.split_once('=').filter(|(name, _)| !name.contains(':')) {
                Some((name, value)) => options.spec.options.set(name, value),
                None => options.spec.uri = argument,
            },
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<()> {
    let engine = Engine::current()?;
    let metrics = Arc::new(Metrics::default());
    let (spec, policies) = (options.spec.clone(), options.policies);
    let source =
        engine.block_on("opening", async move { open_with(&spec, &policies.transport).await }, uninterrupted())??;
    let source = with_policies(vec![source], &policies, &metrics);
    let (length, tasks) = (Duration::from_secs_f64(options.seconds), options.tasks);
    let done =
        engine.block_on("reading", reads(source, length, tasks, policies.max_concurrency), uninterrupted())??;
    let seconds = done.iter().map(|done| done.0).max().unwrap_or_default().as_secs_f64();
    let settled: Vec<_> = done.iter().filter(|done| done.0 >= length / 2 && done.0 < length).collect();
    let mut times: Vec<_> = done.iter().map(|done| done.1.as_secs_f64() * 1e3).collect();
    times.sort_unstable_by(f64::total_cmp);
    let quantile = |percent: usize| times.get(times.len() * percent / 100).copied();
    let snapshot = metrics.snapshot();
    let counters: serde_json::Map<_, _> = snapshot
        .iter()
        .filter(|(info, _)| info.name.starts_with("source_") || info.name == "fetch_concurrency")
        .map(|(info, value)| (info.name.to_owned(), json!(value)))
        .collect();
    let line = json!({
        "objects": done.len(), "bytes": done.iter().map(|done| done.2).sum::<usize>(), "seconds": seconds,
        "settled_objects": settled.len(), "settled_bytes": settled.iter().map(|done| done.2).sum::<usize>(),
        "settled_seconds": options.seconds / 2.0, "p50_ms": quantile(50), "p99_ms": quantile(99), "counters": counters,
    });
    println!("{line}");
    Ok(())
}

/// Asks for so many objects at a time until the time is over.
async fn reads(source: Arc<dyn Source>, length: Duration, tasks: usize, max_concurrency: usize) -> Result<Vec<Done>> {
    let buffers = Engine::current()?.buffers();
    let objects = Arc::new(list_sorted(source.as_ref(), "", |_| true).await?);
    // As a loader does: what it lets go of is used again.
    let largest = objects.iter().map(|object| object.size).max().unwrap_or(0) as usize;
    let _share = buffers.share(largest.saturating_mul(max_concurrency));
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let tasks = (0..tasks).map(|_| {
        let (source, objects, next) = (source.clone(), objects.clone(), next.clone());
        tokio::spawn(async move {
            let mut done = Vec::new();
            while start.elapsed() < length && !objects.is_empty() {
                let object = &objects[next.fetch_add(1, Ordering::Relaxed) % objects.len()];
                let (key, version, size) = (object.key.clone(), object.version.clone(), Some(object.size));
                let began = Instant::now();
                let read = source.read(&ReadRequest { version, size, ..ReadRequest::whole(key) }, buffers).await?;
                done.push((start.elapsed(), began.elapsed(), read.bytes.len()));
            }
            Ok::<_, Error>(done)
        })
    });
    let joined =
        try_join_all(tasks).await.map_err(|cause| Error::new(ErrorKind::Internal, "read", "it").caused_by(cause))?;
    joined.into_iter().collect::<Result<Vec<_>>>().map(|done| done.into_iter().flatten().collect())
}
