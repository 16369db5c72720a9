//! Least recently used until an order is known, then keep.

use super::{Eviction, Lru, Slot};

/// Like [`Lru`] while uses come from anywhere; like [`Keep`](super::Keep) from when a loader says that it walks epochs.
#[derive(Debug, Default)]
pub struct Auto {
    lru: Lru,
    keeps: bool,
}

impl Eviction for Auto {
    fn inserted(&mut self, slot: Slot) {
        self.lru.inserted(slot);
    }

    fn used(&mut self, slot: Slot) {
        self.lru.used(slot);
    }

    fn removed(&mut self, slot: Slot) {
        self.lru.removed(slot);
    }

    fn victim(&self) -> Option<Slot> {
        if self.keeps { None } else { self.lru.victim() }
    }

    fn order_is_known(&mut self) {
        self.keeps = true;
    }
}
