//! Reading records: without a lock, whole, and compared with what they should be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};

use super::layout;
use super::set::Set;
use crate::buffer::BufferPool;
use crate::clock::{Clock, Moment};
use crate::source::{Edition, Version};

/// When a file was last used is noted no more often than this, where that hardly matters.
const USE_NOTED_EVERY: Duration = Duration::from_hours(1);
/// What says of which edition a record is, but for very long names.
const BEGINNING: usize = 4096;

/// A record that was there.
#[derive(Debug)]
pub struct Found {
    /// The packed record, alone in memory of its own.
    pub record: Bytes,
    /// Memory it takes.
    pub memory: usize,
    /// Of which edition of its object it is.
    pub edition: Edition,
    /// How long ago it was last known to be the right one.
    pub age: Duration,
}

/// What there is of an object.
#[derive(Debug)]
pub enum Look {
    /// Its record.
    Found(Found),
    /// A record that is no longer the right one: there is room for one that is.
    Outdated,
    /// Nothing.
    Missing,
}

impl Look {
    /// The record, if it is there.
    pub fn found(self) -> Option<Found> {
        match self {
            Self::Found(found) => Some(found),
            Self::Outdated | Self::Missing => None,
        }
    }
}

/// Which edition of an object is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The listed one.
    pub edition: &'a Edition,
    /// Whatever was known to be the right one since then does as well.
    pub or_since: Option<Moment>,
}

impl Set {
    /// Looks for an object's record. Reads from the disk: call it where waiting harms nobody. Whoever looks may do so several times
    /// before it [counts](Set::count).
    pub fn look(&self, key: &str, wanted: Wanted<'_>, clock: &Clock, buffers: &BufferPool) -> Look {
        let Some(_turn) = self.disk.reading.begin() else { return Look::Missing };
        // Whoever only reads uses it too.
        if self.joined.try_lock().is_some_and(|joined| joined.is_none())
            && let Some(_turn) = self.disk.writing.begin()
        {
            let _ = self.join();
        }
        let hash = layout::hash_of(key);
        let path = layout::file_of(&self.folder, hash);
        match self.read(&path, key, wanted, clock, buffers) {
            Ok(found) => {
                self.disk.reading.worked(&self.disk.root);
                found
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                self.disk.reading.answered(&self.disk.root);
                Look::Missing
            }
            Err(cause) => {
                // The file's fault, for all that is known.
                self.disk.reading.failed_at(&self.disk.root, hash as u64, &cause);
                if self.is_read() {
                    self.quarantine(&path, &cause);
                }
                Look::Missing
            }
        }
    }

