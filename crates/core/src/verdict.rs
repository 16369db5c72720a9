//! Why training waits, in one line: the stage that most of the waiting was for, and the one change that would help most.

use std::fmt;

use serde::Serialize;

use crate::error::ErrorKind;
use crate::metrics::{Metric, Snapshot, SourceSnapshot};

/// Waiting below this share of the time is not worth a change.
const BALANCED: f64 = 0.05;
/// From this share of requests that failed or were refused on, a source is failing rather than slow.
const FAILING: f64 = 0.1;
/// From this share of what it may have under way on, a limit is what holds a source back.
const AT_LIMIT: f64 = 0.8;

/// What training waits for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// Fewer than two batches were taken.
    Unknown,
    /// Nothing to speak of.
    Balanced,
    /// A source gives no more.
    Source,
    /// A source has more to give than may be asked of it at once.
    Concurrency,
    /// A source fails or refuses requests.
    FailingSource,
    /// What is fetched ahead is too little to keep a source busy.
    Window,
    /// What was read before has to be read again, since the cache is full.
    Cache,
    /// Decoding.
    Decode,
    /// Putting batches together.
    Collate,
    /// Functions of the user's.
    Transform,
    /// Bringing batches to where training wants them.
    Placing,
}

/// What was found between two moments.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What training waits for most.
    pub bottleneck: Bottleneck,
    /// Share of the time that training ran, from 0 to 1 (AU); `None` where it is unknown.
    pub running: Option<f64>,
    /// All of it in one line.
    pub line: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// What was counted between two moments; `before` is `None` for all that was counted so far.
struct Window<'a> {
    before: Option<&'a Snapshot>,
    after: &'a Snapshot,
}

impl Verdict {
    /// The verdict on what was counted between two moments, or on all that was counted so far.
    pub fn between(before: Option<&Snapshot>, after: &Snapshot) -> Self {
        let window = Window { before, after };
        let running = window.seconds(Metric::Running);
        if window.count(Metric::Batches) < 2 || running <= 0.0 {
            let line = "nothing to tell yet: fewer than two batches were taken".to_owned();
            return Self { bottleneck: Bottleneck::Unknown, running: None, line };
        }
        let stalls = [
            (Metric::StallSource, Bottleneck::Source),
            (Metric::StallDecode, Bottleneck::Decode),
            (Metric::StallCollate, Bottleneck::Collate),
            (Metric::StallTransform, Bottleneck::Transform),
            (Metric::StallPlacing, Bottleneck::Placing),
        ];
        let stalls = stalls.map(|(metric, bottleneck)| (window.seconds(metric), bottleneck));
        let waited: f64 = stalls.iter().map(|(seconds, _)| seconds).sum();
        let au = (1.0 - waited / running).clamp(0.0, 1.0);
        if 1.0 - au < BALANCED {
            let line = format!("balanced: training runs {} of the time", percent(au));
            return Self { bottleneck: Bottleneck::Balanced, running: Some(au), line };
        }
        let (_, most) = stalls.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, Bottleneck::Source));
        let (bottleneck, words) = match most {
            Bottleneck::Source => window.of_sources(running),
            other => (other, window.of_stage(other, running)),
        };
        let line = format!("bottleneck: {words}; training runs {} of the time", percent(au));
        Self { bottleneck, running: Some(au), line }
    }
}

