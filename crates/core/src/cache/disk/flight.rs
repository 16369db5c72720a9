//! Who fetches an object that several want, be they datasets of one process or of several.
//!
//! A process holds a lock on the object's place, which ends with it, however that ends. Such locks keep out other processes and no
//! thread of its own, so that each process has a table of the places that it holds besides. What the others wait for is the record;
//! for how long is told by their [`Pace`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use super::layout;
use super::locks;
use super::opened::Opened;
use super::pace::Pace;
use super::set::Set;
use crate::world::ProcessStamp;

/// Who fetches an object.
#[derive(Debug)]
pub enum Claim {
    /// Whoever asked, for as long as it holds on.
    Ours(Flight),
    /// Somebody else. `None`: it cannot be told who.
    Theirs(Option<Owner>),
    /// It cannot be told.
    Nobodys,
}

/// A process that uses the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(pub(super) usize);

/// Places that a process holds; `false` while it is not known yet whether another one has it.
pub(super) type Flights = Mutex<HashMap<u64, bool>>;

/// The right to fetch an object, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Flight {
    pace: Arc<Mutex<Pace>>,
    opened: Arc<Opened>,
    at: u64,
    /// How many bytes the record was fetched of, once it is there.
    brought: Option<u64>,
    owner: ProcessStamp,
}

impl Flight {
    /// Ends with the record in its place, of an object of so many bytes.
    pub fn brought(mut self, bytes: u64) {
        self.brought = Some(bytes);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // A forked child has neither the lock nor a part in what its parent does.
        if !self.owner.is_current() {
            return;
        }
        if let Some(ledger) = &self.opened.ledger {
            ledger.locks().land(self.at);
        }
        // Not before: another thread that found no row would have the lock, and lose it.
        self.opened.flights.lock().remove(&self.at);
        self.pace.lock().ended(self.at, self.brought, Instant::now());
    }
}

impl Set {
    /// Claims to be the one that fetches an object.
    pub fn claim(&self, key: &str) -> Claim {
        let Some(_turn) = self.disk.writing.begin() else { return Claim::Nobodys };
        let Some((opened, process)) = self.seat() else { return Claim::Nobodys };
        let Some(ledger) = &opened.ledger else { return Claim::Nobodys };
        let at = self.place_of(key);
        match opened.flights.lock().entry(at) {
            Entry::Occupied(place) => return Claim::Theirs(place.get().then_some(Owner(process))),
            Entry::Vacant(place) => drop(place.insert(false)),
        }
        // Not under the lock of the table: a file may be far away.
        let tried = ledger.locks().try_fly(at, process);
        if let Ok(true) = tried {
            opened.flights.lock().insert(at, true);
            self.pace.lock().began(at, Instant::now());
            return Claim::Ours(Flight { pace: self.pace.clone(), opened, at, brought: None, owner: self.owner });
        }
        opened.flights.lock().remove(&at);
        match tried {
            Ok(_) => Claim::Theirs(ledger.locks().who_flies(at).map(Owner)),
            Err(_) => Claim::Nobodys,
        }
    }

    /// Whether an object that was claimed still is, by nobody else than before.
    pub fn is_still_claimed(&self, key: &str, owner: Option<Owner>) -> bool {
        let Some(_turn) = self.disk.writing.begin() else { return false };
        let Some((opened, process)) = self.seat() else { return false };
        let Some(ledger) = &opened.ledger else { return false };
        let at = self.place_of(key);
        let own = opened.flights.lock().get(&at).map(|is_held| is_held.then_some(Owner(process)));
        let found = own.or_else(|| ledger.locks().who_flies(at).map(|process| Some(Owner(process))));
        found.is_some_and(|found| found == owner || found.is_none() || owner.is_none())
    }

    /// Whether it is of no use to wait any longer for whoever has claimed an object of so many bytes.
    pub fn is_in_vain(&self, owner: Option<Owner>, bytes: u64, waited: Duration) -> bool {
        self.pace.lock().is_in_vain(owner, bytes, waited, Instant::now())
    }

    /// Notes that another one was waited for, and whether that brought the record.
    pub fn waited(&self, owner: Option<Owner>, waited: Duration, is_there: bool) {
        self.pace.lock().waited(owner, waited, is_there, Instant::now());
    }

    fn place_of(&self, key: &str) -> u64 {
        locks::flight(layout::hash_of(key) ^ self.id)
    }

    /// The folder, and the row that this process has there.
    fn seat(&self) -> Option<(Arc<Opened>, usize)> {
        let (opened, _) =
            self.join().inspect_err(|cause| self.disk.writing.failed(&self.disk.root, "write", cause)).ok()??;
        let process = opened.ledger.as_ref()?.process()?;
        Some((opened, process))
    }
}
