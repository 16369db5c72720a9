//! One load per unit at a time.
//!
//! Whoever comes first leads: it loads, and lands the result. Whoever comes while it does so follows: it waits for that
//! result. A leader that is dropped without landing (its caller left, or it panicked) leaves its followers without one;
//! they then join again, and one of them leads.

use std::collections::HashMap;
use std::fmt;

use tokio::sync::oneshot::{Receiver, Sender, channel};

use super::UnitId;
use super::sync::{Arc, Mutex};

/// The loads under way, by unit.
pub struct Flights<T> {
    under_way: Mutex<HashMap<UnitId, Vec<Sender<T>>>>,
}

/// One's part in a load.
pub enum Flight<T: Clone> {
    /// To load, and to land the result.
    Lead(Leader<T>),
    /// To wait. An error means that the leader left: join again.
    Follow(Receiver<T>),
}

/// The duty to load a unit.
pub struct Leader<T: Clone> {
    flights: Arc<Flights<T>>,
    unit: UnitId,
    landed: bool,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { under_way: Mutex::new(HashMap::new()) }
    }
}

impl<T: Clone> Flights<T> {
    /// Joins the load of a unit, or begins one.
    pub fn join(self: &Arc<Self>, unit: UnitId) -> Flight<T> {
        let mut under_way = self.under_way.lock();
        if let Some(followers) = under_way.get_mut(&unit) {
            let (sender, receiver) = channel();
            followers.push(sender);
            return Flight::Follow(receiver);
        }
        under_way.insert(unit, Vec::new());
        drop(under_way);
        Flight::Lead(Leader { flights: self.clone(), unit, landed: false })
    }

    /// How many loads are under way.
    pub fn len(&self) -> usize {
        self.under_way.lock().len()
    }

    /// Whether no load is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone> Leader<T> {
    /// Ends the flight and hands the result to every follower. Returns whether there were any.
    pub fn land(mut self, result: &T) -> bool {
        self.landed = true;
        let followers = self.flights.under_way.lock().remove(&self.unit).unwrap_or_default();
        let had_followers = !followers.is_empty();
        for follower in followers {
            // One that left needs no result.
            let _ = follower.send(result.clone());
        }
        had_followers
    }
}

impl<T: Clone> Drop for Leader<T> {
    fn drop(&mut self) {
        // Once landed, the next leader of this unit may be on its way: that is not ours to end.
        if !self.landed {
            self.flights.under_way.lock().remove(&self.unit);
        }
    }
}

impl<T> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.under_way.lock().len()).finish()
    }
}