impl Window<'_> {
    fn count(&self, metric: Metric) -> u64 {
        self.after.raw(metric).saturating_sub(self.before.map_or(0, |before| before.raw(metric)))
    }

    fn seconds(&self, metric: Metric) -> f64 {
        self.count(metric) as f64 / 1e9
    }

    /// The bottleneck where most of the waiting was for sources.
    fn of_sources(&self, running: f64) -> (Bottleneck, String) {
        let sources = self.after.sources().iter().map(|source| OfSource::between(self.before, source));
        let Some(source) = sources.max_by(|a, b| a.seconds.total_cmp(&b.seconds)) else {
            return (Bottleneck::Source, "sources".to_owned());
        };
        let (under_way, name) = (source.seconds / running, source.name);
        let each = millis(source.seconds / source.requests.max(1) as f64);
        let rate = size(source.bytes as f64 / running);
        let failing = source.refused as f64 / (source.requests + source.refused).max(1) as f64;
        if failing >= FAILING {
            let kind = source.kind.map_or(String::new(), |kind| format!(", most as `{}`", kind.name()));
            let words = format!(
                "source {name} — {} of its answers are errors or refusals{kind}; mend that source, or give it a replica",
                percent(failing)
            );
            return (Bottleneck::FailingSource, words);
        }
        if source.limit > 0 && under_way >= AT_LIMIT * source.limit as f64 && source.limit >= source.most {
            let words =
                format!("source {name} — {each} per object at concurrency {}; raise `max_concurrency`", source.limit);
            return (Bottleneck::Concurrency, words);
        }
        if self.is_window_full() {
            let words = format!(
                "the window of {} samples — source {name} has {under_way:.0} requests under way, {each} each; raise `window_samples` or the \
                 memory budget",
                self.after.raw(Metric::WindowSamples)
            );
            return (Bottleneck::Window, words);
        }
        if self.is_cache_full() {
            let words = format!(
                "source {name} — {} of what is asked for is read again in every epoch, at {rate}/s, since the cache is full; raise its \
                 `memory`, or give it a `disk`",
                percent(1.0 - self.count(Metric::UnitsReused) as f64 / self.count(Metric::UnitsAsked).max(1) as f64)
            );
            return (Bottleneck::Cache, words);
        }
        let words = format!(
            "source {name} — {each} per object, {rate}/s at concurrency {under_way:.0}, which is what it gives; move the data nearer, or cache it"
        );
        (Bottleneck::Source, words)
    }

    /// Whether a loader may not fetch further ahead.
    fn is_window_full(&self) -> bool {
        let at_limit = |now, limit| {
            let limit = self.after.raw(limit);
            limit > 0 && self.after.raw(now) as f64 >= AT_LIMIT * limit as f64
        };
        at_limit(Metric::WindowSamples, Metric::WindowSamplesLimit)
            || at_limit(Metric::WindowBytes, Metric::WindowBytesLimit)
    }

    /// Whether what was read found no room, in memory or on disk.
    fn is_cache_full(&self) -> bool {
        let given_up = |metrics: [Metric; 2]| metrics.into_iter().any(|metric| self.count(metric) > 0);
        let memory = given_up([Metric::CacheDeclined, Metric::CacheEvictions]);
        let has_disk = self.after.raw(Metric::DiskCapacity) > 0;
        if has_disk { given_up([Metric::DiskDeclined, Metric::DiskEvictions]) } else { memory }
    }

    fn of_stage(&self, stage: Bottleneck, running: f64) -> String {
        let threads = self.after.raw(Metric::Threads);
        let busy = |metric| self.seconds(metric) / running;
        match stage {
            Bottleneck::Decode => format!(
                "decoding — {:.1} of {threads} threads are busy with it; raise `num_threads`, or store what is cheaper to decode",
                busy(Metric::DecodeSeconds)
            ),
            Bottleneck::Collate => format!(
                "putting batches together — {}/s on {:.1} of {threads} threads; raise `num_threads`, or train with smaller batches or dtypes",
                size(self.count(Metric::CollateBytes) as f64 / running),
                busy(Metric::CollateSeconds)
            ),
            Bottleneck::Transform => format!(
                "your own functions — {:.1} threads are in them; make them faster, or raise `transform_threads` where they let go of the \
                 interpreter",
                busy(Metric::TransformSeconds)
            ),
            _ => "copies into page-locked memory or to the device; train with smaller batches or dtypes".to_owned(),
        }
    }
}

/// What was counted of a source in a window.
struct OfSource<'a> {
    name: &'a str,
    seconds: f64,
    requests: u64,
    bytes: u64,
    /// Answers that were errors, were tried again, or asked for fewer requests.
    refused: u64,
    kind: Option<ErrorKind>,
    /// Requests that may be under way at present, and at most.
    limit: u64,
    most: u64,
}

