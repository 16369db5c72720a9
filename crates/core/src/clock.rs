//! What time it is, for what expires.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A clock that never goes back. The process's own is not the one on the wall, so that setting that one changes nothing.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    Own(Instant),
    /// Nanoseconds.
    Manual(Arc<AtomicU64>),
}

impl Default for Clock {
    fn default() -> Self {
        Self(Kind::Own(Instant::now()))
    }
}

impl Clock {
    /// One that stands still until it is [put forward](Clock::advance).
    pub fn manual() -> Self {
        Self(Kind::Manual(Arc::default()))
    }

    /// Puts a manual clock and all its clones forward; changes no other.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(now) = &self.0 {
            now.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        }
    }

    /// Time since it began.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Kind::Own(began) => began.elapsed(),
            Kind::Manual(now) => Duration::from_nanos(now.load(Ordering::SeqCst)),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
