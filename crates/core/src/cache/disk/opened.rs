//! A folder as a process has it open: found or made, joined once, never closed.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use super::access::{Access, make_root};
use super::flight::Flights;
use super::layout;
use super::ledger::{Ledger, Page};
use super::locks;
use super::reading::read_whole;
use crate::engine::PerProcess;
use crate::error::{Error, ErrorKind, Result};

/// How long to wait for a disk, or for another thread that opens a folder.
const PATIENCE: Duration = Duration::from_secs(5);
/// A full set is counted no more often than this.
const COUNTED_EVERY: Duration = Duration::from_hours(1);

/// Folders that this process has open.
pub(super) static OPEN: PerProcess<Open> = PerProcess::new();

#[derive(Debug, Default)]
pub(super) struct Open {
    /// By device and number of their lock files. Never closed: that would give up every lock.
    known: Mutex<HashMap<FileNumber, Arc<Opened>>>,
    /// Those being opened, by device and number: one thread after the other, since a lock file is opened once.
    turns: Mutex<HashMap<FileNumber, Arc<Mutex<()>>>>,
}

impl Open {
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.known.lock().clear();
    }
}

/// Markers that this process has begun to write.
static MARKERS: AtomicU64 = AtomicU64::new(0);

/// Device and number.
pub(super) type FileNumber = (u64, u64);

/// A folder as this process has it open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) root: PathBuf,
    /// Without one, the folder can be read and not written.
    pub(super) ledger: Option<Ledger>,
    /// What is left of the allowance that the ledger knows of.
    pub(super) allowance: Mutex<u64>,
    /// How many use a set in this process, by its slot.
    pub(super) users: Mutex<HashMap<usize, usize>>,
    /// When a full set was last counted.
    pub(super) counted_at: Mutex<Option<Instant>>,
    /// Whether a thread counts what it holds.
    pub(super) is_counting: AtomicBool,
    pub(super) number: AtomicU64,
    /// Places of objects that are fetched in this process for all.
    pub(super) flights: Flights,
}

impl Opened {
    /// Opens what is there, or with `make` what is to be. The inner error is the disk's.
    pub(super) fn at(root: &Path, make: bool) -> Result<io::Result<Arc<Self>>> {
        match Self::prepare(root, make) {
            Ok(Prepared::Ours) => {}
            Ok(Prepared::Foreign(why)) => {
                return Err(Error::new(ErrorKind::Invalid, "keep records in", root.display()).because(why));
            }
            Ok(Prepared::Other) => {
                return Err(Error::new(ErrorKind::Unsupported, "keep records in", root.display())
                    .because("another version made it; remove it, or give another folder"));
            }
            Err(cause) => return Ok(Err(cause)),
        }
        let open = OPEN.get_or_try_init(|| Ok(Open::default()))?;
        let number = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
        let turn = match number(root) {
            Ok(folder) => open.turns.lock().entry(folder).or_default().clone(),
            Err(cause) => return Ok(Err(cause)),
        };
        // Of this folder alone: another one may be on a disk that hangs.
        let Some(_turn) = turn.try_lock_for(PATIENCE) else { return Ok(Err(io::ErrorKind::TimedOut.into())) };
        let lock = root.join(layout::LOCK);
        // By its number, since opening the file again and closing it would give up the locks.
        if let Ok(file) = number(&lock)
            && let Some(opened) = open.known.lock().get(&file)
        {
            return Ok(Ok(opened.clone()));
        }
        let ledger = match Ledger::open(root) {
            Ok(ledger) => Some(ledger),
            Err(cause) if is_read_only(&cause) => None,
            Err(cause) => return Ok(Err(cause)),
        };
        let is_written = ledger.is_some();
        let opened = Arc::new(Self { ledger, ..Self::unusable(root) });
        if is_written && let Ok(file) = number(&lock) {
            open.known.lock().insert(file, opened.clone());
        }
        if is_written && opened.bytes().is_none() {
            opened.count_behind(None);
        }
        Ok(Ok(opened))
    }

