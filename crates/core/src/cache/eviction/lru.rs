//! Give up what was used longest ago.
//!
//! Right when use comes in bursts and nothing is known of what comes next. Wrong for epochs: with a cache of half the data it reuses
//! 15 % where [`Keep`](super::Keep) reuses 50 %.

use super::{Eviction, Slot};

const NONE: Slot = Slot::MAX;

/// A doubly linked list through the slots, most recently used first.
#[derive(Debug)]
pub struct Lru {
    links: Vec<Link>,
    newest: Slot,
    oldest: Slot,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    newer: Slot,
    older: Slot,
}

impl Default for Lru {
    fn default() -> Self {
        Self { links: Vec::new(), newest: NONE, oldest: NONE }
    }
}

impl Lru {
    fn link(&mut self, slot: Slot) -> Option<&mut Link> {
        self.links.get_mut(slot as usize)
    }
}

impl Eviction for Lru {
    fn inserted(&mut self, slot: Slot) {
        let needed = slot as usize + 1;
        if self.links.len() < needed {
            self.links.resize(needed, Link { newer: NONE, older: NONE });
        }
        let older = self.newest;
        self.links[slot as usize] = Link { newer: NONE, older };
        match self.link(older) {
            Some(link) => link.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    fn used(&mut self, slot: Slot) {
        if self.newest != slot {
            self.removed(slot);
            self.inserted(slot);
        }
    }

    fn removed(&mut self, slot: Slot) {
        let Link { newer, older } = self.links[slot as usize];
        match self.link(newer) {
            Some(link) => link.older = older,
            None => self.newest = older,
        }
        match self.link(older) {
            Some(link) => link.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn victim(&self) -> Option<Slot> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}
