//! Counting what sets hold, beside everything else: no lock is held meanwhile, nobody waits for it, and nobody takes more room until
//! it is done. What was counted is right if the set's row was not written meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::layout::{self, footprint, set_folder};
use super::ledger::{Ledger, files_in};
use super::locks::{self, Kind};
use super::opened::Opened;
use super::rows::SetRow;

/// Sets may be changed while they are counted: by those who have taken room before, and those who remove files.
const TRIES: usize = 64;
const PAUSE: Duration = Duration::from_millis(20);
/// Another process that counts may be stopped at it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Opened {
    /// Has all sets counted that are not, on a thread of its own that ends with that; and before them one that may have less than is
    /// counted of it, which is no reason to keep anybody waiting.
    pub(super) fn count_behind(self: &Arc<Self>, doubted: Option<usize>) {
        if self.ledger.is_none() || self.is_counting.swap(true, Ordering::AcqRel) {
            return;
        }
        let opened = self.clone();
        let counting = thread::Builder::new().name("headwater-count".to_owned()).spawn(move || {
            if let Err(cause) = opened.count_in_turn(doubted) {
                tracing::warn!("cannot tell what the disk cache `{}` holds: {cause}", opened.root.display());
            }
            opened.is_counting.store(false, Ordering::Release);
        });
        if counting.is_err() {
            self.is_counting.store(false, Ordering::Release);
        }
    }

    /// The same for one process after the other: the first one does it for all.
    fn count_in_turn(&self, doubted: Option<usize>) -> io::Result<()> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let ends = Instant::now() + PATIENCE;
        let is_its_turn = loop {
            if ledger.locks().try_lock(locks::COUNTING, Kind::Exclusive)? {
                break true;
            }
            if Instant::now() >= ends {
                break false;
            }
            thread::sleep(PAUSE);
        };
        let counted = self.count_doubted(doubted).and_then(|()| self.count());
        if is_its_turn {
            ledger.locks().unlock(locks::COUNTING);
        }
        counted.map(drop)
    }

    /// Counts a set that is counted, unless it changes meanwhile.
    fn count_doubted(&self, doubted: Option<usize>) -> io::Result<()> {
        let Some((ledger, slot)) = self.ledger.as_ref().zip(doubted) else { return Ok(()) };
        let row = ledger.lock()?.and_then(|page| page.set(slot));
        row.map_or(Ok(()), |row| count_one(ledger, &row).map(drop))
    }

    /// Counts all sets that are not; whether all are.
    pub(super) fn count(&self) -> io::Result<bool> {
        let Some(ledger) = &self.ledger else { return Ok(false) };
        for _ in 0..TRIES {
            let Some(page) = ledger.lock()? else { continue };
            let uncounted: Vec<_> = page.sets().filter(|row| !row.is_counted).collect();
            drop(page);
            if uncounted.is_empty() {
                return Ok(true);
            }
            let mut is_right = true;
            for row in uncounted {
                is_right &= count_one(ledger, &row)?;
            }
            if !is_right {
                thread::sleep(PAUSE);
            }
        }
        Ok(false)
    }
}

/// Counts a set; whether its row says so now.
fn count_one(ledger: &Ledger, row: &SetRow) -> io::Result<bool> {
    let (mut bytes, mut files) = (0, 0);
    for shard in layout::shards(&set_folder(ledger.root(), row.id)) {
        for (_, meta) in files_in(&shard)? {
            bytes += footprint(meta.len());
            files += 1;
        }
    }
    let Some(mut page) = ledger.lock()? else { return Ok(false) };
    let is_right = page.set(row.slot) == Some(*row);
    if is_right {
        page.set_row(&SetRow { bytes, files, is_counted: true, ..*row })?;
    }
    Ok(is_right)
}
