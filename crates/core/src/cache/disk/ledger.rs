//! How much a folder holds, and who has room in it: one small file that all processes keep together.
//!
//! It is read and written by whoever has the lock. Bytes are counted before they are on the disk and no longer after they are gone:
//! a process takes *allowance* before it writes, and passes it on to a set when the file takes its name. What a killed process had
//! taken is taken back by the others.
//!
//! Nothing it says is believed unless its [checksum](super::rows) is right, and nothing that was written before the machine was
//! started: a power cut may have kept an earlier ledger and later files. What is not known is [counted](super::counting) from the
//! files, beside everything else, and until that is done nobody takes more. So is a set whose files were being changed by a process
//! that was killed at it, which the ledger says. What a process has taken is also told by a [lock](Locks::taken) of its, from which
//! its row is written again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clock;
use crate::sync::{Mutex, MutexGuard};

use super::access::Access;
use super::layout::{self, ARRIVING, BLOCK, LEDGER, LOCK};
use super::locks::{self, Kind, Locks};
use super::rows::{Head, PROCESSES, Rows, SETS, SetRow};

/// Allowance that a process takes at once, of a large capacity.
pub(super) const ALLOWANCE: u64 = 32 << 20;

/// Another process that has the lock works for microseconds. One that was stopped then has it for ever.
const PATIENCE: Duration = Duration::from_millis(100);
/// Threads of this process let go by themselves; but each of those that wait may have waited for such another process.
const PATIENCE_WITHIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// Where many come and go, whoever looks more rarely than they do never finds it free.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// What is not known.
const UNKNOWN: u64 = u64::MAX;

/// The ledger of a folder, in one process.
#[derive(Debug)]
pub(super) struct Ledger {
    root: PathBuf,
    access: Access,
    /// As it was last found in its place.
    file: Mutex<Arc<File>>,
    locks: Locks,
    /// Whoever has the lock of the process.
    turn: Mutex<()>,
    /// Its row, once it has one.
    process: Option<usize>,
    /// What that row says, unless the file was damaged meanwhile.
    taken: AtomicU64,
    /// Files and bytes, as this process last found or left them.
    known: [AtomicU64; 2],
}

impl Ledger {
    /// Joins the processes that use a folder.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let access = Access::in_folder(root)?;
        let locks = Locks::open(&root.join(LOCK), access)?;
        let file = Mutex::new(Arc::new(access.open_or_make(&root.join(LEDGER))?));
        let mut ledger = Self {
            root: root.to_owned(),
            access,
            file,
            locks,
            turn: Mutex::default(),
            process: None,
            taken: AtomicU64::new(0),
            known: [const { AtomicU64::new(UNKNOWN) }; 2],
        };
        let deadline = Instant::now() + PATIENCE * 10;
        ledger.process = loop {
            match ledger.lock()? {
                Some(mut page) => {
                    page.find_sets()?;
                    break Some(page.enter()?);
                }
                None if Instant::now() < deadline => {}
                None => return Err(io::Error::new(io::ErrorKind::TimedOut, "another process keeps its lock")),
            }
        };
        Ok(ledger)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn locks(&self) -> &Locks {
        &self.locks
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Whether its folder is still there. The file may be another one by now.
    pub(super) fn is_there(&self) -> bool {
        self.locks.is_at(&self.root.join(LOCK))
    }

    /// Files and bytes as they were when this process last had the lock and all was counted: for whoever must not wait.
    pub(super) fn known(&self) -> Option<(u64, u64)> {
        let [files, bytes] = self.known.each_ref().map(|number| number.load(Ordering::Relaxed));
        (files != UNKNOWN && bytes != UNKNOWN).then_some((files, bytes))
    }

    /// The name of a file on its way to its set: whose it is tells who may remove it.
    pub(super) fn arriving(&self, number: u64) -> PathBuf {
        self.root.join(ARRIVING).join(format!("{}-{number}", self.process.unwrap_or(PROCESSES)))
    }

    /// Its row.
    pub(super) fn process(&self) -> Option<usize> {
        self.process
    }

    /// The ledger while nobody else reads or writes it. `None`: somebody else has it and does not let go.
    pub(super) fn lock(&self) -> io::Result<Option<Page<'_>>> {
        let Some(turn) = self.turn.try_lock_for(PATIENCE_WITHIN) else { return Ok(None) };
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        while !self.locks.try_lock(locks::LEDGER, Kind::Exclusive)? {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let held = Held { ledger: self, _turn: turn };
        let file = held.file_in_its_place()?;
        let rows = Rows::read(&file)?;
        let head = rows.head();
        let mut page = Page { held, file, rows, head: head.unwrap_or_else(Page::begun_now) };
        page.mend(head.is_some_and(|head| page.is_of_now(&head)))?;
        page.finish_what_was_begun()?;
        Ok(Some(page))
    }
}

/// The lock, until it is dropped.
struct Held<'a> {
    ledger: &'a Ledger,
    _turn: MutexGuard<'a, ()>,
}