    /// The same for whoever goes on without, where the disk does not answer: that is asked on a thread of its own, which may wait for ever.
    pub(super) fn at_if_it_answers(root: &Path, make: bool) -> Result<io::Result<Arc<Self>>> {
        let (answer, answered) = sync_channel(1);
        let place = root.to_owned();
        let asking = thread::Builder::new().name("headwater-disk".to_owned()).spawn(move || {
            // Nobody may wait for it any more.
            let _ = answer.send(Self::at(&place, make));
        });
        match asking {
            Ok(_) => answered.recv_timeout(PATIENCE).unwrap_or_else(|_| Ok(Err(io::ErrorKind::TimedOut.into()))),
            Err(cause) => Ok(Err(cause)),
        }
    }

    pub(super) fn unusable(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ledger: None,
            allowance: Mutex::new(0),
            users: Mutex::default(),
            counted_at: Mutex::default(),
            is_counting: AtomicBool::new(false),
            number: AtomicU64::new(0),
            flights: Flights::default(),
        }
    }

    fn prepare(root: &Path, make: bool) -> io::Result<Prepared> {
        let marker = root.join(layout::MARKER);
        match read_whole(&marker) {
            Ok(text) if text == layout::MARKER_TEXT.as_bytes() => {}
            Ok(_) => return Ok(Prepared::Other),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Ok(Prepared::Foreign("it is not a folder".to_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
                make_root(root)?;
                // Nobody else's, be it another thread's.
                let number = MARKERS.fetch_add(1, Ordering::Relaxed);
                let arriving = format!("{}.{}-{number}", layout::MARKER, std::process::id());
                let is_known = |name: &str| name == "lost+found" || name.starts_with(layout::MARKER);
                for entry in fs::read_dir(root)? {
                    let name = entry?.file_name();
                    if !name.to_str().is_some_and(is_known) {
                        // Unless another process has made it ours meanwhile, the marker first.
                        if read_whole(&marker).is_ok_and(|text| text == layout::MARKER_TEXT.as_bytes()) {
                            break;
                        }
                        return Ok(Prepared::Foreign(format!(
                            "it holds `{}`, which is not ours: give an empty folder or a new one",
                            name.display()
                        )));
                    }
                }
                let access = Access::in_folder(root)?;
                let arriving = root.join(&arriving);
                let mut file = access.options().write(true).create(true).truncate(true).open(&arriving)?;
                file.write_all(layout::MARKER_TEXT.as_bytes())?;
                access.grant(&file);
                fs::rename(&arriving, &marker)?;
            }
            Err(error) => return Err(error),
        }
        let access = Access::in_folder(root)?;
        for folder in [layout::SETS, layout::ARRIVING] {
            match access.make_folder(&root.join(folder)) {
                Err(error) if is_read_only(&error) => {}
                made => made?,
            }
        }
        Ok(Prepared::Ours)
    }

    /// Whether a set is in use, by this process or another one.
    pub(super) fn is_used(&self, page: &Page<'_>, slot: usize) -> io::Result<bool> {
        let is_own = self.users.lock().get(&slot).is_some_and(|&users| users > 0);
        Ok(is_own || page.locks().is_held_elsewhere(locks::SETS + slot as u64)?)
    }

    /// Whether it is time to have a full set counted anew.
    pub(super) fn counts_again(&self) -> bool {
        let mut counted = self.counted_at.lock();
        let is_time = counted.is_none_or(|at| at.elapsed() > COUNTED_EVERY);
        if is_time {
            *counted = Some(Instant::now());
        }
        is_time
    }

    /// Files, and bytes that they and those on their way take, as this process last knew them, if it has.
    pub(super) fn bytes(&self) -> Option<(u64, u64)> {
        self.ledger.as_ref().and_then(Ledger::known)
    }

    pub(super) fn is_there(&self) -> bool {
        match &self.ledger {
            Some(ledger) => ledger.is_there(),
            None => false,
        }
    }
}

enum Prepared {
    Ours,
    Foreign(String),
    /// Of another version.
    Other,
}

fn is_read_only(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
