//! What a dataset keeps on disk: which set of the folder is whose, and reading and writing it beside everything else.
//!
//! Units are looked for in memory first, then on disk, then asked of their source, by [one for all](super::sharing) who want them.
//! Local sources are not kept on disk: they are there already.
//!
//! A disk may hang, as those behind a network do, and who waits for it then waits for ever: on threads of their own, as many as
//! there are turns. Whoever depends on them gives up after a while, and the disk is left alone.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::load::{Brought, Origin};
use super::{Inner, Kept};
use crate::cache::disk::{Disk, Flight, Set};
use crate::cache::{Policy, UnitId};
use crate::clock::{Clock, Moment};
use crate::config::{CacheConfig, DatasetConfig};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{self, Edition, Source, SourceSpec};
use crate::value::Packed;

/// Reads and writes at once: what disks need to be fast, without a thread for every unit of a window.
const READS: usize = 32;
const WRITES: usize = 2;
/// Records packed at once of those that others wait for: as fast as two writers, and the cores are for batches.
const PACKS: usize = 2;
/// Renewals at once: each is as short as the question before it was long.
const RENEWALS: usize = 8;
/// A disk that has not answered by then is left alone: longer than a local one is ever silent, shorter than the deadline of a batch.
const HANGING: Duration = Duration::from_secs(10);
/// And what it may take more for what it reads or writes.
const SLOW_BYTES_PER_SECOND: f64 = 20e6;

/// The disk tier of a dataset in one process.
#[derive(Debug)]
pub(crate) struct OnDisk {
    disk: Arc<Disk>,
    policy: Policy,
    /// By field; none for local sources.
    sets: OnceLock<Vec<Option<Arc<Set>>>>,
    clock: Clock,
    /// When this process began to use it.
    pub(super) opened: Moment,
    pub(super) reading: Arc<Semaphore>,
    writing: Arc<Semaphore>,
    pub(super) packing: Arc<Semaphore>,
    renewing: Arc<Semaphore>,
    /// Bytes of records that wait to be written.
    backlog: Arc<AtomicUsize>,
}