impl<'a> OfSource<'a> {
    fn between(before: Option<&Snapshot>, after: &'a SourceSnapshot) -> Self {
        let before = before.and_then(|it| it.sources().iter().find(|source| source.name() == after.name()));
        let count = |metric| after.raw(metric).saturating_sub(before.map_or(0, |before| before.raw(metric)));
        let kind = after.errors().iter().max_by_key(|(_, count)| *count).map(|(kind, _)| *kind);
        Self {
            name: after.name(),
            seconds: count(Metric::SourceSeconds) as f64 / 1e9,
            requests: count(Metric::SourceRequests),
            bytes: count(Metric::SourceBytes),
            refused: count(Metric::SourceErrors) + count(Metric::SourceRetries),
            kind,
            limit: after.raw(Metric::FetchConcurrency),
            most: after.raw(Metric::FetchConcurrencyMax),
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn millis(seconds: f64) -> String {
    if seconds < 0.01 { format!("{:.1} ms", 1e3 * seconds) } else { format!("{:.0} ms", 1e3 * seconds) }
}

fn size(bytes: f64) -> String {
    if bytes < 1e9 { format!("{:.0} MB", bytes / 1e6) } else { format!("{:.1} GB", bytes / 1e9) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const SECOND: u64 = 1_000_000_000;

    fn found(amounts: &[(Metric, u64)], of_source: &[(Metric, u64)], gauges: &[(Metric, u64)]) -> Verdict {
        let metrics = Metrics::default();
        metrics.record(&[(Metric::Batches, 10), (Metric::Running, 10 * SECOND), (Metric::UnitsAsked, 100)]);
        metrics.record(amounts);
        metrics.of_source("s3://bucket/run").record(of_source);
        gauges.iter().for_each(|&(gauge, value)| metrics.of_source("s3://bucket/run").set(gauge, value));
        Verdict::between(None, &metrics.snapshot())
    }

    const SLOW: &[(Metric, u64)] =
        &[(Metric::SourceRequests, 1000), (Metric::SourceSeconds, 41 * SECOND), (Metric::SourceBytes, 1_000_000_000)];

    #[test]
    fn says_what_most_of_the_waiting_was_for() {
        let stalled = [(Metric::StallSource, 4 * SECOND)];
        let limited = [(Metric::FetchConcurrency, 4), (Metric::FetchConcurrencyMax, 4)];
        let free = [(Metric::FetchConcurrency, 64), (Metric::FetchConcurrencyMax, 256)];
        let verdict = found(&stalled, SLOW, &limited);
        assert_eq!((verdict.bottleneck, verdict.running), (Bottleneck::Concurrency, Some(0.6)));
        assert_eq!(
            verdict.line,
            "bottleneck: source s3://bucket/run — 41 ms per object at concurrency 4; raise `max_concurrency`; training runs 60 % of the time"
        );
        assert_eq!(found(&stalled, SLOW, &free).bottleneck, Bottleneck::Source);
        let full = [&free[..], &[(Metric::WindowSamples, 8), (Metric::WindowSamplesLimit, 8)]].concat();
        assert_eq!(found(&stalled, SLOW, &full).bottleneck, Bottleneck::Window);
        let declined = [&stalled[..], &[(Metric::CacheDeclined, 40), (Metric::UnitsReused, 60)]].concat();
        let verdict = found(&declined, SLOW, &free);
        assert_eq!(verdict.bottleneck, Bottleneck::Cache);
        assert!(verdict.line.contains("40 % of what is asked for is read again"), "{verdict}");
        let failing = [SLOW, &[(Metric::SourceRetries, 500)]].concat();
        assert_eq!(found(&stalled, &failing, &free).bottleneck, Bottleneck::FailingSource);
        let decoding =
            [(Metric::StallDecode, 3 * SECOND), (Metric::StallSource, SECOND), (Metric::DecodeSeconds, 19 * SECOND)];
        let verdict = found(&decoding, SLOW, &[(Metric::Threads, 2)]);
        assert_eq!(verdict.bottleneck, Bottleneck::Decode);
        assert!(verdict.line.contains("1.9 of 2 threads are busy"), "{verdict}");
        for (metric, expected) in [
            (Metric::StallCollate, Bottleneck::Collate),
            (Metric::StallTransform, Bottleneck::Transform),
            (Metric::StallPlacing, Bottleneck::Placing),
        ] {
            assert_eq!(found(&[(metric, 2 * SECOND)], SLOW, &[]).bottleneck, expected);
        }
    }

    #[test]
    fn a_little_waiting_is_balanced_and_little_time_says_nothing() {
        let verdict = found(&[(Metric::StallSource, SECOND / 10)], SLOW, &[]);
        assert_eq!(
            (verdict.bottleneck, verdict.line.as_str()),
            (Bottleneck::Balanced, "balanced: training runs 99 % of the time")
        );
        assert_eq!(Verdict::between(None, &Metrics::default().snapshot()).bottleneck, Bottleneck::Unknown);
    }

    #[test]
    fn what_was_before_the_window_does_not_count() {
        let metrics = Metrics::default();
        metrics.record(&[(Metric::Batches, 10), (Metric::Running, 10 * SECOND), (Metric::StallSource, 9 * SECOND)]);
        let before = metrics.snapshot();
        metrics.record(&[(Metric::Batches, 10), (Metric::Running, 10 * SECOND)]);
        assert_eq!(Verdict::between(Some(&before), &metrics.snapshot()).bottleneck, Bottleneck::Balanced);
    }
}
