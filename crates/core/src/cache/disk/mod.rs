//! The disk tier: records in files of a folder that all processes of a machine share, and that outlives them.
//!
//! A [`Disk`] is a folder with a capacity; a [`Set`] is what it has of one source. Reading takes no lock: a file is opened by the hash
//! of its object's key, read whole and compared with its checksum; one of another version is not there, and one that is damaged goes
//! into quarantine. Writing takes [allowance](ledger) first and gives the file its name last, so that a folder never holds more than
//! it may and nobody sees half a file. Processes that may be killed or stopped at any moment wait for each other for a moment only:
//! whoever does not get a lock goes on without.
//!
//! The folder has a marker, and only what is named as we name things is ever removed. When the disk fails the tier is
//! [off](health) for a while.

mod access;
pub mod care;
mod counting;
mod flight;
mod health;
mod layout;
mod ledger;
mod locks;
mod opened;
mod pace;
mod reading;
mod room;
mod rows;
mod set;
mod writing;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::sync::Mutex;

use crate::error::Result;

use health::Health;
use opened::Opened;

pub use flight::{Claim, Flight, Owner};
pub use reading::{Found, Look, Wanted};
pub use set::{About, Set};

/// A folder for records.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    given_capacity: Option<u64>,
    /// As soon as the folder can be asked.
    capacity: OnceLock<u64>,
    opened: Mutex<Arc<Opened>>,
    /// When the folder was found to be one that can only be read.
    only_read_at: Mutex<Option<Instant>>,
    reading: Health,
    writing: Health,
    counters: Counters,
}

/// What happened so far, in this process.
#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    insertions: AtomicU64,
    evictions: AtomicU64,
    declined: AtomicU64,
    quarantined: AtomicU64,
}

/// What a disk tier holds, and what happened in it in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Files of all sets, when this process last looked and they were counted.
    pub entries: u64,
    /// Bytes of all sets in whole blocks, and what processes have taken to write.
    pub bytes: u64,
    /// What `bytes` never exceeds.
    pub capacity: u64,
    /// Records that were there when asked for.
    pub hits: u64,
    /// Records that were not.
    pub misses: u64,
    /// Records that were put in.
    pub insertions: u64,
    /// Files that were removed for others.
    pub evictions: u64,
    /// Records that were not let in.
    pub declined: u64,
    /// Files that were found damaged.
    pub quarantined: u64,
    /// How often the disk failed.
    pub failures: u64,
    /// Whether it is left alone at present.
    pub is_off: bool,
}

impl Disk {
    /// Opens a folder, or makes one of an empty or missing one. Without a capacity, it may take four fifths of what is free and of
    /// what it has already. Where the disk fails, or does not answer for 5 s, the tier is off until it works.
    ///
    /// # Errors
    /// `Invalid` when the folder holds anything that is not ours, `Unsupported` when another version made it.
    pub fn open(root: &Path, capacity: Option<u64>) -> Result<Self> {
        let opened = Opened::at_if_it_answers(root, true)?;
        Ok(Self::of(root, opened, capacity))
    }

    /// Opens a folder that is there; where it is not, or is no longer ours, the tier is off until it is.
    pub fn there(root: &Path, capacity: Option<u64>) -> Self {
        let opened = Opened::at_if_it_answers(root, false);
        Self::of(root, opened.unwrap_or_else(|error| Err(io::Error::other(error.report()))), capacity)
    }

    fn of(root: &Path, opened: io::Result<Arc<Opened>>, given_capacity: Option<u64>) -> Self {
        let (reading, writing) = (Health::default(), Health::default());
        let only_read = opened.as_ref().is_ok_and(|opened| opened.ledger.is_none());
        let opened = opened.unwrap_or_else(|cause| {
            writing.failed(root, "open it", &cause);
            Arc::new(Opened::unusable(root))
        });
        let disk = Self {
            root: root.to_owned(),
            given_capacity,
            capacity: OnceLock::new(),
            opened: Mutex::new(opened.clone()),
            only_read_at: Mutex::new(only_read.then(Instant::now)),
            reading,
            writing,
            counters: Counters::default(),
        };
        disk.find_capacity(&opened);
        disk
    }

    fn known_capacity(&self) -> Option<u64> {
        self.given_capacity.or_else(|| self.capacity.get().copied())
    }

    /// What it may hold; nothing while a default cannot be told.
    fn capacity(&self) -> u64 {
        self.known_capacity().unwrap_or(0)
    }

    /// Asks the disk what it may hold, unless that is known.
    fn find_capacity(&self, opened: &Opened) {
        let free = || rustix::fs::statvfs(&self.root).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if self.known_capacity().is_none()
            && let Some((_, bytes)) = opened.bytes()
            && let Some(free) = free()
        {
            self.capacity.get_or_init(|| bytes.saturating_add(free) / 5 * 4);
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the folder has of the source at a URI and endpoint, and will have.
    pub fn set(self: &Arc<Self>, uri: &str, endpoint: Option<&str>, replaces: bool) -> Set {
        let about = About { uri: uri.to_owned(), endpoint: endpoint.map(str::to_owned) };
        Set::of(self.clone(), about, replaces)
    }

    /// The folder as it is now: it may have been removed, and another one be in its place.
    fn opened(&self) -> io::Result<Arc<Opened>> {
        let mut opened = self.opened.lock().clone();
        if !opened.is_there() {
            opened = self.opened_again()?;
        }
        if self.known_capacity().is_none() {
            if opened.bytes().is_none() {
                opened.count_behind(None);
            }
            self.find_capacity(&opened);
        }
        Ok(opened)
    }

    fn opened_again(&self) -> io::Result<Arc<Opened>> {
        // One that can only be read is not opened again with every record.
        if self.only_read_at.lock().is_some_and(|at| at.elapsed() < self.writing.rest()) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let opened = Opened::at(&self.root, false).map_err(|error| io::Error::other(error.report()))??;
        *self.opened.lock() = opened.clone();
        let only_read = opened.ledger.is_none();
        *self.only_read_at.lock() = only_read.then(Instant::now);
        if only_read { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(opened) }
    }

    /// What it holds, as this process last found it, and what happened. Asks nobody, and waits for nobody.
    pub fn stats(&self) -> DiskStats {
        let (entries, bytes) = self.opened.lock().bytes().unwrap_or_default();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        DiskStats {
            entries,
            bytes,
            capacity: self.capacity(),
            hits: of(&counters.hits),
            misses: of(&counters.misses),
            insertions: of(&counters.insertions),
            evictions: of(&counters.evictions),
            declined: of(&counters.declined),
            quarantined: of(&counters.quarantined),
            failures: self.reading.failures() + self.writing.failures(),
            is_off: !(self.reading.is_on() && self.writing.is_on()),
        }
    }

    /// Sets the counters to zero.
    pub fn reset_counters(&self) {
        let Counters { hits, misses, insertions, evictions, declined, quarantined } = &self.counters;
        let all = [hits, misses, insertions, evictions, declined, quarantined];
        all.into_iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }
}