/// Bytes that wait to be written, for as long as this lives.
#[derive(Debug)]
struct Waiting {
    backlog: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.backlog.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl OnDisk {
    /// Opens the folder that a configuration names, which was made when the dataset was opened: should it be gone since, so may the
    /// disk that it was on.
    pub(super) fn open(config: &CacheConfig, clock: &Clock) -> Option<Self> {
        let root = config.disk.as_ref()?;
        let disk = Disk::there(root, config.disk_capacity.map(|capacity| capacity.0));
        let [reading, writing, renewing, packing] =
            [READS, WRITES, RENEWALS, PACKS].map(|turns| Arc::new(Semaphore::new(turns)));
        let (disk, policy) = (Arc::new(disk), config.policy);
        let (clock, opened) = (clock.clone(), clock.moment());
        let (sets, backlog) = (OnceLock::new(), Arc::default());
        Some(Self { disk, policy, sets, clock, opened, reading, writing, packing, renewing, backlog })
    }

    /// The folder.
    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// From now on every unit is used once per pass.
    pub(super) fn order_is_known(&self) {
        if self.policy == Policy::Auto {
            self.sets.get().into_iter().flatten().flatten().for_each(|set| set.set_replaces(false));
        }
    }

    /// Where a field's units are kept.
    pub(super) fn set(&self, sources: &[Arc<dyn Source>], field: usize, is_ordered: bool) -> Option<&Arc<Set>> {
        let sets = self.sets.get_or_init(|| {
            let replaces = match self.policy {
                Policy::Lru => true,
                Policy::Keep => false,
                Policy::Auto => !is_ordered,
            };
            let set = |source: &Arc<dyn Source>| {
                // Without a password that it may have: it is written down, and is no part of the place.
                let endpoint = source.endpoint().map(|endpoint| SourceSpec::from(endpoint).shown_uri());
                let endpoint = endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/'));
                Arc::new(self.disk.set(source.uri(), endpoint, replaces))
            };
            sources.iter().map(|source| (!source.is_local()).then(|| set(source))).collect()
        });
        sets[field.min(sets.len() - 1)].as_ref()
    }

    /// The same, once a unit was looked for.
    pub(super) fn known_set(&self, field: usize) -> Option<&Arc<Set>> {
        let sets = self.sets.get()?;
        sets[field.min(sets.len() - 1)].as_ref()
    }

    /// Lets a record of so many bytes wait to be written, unless more than `limit` would wait then: one may always. With it, how long
    /// those before it and itself may take.
    fn wait(&self, bytes: usize, limit: usize) -> Option<(Waiting, Duration)> {
        let before = self.backlog.fetch_add(bytes, Ordering::Relaxed);
        let waiting = Waiting { backlog: self.backlog.clone(), bytes };
        (before == 0 || before + bytes <= limit).then(|| (waiting, patience((before + bytes) as u64)))
    }

    /// Notes that an object's record is still the right one, beside everything else: by those who have the time, or not at all.
    pub(super) fn renew_behind(&self, set: &Arc<Set>, key: &str, edition: &Edition, asked_at: Moment) {
        let Ok(turn) = self.renewing.clone().try_acquire_owned() else { return };
        let (set, key, edition, clock) = (set.clone(), key.to_owned(), edition.clone(), self.clock.clone());
        drop(spawn_blocking(move || {
            set.renew(&key, &edition, asked_at, &clock);
            drop(turn);
        }));
    }
}

/// How long a disk may take that reads or writes so many bytes.
pub(super) fn patience(bytes: u64) -> Duration {
    HANGING + Duration::from_secs_f64(bytes as f64 / SLOW_BYTES_PER_SECOND)
}

/// A turn at the disk; `None` when there was none for so long.
pub(super) async fn turn(turns: &Arc<Semaphore>, patience: Duration) -> Option<OwnedSemaphorePermit> {
    timeout(patience, turns.clone().acquire_owned()).await.ok()?.ok()
}

impl Inner {
    /// Puts a record where it outlives this process, beside everything else, unless too much waits for that. The `flight` ends with it.
    pub(super) fn write_behind(
        &self,
        kept: &Kept,
        unit: UnitId,
        brought: &Brought,
        packed: &Packed,
        flight: Option<Flight>,
    ) {
        let Some(edition) = brought.on_disk.clone() else { return };
        let Some(tier) = &kept.on_disk else { return };
        let (Some(set), Some(record)) = (tier.known_set(unit.field).cloned(), packed.record().cloned()) else { return };
        let (Ok(listed), Ok(engine)) = (self.manifest.object(unit.sample, unit.field), Engine::current()) else {
            return;
        };
        let Some((waiting, patience_in_all)) = tier.wait(record.len(), kept.backlog.for_disk()) else {
            return set.decline();
        };
        let (writing, since) = (tier.writing.clone(), brought.asked_at);
        drop(engine.spawn(async move {
            // Given up with the wait, be the disk done or not, as is the flight.
            let _waiting = waiting;
            let writes = set.writes();
            let Some(turn) = turn(&writing, patience_in_all).await else {
                // Of a disk that is only slow others have had an answer meanwhile.
                return if set.writes() == writes { set.writing_hangs() } else { set.decline() };
            };
            let (asked, patience) = (Arc::downgrade(&set), patience(record.len() as u64));
            let size = listed.size;
            let written = spawn_blocking(move || {
                let is_there = set.put(&listed.key, &edition, &record, since);
                drop(turn);
                is_there
            });
            match (timeout(patience, written).await, flight) {
                (Ok(Ok(true)), Some(flight)) => flight.brought(size),
                (Err(_), _) => asked.upgrade().into_iter().for_each(|set| set.writing_hangs()),
                _ => {}
            }
        }));
    }
}

impl Kept {
    /// Whether the disk wants a value of so many bytes that comes from there.
    pub(super) fn disk_wants(&self, unit: UnitId, origin: &Origin, bytes: usize) -> bool {
        let Origin::Source(brought) = origin else { return false };
        let set = self.on_disk.as_ref().and_then(|tier| tier.known_set(unit.field));
        let Some(set) = set.filter(|_| brought.on_disk.is_some()) else { return false };
        set.may_be_kept(bytes, brought.replaces)
    }
}

/// Makes a dataset's folder for records, unless it is one that it reads from.
pub(super) fn make_place(config: &DatasetConfig) -> Result<()> {
    let Some(root) = &config.cache.disk else { return Ok(()) };
    // What is not there yet will be where its folder is.
    let real = |path: &Path| {
        let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
        there.map_or_else(|| path.to_owned(), |(above, real)| real.join(path.strip_prefix(above).unwrap_or(path)))
    };
    for (_, specs) in config.sources() {
        for spec in specs {
            let Some(place) = source::local_path(&spec.uri)? else { continue };
            let (place, root) = (real(&place), real(root));
            if place.starts_with(&root) || root.starts_with(&place) {
                return Err(Error::new(ErrorKind::Invalid, "keep records in", root.display())
                    .because(format_args!("`{}` is read from: give a folder apart from it", place.display())));
            }
        }
    }
    Disk::open(root, config.cache.disk_capacity.map(|capacity| capacity.0)).map(drop)
}
