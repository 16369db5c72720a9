//! Which entry a full cache gives up for a newcomer. One policy per file; [`by_policy`] is the register.

mod auto;
mod keep;
mod lru;

use std::fmt::Debug;

use super::Policy;

pub use auto::Auto;
pub use keep::Keep;
pub use lru::Lru;

/// Number of an entry in its cache; given again after the entry is gone.
pub type Slot = u32;

/// Follows what happens to entries, and chooses among them.
pub trait Eviction: Debug + Send {
    /// A new entry.
    fn inserted(&mut self, slot: Slot);

    /// An entry was asked for.
    fn used(&mut self, slot: Slot);

    /// An entry is gone.
    fn removed(&mut self, slot: Slot);

    /// The entry to give up; `None` keeps what is there and declines the newcomer.
    fn victim(&self) -> Option<Slot>;

    /// Tells that from now on every unit is used once per pass, in an order that is known.
    fn order_is_known(&mut self) {}
}

/// The policy of that name.
pub fn by_policy(policy: Policy) -> Box<dyn Eviction> {
    match policy {
        Policy::Auto => Box::new(Auto::default()),
        Policy::Lru => Box::new(Lru::default()),
        Policy::Keep => Box::new(Keep),
    }
}
