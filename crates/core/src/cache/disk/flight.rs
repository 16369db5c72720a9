//! Who fetches an object that several processes want.
//!
//! One of them holds a lock, which ends with it. That it is not stopped, and has something come, it says by a word that changes: it
//! is waited for as long as it does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Disk;
use super::layout;
use super::locks;
use super::opened::Opened;
use super::set::Set;
use crate::world::ProcessStamp;

/// Who fetches an object.
#[derive(Debug)]
pub enum Claim {
    /// This process, for as long as it holds on.
    Ours(Flight),
    /// Another one. `None`: it does not say whether it gets on.
    Theirs(Option<Beat>),
    /// It cannot be told.
    Nobodys,
}

/// A process, and what it last said: another one than before says that it gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    process: usize,
    beat: u64,
}

/// The right to fetch an object, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Flight {
    opened: Arc<Opened>,
    at: u64,
    owner: ProcessStamp,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.opened.landed.fetch_add(1, Ordering::Relaxed);
        self.opened.flights.fetch_sub(1, Ordering::Relaxed);
        if let Some(ledger) = self.opened.ledger.as_ref().filter(|_| self.owner.is_current()) {
            ledger.locks().land(self.at);
        }
    }
}

impl Set {
    /// Claims to be the one process that fetches an object.
    pub fn claim(&self, key: &str) -> Claim {
        let Some(_turn) = self.disk.writing.begin() else { return Claim::Nobodys };
        let opened = match self.join() {
            Ok(Some((opened, _))) => opened,
            Ok(None) => return Claim::Nobodys,
            Err(cause) => {
                self.disk.writing.failed(&self.disk.root, "write", &cause);
                return Claim::Nobodys;
            }
        };
        let Some(ledger) = &opened.ledger else { return Claim::Nobodys };
        let Some(process) = ledger.process() else { return Claim::Nobodys };
        let at = locks::flight(layout::hash_of(key) ^ self.id);
        match ledger.locks().try_fly(at, process) {
            Ok(true) => {
                opened.flights.fetch_add(1, Ordering::Relaxed);
                Claim::Ours(Flight { opened, at, owner: self.owner })
            }
            Ok(false) => {
                let beat = |process| Some(Beat { process, beat: ledger.beat_of(process)? });
                Claim::Theirs(ledger.locks().who_flies(at).and_then(beat))
            }
            Err(_) => Claim::Nobodys,
        }
    }
}

impl Disk {
    /// How many objects this process fetches for all, and how many it no longer does.
    pub fn flights(&self) -> (usize, u64) {
        let opened = self.opened.lock();
        (opened.flights.load(Ordering::Relaxed), opened.landed.load(Ordering::Relaxed))
    }

    /// Says to those who wait for this process that it gets on. Writes to the disk: call it where waiting harms nobody.
    pub fn beat(&self) {
        let Some(_turn) = self.writing.begin() else { return };
        let opened = self.opened.lock().clone();
        let Some(ledger) = &opened.ledger else { return };
        if let Err(cause) = ledger.beat(opened.number.fetch_add(1, Ordering::Relaxed)) {
            // Who waits does so no longer than for one that is stopped.
            tracing::debug!("nobody is told what comes: {cause}");
        }
    }
}
