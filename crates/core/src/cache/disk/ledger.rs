//! How much a folder holds, and who has room in it: one small file that all processes keep together.
//!
//! It is read and written by whoever has the lock. Bytes are counted before they are on the disk and no longer after they are gone:
//! a process takes *allowance* before it writes, and passes it on to a set when the file takes its name. What a killed process had
//! taken is taken back by the others. While a set's files are being changed the ledger says so, so that whoever comes after one
//! that was killed at it counts that set anew. Should the file be lost under way, whoever comes first makes it of what there is, and
//! every process writes down again what it had taken before it takes or passes on any more; until then it is taken to have as much
//! as any takes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::{Mutex, MutexGuard};

use super::access::Access;
use super::layout::{self, ARRIVING, LEDGER, LOCK, footprint, set_folder};
use super::locks::{self, Kind, Locks};

/// Sets that a folder has at most.
pub(super) const SETS: usize = 128;
/// Processes that write at a time, at most.
const PROCESSES: usize = 512;

/// Allowance that a process takes at once, of a large capacity.
pub(super) const ALLOWANCE: u64 = 32 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"HWLEDG1\0");
const HEAD_WORDS: usize = 8;
const SET_WORDS: usize = 8;
/// The set whose files are being changed, counted from one.
const CHANGING: usize = 1;
const PROCESS_WORDS_AT: usize = HEAD_WORDS + SETS * SET_WORDS;
const WORDS: usize = PROCESS_WORDS_AT + PROCESSES;

/// Another process that has the lock works for microseconds. One that was stopped then has it for ever.
const PATIENCE: Duration = Duration::from_millis(100);
/// Threads of this process let go by themselves; but each of those that wait may have waited for such another process.
const PATIENCE_WITHIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// Where many come and go, whoever looks more rarely than they do never finds it free.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// No disk is larger: what says so is damaged.
const LARGEST: u64 = 1 << 50;

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

/// A set as the ledger knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SetRow {
    pub(super) slot: usize,
    pub(super) id: u128,
    pub(super) bytes: u64,
    pub(super) files: u64,
    /// Seconds since 1970.
    pub(super) used: u64,
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
            known: [const { AtomicU64::new(0) }; 2],
        };
        let deadline = Instant::now() + PATIENCE * 10;
        ledger.process = loop {
            match ledger.lock()? {
                Some(mut page) => {
                    page.repair_file()?;
                    break Some(page.enter()?);
                }
                None if Instant::now() < deadline => {}
                None => return Err(io::Error::new(io::ErrorKind::TimedOut, "another process keeps its lock")),
            }
        };
        Ok(ledger)
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

    /// Files and bytes as they were when this process last had the lock: for whoever must not wait.
    pub(super) fn known(&self) -> (u64, u64) {
        let [files, bytes] = &self.known;
        (files.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
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
        let mut page = Page { ledger: self, file: self.file.lock().clone(), words: Box::new([0; WORDS]), _turn: turn };
        page.find_file()?;
        page.read()?;
        if let Some(process) = self.process {
            if page.words[0] != MAGIC {
                page.repair_file()?;
            }
            let taken = self.taken.load(Ordering::Relaxed);
            if page.words[PROCESS_WORDS_AT + process] != taken {
                page.write(PROCESS_WORDS_AT + process, &[taken])?;
            }
        }
        page.finish_what_was_begun()?;
        Ok(Some(page))
    }
}

/// What the ledger says, for whoever has the lock.
pub(super) struct Page<'a> {
    ledger: &'a Ledger,
    file: Arc<File>,
    words: Box<[u64; WORDS]>,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        if self.words[0] == MAGIC {
            let [files, bytes] = &self.ledger.known;
            files.store(self.sets().map(|set| set.files).sum(), Ordering::Relaxed);
            bytes.store(self.bytes(), Ordering::Relaxed);
        }
        self.ledger.locks.unlock(locks::LEDGER);
    }
}

