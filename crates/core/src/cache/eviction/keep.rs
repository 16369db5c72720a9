//! Keep what is there.
//!
//! When every unit is used once per epoch, in an order that does not repeat, all entries are equally far from their next use on
//! average, and giving one up for another only costs its next hit. Reuse then is capacity / dataset, which is also what an
//! oracle reaches (Belady 1966).

use super::{Eviction, Slot};

/// Never gives anything up.
#[derive(Debug, Clone, Copy)]
pub struct Keep;

impl Eviction for Keep {
    fn inserted(&mut self, _: Slot) {}

    fn used(&mut self, _: Slot) {}

    fn removed(&mut self, _: Slot) {}

    fn victim(&self) -> Option<Slot> {
        None
    }
}
