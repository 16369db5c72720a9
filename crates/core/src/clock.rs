//! What time it is, for what expires.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A clock that never goes back. The process's own is not the one on the wall, so that setting that one changes nothing.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    Own(Instant),
    /// Nanoseconds, and what the clock on the wall said at first.
    Manual(Arc<AtomicU64>, SystemTime),
}

impl Default for Clock {
    fn default() -> Self {
        Self(Kind::Own(Instant::now()))
    }
}

impl Clock {
    /// One that stands still until it is [put forward](Clock::advance).
    pub fn manual() -> Self {
        Self(Kind::Manual(Arc::default(), SystemTime::now()))
    }

    /// Puts a manual clock and all its clones forward; changes no other.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(now, _) = &self.0 {
            now.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        }
    }

    /// Time since it began.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Kind::Own(began) => began.elapsed(),
            Kind::Manual(now, _) => Duration::from_nanos(now.load(Ordering::SeqCst)),
        }
    }
}

impl Clock {
    /// What the clock on the wall says, which is what processes have in common. It may be set.
    pub fn wall(&self) -> SystemTime {
        match &self.0 {
            Kind::Own(_) => SystemTime::now(),
            Kind::Manual(_, began) => *began + self.now(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