impl Page<'_> {
    /// Somebody may have removed the file, and another process made it anew: those who have one that is gone would count by themselves.
    fn find_file(&mut self) -> io::Result<()> {
        let place = self.ledger.root.join(LEDGER);
        if !locks::is_at(&self.file, &place) {
            self.file = Arc::new(self.ledger.access.open_or_make(&place)?);
            *self.ledger.file.lock() = self.file.clone();
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; WORDS * 8];
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], done as u64)? {
                0 => break,
                more => done += more,
            }
        }
        for (word, bytes) in self.words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(())
    }

    fn write(&mut self, at: usize, values: &[u64]) -> io::Result<()> {
        self.words[at..at + values.len()].copy_from_slice(values);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.file.write_all_at(&bytes, at as u64 * 8)
    }

    /// Makes a ledger of a file that is none yet, or no longer, and of one that does not know what there is.
    fn repair_file(&mut self) -> io::Result<()> {
        let is_one = self.words[0] == MAGIC;
        if !is_one {
            self.write(0, &[0; WORDS])?;
        }
        let ids = layout::sets(&self.ledger.root)?;
        let is_wrong = |row: &SetRow| row.bytes.max(row.files) > LARGEST || row.files > 0 && !ids.contains(&row.id);
        let wrong: Vec<_> = self.sets().filter(is_wrong).collect();
        for row in wrong {
            self.count_anew(row.slot)?;
        }
        for process in 0..PROCESSES {
            if !is_one || self.words[PROCESS_WORDS_AT + process] > LARGEST {
                // It writes down what it has as soon as it comes.
                let is_there = self.ledger.locks.is_held_elsewhere(locks::PROCESSES + process as u64)?;
                self.write(PROCESS_WORDS_AT + process, &[if is_there { ALLOWANCE } else { 0 }])?;
            }
        }
        for &id in &ids {
            if self.sets().all(|row| row.id != id)
                && let Some(slot) = self.free_slot()
            {
                self.set_row(&SetRow { slot, id, bytes: 0, files: 0, used: 0 })?;
                self.count_anew(slot)?;
            }
        }
        if is_one { Ok(()) } else { self.write(0, &[MAGIC]) }
    }

    /// A process that was killed while it changed a set left it counted wrongly.
    fn finish_what_was_begun(&mut self) -> io::Result<()> {
        match self.words[CHANGING] as usize {
            0 => Ok(()),
            set if set <= SETS => {
                self.count_anew(set - 1)?;
                self.write(CHANGING, &[0])
            }
            _ => self.write(CHANGING, &[0]),
        }
    }

    fn enter(&mut self) -> io::Result<usize> {
        for process in 0..PROCESSES {
            if self.ledger.locks.try_lock(locks::PROCESSES + process as u64, Kind::Exclusive)? {
                self.take_back(process)?;
                return Ok(process);
            }
        }
        Err(io::Error::other(format!("more than {PROCESSES} processes use it")))
    }

    /// What a process left behind that is no more.
    fn take_back(&mut self, process: usize) -> io::Result<()> {
        for entry in fs::read_dir(self.ledger.root.join(ARRIVING))?.flatten() {
            if writer_of(&entry) == Some(process) {
                // What cannot be removed is none of ours.
                let _ = fs::remove_file(entry.path());
            }
        }
        self.write(PROCESS_WORDS_AT + process, &[0])
    }

    /// Takes back what processes had that are no more; whether any had.
    pub(super) fn take_back_all(&mut self) -> io::Result<bool> {
        let mut any = false;
        let arriving: Vec<_> = fs::read_dir(self.ledger.root.join(ARRIVING))?.flatten().collect();
        let writers: Vec<_> = arriving.iter().filter_map(writer_of).collect();
        for process in (0..PROCESSES).filter(|&process| Some(process) != self.ledger.process) {
            let has_some = self.words[PROCESS_WORDS_AT + process] > 0 || writers.contains(&process);
            if has_some && !self.ledger.locks.is_held_elsewhere(locks::PROCESSES + process as u64)? {
                self.take_back(process)?;
                any = true;
            }
        }
        Ok(any)
    }

    pub(super) fn set_bytes(&self) -> u64 {
        self.sets().fold(0, |sum, set| sum.saturating_add(set.bytes))
    }

    /// Bytes of all sets, and what processes have taken beside.
    pub(super) fn bytes(&self) -> u64 {
        self.words[PROCESS_WORDS_AT..].iter().fold(self.set_bytes(), |sum, taken| sum.saturating_add(*taken))
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = SetRow> + '_ {
        (0..SETS).filter_map(|slot| self.set(slot))
    }

    pub(super) fn set(&self, slot: usize) -> Option<SetRow> {
        let at = HEAD_WORDS + slot * SET_WORDS;
        let words = &self.words[at..at + SET_WORDS];
        let id = u128::from(words[0]) << 64 | u128::from(words[1]);
        (id != 0).then_some(SetRow { slot, id, bytes: words[2], files: words[3], used: words[4] })
    }

    pub(super) fn set_row(&mut self, row: &SetRow) -> io::Result<()> {
        let words = [(row.id >> 64) as u64, row.id as u64, row.bytes, row.files, row.used];
        self.write(HEAD_WORDS + row.slot * SET_WORDS, &words)
    }

    /// A row that no set has.
    pub(super) fn free_slot(&self) -> Option<usize> {
        (0..SETS).find(|&slot| self.set(slot).is_none())
    }

    /// What this process may write beside what the sets have.
    pub(super) fn allowance(&self) -> u64 {
        self.ledger.taken.load(Ordering::Relaxed)
    }

    pub(super) fn set_allowance(&mut self, bytes: u64) -> io::Result<()> {
        // Known only once it is written down: who cannot write it down takes nothing.
        self.ledger.process.map_or(Ok(()), |process| self.write(PROCESS_WORDS_AT + process, &[bytes]))?;
        self.ledger.taken.store(bytes, Ordering::Relaxed);
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
        self.write(CHANGING, &[slot as u64 + 1])?;
        let changed = change(self, row);
        if changed.is_err() {
            // Whatever is there now.
            self.count_anew(slot)?;
        }
        self.write(CHANGING, &[0])?;
        changed
    }

    pub(super) fn count_anew(&mut self, slot: usize) -> io::Result<()> {
        let Some(row) = self.set(slot) else { return Ok(()) };
        let (mut bytes, mut files) = (0, 0);
        for shard in layout::shards(&set_folder(&self.ledger.root, row.id)) {
            for (_, meta) in files_in(&shard)? {
                bytes += footprint(meta.len());
                files += 1;
            }
        }
        self.set_row(&SetRow { bytes, files, ..row })
    }

    pub(super) fn root(&self) -> &Path {
        &self.ledger.root
    }

    pub(super) fn access(&self) -> Access {
        self.ledger.access
    }

    pub(super) fn locks(&self) -> &Locks {
        &self.ledger.locks
    }
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
