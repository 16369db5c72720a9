//! Writing records: room first, then the file, its name last.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::access::Access;
use super::layout::{self, footprint};
use super::ledger::{ALLOWANCE, Ledger};
use super::opened::Opened;
use super::room::{self, Wish};
use super::rows::SetRow;
use super::set::Set;
use crate::clock::Moment;
use crate::source::Edition;

/// A full folder is not asked for room again for so long.
pub(super) const DECLINED_FOR: Duration = Duration::from_secs(1);

impl Set {
    /// Whether a record of so many bytes may be let in. Nothing is promised.
    pub fn may_admit(&self, bytes: usize) -> bool {
        self.may_replace(bytes) && !self.was_declined()
    }

    /// The same of one that takes the place of another, for which there is room.
    pub fn may_replace(&self, bytes: usize) -> bool {
        self.disk.writing.is_on() && footprint(bytes as u64) <= self.disk.capacity()
    }

    /// Whether what is fetched now will probably be kept, in the place of another record or of none.
    pub fn may_be_kept(&self, bytes: usize, replaces: bool) -> bool {
        if replaces { self.may_replace(bytes) } else { self.may_admit(bytes) }
    }

    fn was_declined(&self) -> bool {
        self.declined_at.lock().is_some_and(|at| at.elapsed() < DECLINED_FOR)
    }

    /// Puts an object's record in that was `known` to be the right one then, if there is room or room can be made; whether it did.
    /// Writes to the disk: call it where waiting harms nobody.
    pub fn put(&self, key: &str, edition: &Edition, record: &[u8], known: Moment) -> bool {
        let place = layout::file_of(&self.folder, layout::hash_of(key));
        let head = layout::head(key, edition, record, known).filter(|_| self.may_replace(record.len()));
        let Some(head) = head.filter(|_| !self.was_declined() || place.exists()) else {
            self.decline();
            return false;
        };
        let Some(_turn) = self.disk.writing.begin() else { return false };
        match self.write(&place, &head, record) {
            Ok(true) => {
                self.disk.writing.worked(&self.disk.root);
                self.disk.counters.insertions.fetch_add(1, Ordering::Relaxed);
                true
            }
            Ok(false) => {
                if self.was_declined() {
                    // There is no room: that is an answer.
                    self.disk.writing.worked(&self.disk.root);
                }
                self.decline();
                false
            }
            Err(cause) => {
                self.disk.writing.failed(&self.disk.root, "write", &cause);
                false
            }
        }
    }

    /// Counts a record that nobody had the time to put in.
    pub fn decline(&self) {
        self.disk.counters.declined.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have written to the disk so far.
    pub fn writes(&self) -> u64 {
        self.disk.writing.done()
    }

    /// Notes that the disk does not answer who writes.
    pub fn writing_hangs(&self) {
        self.disk.writing.failed(&self.disk.root, "write", &io::ErrorKind::TimedOut.into());
    }

    fn write(&self, place: &Path, head: &[u8], record: &[u8]) -> io::Result<bool> {
        let Some((opened, slot)) = self.join_to_write()? else { return Ok(false) };
        let Some(ledger) = &opened.ledger else { return Ok(false) };
        let takes = footprint((head.len() + record.len()) as u64);
        if !self.take_allowance(&opened, ledger, slot, place, takes)? {
            *self.declined_at.lock() = Some(Instant::now());
            return Ok(false);
        }
        let arriving = ledger.arriving(opened.number.fetch_add(1, Ordering::Relaxed));
        let written = write_file(&arriving, ledger.access(), &[head, record])
            .and_then(|()| self.name(ledger, slot, place, &arriving, takes));
        if !matches!(written, Ok(true)) {
            let removed = fs::remove_file(&arriving);
            // What cannot be removed still takes room.
            if removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                *opened.allowance.lock() += takes;
            }
        }
        written
    }

    /// Takes what a file needs from what the process has, or for the process from the folder.
    fn take_allowance(
        &self,
        opened: &Arc<Opened>,
        ledger: &Ledger,
        slot: usize,
        place: &Path,
        bytes: u64,
    ) -> io::Result<bool> {
        let mut left = opened.allowance.lock();
        if *left >= bytes {
            *left -= bytes;
            return Ok(true);
        }
        let Some(mut page) = ledger.lock()? else { return Ok(false) };
        let capacity = self.disk.capacity();
        let missing = bytes - *left;
        for more in [missing.max(ALLOWANCE.min(capacity / 64)), missing] {
            let replaces = self.replaces.load(Ordering::Relaxed);
            let chance = opened.number.fetch_add(1, Ordering::Relaxed) ^ u64::from(std::process::id()) << 32;
            let wish = Wish { slot, place, bytes: more, capacity, replaces, chance };
            let (fits, gone) = room::make(&mut page, &wish, opened)?;
            // Also what went for nothing.
            self.disk.counters.evictions.fetch_add(gone.files, Ordering::Relaxed);
            if !fits {
                continue;
            }
            let taken = page.allowance() + more;
            page.set_allowance(taken)?;
            *left = *left + more - bytes;
            return Ok(true);
        }
        // Others may have removed files: whether it is full indeed is counted now and then.
        if !page.is_counted() {
            opened.count_behind(None);
        } else if opened.counts_again() {
            opened.count_behind(Some(slot));
        }
        Ok(false)
    }

    /// Gives a file that was written its name, and the set its bytes.
    fn name(&self, ledger: &Ledger, slot: usize, path: &Path, arriving: &Path, takes: u64) -> io::Result<bool> {
        let Some(mut page) = ledger.lock()? else { return Ok(false) };
        if page.set(slot).is_none_or(|row| row.id != self.id) {
            // The ledger was made anew, and the set has another row now.
            drop(page);
            self.leave();
            return Ok(false);
        }
        let Some(shard) = path.parent() else { return Ok(false) };
        let before = fs::symlink_metadata(path).ok();
        let has_shard = shard.is_dir();
        // Something that is none of ours has taken the place: this object cannot be kept, whatever others can.
        if before.as_ref().is_some_and(fs::Metadata::is_dir) || !has_shard && fs::symlink_metadata(shard).is_ok() {
            return Ok(false);
        }
        let named = page.changing(slot, |page, row| {
            if !has_shard {
                ledger.access().make_folder(shard)?;
            }
            let before = before.map(|meta| footprint(meta.len()));
            let bytes = row.bytes.saturating_add(takes).saturating_sub(before.unwrap_or_default());
            let row = SetRow { files: row.files + u64::from(before.is_none()), used: page.now(), ..row };
            // The one that it takes the place of is there until then.
            page.set_row(&SetRow { bytes: bytes.max(row.bytes), ..row })?;
            fs::rename(arriving, path)?;
            page.set_row(&SetRow { bytes, ..row })
        });
        named?;
        // It is the set's now.
        let left = page.allowance().saturating_sub(takes);
        page.set_allowance(left)?;
        Ok(true)
    }
}

/// Writes a file that is not there yet.
pub(super) fn write_file(path: &Path, access: Access, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = access.options().write(true).create_new(true).open(path)?;
    access.grant(&file);
    for part in parts {
        file.write_all(part)?;
    }
    Ok(())
}
