//! What people do with a folder of records: look, check, tidy up, empty it. Safe while others use it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::layout::{self, QUARANTINE_ID, footprint, set_folder};
use super::ledger::{Ledger, Page, files_in};
use super::opened::Opened;
use super::rows::SetRow;
use super::{About, locks, reading, room};
use crate::error::{Error, ErrorKind, Result};

/// How long to wait for those who use the folder.
const PATIENCE: Duration = Duration::from_secs(10);

/// A folder of records, to look at and tidy up.
#[derive(Debug)]
pub struct Care {
    pub(super) opened: Arc<Opened>,
}

/// What a folder has of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetInfo {
    /// Its name: 32 hexadecimal digits.
    pub id: String,
    /// The source; `None` where its folder does not say, or for damaged files that were put aside.
    pub about: Option<About>,
    /// Whether it is what was found damaged.
    pub is_quarantine: bool,
    /// Bytes, in whole blocks.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// When a record was last put in.
    pub used: SystemTime,
    /// Whether a process uses it at present.
    pub is_used: bool,
}

impl SetInfo {
    /// One with nothing in it, as far as is known.
    fn of(root: &Path, id: u128) -> Self {
        let about = reading::read_whole(&set_folder(root, id).join(layout::ABOUT)).ok();
        Self {
            id: format!("{id:032x}"),
            about: about.and_then(|about| serde_json::from_slice(&about).ok()),
            is_quarantine: id == QUARANTINE_ID,
            bytes: 0,
            records: 0,
            used: UNIX_EPOCH,
            is_used: false,
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records that were read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are damaged.
    pub damaged: u64,
    /// Files and folders in their places that cannot be read, or are none.
    pub unreadable: u64,
    /// Of both, those that were put aside: none where the folder can only be read.
    pub put_aside: u64,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Records.
    pub records: u64,
    /// Their bytes, in whole blocks.
    pub bytes: u64,
}

impl Care {
    /// Opens a folder that is one of ours.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` or `Unsupported` when it is none, `Io`, `Denied`.
    pub fn of(root: &Path) -> Result<Self> {
        if !root.join(layout::MARKER).exists() {
            let foreign = (ErrorKind::Invalid, "it is no cache of ours");
            let (kind, why) = if root.exists() { foreign } else { (ErrorKind::NotFound, "there is nothing") };
            return Err(Error::new(kind, "look after cache", root.display()).because(why));
        }
        let opened = Opened::at(root, false)?.map_err(|cause| failed(root, cause))?;
        Ok(Self { opened })
    }

    /// What there is of each source, the largest first.
    ///
    /// # Errors
    /// `Io`, `Denied`; `Timeout` while another process keeps its lock.
    pub fn sets(&self) -> Result<Vec<SetInfo>> {
        let mut sets = if self.opened.ledger.is_some() { self.sets_by_ledger() } else { self.sets_by_looking() }?;
        sets.sort_by_key(|set| std::cmp::Reverse(set.bytes));
        Ok(sets)
    }

    fn sets_by_ledger(&self) -> Result<Vec<SetInfo>> {
        let page = self.counted_page()?;
        let root = page.root();
        let info = |row: SetRow| {
            let is_used = page.locks().is_held_elsewhere(locks::SETS + row.slot as u64)?;
            let is_own = self.opened.users.lock().get(&row.slot).is_some_and(|&users| users > 0);
            Ok(SetInfo {
                bytes: row.bytes,
                records: row.files,
                used: UNIX_EPOCH + Duration::from_secs(row.used),
                is_used: is_used || is_own,
                ..SetInfo::of(root, row.id)
            })
        };
        let sets: io::Result<Vec<_>> = page.sets().map(info).collect();
        sets.map_err(|cause| failed(root, cause))
    }

    /// The same of a folder that can only be read: counted, and who uses it is not known.
    fn sets_by_looking(&self) -> Result<Vec<SetInfo>> {
        let root = &self.opened.root;
        let info = |id| {
            let mut set = SetInfo::of(root, id);
            for shard in layout::shards(&set_folder(root, id)) {
                for (_, meta) in files_in(&shard)? {
                    set.bytes += footprint(meta.len());
                    set.records += 1;
                    set.used = set.used.max(meta.modified()?);
                }
            }
            Ok(set)
        };
        let sets: io::Result<Vec<_>> = layout::sets(root).and_then(|ids| ids.into_iter().map(info).collect());
        sets.map_err(|cause| failed(root, cause))
    }

    /// Bytes of all records, in whole blocks.
    ///
    /// # Errors
    /// Those of [`Care::sets`].
    pub fn bytes(&self) -> Result<u64> {
        match self.opened.ledger {
            Some(_) => Ok(self.counted_page()?.set_bytes()),
            None => Ok(self.sets()?.iter().map(|set| set.bytes).sum()),
        }
    }

    /// Bytes that processes have taken to write more, besides.
    ///
    /// # Errors
    /// Those of [`Care::sets`].
    pub fn taken(&self) -> Result<u64> {
        let page = self.page()?;
        Ok(page.bytes() - page.set_bytes())
    }

    /// Reads every record and compares its checksum; puts aside what is damaged, and counts what is there. `seen` is told of every
    /// record's bytes and may end it by an error.
    ///
    /// # Errors
    /// Those of [`Care::sets`], and what `seen` returned.
    pub fn verify(&self, mut seen: impl FnMut(u64) -> Result<()>) -> Result<Checked> {
        let mut checked = Checked::default();
        let root = &self.opened.root;
        let ids = layout::sets(root).map_err(|cause| failed(root, cause))?;
        for id in ids.into_iter().filter(|&id| id != QUARANTINE_ID) {
            for shard in layout::shards(&set_folder(root, id)) {
                let files = files_in(&shard).unwrap_or_else(|cause| {
                    checked.unreadable += 1;
                    tracing::warn!("cannot read `{}`: {cause}", shard.display());
                    Vec::new()
                });
                for (path, _) in files {
                    let is_sound = match reading::read_whole(&path) {
                        Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                        Err(cause) => {
                            checked.unreadable += 1;
                            tracing::warn!("cannot read `{}`: {cause}", path.display());
                            seen(0)?;
                            false
                        }
                        Ok(file) => {
                            let is_sound = is_sound(&path, &file);
                            checked.records += 1;
                            checked.bytes += file.len() as u64;
                            checked.damaged += u64::from(!is_sound);
                            seen(file.len() as u64)?;
                            is_sound
                        }
                    };
                    if !is_sound {
                        checked.put_aside += u64::from(self.put_aside(id, &path)?);
                    }
                }
            }
        }
        // What cannot be read cannot be counted, either.
        let counted = if self.opened.ledger.is_some() { self.count() } else { Ok(()) };
        if checked.unreadable == 0 { counted.map(|()| checked) } else { Ok(checked) }
    }

    /// Puts a file of a set aside; whether that could be done.
    fn put_aside(&self, id: u128, path: &Path) -> Result<bool> {
        if self.opened.ledger.is_none() {
            return Ok(false);
        }
        let mut page = self.page()?;
        let Some(slot) = page.sets().find(|row| row.id == id).map(|row| row.slot) else { return Ok(false) };
        let done = set_aside(&mut page, slot, path);
        if let Err(cause) = &done {
            tracing::warn!("`{}` stays where it is: {cause}", path.display());
        }
        Ok(done.is_ok())
    }

    /// Counts what every set holds.
    fn count(&self) -> Result<()> {
        let mut page = self.page()?;
        let slots: Vec<_> = page.sets().map(|row| row.slot).collect();
        let marked = slots.into_iter().try_for_each(|slot| page.count_again(slot));
        drop(page);
        marked.map_err(|cause| failed(&self.opened.root, cause))?;
        self.counted_page().map(drop)
    }

    /// The ledger once all is counted.
    fn counted_page(&self) -> Result<Page<'_>> {
        let page = self.page()?;
        if page.is_counted() {
            return Ok(page);
        }
        drop(page);
        if self.opened.count().map_err(|cause| failed(&self.opened.root, cause))? {
            return self.page();
        }
        let why = "others keep changing it while it is counted";
        Err(Error::new(ErrorKind::Timeout, "look after cache", self.opened.root.display()).because(why))
    }

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

    fn page(&self) -> Result<Page<'_>> {
        let root = &self.opened.root;
        let Some(ledger) = &self.opened.ledger else {
            return Err(Error::new(ErrorKind::Denied, "look after cache", root.display()).because("it is read-only"));
        };
        let ends = std::time::Instant::now() + PATIENCE;
        loop {
            match Ledger::lock(ledger).map_err(|cause| failed(root, cause))? {
                Some(page) => return Ok(page),
                None if std::time::Instant::now() < ends => {}
                None => {
                    let why = "another process keeps its lock; is one stopped?";
                    return Err(Error::new(ErrorKind::Timeout, "look after cache", root.display()).because(why));
                }
            }
        }
    }
}

