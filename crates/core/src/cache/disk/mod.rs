//! The disk tier: records in files of a folder that all processes of a machine share, and that outlives them.
//!
//! A [`Disk`] is a folder with a capacity; a [`Set`] is what it has of one source. Reading takes no lock: a file is opened by the hash
//! of its object's key, read whole and compared with its checksum; one of another version is not there, and one that is damaged goes
//! into quarantine. Writing takes [allowance](ledger) first and gives the file its name last, so that a folder never holds more than
//! it may and nobody sees half a file. Processes that may be killed or stopped at any moment wait for each other for a moment only:
//! whoever does not get a lock goes on without.
//!
//! The folder has a marker, and only what is named as we name things is ever removed. When the disk fails the tier is
//! [off](health) for a while.

pub mod care;
mod health;
mod layout;
mod ledger;
mod locks;
mod room;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File, FileTimes};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::buffer::BufferPool;
use crate::engine::PerProcess;
use crate::error::{Error, ErrorKind, Result};
use crate::source::Version;
use crate::world::ProcessStamp;

use health::Health;
use layout::{footprint, set_folder};
use ledger::{Ledger, SetRow};
use locks::Kind;
use room::{Gone, Wish};

/// Allowance that a process takes at once, of a large capacity.
const ALLOWANCE: u64 = 32 << 20;
/// A full folder is not asked for room again for so long.
const DECLINED_FOR: Duration = Duration::from_secs(1);
/// What looking at a set's row takes at most, but for whoever has to wait for another process.
const A_MOMENT: Duration = Duration::from_millis(10);
/// A full set is counted no more often than this.
const COUNTED_EVERY: Duration = Duration::from_hours(1);
/// When a file was last used is noted no more often than this, where that hardly matters.
const USE_NOTED_EVERY: Duration = Duration::from_hours(1);

/// Folders that this process has open, by device and number of their lock files. Never closed: that would give up every lock.
static OPEN: PerProcess<Mutex<HashMap<FileNumber, Arc<Opened>>>> = PerProcess::new();

/// Markers that this process has begun to write.
static MARKERS: AtomicU64 = AtomicU64::new(0);

/// Device and number.
type FileNumber = (u64, u64);

/// A folder for records.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    given_capacity: Option<u64>,
    /// As soon as the folder can be asked.
    capacity: OnceLock<u64>,
    opened: Mutex<Arc<Opened>>,
    reading: Health,
    writing: Health,
    counters: Counters,
}

/// What happened so far, in this process.
#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    insertions: AtomicU64,
    evictions: AtomicU64,
    declined: AtomicU64,
    quarantined: AtomicU64,
}

/// What a disk tier holds, and what happened in it in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Files of all sets.
    pub entries: u64,
    /// Bytes of all sets in whole blocks, and what processes have taken to write.
    pub bytes: u64,
    /// What `bytes` never exceeds.
    pub capacity: u64,
    /// Records that were there when asked for.
    pub hits: u64,
    /// Records that were not.
    pub misses: u64,
    /// Records that were put in.
    pub insertions: u64,
    /// Files that were removed for others.
    pub evictions: u64,
    /// Records that were not let in.
    pub declined: u64,
    /// Files that were found damaged.
    pub quarantined: u64,
    /// How often the disk failed.
    pub failures: u64,
    /// Whether it is left alone at present.
    pub is_off: bool,
}

/// A folder as this process has it open.
#[derive(Debug)]
struct Opened {
    root: PathBuf,
    /// Without one, the folder can be read and not written.
    ledger: Option<Ledger>,
    /// What is left of the allowance that the ledger knows of.
    allowance: Mutex<u64>,
    /// How many use a set in this process, by its slot.
    users: Mutex<HashMap<usize, usize>>,
    /// When a full set was last counted.
    counted_at: Mutex<Option<std::time::Instant>>,
    number: AtomicU64,
}

impl Disk {
    /// Opens a folder, or makes one of an empty or missing one. Without a capacity, it may take four fifths of what is free and of
    /// what it has already. Where the disk fails, the tier is off until it works.
    ///
    /// # Errors
    /// `Invalid` when the folder holds anything that is not ours, `Unsupported` when another version made it.
    pub fn open(root: &Path, capacity: Option<u64>) -> Result<Self> {
        let opened = Opened::at(root, true)?;
        Ok(Self::of(root, opened, capacity))
    }

