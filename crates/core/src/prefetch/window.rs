//! How far ahead of the consumer to be.
//!
//! Bounded in samples and in bytes. With a fixed number of samples that is all; without one the window follows the consumer: it
//! begins small, or where the pass before ended, doubles when the consumer had to wait for a source, and gives a batch back when
//! over a long time far more was ready than was needed. Waiting for decoding or assembly does not widen it: that would only take
//! memory and cache from the same processors.

/// Batches ahead at the start: one being handed over, one ready, two under way.
pub const FIRST_BATCHES: usize = 4;
/// Hand-overs in a row that found half the window ready before it shrinks by one batch.
const CALM_BATCHES: usize = 64;

/// Bounds of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowLimits {
    /// Samples of a full step.
    pub step_samples: usize,
    /// Samples ahead; `None` follows the consumer.
    pub samples: Option<usize>,
    /// Samples ahead at the start, where that follows the consumer; four steps at least.
    pub first_samples: usize,
    /// Bytes under way and ready.
    pub bytes: usize,
}

/// What is under way and ready, and how much of it there may be.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    target: usize,
    samples: usize,
    bytes: usize,
    steps: usize,
    /// Hand-overs since the window was widened, or since it was not calm.
    calm: usize,
    /// Hand-overs until another wait may widen it again: those of steps that began before it was widened.
    settling: usize,
}

impl Window {
    /// An empty window.
    pub fn new(limits: WindowLimits) -> Self {
        let least = limits.step_samples.saturating_mul(FIRST_BATCHES);
        let first = limits.samples.unwrap_or(limits.first_samples.max(least));
        Self { limits, target: first, samples: 0, bytes: 0, steps: 0, calm: 0, settling: 0 }
    }

    /// Takes a step in, if it has room. One step always has.
    pub fn enter(&mut self, samples: usize, bytes: usize) -> bool {
        let fits = self.samples.saturating_add(samples) <= self.target
            && self.bytes.saturating_add(bytes) <= self.limits.bytes;
        let enters = fits || self.steps == 0;
        if enters {
            self.samples += samples;
            self.bytes += bytes;
            self.steps += 1;
        }
        enters
    }

    /// Lets a step out that was handed over: whether the consumer waited for its source, and how many steps are ready behind it.
    pub fn leave(&mut self, samples: usize, bytes: usize, waited_for_source: bool, ready_behind: usize) {
        let was_full = self.samples.saturating_add(self.limits.step_samples) > self.target;
        self.samples -= samples;
        self.bytes -= bytes;
        self.steps -= 1;
        if self.limits.samples.is_some() {
            return;
        }
        self.settling = self.settling.saturating_sub(1);
        if waited_for_source && self.settling == 0 {
            // One that its bytes hold back, or that nothing is left for, would only grow on paper.
            if was_full {
                self.target = self.target.saturating_mul(2);
            }
            self.settling = self.steps;
            self.calm = 0;
        } else if ready_behind * 2 > self.steps && !waited_for_source {
            self.calm += 1;
        } else {
            self.calm = 0;
        }
        if self.calm >= CALM_BATCHES && self.target > self.limits.step_samples.saturating_mul(FIRST_BATCHES) {
            self.target -= self.limits.step_samples;
            self.calm = 0;
        }
    }

    /// Samples it may hold at present.
    pub fn target_samples(&self) -> usize {
        self.target
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(samples: Option<usize>) -> Window {
        Window::new(WindowLimits { step_samples: 8, samples, first_samples: 0, bytes: 1000 })
    }

    #[test]
    fn holds_no_more_samples_and_bytes_than_it_may_but_always_one_step() {
        let mut fixed = window(Some(20));
        assert!(fixed.enter(8, 100) && fixed.enter(8, 100) && !fixed.enter(8, 100), "20 samples are two steps of 8");
        fixed.leave(8, 100, true, 0);
        assert_eq!(fixed.target_samples(), 20);
        let mut small = window(Some(4));
        assert!(small.enter(8, 5000) && !small.enter(1, 1), "one step, whatever it takes");
        let mut heavy = window(None);
        assert!(heavy.enter(8, 600) && !heavy.enter(8, 600) && heavy.enter(8, 400));
    }

    #[test]
    fn grows_while_the_consumer_waits_for_a_source_and_only_then() {
        let mut window = window(None);
        let first = window.target_samples();
        for _ in 0..4 {
            assert!(window.enter(8, 10));
        }
        window.leave(8, 10, false, 0);
        assert_eq!(window.target_samples(), first);
        assert!(window.enter(8, 10));
        window.leave(8, 10, true, 0);
        assert_eq!(window.target_samples(), 2 * first);
        window.leave(8, 10, true, 0);
        assert_eq!(window.target_samples(), 2 * first, "that step began before the window was widened");
    }

    #[test]
    fn does_not_grow_beyond_what_its_bytes_hold_nor_at_the_end_of_a_pass() {
        let mut window = window(None);
        for _ in 0..100 {
            while window.enter(8, 100) {}
            window.leave(8, 100, true, 0);
        }
        assert_eq!(window.target_samples(), 128, "80 samples take all bytes");
        let mut ending = Window::new(WindowLimits { step_samples: 8, samples: None, first_samples: 0, bytes: 1000 });
        assert!(ending.enter(8, 10) && ending.enter(8, 10));
        ending.leave(8, 10, true, 0);
        ending.leave(8, 10, true, 0);
        assert_eq!(ending.target_samples(), 32);
    }

    #[test]
    fn begins_as_wide_as_it_is_told_but_never_below_four_steps() {
        let of = |samples, first_samples| {
            Window::new(WindowLimits { step_samples: 8, samples, first_samples, bytes: 1000 }).target_samples()
        };
        assert_eq!(of(None, 256), 256);
        assert_eq!(of(None, 1), of(None, 0));
        assert_eq!(of(Some(20), 256), 20);
    }

    #[test]
    fn shrinks_when_for_long_more_was_ready_than_needed() {
        let mut window = window(None);
        while window.enter(8, 10) {}
        window.leave(8, 10, true, 0);
        let grown = window.target_samples();
        for _ in 0..8 {
            window.enter(8, 10);
        }
        for _ in 0..CALM_BATCHES {
            window.leave(8, 10, false, 6);
            window.enter(8, 10);
        }
        assert_eq!(window.target_samples(), grown - 8);
    }
}
