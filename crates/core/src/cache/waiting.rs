//! What waits to be kept, bounded in bytes.
//!
//! One may always wait, however large it is; others beside it as long as all together stay within a limit. Nobody waits for a
//! place: who gets none goes on without.

use super::sync::{Arc, AtomicUsize, Ordering};

/// Where values wait.
#[derive(Debug)]
pub struct WaitingRoom {
    bytes: Arc<AtomicUsize>,
}

/// Bytes that wait, for as long as this lives.
#[derive(Debug)]
pub struct Waiting {
    bytes: usize,
    room: Arc<AtomicUsize>,
}

impl Default for WaitingRoom {
    fn default() -> Self {
        Self { bytes: Arc::new(AtomicUsize::new(0)) }
    }
}

impl WaitingRoom {
    /// Lets so many bytes wait, unless others do and together they are more than `limit`.
    pub fn enter(&self, bytes: usize, limit: usize) -> Option<Waiting> {
        let all = |before: usize| Some(before.saturating_add(bytes)).filter(|&all| before == 0 || all <= limit);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, all).ok()?;
        Some(Waiting { bytes, room: self.bytes.clone() })
    }

    /// How many wait.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.room.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
