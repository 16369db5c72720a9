//! What the server was asked for: a test's proof of what a client did.

use std::sync::atomic::{AtomicU64, Ordering};

/// What kind of thing a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// An object's bytes, or where to get them.
    Get,
    /// A page of a listing, or the descriptions of several objects.
    List,
    /// An object's description.
    Head,
    /// Storing, deleting, asking about a repository, and what no protocol knows.
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    by_class: [AtomicU64; 4],
    leaked: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, class: Class) {
        self.by_class[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leak(&self) {
        self.leaked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of(&self, class: Class) -> u64 {
        self.by_class[class as usize].load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> u64 {
        self.by_class.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn leaked(&self) -> u64 {
        self.leaked.load(Ordering::Relaxed)
    }
}
