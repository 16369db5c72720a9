//! What happens when the disk does not do what it should: the tier is off for a while, and training goes on.
//!
//! After its rest one tries whether it works again. Who hangs there cannot be called back: as long as it does, nobody is sent after it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

/// How long a disk is left alone that failed.
const REST: Duration = Duration::from_secs(30);
/// Files that cannot be read, one after the other and none between them that can: a disk that is gone or broken has as many at once,
/// one that has lost a few blocks or was given strange files hardly ever.
const BAD_IN_A_ROW: usize = 8;

/// Whether a disk is worth asking.
#[derive(Debug)]
pub(super) struct Health {
    began: Instant,
    rest: Duration,
    /// Milliseconds since it began until when it rests; 0 while all is well.
    off_until: AtomicU64,
    failures: AtomicU64,
    /// Who is at it at present, and how many have been.
    at_it: AtomicUsize,
    done: AtomicU64,
    /// Whether it is left alone because it did not answer.
    is_silent: AtomicBool,
    /// Files that could not be read since one could, by their hashes; and whether there are any.
    bad: Mutex<Vec<u64>>,
    has_bad: AtomicBool,
}

/// A turn at the disk, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Health);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::Relaxed);
        self.0.at_it.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            rest: REST,
            off_until: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            at_it: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            is_silent: AtomicBool::new(false),
            bad: Mutex::default(),
            has_bad: AtomicBool::new(false),
        }
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
        self.lets_in(self.at_it.load(Ordering::Relaxed))
    }

    fn lets_in(&self, at_it: usize) -> bool {
        match self.off_until.load(Ordering::Relaxed) {
            0 => true,
            until => at_it == 0 && self.now() >= until,
        }
    }

    /// Begins to use the disk; `None` while it is left alone.
    pub(super) fn begin(&self) -> Option<Turn<'_>> {
        if self.lets_in(self.at_it.fetch_add(1, Ordering::Relaxed)) {
            return Some(Turn(self));
        }
        self.at_it.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Whether anybody is at it.
    pub(super) fn is_busy(&self) -> bool {
        self.at_it.load(Ordering::Relaxed) > 0
    }

    /// How many have been at it, and are no more.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn rest(&self) -> Duration {
        self.rest
    }

    /// How often it failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// It does what it should.
    pub(super) fn worked(&self, root: &Path) {
        if self.has_bad.load(Ordering::Relaxed) {
            self.bad.lock().clear();
            self.has_bad.store(false, Ordering::Relaxed);
        }
        if self.off_until.load(Ordering::Relaxed) != 0 && self.off_until.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!("the disk cache `{}` works again", root.display());
        }
    }

    /// It answers, be it that there is nothing.
    pub(super) fn answered(&self, root: &Path) {
        if self.off_until.load(Ordering::Relaxed) != 0 && self.is_silent.load(Ordering::Relaxed) {
            self.worked(root);
        }
    }

    /// A file cannot be read. That is no failure of the disk, unless it is so with one after the other.
    pub(super) fn failed_at(&self, root: &Path, file: u64, cause: &io::Error) {
        let mut bad = self.bad.lock();
        self.has_bad.store(true, Ordering::Relaxed);
        if bad.len() < BAD_IN_A_ROW && !bad.contains(&file) {
            bad.push(file);
        }
        if bad.len() == BAD_IN_A_ROW {
            drop(bad);
            self.failed(root, "read", cause);
        }
    }

    /// It does not. Said once, until it does again.
    pub(super) fn failed(&self, root: &Path, op: &str, cause: &io::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.is_silent.store(cause.kind() == io::ErrorKind::TimedOut, Ordering::Relaxed);
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