    /// Opens a folder that is there; where it is not, or is no longer ours, the tier is off until it is.
    pub fn there(root: &Path, capacity: Option<u64>) -> Self {
        let opened = Opened::at(root, false);
        Self::of(root, opened.unwrap_or_else(|error| Err(io::Error::other(error.report()))), capacity)
    }

    fn of(root: &Path, opened: io::Result<Arc<Opened>>, given_capacity: Option<u64>) -> Self {
        let (reading, writing) = (Health::default(), Health::default());
        let opened = opened.unwrap_or_else(|cause| {
            writing.failed(root, "open it", &cause);
            Arc::new(Opened::unusable(root))
        });
        let (counters, capacity) = (Counters::default(), OnceLock::new());
        Self { root: root.to_owned(), given_capacity, capacity, opened: Mutex::new(opened), reading, writing, counters }
    }

    fn known_capacity(&self) -> Option<u64> {
        self.given_capacity.or_else(|| self.capacity.get().copied())
    }

    /// What it may hold; nothing while a default cannot be told.
    fn capacity(&self) -> u64 {
        if let Some(given) = self.given_capacity {
            return given;
        }
        let free = || rustix::fs::statvfs(&self.root).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let told = || Some(self.opened.lock().bytes()?.1.saturating_add(free()?) / 5 * 4);
        match self.capacity.get() {
            Some(&capacity) => capacity,
            None => told().map_or(0, |capacity| *self.capacity.get_or_init(|| capacity)),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the folder has of the source at a URI and endpoint, and will have.
    pub fn set(self: &Arc<Self>, uri: &str, endpoint: Option<&str>, replaces: bool) -> Set {
        let id = layout::set_id(uri, endpoint);
        let about = About { uri: uri.to_owned(), endpoint: endpoint.map(str::to_owned) };
        let folder = set_folder(&self.root, id);
        Set {
            disk: self.clone(),
            id,
            about,
            folder,
            joined: Mutex::new(None),
            missed_at: Mutex::new(None),
            replaces: AtomicBool::new(replaces),
            declined_at: Mutex::new(None),
            owner: ProcessStamp::current(),
        }
    }

    /// The folder as it is now: it may have been removed, and another one be in its place.
    fn opened(&self) -> io::Result<Arc<Opened>> {
        let mut opened = self.opened.lock();
        if !opened.is_there() {
            *opened = Opened::at(&self.root, false).map_err(|error| io::Error::other(error.report()))??;
            if opened.ledger.is_none() {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
        }
        Ok(opened.clone())
    }

    /// What it holds and what happened.
    pub fn stats(&self) -> DiskStats {
        let opened = self.opened.lock().clone();
        let (entries, bytes) = opened.bytes().unwrap_or_default();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        DiskStats {
            entries,
            bytes,
            capacity: self.capacity(),
            hits: of(&counters.hits),
            misses: of(&counters.misses),
            insertions: of(&counters.insertions),
            evictions: of(&counters.evictions),
            declined: of(&counters.declined),
            quarantined: of(&counters.quarantined),
            failures: self.reading.failures() + self.writing.failures(),
            is_off: !(self.reading.is_on() && self.writing.is_on()),
        }
    }

    /// Sets the counters to zero.
    pub fn reset_counters(&self) {
        let Counters { hits, misses, insertions, evictions, declined, quarantined } = &self.counters;
        let all = [hits, misses, insertions, evictions, declined, quarantined];
        all.into_iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }
}

impl Opened {
    /// Opens what is there, or with `make` what is to be. The inner error is the disk's.
    fn at(root: &Path, make: bool) -> Result<io::Result<Arc<Self>>> {
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
        let known = OPEN.get_or_try_init(|| Ok(Mutex::default()))?;
        let mut known = known.lock();
        let of = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        // By its number, since opening the file again and closing it would give up the locks.
        if let Ok(meta) = fs::metadata(root.join(layout::LOCK))
            && let Some(opened) = known.get(&of(&meta))
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
        if is_written && let Ok(meta) = fs::metadata(root.join(layout::LOCK)) {
            known.insert(of(&meta), opened.clone());
        }
        Ok(Ok(opened))
    }

    fn unusable(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ledger: None,
            allowance: Mutex::new(0),
            users: Mutex::default(),
            counted_at: Mutex::default(),
            number: AtomicU64::new(0),
        }
    }

    fn prepare(root: &Path, make: bool) -> io::Result<Prepared> {
        let marker = root.join(layout::MARKER);
        match fs::read_to_string(&marker) {
            Ok(text) if text == layout::MARKER_TEXT => {}
            Ok(_) => return Ok(Prepared::Other),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Ok(Prepared::Foreign("it is not a folder".to_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
                fs::create_dir_all(root)?;
                // Nobody else's, be it another thread's.
                let number = MARKERS.fetch_add(1, Ordering::Relaxed);
                let arriving = format!("{}.{}-{number}", layout::MARKER, std::process::id());
                let is_known = |name: &str| name == "lost+found" || name.starts_with(layout::MARKER);
                for entry in fs::read_dir(root)? {
                    let name = entry?.file_name();
                    if !name.to_str().is_some_and(is_known) {
                        // Unless another process has made it ours meanwhile, the marker first.
                        if fs::read_to_string(&marker).is_ok_and(|text| text == layout::MARKER_TEXT) {
                            break;
                        }
                        return Ok(Prepared::Foreign(format!(
                            "it holds `{}`, which is not ours: give an empty folder or a new one",
                            name.display()
                        )));
                    }
                }
                fs::write(root.join(&arriving), layout::MARKER_TEXT)?;
                fs::rename(root.join(&arriving), &marker)?;
            }
            Err(error) => return Err(error),
        }
        for folder in [layout::SETS, layout::ARRIVING] {
            match fs::create_dir(root.join(folder)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists || is_read_only(&error) => {}
                made => made?,
            }
        }
        Ok(Prepared::Ours)
    }

    /// Whether it is time to count a full set anew.
    fn counts_again(&self) -> bool {
        let mut counted = self.counted_at.lock();
        let is_time = counted.is_none_or(|at| at.elapsed() > COUNTED_EVERY);
        if is_time {
            *counted = Some(std::time::Instant::now());
        }
        is_time
    }

    /// Files, and bytes that they and those on their way take.
    fn bytes(&self) -> Option<(u64, u64)> {
        let page = self.ledger.as_ref()?.lock().ok()??;
        Some((page.sets().map(|set| set.files).sum(), page.bytes()))
    }

    fn is_there(&self) -> bool {
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
    disk: Arc<Disk>,
    id: u128,
    about: About,
    folder: PathBuf,
    /// Which row of which ledger is the set's.
    joined: Mutex<Option<(Arc<Opened>, usize)>>,
    /// When the ledger was not to be had.
    missed_at: Mutex<Option<std::time::Instant>>,
    replaces: AtomicBool,
    declined_at: Mutex<Option<std::time::Instant>>,
    owner: ProcessStamp,
}

/// A record that was there.
#[derive(Debug)]
pub struct Found {
    /// The packed record, alone in memory of its own.
    pub record: Bytes,
    /// Memory it takes.
    pub memory: usize,
    /// Of which version it is.
    pub version: Version,
    /// How long ago it was last known to be the right one.
    pub age: Duration,
}

/// Which version of an object is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The listed one.
    pub version: &'a Version,
    /// Whatever was known to be the right one so short a time ago does as well.
    pub or_younger: Option<Duration>,
}

impl Set {
    /// Looks for an object's record. Reads from the disk: call it where waiting harms nobody.
    pub fn get(&self, key: &str, wanted: Wanted<'_>, now: SystemTime, buffers: &BufferPool) -> Option<Found> {
        if !self.disk.reading.is_on() {
            return None;
        }
        // Whoever only reads uses it too.
        if self.disk.writing.is_on() && self.joined.try_lock().is_some_and(|joined| joined.is_none()) {
            let _ = self.join();
        }
        let path = layout::file_of(&self.folder, layout::hash_of(key));
        let found = match self.read(&path, key, wanted, now, buffers) {
            Ok(found) => {
                self.disk.reading.worked(&self.disk.root);
                found
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => {
                self.disk.reading.failed(&self.disk.root, "read", &cause);
                None
            }
        };
        let counters = &self.disk.counters;
        let counter = if found.is_some() { &counters.hits } else { &counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    fn read(
        &self,
        path: &Path,
        key: &str,
        wanted: Wanted<'_>,
        now: SystemTime,
        buffers: &BufferPool,
    ) -> io::Result<Option<Found>> {
        let mut file = open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        // Nothing that was let in is larger.
        if self.disk.known_capacity().is_some_and(|capacity| meta.len() > capacity) {
            self.quarantine(path);
            return Ok(None);
        }
        let mut buffer = buffers.take(meta.len() as usize);
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let said = layout::parse(&buffer, filled as u64).filter(|said| layout::is_whole(&buffer, said.record_at));
        let Some(said) = said else {
            self.quarantine(path);
            return Ok(None);
        };
        let age = now.duration_since(meta.modified()?);
        // What comes from the future was noted by a clock that was wrong: nobody knows how old it is.
        let age = age.unwrap_or(Duration::MAX);
        let is_it = *wanted.version != Version::Unknown && said.version == *wanted.version
            || wanted.or_younger.is_some_and(|limit| age <= limit);
        if said.key != key || !is_it {
            return Ok(None);
        }
        self.note_use(&file, &meta);
        let memory = buffer.capacity();
        Ok(Some(Found { record: buffer.freeze().slice(said.record_at..), memory, version: said.version, age }))
    }

    /// Notes when a file was used, for whoever looks for the least recent one.
    fn note_use(&self, file: &File, meta: &fs::Metadata) {
        let every = if self.replaces.load(Ordering::Relaxed) { Duration::from_secs(1) } else { USE_NOTED_EVERY };
        let now = SystemTime::now();
        if meta.accessed().is_ok_and(|used| now.duration_since(used).is_ok_and(|since| since >= every)) {
            // The owner may do so with a file that is open for reading. Who is not, does without.
            let _ = file.set_times(FileTimes::new().set_accessed(now));
        }
    }

    /// Notes that an object's record of a version was the right one when that was asked.
    pub fn renew(&self, key: &str, version: &Version, asked_at: SystemTime) {
        let Ok(mut file) = open(&layout::file_of(&self.folder, layout::hash_of(key))) else { return };
        let mut beginning = vec![0; 4096];
        let (Ok(len), Ok(meta)) = (file.read(&mut beginning), file.metadata()) else { return };
        // The file may be of another version by now.
        let said = layout::parse(&beginning[..len], meta.len());
        if said.is_some_and(|said| said.key == key && said.version == *version)
            && meta.modified().is_ok_and(|known| known < asked_at)
        {
            let _ = file.set_times(FileTimes::new().set_modified(asked_at));
        }
    }

    /// Whether it is worth asking at present.
    pub fn is_read(&self) -> bool {
        self.disk.reading.is_on()
    }

    /// Notes that the disk does not answer.
    pub fn hangs(&self) {
        self.disk.reading.failed(&self.disk.root, "read", &io::ErrorKind::TimedOut.into());
    }

    /// Whether a record of so many bytes may be let in. Nothing is promised.
    pub fn may_admit(&self, bytes: usize) -> bool {
        let was_declined = self.declined_at.lock().is_some_and(|at| at.elapsed() < DECLINED_FOR);
        self.disk.writing.is_on() && footprint(bytes as u64) <= self.disk.capacity() && !was_declined
    }

    /// From now on, its own files go for newcomers of its own, or do not.
    pub fn set_replaces(&self, replaces: bool) {
        self.replaces.store(replaces, Ordering::Relaxed);
    }

    /// Puts an object's record in, if there is room or room can be made; whether it did. Writes to the disk: call it where waiting
    /// harms nobody.
    pub fn put(&self, key: &str, version: &Version, record: &[u8], now: SystemTime) -> bool {
        let Some(head) = layout::head(key, version, record).filter(|_| self.may_admit(record.len())) else {
            self.disk.counters.declined.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        match self.write(layout::hash_of(key), &head, record, now) {
            Ok(true) => {
                self.disk.writing.worked(&self.disk.root);
                self.disk.counters.insertions.fetch_add(1, Ordering::Relaxed);
                true
            }
            Ok(false) => {
                self.disk.counters.declined.fetch_add(1, Ordering::Relaxed);
                false
            }
            Err(cause) => {
                self.disk.writing.failed(&self.disk.root, "write", &cause);
                false
            }
        }
    }

    fn write(&self, hash: u128, head: &[u8], record: &[u8], now: SystemTime) -> io::Result<bool> {
        let Some((opened, slot)) = self.join()? else { return Ok(false) };
        let Some(ledger) = &opened.ledger else { return Ok(false) };
        let takes = footprint((head.len() + record.len()) as u64);
        if !self.take_allowance(&opened, ledger, slot, takes)? {
            *self.declined_at.lock() = Some(std::time::Instant::now());
            return Ok(false);
        }
        let arriving = ledger.arriving(opened.number.fetch_add(1, Ordering::Relaxed));
        let written = Self::write_file(&arriving, head, record, now)
            .and_then(|()| self.name(ledger, slot, hash, &arriving, takes));
        if !matches!(written, Ok(true)) {
            let removed = fs::remove_file(&arriving);
            // What cannot be removed still takes room.
            if removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                *opened.allowance.lock() += takes;
            }
        }
        written
    }

    fn write_file(path: &Path, head: &[u8], record: &[u8], now: SystemTime) -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).open(path)?;
        file.write_all(head)?;
        file.write_all(record)?;
        file.set_times(FileTimes::new().set_modified(now).set_accessed(SystemTime::now()))
    }

    /// Takes what a file needs from what the process has, or for the process from the folder.
    fn take_allowance(&self, opened: &Opened, ledger: &Ledger, slot: usize, bytes: u64) -> io::Result<bool> {
        let mut left = opened.allowance.lock();
        if *left >= bytes {
            *left -= bytes;
            return Ok(true);
        }
        let Some(mut page) = ledger.lock()? else { return Ok(false) };
        let capacity = self.disk.capacity();
        let missing = bytes - *left;
        for more in [missing.max(ALLOWANCE.min(capacity / 64)), missing] {
            let replaces = self.replaces.load(Ordering::Relaxed);
            let chance = opened.number.fetch_add(1, Ordering::Relaxed) ^ u64::from(std::process::id()) << 32;
            let wish = Wish { slot, bytes: more, capacity, replaces, chance };
            let is_own = |slot| opened.users.lock().get(&slot).is_some_and(|&users| users > 0);
            let mut made = room::make(&mut page, &wish, &is_own)?;
            // Others may have removed files: whether it is full indeed is counted now and then.
            if made.is_none() && opened.counts_again() {
                page.count_anew(slot)?;
                made = room::make(&mut page, &wish, &is_own)?;
            }
            let Some(Gone { files, .. }) = made else { continue };
            self.disk.counters.evictions.fetch_add(files, Ordering::Relaxed);
            let taken = page.allowance() + more;
            page.set_allowance(taken)?;
            *left = *left + more - bytes;
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives a file that was written its name, and the set its bytes.
    fn name(&self, ledger: &Ledger, slot: usize, hash: u128, arriving: &Path, takes: u64) -> io::Result<bool> {
        let Some(mut page) = ledger.lock()? else { return Ok(false) };
        if page.set(slot).is_none_or(|row| row.id != self.id) {
            // The ledger was made anew, and the set has another row now.
            drop(page);
            self.leave();
            return Ok(false);
        }
        let path = layout::file_of(&self.folder, hash);
        let named = page.changing(slot, |page, row| {
            if let Some(shard) = path.parent().filter(|shard| !shard.is_dir()) {
                make_folder(shard)?;
            }
            let before = fs::metadata(&path).map(|meta| footprint(meta.len())).ok();
            let bytes = row.bytes.saturating_add(takes).saturating_sub(before.unwrap_or_default());
            let row = SetRow { files: row.files + u64::from(before.is_none()), used: seconds_now(), ..row };
            // The one that it takes the place of is there until then.
            page.set_row(&SetRow { bytes: bytes.max(row.bytes), ..row })?;
            fs::rename(arriving, &path)?;
            page.set_row(&SetRow { bytes, ..row })
        });
        named?;
        // It is the set's now.
        let left = page.allowance().saturating_sub(takes);
        page.set_allowance(left)?;
        Ok(true)
    }

    /// The set's row in the ledger, which says that it is in use. `None` where there is no ledger, or no getting at it.
    fn join(&self) -> io::Result<Option<(Arc<Opened>, usize)>> {
        let opened = self.disk.opened()?;
        // Whoever is at it for longer waits for another process: that one is enough.
        let Some(mut joined) = self.joined.try_lock_for(A_MOMENT) else { return Ok(None) };
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
            *missed = Some(std::time::Instant::now());
            return Ok(None);
        };
        let known = page.sets().find(|row| row.id == self.id).map(|row| row.slot);
        let free = known.or_else(|| page.free_slot());
        let slot = match free {
            Some(slot) => Some(slot),
            None => Self::slot_of_another(&opened, &mut page)?,
        };
        let Some(slot) = slot else { return Ok(None) };
        make_folder(&self.folder)?;
        if known.is_none() {
            page.set_row(&SetRow { slot, id: self.id, bytes: 0, files: 0, used: seconds_now() })?;
            page.changing(slot, |page, _| page.count_anew(slot))?;
            let about = serde_json::to_vec_pretty(&self.about).unwrap_or_default();
            fs::write(self.folder.join(layout::ABOUT), about)?;
        } else if let Some(row) = page.set(slot) {
            page.set_row(&SetRow { used: seconds_now(), ..row })?;
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

    /// The row of the set that nobody has used for longest, whose files go.
    fn slot_of_another(opened: &Opened, page: &mut ledger::Page<'_>) -> io::Result<Option<usize>> {
        let mut rows: Vec<_> = page.sets().collect();
        rows.sort_by_key(|row| row.used);
        for row in rows {
            let is_own = opened.users.lock().get(&row.slot).is_some_and(|&users| users > 0);
            if !is_own && !page.locks().is_held_elsewhere(locks::SETS + row.slot as u64)? {
                care::clear_set(page, &row)?;
                return Ok(Some(row.slot));
            }
        }
        Ok(None)
    }

    /// Puts a damaged file aside, if nobody is in the way.
    fn quarantine(&self, path: &Path) {
        self.disk.counters.quarantined.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("`{}` is damaged, and put aside: its object is fetched again", path.display());
        let set_aside = || -> io::Result<()> {
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

    /// Claims to be the one process that fetches an object.
    pub fn claim(&self, key: &str) -> Claim {
        if !self.disk.writing.is_on() {
            return Claim::Nobodys;
        }
        let opened = match self.join() {
            Ok(Some((opened, _))) => opened,
            Ok(None) => return Claim::Nobodys,
            Err(cause) => {
                self.disk.writing.failed(&self.disk.root, "write", &cause);
                return Claim::Nobodys;
            }
        };
        let Some(ledger) = &opened.ledger else { return Claim::Nobodys };
        let at = locks::flight(layout::hash_of(key) ^ self.id);
        match ledger.locks().try_lock(at, Kind::Exclusive) {
            Ok(true) => Claim::Ours(Flight { opened, at, owner: self.owner }),
            Ok(false) => Claim::Theirs,
            Err(_) => Claim::Nobodys,
        }
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Set {
    /// Uses it no longer.
    fn leave(&self) {
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

/// Who fetches an object that several processes want.
#[derive(Debug)]
pub enum Claim {
    /// This process, for as long as it holds on.
    Ours(Flight),
    /// Another one.
    Theirs,
    /// It cannot be told.
    Nobodys,
}

/// The right to fetch an object, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Flight {
    opened: Arc<Opened>,
    at: u64,
    owner: ProcessStamp,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(ledger) = self.opened.ledger.as_ref().filter(|_| self.owner.is_current()) {
            ledger.locks().unlock(self.at);
        }
    }
}

/// Opens a file to read it. What is no file at all keeps nobody waiting.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Makes a folder in one that is there: a path that is gone is not made again.
fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
