//! Whether a replica is worth asking.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Failures in a row before a replica is left alone.
const FAILURES: u32 = 3;
/// How long it is left alone at first; twice as long each time it fails again, up to the longest.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Opens after failures in a row, and lets one request try from time to time until one succeeds.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    rests: u32,
    opened_at: Option<Instant>,
    /// While open: when one request may try.
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether to ask now.
    pub(super) fn allows(&self) -> bool {
        self.0.lock().open_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Somebody asks: while open, the others wait for what this one finds.
    pub(super) fn asked(&self) {
        let mut state = self.0.lock();
        if state.open_until.is_some_and(|until| Instant::now() >= until) {
            state.rest();
        }
    }

    /// Whether the last failures have not been followed by a success yet.
    pub(super) fn is_open(&self) -> bool {
        self.0.lock().open_until.is_some()
    }

    /// Notes a success of a request that began then; whether that closed it. One that began before it opened says nothing of how
    /// things are now.
    pub(super) fn succeeded(&self, began: Instant) -> bool {
        let mut state = self.0.lock();
        if state.opened_at.is_some_and(|opened| began < opened) {
            return false;
        }
        let was_open = state.open_until.is_some();
        *state = State::default();
        was_open
    }

    /// Notes a failure; whether that opened it.
    pub(super) fn failed(&self) -> bool {
        let mut state = self.0.lock();
        state.failures += 1;
        let opens = state.open_until.is_none() && state.failures >= FAILURES;
        if opens {
            state.opened_at = Some(Instant::now());
            state.rest();
        }
        opens
    }
}

impl State {
    fn rest(&mut self) {
        let rest = FIRST_REST.saturating_mul(1 << self.rests.min(10)).min(LONGEST_REST);
        self.rests += 1;
        self.open_until = Some(Instant::now() + rest);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row_and_closes_when_one_try_succeeds() {
        let breaker = Breaker::default();
        assert!(!breaker.failed() && !breaker.failed());
        breaker.succeeded(Instant::now());
        let before = Instant::now();
        advance(Duration::from_millis(1)).await;
        assert!(!breaker.failed() && !breaker.failed() && breaker.failed());
        assert!(!breaker.succeeded(before), "a late success of before");
        assert!(breaker.is_open() && !breaker.allows());
        advance(Duration::from_millis(1001)).await;
        assert!(breaker.allows(), "one may try");
        breaker.asked();
        assert!(!breaker.allows(), "the others wait for it");
        assert!(!breaker.failed());
        advance(Duration::from_millis(1001)).await;
        assert!(!breaker.allows(), "the second rest is longer");
        advance(Duration::from_secs(1)).await;
        assert!(breaker.allows() && breaker.succeeded(Instant::now()), "whoever asks closes it");
        assert!(!breaker.is_open() && breaker.allows() && breaker.allows());
    }
}
