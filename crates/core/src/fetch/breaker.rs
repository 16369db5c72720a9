//! Whether a replica is worth asking.

use std::time::Duration;

use crate::sync::Mutex;
use tokio::time::Instant;

/// Failures in a row before a replica is left alone.
const IN_A_ROW: u32 = 3;
/// And the share of failures above which it is, over many requests: what the last one weighs among those before it.
const MOST_FAILURES: f64 = 0.25;
const WEIGHT: f64 = 0.02;
/// How long it is left alone at first; twice as long each time it fails again, up to the longest.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Opens when too many of the last requests failed, and lets one request try from time to time until one succeeds.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Share of failures, the last ones weighing most.
    failures: f64,
    in_a_row: u32,
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
        if state.open_until.is_some() {
            *state = State::default();
            return true;
        }
        state.failures *= 1.0 - WEIGHT;
        state.in_a_row = 0;
        false
    }

    /// Notes a failure; whether that opened it.
    pub(super) fn failed(&self) -> bool {
        let mut state = self.0.lock();
        state.failures = state.failures * (1.0 - WEIGHT) + WEIGHT;
        state.in_a_row += 1;
        (state.in_a_row >= IN_A_ROW || state.failures > MOST_FAILURES) && state.open()
    }

    /// Opens it; whether it was closed.
    pub(super) fn open(&self) -> bool {
        self.0.lock().open()
    }
}

impl State {
    fn open(&mut self) -> bool {
        let opens = self.open_until.is_none();
        if opens {
            self.opened_at = Some(Instant::now());
            self.rest();
        }
        opens
    }

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

    #[tokio::test(start_paused = true)]
    async fn opens_at_one_failure_in_four_and_bears_one_in_five() {
        for (share, opens) in [(2, true), (3, true), (4, true), (5, false), (10, false), (100, false)] {
            let breaker = Breaker::default();
            let opened = (0..1000).any(|request| {
                let fails = request % share == share - 1;
                if fails { breaker.failed() } else { breaker.succeeded(Instant::now()) }
            });
            assert_eq!(opened, opens, "one in {share}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bears_one_in_ten_that_fail_by_chance() {
        let breaker = Breaker::default();
        let mut state = 1_u64;
        let mut opened = 0;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let fails = (state >> 33).is_multiple_of(10);
            if fails {
                opened += u32::from(breaker.failed());
            } else {
                breaker.succeeded(Instant::now());
            }
            advance(Duration::from_millis(10)).await;
        }
        assert!(opened <= 40, "three in a row happen: {opened}");
    }

    #[tokio::test(start_paused = true)]
    async fn opens_at_once_when_told_to() {
        let breaker = Breaker::default();
        assert!(breaker.open() && !breaker.open() && breaker.is_open());
        advance(Duration::from_secs(1)).await;
        assert!(breaker.allows() && breaker.succeeded(Instant::now()) && !breaker.is_open());
    }
}
