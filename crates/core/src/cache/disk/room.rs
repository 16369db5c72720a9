//! What goes when a folder is full.
//!
//! First the record whose place the new one takes. Then what was put aside, and what other sets have that nobody uses. Then what a
//! set in use has beyond its share of the capacity, for one that has less. Then what the policy says of the set itself: with `lru`
//! those of a sample of its files that were used least recently, with `keep` only files that nobody has used for a week, since
//! newcomers are declined.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::layout::{QUARANTINE_ID, footprint, set_folder, shards};
use super::ledger::{Page, files_in};
use super::opened::Opened;
use super::rows::SetRow;

/// Room is made for more than the one file that asks for it.
const AT_LEAST: u64 = 4 << 20;
/// Files among which the least recently used one is looked for.
const SAMPLE: usize = 64;
/// Of those, so many go at once at most.
const GOING: usize = 16;
const FORGOTTEN: Duration = Duration::from_hours(7 * 24);
/// Shards that are looked through for forgotten files, each time.
const LOOKED_THROUGH: usize = 4;

/// Who wants room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) slot: usize,
    /// Where the record is to be, and its predecessor may be.
    pub(super) place: &'a Path,
    pub(super) bytes: u64,
    pub(super) capacity: u64,
    /// Whether the set's own files go for others of its own.
    pub(super) replaces: bool,
    /// A number to look at other places each time.
    pub(super) chance: u64,
}

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl std::ops::AddAssign for Gone {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.files += more.files;
    }
}

/// Makes room, if there is or can be any; whether there is now, and what went for it.
pub(super) fn make(page: &mut Page<'_>, wish: &Wish<'_>, opened: &Opened) -> io::Result<(bool, Gone)> {
    let mut gone = Gone::default();
    if wish.bytes > wish.capacity || !page.is_counted() {
        return Ok((false, gone));
    }
    let fits = |page: &Page<'_>| page.bytes().saturating_add(wish.bytes) <= wish.capacity;
    if !fits(page) {
        page.take_back_all()?;
    }
    if !fits(page) {
        gone = free_one(page, wish)?;
    }
    let mut step = 0;
    while !fits(page) {
        let wanted = (page.bytes().saturating_add(wish.bytes) - wish.capacity).max(AT_LEAST.min(wish.capacity / 64));
        let Some((set, which)) = victim(page, wish, opened)? else { return Ok((false, gone)) };
        let freed = free(page, set, which, wanted, wish.chance.wrapping_add(step))?;
        gone += freed;
        step += 1;
        if freed.files == 0 {
            return Ok((false, gone));
        }
    }
    Ok((true, gone))
}

/// In which order sets go that nobody uses: what was put aside first.
pub(super) fn in_turn(set: &SetRow) -> (bool, u64) {
    (set.id != QUARANTINE_ID, set.used)
}

/// Which files of a set may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Any,
    LeastRecent,
    Forgotten,
}

/// Frees some of a set's records, those that were used least recently.
pub(super) fn free_some(page: &mut Page<'_>, set: SetRow, wanted: u64, chance: u64) -> io::Result<Gone> {
    free(page, set, Which::LeastRecent, wanted, chance)
}

fn victim(page: &Page<'_>, wish: &Wish<'_>, opened: &Opened) -> io::Result<Option<(SetRow, Which)>> {
    let rows: Vec<_> = page.sets().collect();
    let mut used = Vec::new();
    let mut unused = Vec::new();
    for row in rows {
        if opened.is_used(page, row.slot)? { used.push(row) } else { unused.push(row) }
    }
    if let Some(row) = unused.into_iter().filter(|row| row.bytes > 0).min_by_key(in_turn) {
        return Ok(Some((row, Which::Any)));
    }
    let Some(own) = used.iter().find(|row| row.slot == wish.slot).copied() else { return Ok(None) };
    let share = wish.capacity / used.len().max(1) as u64;
    let largest = used.iter().filter(|row| row.slot != own.slot).max_by_key(|row| row.bytes);
    if let Some(row) = largest.filter(|row| row.bytes > share && own.bytes.saturating_add(wish.bytes) <= share) {
        return Ok(Some((*row, Which::LeastRecent)));
    }
    Ok(Some((own, if wish.replaces { Which::LeastRecent } else { Which::Forgotten })))
}

/// Frees the record whose place the new one takes.
fn free_one(page: &mut Page<'_>, wish: &Wish<'_>) -> io::Result<Gone> {
    let bytes = match fs::symlink_metadata(wish.place) {
        Ok(meta) if meta.is_dir() => return Ok(Gone::default()),
        Ok(meta) => footprint(meta.len()),
        Err(_) => return Ok(Gone::default()),
    };
    page.changing(wish.slot, |page, row| {
        fs::remove_file(wish.place)?;
        let (bytes_left, files) = (row.bytes.saturating_sub(bytes), row.files.saturating_sub(1));
        page.set_row(&SetRow { bytes: bytes_left, files, ..row })
    })?;
    Ok(Gone { bytes, files: 1 })
}

fn free(page: &mut Page<'_>, set: SetRow, which: Which, wanted: u64, chance: u64) -> io::Result<Gone> {
    let folder = set_folder(page.root(), set.id);
    let mut files = some_files(&folder, which, chance)?;
    files.sort_by_key(|file| file.used);
    match which {
        Which::Any => {}
        Which::LeastRecent => files.truncate((files.len() / 4).clamp(1, GOING)),
        Which::Forgotten => {
            let now = UNIX_EPOCH + Duration::from_secs(page.now());
            files.retain(|file| now.duration_since(file.used).is_ok_and(|since| since > FORGOTTEN));
        }
    }
    if files.is_empty() {
        // Nothing is there, whatever was counted.
        if which == Which::Any {
            page.count_again(set.slot)?;
        }
        return Ok(Gone::default());
    }
    page.changing(set.slot, |page, row| {
        let mut gone = Gone::default();
        for file in files {
            match fs::remove_file(&file.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            gone.bytes += file.bytes;
            gone.files += 1;
            if gone.bytes >= wanted {
                break;
            }
        }
        let (bytes, files) = (row.bytes.saturating_sub(gone.bytes), row.files.saturating_sub(gone.files));
        page.set_row(&SetRow { bytes, files, ..row })?;
        Ok(gone)
    })
}

struct Candidate {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Files of a set, beginning anywhere: a sample, or of an unused set whatever is there.
fn some_files(folder: &Path, which: Which, chance: u64) -> io::Result<Vec<Candidate>> {
    let shards: Vec<_> = shards(folder).collect();
    let start = (chance.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
    let mut files = Vec::new();
    for number in 0..shards.len() {
        let enough = match which {
            Which::Forgotten => number >= LOOKED_THROUGH,
            Which::Any | Which::LeastRecent => files.len() >= SAMPLE,
        };
        if enough {
            break;
        }
        for (path, meta) in files_in(&shards[(start + number) % shards.len()])? {
            let used = meta.accessed().unwrap_or(UNIX_EPOCH);
            files.push(Candidate { path, bytes: footprint(meta.len()), used });
        }
    }
    Ok(files)
}
