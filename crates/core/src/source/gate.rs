//! Stopping a read between waiting for its turn and asking.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Where a read stops once it has its turn, until it is let on: what it is for may have come meanwhile. Whoever drops it there
/// gives the turn back, and nothing was asked.
#[derive(Debug, Default)]
pub struct Gate {
    is_open: AtomicBool,
    reached: Notify,
    opened: Notify,
}

impl Gate {
    /// Waits until the read has its turn, for one who waits.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets the read on.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Release);
        self.opened.notify_one();
    }

    /// Whether the read was let on.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Has a turn, and waits until it may be used.
    pub async fn pass(&self) {
        if !self.is_open() {
            self.reached.notify_one();
            self.opened.notified().await;
        }
    }
}
