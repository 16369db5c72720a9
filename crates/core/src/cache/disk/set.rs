//! What a folder has of one source, and who uses it.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use super::layout::{self, set_folder};
use super::ledger::{Ledger, Page};
use super::locks::{self, Kind};
use super::opened::Opened;
use super::pace::Pace;
use super::rows::SetRow;
use super::writing::{DECLINED_FOR, write_file};
use super::{Disk, care, room};
use crate::world::ProcessStamp;

/// What looking at a set's row takes at most, but for whoever has to wait for another process.
const A_MOMENT: Duration = Duration::from_millis(10);
/// Who writes has more time.
const A_WHILE: Duration = Duration::from_secs(1);

/// What a set is of, as its folder says it for whoever looks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// The source.
    pub uri: String,
    /// Its server, where there is one to tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<String>,
}

/// What a folder has of one source. While this lives, other sources' files go before its own.
#[derive(Debug)]
pub struct Set {
    pub(super) disk: Arc<Disk>,
    pub(super) id: u128,
    pub(super) about: About,
    pub(super) folder: PathBuf,
    /// Which row of which ledger is the set's.
    pub(super) joined: Mutex<Option<(Arc<Opened>, usize)>>,
    /// When the ledger was not to be had.
    pub(super) missed_at: Mutex<Option<Instant>>,
    pub(super) replaces: AtomicBool,
    pub(super) declined_at: Mutex<Option<Instant>>,
    pub(super) pace: Arc<Mutex<Pace>>,
    pub(super) owner: ProcessStamp,
}

impl Set {
    pub(super) fn of(disk: Arc<Disk>, about: About, replaces: bool) -> Self {
        let id = layout::set_id(&about.uri, about.endpoint.as_deref());
        let folder = set_folder(&disk.root, id);
        Self {
            disk,
            id,
            about,
            folder,
            joined: Mutex::new(None),
            missed_at: Mutex::new(None),
            replaces: AtomicBool::new(replaces),
            declined_at: Mutex::new(None),
            pace: Arc::default(),
            owner: ProcessStamp::current(),
        }
    }

    /// From now on, its own files go for newcomers of its own, or do not.
    pub fn set_replaces(&self, replaces: bool) {
        self.replaces.store(replaces, Ordering::Relaxed);
    }

    /// The set's row in the ledger, which says that it is in use. `None` where there is no ledger, or no getting at it.
    pub(super) fn join(&self) -> io::Result<Option<(Arc<Opened>, usize)>> {
        self.join_within(A_MOMENT)
    }

    /// The same for who writes.
    pub(super) fn join_to_write(&self) -> io::Result<Option<(Arc<Opened>, usize)>> {
        self.join_within(A_WHILE)
    }

    fn join_within(&self, patience: Duration) -> io::Result<Option<(Arc<Opened>, usize)>> {
        let opened = self.disk.opened()?;
        // Whoever is at it for longer waits for another process: that one is enough.
        let Some(mut joined) = self.joined.try_lock_for(patience) else { return Ok(None) };
        if let Some((known, slot)) = &*joined {
            if Arc::ptr_eq(known, &opened) {
                return Ok(Some((opened, *slot)));
            }
            // Its file is gone, and the locks with it.
            *joined = None;
        }
        let Some(ledger) = &opened.ledger else { return Ok(None) };
        let mut missed = self.missed_at.lock();
        if missed.is_some_and(|at| at.elapsed() < DECLINED_FOR) {
            return Ok(None);
        }
        let Some(mut page) = ledger.lock()? else {
            *missed = Some(Instant::now());
            return Ok(None);
        };
        let known = page.sets().find(|row| row.id == self.id).map(|row| row.slot);
        let free = known.or_else(|| page.free_slot());
        let slot = match free {
            Some(slot) => Some(slot),
            None => Self::slot_of_another(&opened, &mut page)?,
        };
        let Some(slot) = slot else { return Ok(None) };
        let is_new = fs::symlink_metadata(&self.folder).is_err();
        ledger.access().make_folder(&self.folder)?;
        if known.is_none() {
            let row = SetRow::empty(slot, self.id, page.now());
            page.set_row(&if is_new { row } else { row.uncounted() })?;
            let about = serde_json::to_vec_pretty(&self.about).unwrap_or_default();
            let arriving = ledger.arriving(opened.number.fetch_add(1, Ordering::Relaxed));
            write_file(&arriving, ledger.access(), &[&about])?;
            // Whatever is in its place is not written to.
            fs::rename(&arriving, self.folder.join(layout::ABOUT))?;
        } else if let Some(row) = page.set(slot) {
            page.set_row(&SetRow { used: page.now(), ..row })?;
        }
        // At once, or another user of this process might give the lock up in between.
        let mut users = opened.users.lock();
        if !page.locks().try_lock(locks::SETS + slot as u64, Kind::Shared)? {
            return Ok(None);
        }
        *users.entry(slot).or_default() += 1;
        drop(users);
        *joined = Some((opened.clone(), slot));
        drop(page);
        Ok(Some((opened, slot)))
    }

    /// The row of the set that nobody has used for longest, once its files are gone: some of them go each time.
    fn slot_of_another(opened: &Opened, page: &mut Page<'_>) -> io::Result<Option<usize>> {
        let mut rows: Vec<_> = page.sets().collect();
        rows.sort_by_key(room::in_turn);
        for row in rows {
            if !opened.is_used(page, row.slot)? {
                return Ok(care::give_up(page, &row)?.then_some(row.slot));
            }
        }
        Ok(None)
    }

    /// Puts a file aside that is of no use, if nobody is in the way.
    pub(super) fn quarantine(&self, path: &Path, why: &dyn Display) {
        self.disk.counters.quarantined.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("`{}` is put aside, and its object fetched again: {why}", path.display());
        let set_aside = || -> io::Result<()> {
            let Some(_turn) = self.disk.writing.begin() else { return Ok(()) };
            let Some((opened, slot)) = self.join()? else { return Ok(()) };
            let Some(mut page) = opened.ledger.as_ref().map(Ledger::lock).transpose()?.flatten() else { return Ok(()) };
            if page.set(slot).is_none_or(|row| row.id != self.id) {
                return Ok(());
            }
            care::set_aside(&mut page, slot, path)
        };
        if let Err(cause) = set_aside() {
            tracing::debug!("`{}` stays where it is: {cause}", path.display());
        }
    }

    /// Uses it no longer.
    pub(super) fn leave(&self) {
        let joined = self.joined.lock().take();
        let Some((opened, slot)) = joined.filter(|_| self.owner.is_current()) else { return };
        let mut users = opened.users.lock();
        let left = users.get_mut(&slot).map_or(0, |users| {
            *users -= 1;
            *users
        });
        if left == 0
            && let Some(ledger) = &opened.ledger
        {
            users.remove(&slot);
            ledger.locks().unlock(locks::SETS + slot as u64);
        }
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self.leave();
    }
}
