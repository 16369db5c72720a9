//! What happens when the disk does not do what it should: the tier is off for a while, and training goes on.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a disk is left alone that failed.
const REST: Duration = Duration::from_secs(30);

/// Whether a disk is worth asking.
#[derive(Debug)]
pub(super) struct Health {
    began: Instant,
    rest: Duration,
    /// Milliseconds since it began until when it rests; 0 while all is well.
    off_until: AtomicU64,
    failures: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self { began: Instant::now(), rest: REST, off_until: AtomicU64::new(0), failures: AtomicU64::new(0) }
    }
}

impl Health {
    #[cfg(test)]
    pub(super) fn resting(rest: Duration) -> Self {
        Self { rest, ..Self::default() }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    pub(super) fn is_on(&self) -> bool {
        self.now() >= self.off_until.load(Ordering::Relaxed)
    }

    /// How often it failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// It does what it should.
    pub(super) fn worked(&self, root: &Path) {
        if self.off_until.load(Ordering::Relaxed) != 0 && self.off_until.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!("the disk cache `{}` works again", root.display());
        }
    }

    /// It does not. Said once, until it does again.
    pub(super) fn failed(&self, root: &Path, op: &str, cause: &io::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let until = self.now() + self.rest.as_millis() as u64;
        if self.off_until.swap(until.max(1), Ordering::Relaxed) == 0 {
            tracing::warn!(
                "going on without the disk cache `{}`, which is tried again every {} s: cannot {op}: {cause}",
                root.display(),
                self.rest.as_secs()
            );
        }
    }
}