impl std::ops::AddAssign for Removed {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.bytes += more.bytes;
    }
}

fn failed(path: &Path, cause: io::Error) -> Error {
    Error::io("look after cache", path.display(), cause)
}

/// Whether a file is whole, and is what its name says.
fn is_sound(path: &Path, file: &[u8]) -> bool {
    if layout::is_of_another_version(file) {
        return true;
    }
    let Some(said) = layout::parse(file, file.len() as u64) else { return false };
    let set = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    layout::is_whole(file, said.record_at) && layout::file_of(set, layout::hash_of(&said.key)) == path
}

/// Removes every file of a set, which is then none any more.
pub(super) fn clear_set(page: &mut Page<'_>, row: &SetRow) -> io::Result<()> {
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
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves a damaged file of a set to those that were put aside, which go before anything else does. Where there is no place, it is removed.
pub(super) fn set_aside(page: &mut Page<'_>, slot: usize, path: &Path) -> io::Result<()> {
    let bytes = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A folder is none of ours: it stays where it is.
        Ok(meta) if meta.is_dir() => return Ok(()),
        meta => footprint(meta?.len()),
    };
    let aside = page.sets().find(|row| row.id == QUARANTINE_ID).map(|row| row.slot).or_else(|| page.free_slot());
    if let Some(slot) = aside.filter(|&slot| page.set(slot).is_none()) {
        let is_new = fs::symlink_metadata(set_folder(page.root(), QUARANTINE_ID)).is_err();
        let row = SetRow::empty(slot, QUARANTINE_ID, page.now());
        page.set_row(&if is_new { row } else { row.uncounted() })?;
    }
    let to = place_aside(page.root(), path).filter(|_| aside.is_some());
    if let (Some(aside), Some(to)) = (aside, &to) {
        // Counted there before it is there: `changing` says so of one set at a time.
        page.changing(aside, |page, row| {
            let shard = to.parent().unwrap_or(Path::new(""));
            page.access().make_folder(shard.parent().unwrap_or(shard))?;
            page.access().make_folder(shard)?;
            let before = fs::symlink_metadata(to).map(|meta| footprint(meta.len())).ok();
            let bytes = row.bytes.saturating_add(bytes).saturating_sub(before.unwrap_or_default());
            page.set_row(&SetRow { bytes, files: row.files + u64::from(before.is_none()), ..row })
        })?;
    }
    let moved = page.changing(slot, |page, row| {
        match &to {
            Some(to) => fs::rename(path, to)?,
            None => remove(path)?,
        }
        page.set_row(&SetRow { bytes: row.bytes.saturating_sub(bytes), files: row.files.saturating_sub(1), ..row })
    });
    if let (Err(_), Some(aside)) = (&moved, aside) {
        // It is not there, after all.
        page.count_again(aside)?;
    }
    moved
}

fn place_aside(root: &Path, path: &Path) -> Option<PathBuf> {
    let shard = path.parent()?.file_name()?;
    Some(set_folder(root, QUARANTINE_ID).join(shard).join(path.file_name()?))
}