impl Held<'_> {
    /// Somebody may have removed the file, and another process made it anew: those who have one that is gone would count by themselves.
    fn file_in_its_place(&self) -> io::Result<Arc<File>> {
        let (mut file, place) = (self.ledger.file.lock(), self.ledger.root.join(LEDGER));
        if !locks::is_at(&file, &place) {
            *file = Arc::new(self.ledger.access.open_or_make(&place)?);
        }
        Ok(file.clone())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.ledger.locks.unlock(locks::LEDGER);
    }
}

/// What the ledger says, for whoever has the lock.
pub(super) struct Page<'a> {
    held: Held<'a>,
    file: Arc<File>,
    rows: Rows,
    head: Head,
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        if self.is_counted() {
            let [files, bytes] = &self.held.ledger.known;
            files.store(self.sets().map(|set| set.files).sum(), Ordering::Relaxed);
            bytes.store(self.bytes(), Ordering::Relaxed);
        }
    }
}

impl Page<'_> {
    fn begun_now() -> Head {
        let started = seconds_now().saturating_sub(clock::since_boot().as_secs());
        Head { start: clock::start(), started, changing: None }
    }

    /// Whether a ledger was written since the machine was started. Of containers each may have a start of its own to tell: what is
    /// in use by another process, or by this one, is of now.
    fn is_of_now(&self, head: &Head) -> bool {
        let ledger = self.held.ledger;
        ledger.process.is_some()
            || head.start == clock::start()
            || ledger.locks.are_held_elsewhere(locks::PROCESSES, PROCESSES as u64).unwrap_or(true)
    }

    /// Makes a ledger of a file that is none, or not `of_now`, and rows of what are no rows.
    fn mend(&mut self, is_of_now: bool) -> io::Result<()> {
        let (file, ledger) = (self.file.clone(), self.held.ledger);
        let (known, lost): (Vec<_>, Vec<_>) = (0..SETS).partition(|&slot| self.rows.knows_set(slot));
        if !is_of_now {
            known.iter().try_for_each(|&slot| self.count_again(slot))?;
        }
        if !lost.is_empty() {
            self.find_sets_in(&lost, &known)?;
        }
        for process in 0..PROCESSES {
            let is_own = ledger.process == Some(process);
            let taken = self.rows.taken(process).filter(|_| is_of_now || is_own);
            let is = match taken {
                _ if is_own => ledger.taken.load(Ordering::Relaxed),
                Some(taken) => taken,
                None => ledger.locks.taken(process)?.unwrap_or(0) * BLOCK,
            };
            if taken != Some(is) {
                self.rows.write_taken(&file, process, is)?;
            }
        }
        if is_of_now {
            return Ok(());
        }
        Rows::trim(&file)?;
        // Last: whoever is killed before leaves one that is none still.
        self.write_head(Page::begun_now())
    }

    /// Has rows for all sets that have a folder, and counts those anew that have none.
    fn find_sets(&mut self) -> io::Result<()> {
        let ids = layout::sets(self.root())?;
        let gone: Vec<_> = self.sets().filter(|row| row.files > 0 && !ids.contains(&row.id)).collect();
        gone.into_iter().try_for_each(|row| self.set_row(&row.uncounted()))?;
        let (known, free): (Vec<_>, Vec<_>) = (0..SETS).partition(|&slot| self.set(slot).is_some());
        self.find_sets_in(&free, &known)
    }

    /// Gives sets that have a folder, and none of the `known` rows, one of the others: those left over are nobody's.
    fn find_sets_in(&mut self, others: &[usize], known: &[usize]) -> io::Result<()> {
        let mut ids = layout::sets(self.root())?;
        ids.sort_unstable();
        ids.retain(|&id| known.iter().all(|&slot| self.set(slot).is_none_or(|row| row.id != id)));
        let (now, mut ids) = (self.now(), ids.into_iter());
        for &slot in others {
            let row = ids.next().map(|id| SetRow::empty(slot, id, now).uncounted());
            if row.is_some() || !self.rows.knows_set(slot) {
                self.set_row(&row.unwrap_or(SetRow::empty(slot, 0, 0)))?;
            }
        }
        Ok(())
    }

    fn write_head(&mut self, head: Head) -> io::Result<()> {
        self.rows.write_head(&self.file, &head)?;
        self.head = head;
        Ok(())
    }

    /// A process that was killed while it changed a set left it counted wrongly.
    fn finish_what_was_begun(&mut self) -> io::Result<()> {
        let Some(slot) = self.head.changing else { return Ok(()) };
        self.count_again(slot)?;
        self.write_head(Head { changing: None, ..self.head })
    }

    fn enter(&mut self) -> io::Result<usize> {
        for process in 0..PROCESSES {
            if self.locks().try_lock(locks::PROCESSES + process as u64, Kind::Exclusive)? {
                self.take_back(process)?;
                self.locks().say_taken(process, 0)?;
                return Ok(process);
            }
        }
        Err(io::Error::other(format!("more than {PROCESSES} processes use it")))
    }

    /// What a process left behind that is no more.
    fn take_back(&mut self, process: usize) -> io::Result<()> {
        for entry in fs::read_dir(self.root().join(ARRIVING))?.flatten() {
            if writer_of(&entry) == Some(process) {
                // What cannot be removed is none of ours.
                let _ = fs::remove_file(entry.path());
            }
        }
        self.rows.write_taken(&self.file, process, 0)
    }

    /// Takes back what processes had that are no more; whether any had.
    pub(super) fn take_back_all(&mut self) -> io::Result<bool> {
        let mut any = false;
        let arriving: Vec<_> = fs::read_dir(self.root().join(ARRIVING))?.flatten().collect();
        let writers: Vec<_> = arriving.iter().filter_map(writer_of).collect();
        for process in (0..PROCESSES).filter(|&process| Some(process) != self.held.ledger.process) {
            let has_some = self.rows.taken(process) != Some(0) || writers.contains(&process);
            if has_some && !self.locks().is_held_elsewhere(locks::PROCESSES + process as u64)? {
                self.take_back(process)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Seconds since 1970, for what is compared over long times: by the time since the machine was started, where the clock on the
    /// wall was put forward since the ledger was begun.
    pub(super) fn now(&self) -> u64 {
        seconds_now().min(self.head.started.saturating_add(clock::since_boot().as_secs()))
    }

    pub(super) fn set_bytes(&self) -> u64 {
        self.sets().fold(0, |sum, set| sum.saturating_add(set.bytes))
    }

    /// Bytes of all sets, and what processes have taken beside. Right once all is counted.
    pub(super) fn bytes(&self) -> u64 {
        self.set_bytes().saturating_add(self.rows.taken_in_all())
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = SetRow> + '_ {
        (0..SETS).filter_map(|slot| self.set(slot))
    }

    pub(super) fn set(&self, slot: usize) -> Option<SetRow> {
        self.rows.set(slot)
    }

    pub(super) fn set_row(&mut self, row: &SetRow) -> io::Result<()> {
        self.rows.write_set(&self.file, row)
    }

    /// A row that no set has.
    pub(super) fn free_slot(&self) -> Option<usize> {
        (0..SETS).find(|&slot| self.set(slot).is_none())
    }

    /// What this process may write beside what the sets have.
    pub(super) fn allowance(&self) -> u64 {
        self.held.ledger.taken.load(Ordering::Relaxed)
    }

    pub(super) fn set_allowance(&mut self, bytes: u64) -> io::Result<()> {
        let ledger = self.held.ledger;
        let Some(process) = ledger.process else { return Ok(()) };
        // Others may take it to have more than it has, and never less.
        let say = |bytes: u64| ledger.locks.say_taken(process, bytes.div_ceil(BLOCK));
        if bytes > ledger.taken.load(Ordering::Relaxed) {
            say(bytes)?;
        }
        // Known only once it is written down: who cannot write it down takes nothing.
        self.rows.write_taken(&self.file, process, bytes)?;
        ledger.taken.store(bytes, Ordering::Relaxed);
        let _ = say(bytes);
        Ok(())
    }

    /// Changes files of a set, and what is counted of it by what `change` tells: bytes and files, before it does so for what comes and
    /// after for what goes.
    pub(super) fn changing<T>(
        &mut self,
        slot: usize,
        change: impl FnOnce(&mut Self, SetRow) -> io::Result<T>,
    ) -> io::Result<T> {
        let row = self.set(slot).ok_or_else(|| io::Error::other("the set is gone"))?;
        self.write_head(Head { changing: Some(slot), ..self.head })?;
        let changed = change(self, row);
        if changed.is_err() {
            // Whatever is there now.
            self.count_again(slot)?;
        }
        self.write_head(Head { changing: None, ..self.head })?;
        changed
    }

    /// Whether it is known what all sets have.
    pub(super) fn is_counted(&self) -> bool {
        self.sets().all(|row| row.is_counted)
    }

    /// Has a set counted, by somebody who has the time.
    pub(super) fn count_again(&mut self, slot: usize) -> io::Result<()> {
        self.set(slot).map_or(Ok(()), |row| self.set_row(&row.uncounted()))
    }

    pub(super) fn root(&self) -> &Path {
        &self.held.ledger.root
    }

    pub(super) fn access(&self) -> Access {
        self.held.ledger.access
    }

    pub(super) fn locks(&self) -> &Locks {
        &self.held.ledger.locks
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Which process was writing a file, by its name.
fn writer_of(entry: &fs::DirEntry) -> Option<usize> {
    let name = entry.file_name();
    let (process, number) = name.to_str()?.split_once('-')?;
    number.parse::<u64>().ok()?;
    process.parse().ok()
}

/// Our files in a shard. One that is not there has none; a folder is none, whatever its name.
pub(super) fn files_in(shard: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let entries = match fs::read_dir(shard) {
        // Something that is none of ours may have taken its place.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let ours = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(layout::is_file_name));
    // What goes meanwhile is not there.
    let files = ours.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    Ok(files.filter(|(_, meta)| !meta.is_dir()).collect())
}