    /// Counts an object that was looked for, and whether its record was there in the end.
    pub fn count(&self, is_there: bool) {
        let counters = &self.disk.counters;
        let counter = if is_there { &counters.hits } else { &counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn read(
        &self,
        path: &Path,
        key: &str,
        wanted: Wanted<'_>,
        clock: &Clock,
        buffers: &BufferPool,
    ) -> io::Result<Look> {
        let mut file = open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(Look::Missing);
        }
        if self.disk.known_capacity().is_none() {
            // As soon as it is counted what is there.
            let _ = self.disk.opened();
        }
        // Another process may let in more than this one would.
        if self.disk.known_capacity().is_some_and(|capacity| meta.len() > capacity) {
            return Ok(Look::Missing);
        }
        // By a time after its stamp was read, which another process may have written a moment ago.
        let age = |said: &layout::Head, now: Moment| said.known.map_or(Duration::MAX, |known| now.age_of(&known));
        let is_since = |said: &layout::Head, since: Moment| {
            let now = clock.moment();
            let age = age(said, now);
            age < Duration::MAX && age <= now.age_of(&since)
        };
        let is_wanted = |said: &layout::Head| {
            said.key == key
                && said.is_read_so
                && (wanted.edition.version != Version::Unknown && said.edition == *wanted.edition
                    || wanted.or_since.is_some_and(|since| is_since(said, since)))
        };
        // Of another edition nothing else matters, not even whether it is whole.
        let mut beginning = [0; BEGINNING];
        let mut filled = fill(&mut file, &mut beginning[..BEGINNING.min(meta.len() as usize)])?;
        if layout::is_of_another_version(&beginning[..filled]) {
            return Ok(Look::Outdated);
        }
        match layout::parse(&beginning[..filled], meta.len()) {
            Some(said) if !is_wanted(&said) => return Ok(Look::Outdated),
            // Nor how long it is, unless its head says the same.
            None if filled == BEGINNING && !layout::may_be_longer(&beginning) => {
                self.quarantine(path, &"it is damaged");
                return Ok(Look::Missing);
            }
            _ => {}
        }
        let mut buffer = buffers.take(meta.len() as usize);
        buffer[..filled].copy_from_slice(&beginning[..filled]);
        filled += fill(&mut file, &mut buffer[filled..])?;
        let said = layout::parse(&buffer, filled as u64).filter(|said| layout::is_whole(&buffer, said.record_at));
        let Some(said) = said else {
            self.quarantine(path, &"it is damaged");
            return Ok(Look::Missing);
        };
        if !is_wanted(&said) {
            return Ok(Look::Outdated);
        }
        self.note_use(&file, &meta);
        let memory = buffer.capacity();
        let age = age(&said, clock.moment());
        let record = buffer.freeze().slice(said.record_at..);
        Ok(Look::Found(Found { record, memory, edition: said.edition, age }))
    }

    /// Notes when a file was used, for whoever looks for the least recent one.
    fn note_use(&self, file: &File, meta: &fs::Metadata) {
        let every = if self.replaces.load(Ordering::Relaxed) { Duration::from_secs(1) } else { USE_NOTED_EVERY };
        let now = SystemTime::now();
        // One from the future was noted by a clock that was wrong.
        if meta.accessed().is_ok_and(|used| now.duration_since(used).map_or(true, |since| since >= every)) {
            // Both times: whoever may write may set them to the present, and any other only the owner.
            let present = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let _ = futimens(file, &Timestamps { last_access: present, last_modification: present });
        }
    }

    /// Notes that an object's record of an edition was the right one when that was asked.
    pub fn renew(&self, key: &str, edition: &Edition, asked_at: Moment, clock: &Clock) {
        let path = layout::file_of(&self.folder, layout::hash_of(key));
        let Ok(mut file) = options().write(true).open(path) else { return };
        let mut beginning = vec![0; BEGINNING];
        let (Ok(len), Ok(meta)) = (file.read(&mut beginning), file.metadata()) else { return };
        let Some(said) = layout::parse(&beginning[..len], meta.len()) else { return };
        // Who asked later knows better, unless that is still to come, and the file may be of another edition by now.
        let now = clock.moment();
        let is_later = said.known.is_some_and(|known| known.is_since(&asked_at) && now.is_since(&known));
        if said.key == key && said.edition == *edition && !is_later {
            // One that fails costs a question.
            let _ = file.write_all_at(&layout::stamp(asked_at), layout::STAMP_AT as u64);
        }
    }

    /// Whether it is worth asking at present.
    pub fn is_read(&self) -> bool {
        self.disk.reading.is_on()
    }

    /// How many have read from the disk so far.
    pub fn reads(&self) -> u64 {
        self.disk.reading.done()
    }

    /// Notes that the disk does not answer who reads, and may claim what is not there.
    pub fn reading_hangs(&self) {
        self.disk.reading.failed(&self.disk.root, "read", &io::ErrorKind::TimedOut.into());
        if self.disk.writing.is_busy() {
            self.writing_hangs();
        }
    }
}

/// Reads until there is no more, or no more room.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// All of a file, if it is one: a pipe keeps nobody waiting.
pub(super) fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file to read it. What is no file at all keeps nobody waiting.
fn open(path: &Path) -> io::Result<File> {
    options().open(path)
}

fn options() -> OpenOptions {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options
}
