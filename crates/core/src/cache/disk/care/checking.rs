//! Reading all of a folder, and putting aside what is damaged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::clearing::remove;
use super::{Care, failed};
use crate::cache::disk::layout::{self, QUARANTINE_ID, footprint, set_folder};
use crate::cache::disk::ledger::{Page, files_in};
use crate::cache::disk::reading;
use crate::cache::disk::rows::SetRow;
use crate::error::Result;

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

impl Care {
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

/// Moves a damaged file of a set to those that were put aside, which go before anything else does. Where there is no place, it is removed.
pub(in crate::cache::disk) fn set_aside(page: &mut Page<'_>, slot: usize, path: &Path) -> io::Result<()> {
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
