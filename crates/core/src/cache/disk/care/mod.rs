//! What people do with a folder of records: look, check, tidy up, empty it. Safe while others use it.

mod checking;
mod clearing;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::layout::{self, QUARANTINE_ID, footprint, set_folder};
use super::ledger::{Ledger, Page, files_in};
use super::opened::Opened;
use super::rows::SetRow;
use super::{About, reading};
use crate::error::{Error, ErrorKind, Result};

pub use checking::Checked;
pub(super) use checking::set_aside;
pub use clearing::Removed;
pub(super) use clearing::give_up;

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
    /// When a process last began to use it, or put a record in.
    pub used: SystemTime,
    /// Whether a process uses it at present.
    pub is_used: bool,
}

impl SetInfo {
    fn number(&self) -> u128 {
        u128::from_str_radix(&self.id, 16).unwrap_or_default()
    }

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

impl Care {
    /// Opens a folder that is one of ours.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` or `Unsupported` when it is none, `Io`, `Denied`.
    pub fn of(root: &Path) -> Result<Self> {
        let is_there = |path: &Path| path.try_exists().map_err(|cause| failed(root, cause));
        if !is_there(&root.join(layout::MARKER))? {
            let foreign = (ErrorKind::Invalid, "it is no cache of ours");
            let (kind, why) = if is_there(root)? { foreign } else { (ErrorKind::NotFound, "there is nothing") };
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
            Ok(SetInfo {
                bytes: row.bytes,
                records: row.files,
                used: UNIX_EPOCH + Duration::from_secs(row.used),
                is_used: self.opened.is_used(&page, row.slot)?,
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

    fn page(&self) -> Result<Page<'_>> {
        let root = &self.opened.root;
        let Some(ledger) = &self.opened.ledger else {
            return Err(Error::new(ErrorKind::Denied, "look after cache", root.display()).because("it is read-only"));
        };
        let ends = Instant::now() + PATIENCE;
        loop {
            match Ledger::lock(ledger).map_err(|cause| failed(root, cause))? {
                Some(page) => return Ok(page),
                None if Instant::now() < ends => {}
                None => {
                    let why = "another process keeps its lock; is one stopped?";
                    return Err(Error::new(ErrorKind::Timeout, "look after cache", root.display()).because(why));
                }
            }
        }
    }
}

fn failed(path: &Path, cause: io::Error) -> Error {
    Error::io("look after cache", path.display(), cause)
}
