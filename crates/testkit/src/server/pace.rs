//! How slow the server is.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How slow to be; nothing limits by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Speed {
    /// Time from a request to the first byte of its answer.
    pub first_byte: Duration,
    /// Bytes per second of one answer.
    pub stream_rate: Option<u64>,
    /// Bytes per second of all answers together.
    pub total_rate: Option<u64>,
}

/// The line that all answers share.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) speed: Speed,
    /// When it has carried all that was put on it.
    free_at: Mutex<Option<Instant>>,
}

/// When the bytes of one body are due.
#[derive(Debug)]
pub(super) struct Pace {
    first: Instant,
    stream_rate: Option<u64>,
    /// When the line begins to carry it, and how long that takes.
    line: Option<(Instant, Duration)>,
    total: usize,
}

impl Line {
    pub(super) fn new(speed: Speed) -> Self {
        Self { speed, free_at: Mutex::default() }
    }

    /// The pace of an answer of so many bytes to a request that came then; `None`: as fast as it goes.
    pub(super) fn pace(&self, began: Instant, total: usize) -> Option<Pace> {
        let Speed { first_byte, stream_rate, total_rate } = self.speed;
        let first = began + first_byte;
        let line = total_rate.map(|rate| {
            let time = carried(total, rate);
            let mut free_at = self.free_at.lock();
            let from = free_at.map_or(first, |free| free.max(first));
            *free_at = Some(from + time);
            (from, time)
        });
        (line.is_some() || stream_rate.is_some()).then_some(Pace { first, stream_rate, line, total })
    }
}

impl Pace {
    /// When so many bytes of the body have been carried.
    pub(super) fn due(&self, sent: usize) -> Instant {
        let by_stream = self.stream_rate.map(|rate| self.first + carried(sent, rate));
        // The line's time for this body is spread evenly over it.
        let share = sent as f64 / self.total.max(1) as f64;
        let on_line = self.line.map(|(from, time)| from + time.mul_f64(share));
        by_stream.into_iter().chain(on_line).max().unwrap_or(self.first)
    }
}

fn carried(bytes: usize, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}
