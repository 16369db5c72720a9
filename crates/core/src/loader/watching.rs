//! Looking at what was counted every few seconds, so that a verdict is about the last minute; and telling the log of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::metrics::Snapshot;
use crate::sync::Mutex;
use crate::verdict::{Bottleneck, Verdict};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(10);
/// How far back a verdict goes, and how often the log is told of one.
const WINDOW: Duration = Duration::from_mins(1);

/// How long a verdict waits for whoever looks; without the last minute it is of all that was counted.
const PATIENCE: Duration = Duration::from_millis(100);

/// What was counted at moments of the last minute.
#[derive(Debug, Default)]
pub(super) struct Watching {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    marks: VecDeque<(Instant, Snapshot)>,
    told: Option<Instant>,
}

impl Watching {
    /// To be called with every batch: looks if it is time to, and tells the log, once a minute, while training waits.
    pub(super) fn batch_was_taken(&self, now: Instant, look: impl FnOnce() -> Snapshot) {
        // Somebody else looks already.
        let Some(mut seen) = self.seen.try_lock_for(Duration::ZERO) else { return };
        if seen.marks.back().is_some_and(|(last, _)| now.saturating_duration_since(*last) < EVERY) {
            return;
        }
        let snapshot = look();
        seen.forget(now);
        let verdict = seen.marks.front().map(|(_, before)| Verdict::between(Some(before), &snapshot));
        seen.marks.push_back((now, snapshot));
        let since = seen.told.get_or_insert(now);
        if now.saturating_duration_since(*since) < WINDOW {
            return;
        }
        *since = now;
        drop(seen);
        if let Some(verdict) = verdict
            && !matches!(verdict.bottleneck, Bottleneck::Balanced | Bottleneck::Unknown)
        {
            tracing::warn!("{verdict}");
        }
    }

    /// What the last minute says, or all that was counted where there is less of it.
    pub(super) fn verdict(&self, now: &Snapshot) -> Verdict {
        // In a forked child somebody who is no more may hold it.
        let verdict = self.seen.try_lock_for(PATIENCE).and_then(|mut seen| {
            seen.forget(Instant::now());
            seen.marks.front().map(|(_, before)| Verdict::between(Some(before), now))
        });
        verdict
            .filter(|verdict| verdict.bottleneck != Bottleneck::Unknown)
            .unwrap_or_else(|| Verdict::between(None, now))
    }
}

impl Seen {
    fn forget(&mut self, now: Instant) {
        while self.marks.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metric, Metrics};

    fn counted(metrics: &Metrics, stalled: u64) -> Snapshot {
        let second = 1_000_000_000;
        metrics.record(&[
            (Metric::Batches, 10),
            (Metric::Running, 10 * second),
            (Metric::StallDecode, stalled * second),
        ]);
        metrics.snapshot()
    }

    #[test]
    fn a_verdict_is_of_the_last_minute() {
        let (watching, metrics, began) = (Watching::default(), Metrics::default(), Instant::now());
        watching.batch_was_taken(began, || counted(&metrics, 9));
        assert_eq!(watching.verdict(&counted(&metrics, 0)).bottleneck, Bottleneck::Balanced);
        metrics.reset();
        assert_eq!(watching.verdict(&counted(&metrics, 9)).bottleneck, Bottleneck::Decode, "of all since then");
    }

    #[test]
    fn a_verdict_comes_though_a_thread_that_a_fork_left_behind_holds_the_lock() {
        let (watching, metrics) = (Watching::default(), Metrics::default());
        let _held = watching.seen.lock();
        assert_eq!(watching.verdict(&counted(&metrics, 9)).bottleneck, Bottleneck::Decode);
    }

    #[test]
    fn it_looks_every_few_seconds_however_many_batches_there_are() {
        let (watching, metrics, began) = (Watching::default(), Metrics::default(), Instant::now());
        let mut looks = 0;
        for millis in (0..100_000).step_by(100) {
            watching.batch_was_taken(began + Duration::from_millis(millis), || {
                looks += 1;
                metrics.snapshot()
            });
        }
        assert_eq!(looks, 10);
        assert!(watching.seen.lock().marks.len() <= 7);
    }
}
