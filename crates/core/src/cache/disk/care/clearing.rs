//! Removing what nobody needs, or all of it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::{Care, SetInfo, failed};
use crate::cache::disk::layout::{self, footprint, set_folder};
use crate::cache::disk::ledger::{Page, files_in};
use crate::cache::disk::room;
use crate::cache::disk::rows::SetRow;
use crate::error::{Error, ErrorKind, Result};

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Records.
    pub records: u64,
    /// Their bytes, in whole blocks.
    pub bytes: u64,
}

impl Care {
    /// Removes what nobody needs: what killed processes left behind, what was put aside, and sets that nobody uses and nobody has
    /// added to for `unused_for`; then, where the rest is more than `most` bytes, the least recently used records.
    ///
    /// # Errors
    /// Those of [`Care::sets`], and what `seen` returned, which is told of what goes.
    pub fn gc(
        &self,
        unused_for: Duration,
        most: Option<u64>,
        mut seen: impl FnMut(u64) -> Result<()>,
    ) -> Result<Removed> {
        self.page()?.take_back_all().map_err(|cause| failed(&self.opened.root, cause))?;
        let now = UNIX_EPOCH + Duration::from_secs(self.page()?.now());
        let mut removed = Removed::default();
        let sets = self.sets()?;
        for set in sets.iter().filter(|set| !set.is_used) {
            let is_old = now.duration_since(set.used).is_ok_and(|since| since > unused_for);
            if set.is_quarantine || is_old {
                removed += self.clear_one(set, &mut seen)?;
            }
        }
        self.count()?;
        while let Some(most) = most.filter(|&most| self.bytes().is_ok_and(|bytes| bytes > most)) {
            let gone = self.shrink(most)?;
            if gone.records == 0 {
                break;
            }
            removed += gone;
            seen(gone.bytes)?;
        }
        Ok(removed)
    }

    fn shrink(&self, most: u64) -> Result<Removed> {
        let mut page = self.page()?;
        let largest = page.sets().max_by_key(|row| row.bytes);
        let Some(row) = largest else { return Ok(Removed::default()) };
        let wanted = page.set_bytes().saturating_sub(most);
        let gone = room::free_some(&mut page, row, wanted, row.bytes);
        let gone = gone.map_err(|cause| failed(&self.opened.root, cause))?;
        Ok(Removed { records: gone.files, bytes: gone.bytes })
    }

    /// Removes every record, or those of one source: by its URI or the set's name.
    ///
    /// # Errors
    /// `NotFound` when there is nothing of that source; those of [`Care::sets`], and what `seen` returned.
    pub fn clear(&self, of: Option<&str>, mut seen: impl FnMut(u64) -> Result<()>) -> Result<Removed> {
        let is_it = |set: &&SetInfo| {
            let uri = set.about.as_ref().map(|about| &*about.uri);
            of.is_none_or(|of| set.id == of || uri == Some(of.trim_end_matches('/')))
        };
        let sets = self.sets()?;
        let meant: Vec<_> = sets.iter().filter(is_it).collect();
        if let (true, Some(of)) = (meant.is_empty(), of) {
            return Err(Error::new(ErrorKind::NotFound, "clear", of).because("the cache has nothing of that source"));
        }
        let mut removed = Removed::default();
        for set in meant {
            removed += self.clear_one(set, &mut seen)?;
        }
        Ok(removed)
    }

    fn clear_one(&self, set: &SetInfo, seen: &mut impl FnMut(u64) -> Result<()>) -> Result<Removed> {
        let id = u128::from_str_radix(&set.id, 16).unwrap_or_default();
        let mut removed = Removed::default();
        for shard in layout::shards(&set_folder(&self.opened.root, id)) {
            // A shard at a time, so that others wait for no more than that.
            let mut page = self.page()?;
            let Some(row) = page.sets().find(|row| row.id == id) else { break };
            let gone = clear_shard(&mut page, &row, &shard).map_err(|cause| failed(&shard, cause))?;
            drop(page);
            removed += gone;
            seen(gone.bytes)?;
        }
        Ok(removed)
    }
}

impl std::ops::AddAssign for Removed {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.bytes += more.bytes;
    }
}

/// Removes every file of a set, which is then none any more.
pub(in crate::cache::disk) fn clear_set(page: &mut Page<'_>, row: &SetRow) -> io::Result<()> {
    let folder = set_folder(page.root(), row.id);
    for shard in layout::shards(&folder) {
        clear_shard(page, row, &shard)?;
    }
    let _ = fs::remove_file(folder.join(layout::ABOUT));
    let _ = fs::remove_dir(&folder);
    page.set_row(&SetRow::empty(row.slot, 0, 0))
}

fn clear_shard(page: &mut Page<'_>, row: &SetRow, shard: &Path) -> io::Result<Removed> {
    let files = files_in(shard)?;
    if files.is_empty() {
        return Ok(Removed::default());
    }
    let removed = page.changing(row.slot, |page, row| {
        let mut removed = Removed::default();
        for (path, meta) in files {
            remove(&path)?;
            removed += Removed { records: 1, bytes: footprint(meta.len()) };
        }
        let (bytes, files) = (row.bytes.saturating_sub(removed.bytes), row.files.saturating_sub(removed.records));
        page.set_row(&SetRow { bytes, files, ..row })?;
        Ok(removed)
    })?;
    // Not while others have put something in.
    let _ = fs::remove_dir(shard);
    Ok(removed)
}

/// What is gone is removed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
