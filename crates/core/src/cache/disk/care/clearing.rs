//! Removing what nobody needs, or all of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// Removes what nobody needs: what killed processes left behind, what was put aside, and sets that no process uses and of which
    /// none has used or added a record for `unused_for`; then, where the rest is more than `most` bytes, the least recently used
    /// records.
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
        let is_old = |used: SystemTime| now.duration_since(used).is_ok_and(|since| since > unused_for);
        let mut removed = Removed::default();
        let sets = self.sets()?;
        for set in sets.iter().filter(|set| !set.is_used) {
            let is_unused = || self.all_of(set, |meta| meta.accessed().is_ok_and(is_old));
            if set.is_quarantine || set.records == 0 || is_old(set.used) && is_unused()? {
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

    /// Whether something is so of all files of a set. Readers note their use there, and nowhere else.
    fn all_of(&self, set: &SetInfo, is_so: impl Fn(&fs::Metadata) -> bool) -> Result<bool> {
        for shard in layout::shards(&self.folder_of(set)) {
            let files = files_in(&shard).map_err(|cause| failed(&shard, cause))?;
            if !files.iter().all(|(_, meta)| is_so(meta)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn folder_of(&self, set: &SetInfo) -> PathBuf {
        set_folder(&self.opened.root, set.number())
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
        let mut removed = Removed::default();
        for shard in layout::shards(&self.folder_of(set)) {
            // A shard at a time, so that others wait for no more than that.
            let mut page = self.page()?;
            let Some(row) = page.sets().find(|row| row.id == set.number()) else { return Ok(removed) };
            let gone = clear_shard(&mut page, &row, &shard).map_err(|cause| failed(&shard, cause))?;
            drop(page);
            removed += gone;
            seen(gone.bytes)?;
        }
        let mut page = self.page()?;
        let row = page.sets().find(|row| row.id == set.number());
        if let Some(row) = row.filter(|row| row.files == 0) {
            let is_used = self.opened.is_used(&page, row.slot);
            let done = is_used.and_then(|is_used| if is_used { Ok(()) } else { forget(&mut page, &row) });
            done.map_err(|cause| failed(&self.opened.root, cause))?;
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

/// Removes files of a set that nobody uses, those of one shard, so that nobody waits for long; whether there are none any more, and
/// its row is free.
pub(in crate::cache::disk) fn give_up(page: &mut Page<'_>, row: &SetRow) -> io::Result<bool> {
    for shard in layout::shards(&set_folder(page.root(), row.id)) {
        if clear_shard(page, row, &shard)?.records > 0 {
            return Ok(false);
        }
    }
    forget(page, row).map(|()| true)
}

/// Removes an empty set: its row, and its folder unless somebody else has put something there.
fn forget(page: &mut Page<'_>, row: &SetRow) -> io::Result<()> {
    let folder = set_folder(page.root(), row.id);
    let is_ours = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() == layout::ABOUT);
    if fs::read_dir(&folder).is_ok_and(|mut entries| entries.all(is_ours)) {
        let _ = fs::remove_file(folder.join(layout::ABOUT));
        let _ = fs::remove_dir(&folder);
    }
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
