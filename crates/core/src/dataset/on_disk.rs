//! What a dataset keeps on disk: which set of the folder is whose, and reading and writing it beside everything else.
//!
//! Units are looked for in memory first, then on disk, then asked of their source. Of the processes that want a unit at the same
//! time one asks; the others look again until it is there, for as long as that one [says](super::beats) that it gets on. Local
//! sources are not kept on disk: they are there already.
//!
//! A disk may hang, as those behind a network do, and who waits for it then waits for ever: on threads of their own, as many as
//! there are turns. Whoever depends on them gives up after a while, and the disk is left alone.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::sync::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::beats::{Beats, SILENT, come};
use super::load::{Brought, Origin, Sources};
use super::{Inner, Kept};
use crate::cache::disk::{Beat, Claim, Disk, Flight, Found, Look, Set, Wanted};
use crate::cache::{Policy, UnitId};
use crate::clock::{Clock, Moment};
use crate::config::{CacheConfig, DatasetConfig};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record;
use crate::metrics::Metric;
use crate::source::{self, ObjectMeta, Source, SourceSpec, Version};
use crate::value::Packed;

/// Reads and writes at once: what disks need to be fast, without a thread for every unit of a window.
const READS: usize = 32;
const WRITES: usize = 2;
/// Units that this process fetches for all at once: twice what a source is asked for at once, so that none waits for this.
const ERRANDS: usize = 512;
/// Records packed at once of those that others wait for: as fast as two writers, and the cores are for batches.
const PACKS: usize = 2;
/// Renewals at once: each is as short as the question before it was long.
const RENEWALS: usize = 8;
/// How often is looked whether another process has brought a unit.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(100);
/// A process that does not say that it gets on is not waited for longer than a slow source would take.
const PATIENCE: Duration = Duration::from_secs(2);
const SLOW_BYTES_PER_SECOND: f64 = 20e6;
/// Whatever others say, nobody is waited for longer than this and what a slow source would take: not for one after the other, and not
/// for whoever gets on with everything else.
const MOST_PATIENCE: Duration = Duration::from_secs(30);
/// A disk that has not answered by then is left alone: longer than a local one is ever silent, shorter than the deadline of a batch.
const HANGING: Duration = Duration::from_secs(10);

/// The disk tier of a dataset in one process.
#[derive(Debug)]
pub(crate) struct OnDisk {
    disk: Arc<Disk>,
    policy: Policy,
    /// By field; none for local sources.
    sets: OnceLock<Vec<Option<Arc<Set>>>>,
    /// When this process began to use it, by the cache's clock.
    opened: Duration,
    reading: Arc<Semaphore>,
    writing: Arc<Semaphore>,
    errands: Arc<Semaphore>,
    pub(super) packing: Arc<Semaphore>,
    renewing: Arc<Semaphore>,
    beats: Beats,
    /// What a process said last that was waited for in vain.
    silent: Mutex<Option<Beat>>,
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

/// What the disk says of a unit.
pub(super) enum OnDiskAnswer {
    /// Its record, and what it holds.
    Found(Arc<Packed>, Version, Duration),
    /// It is not there.
    Missing(Asks),
}

/// Who asks a source for what is not on disk.
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// The one process that asks holds it; the others wait for the record until it ends.
    pub(super) flight: Option<Flight>,
    /// What comes takes the place of a record that is no longer the right one.
    pub(super) replaces: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl OnDisk {
    /// Opens the folder that a configuration names, which was made when the dataset was opened: should it be gone since, so may the
    /// disk that it was on.
    pub(super) fn open(config: &CacheConfig, clock: &Clock) -> Option<Self> {
        let root = config.disk.as_ref()?;
        let disk = Disk::there(root, config.disk_capacity.map(|capacity| capacity.0));
        let [reading, writing, renewing, errands, packing] =
            [READS, WRITES, RENEWALS, ERRANDS, PACKS].map(|turns| Arc::new(Semaphore::new(turns)));
        let (disk, policy, opened) = (Arc::new(disk), config.policy, clock.now());
        let (sets, backlog, beats) = (OnceLock::new(), Arc::default(), Beats::default());
        Some(Self {
            disk,
            policy,
            sets,
            opened,
            reading,
            writing,
            errands,
            packing,
            renewing,
            beats,
            silent: Mutex::default(),
            backlog,
        })
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

    /// A turn to fetch a unit for all; `None` when nothing comes of what others do it for.
    async fn errand(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let before = come(&self.disk);
            match turn(&self.errands, SILENT).await {
                None if come(&self.disk) != before => {}
                turn => return turn,
            }
        }
    }

    /// Lets a record of so many bytes wait to be written, unless more than `limit` would wait then: one may always. With it, how long
    /// those before it and itself may take.
    fn wait(&self, bytes: usize, limit: usize) -> Option<(Waiting, Duration)> {
        let before = self.backlog.fetch_add(bytes, Ordering::Relaxed);
        let waiting = Waiting { backlog: self.backlog.clone(), bytes };
        (before == 0 || before + bytes <= limit).then(|| (waiting, patience((before + bytes) as u64)))
    }

    /// Notes that an object's record is still the right one, beside everything else: by those who have the time, or not at all.
    pub(super) fn renew_behind(&self, set: &Arc<Set>, key: &str, version: &Version, asked_at: Moment) {
        let Ok(turn) = self.renewing.clone().try_acquire_owned() else { return };
        let (set, key, version) = (set.clone(), key.to_owned(), version.clone());
        drop(spawn_blocking(move || {
            set.renew(&key, &version, asked_at);
            drop(turn);
        }));
    }
}

/// How long a disk may take that reads or writes so many bytes.
fn patience(bytes: u64) -> Duration {
    HANGING + Duration::from_secs_f64(bytes as f64 / SLOW_BYTES_PER_SECOND)
}

impl OnDisk {
    /// Whether a process has been found to say nothing new, and still does not.
    fn is_silent(&self, beat: Option<Beat>) -> bool {
        beat.is_some() && *self.silent.lock() == beat
    }

    /// Remembers what a process said last that was waited for in vain: for its other units nobody need wait again.
    fn found_silent(&self, beat: Option<Beat>) {
        *self.silent.lock() = beat;
    }
}

/// Waiting for another process.
struct Wait {
    patience: Duration,
    /// What it last said, and when that was new.
    beat: Option<Beat>,
    since: Instant,
    began: Instant,
}

impl Wait {
    fn of(patience: Duration) -> Self {
        let now = Instant::now();
        Self { patience, beat: None, since: now, began: now }
    }

    /// Whether it has said nothing new for too long.
    fn is_in_vain(&mut self, beat: Option<Beat>) -> bool {
        // Whoever said nothing yet may be stopped.
        if self.beat.is_some() && beat.is_some() && beat != self.beat {
            self.since = Instant::now();
        }
        self.beat = beat.or(self.beat);
        self.since.elapsed() >= self.patience || self.began.elapsed() >= self.patience + MOST_PATIENCE
    }
}

/// A turn at the disk; `None` when there was none for so long.
async fn turn(turns: &Arc<Semaphore>, patience: Duration) -> Option<OwnedSemaphorePermit> {
    timeout(patience, turns.clone().acquire_owned()).await.ok()?.ok()
}

impl Inner {
    /// Looks for a unit on disk, and waits while another process brings it. A version that turned out to be `replaced`
    /// is not it.
    pub(super) async fn on_disk(
        &self,
        kept: &Kept,
        sources: &Sources,
        unit: UnitId,
        mut replaced: Option<Version>,
    ) -> Result<OnDiskAnswer> {
        let nothing = |replaces| Ok(OnDiskAnswer::Missing(Asks { replaces, ..Asks::default() }));
        let Some(tier) = &kept.on_disk else { return nothing(false) };
        let Some(set) = tier.set(sources, unit.field, kept.is_ordered()) else { return nothing(false) };
        if kept.is_ordered() {
            // It may have become known while the sets were made.
            tier.order_is_known();
        }
        let source = Self::source_of(sources, unit.field);
        let listed = self.manifest.object(unit.sample, unit.field)?;
        if listed.version == Version::Unknown && !self.accepts_changes() {
            // What has no version cannot be told from what replaced it.
            return nothing(false);
        }
        let patience = PATIENCE + Duration::from_secs_f64(listed.size as f64 / SLOW_BYTES_PER_SECOND);
        let (mut wait, mut pause, mut waited) = (Wait::of(patience), FIRST_LOOK, false);
        let mut turn = tier.errands.clone().try_acquire_owned().ok();
        loop {
            let (look, claim) = self.looked_for(kept, tier, set, &listed, replaced.clone(), turn.is_some()).await?;
            let replaces = matches!(look, Look::Outdated);
            if let Look::Found(found) = look {
                let version = found.version.clone();
                if let Some(answer) = self.opened_record(kept, source.as_ref(), set, &listed, found).await? {
                    return Ok(answer);
                }
                replaced = Some(version);
                continue;
            }
            match claim {
                None => {
                    let Some(own) = tier.errand().await else { return nothing(replaces) };
                    turn = Some(own);
                }
                // Somebody else had it and let go: the unit may be there now.
                Some(Claim::Ours(_)) if waited => waited = false,
                Some(Claim::Ours(flight)) => {
                    tier.beats.begin(&tier.disk);
                    return Ok(OnDiskAnswer::Missing(Asks { flight: Some(flight), replaces, _turn: turn }));
                }
                Some(Claim::Nobodys) => return nothing(replaces),
                Some(Claim::Theirs(beat)) if tier.is_silent(beat) || wait.is_in_vain(beat) => {
                    tier.found_silent(beat);
                    self.metrics.record(&[(Metric::DiskWaitsInVain, 1)]);
                    return nothing(replaces);
                }
                Some(Claim::Theirs(_)) => {
                    drop(turn.take());
                    if !std::mem::replace(&mut waited, true) {
                        self.metrics.record(&[(Metric::DiskWaits, 1)]);
                    }
                    sleep(pause).await;
                    turn = tier.errands.clone().try_acquire_owned().ok();
                    pause = (pause * 2).min(LAST_LOOK);
                }
            }
        }
    }

    /// A record; where there is none, the claim to it, unless it `may_claim` none yet.
    async fn looked_for(
        &self,
        kept: &Kept,
        tier: &OnDisk,
        set: &Arc<Set>,
        listed: &ObjectMeta,
        replaced: Option<Version>,
        may_claim: bool,
    ) -> Result<(Look, Option<Claim>)> {
        let failed = |cause| Error::new(ErrorKind::Internal, "read", "the disk cache").caused_by(cause);
        if !set.is_read() {
            return Ok((Look::Missing, Some(Claim::Nobodys)));
        }
        let (patience, reads) = (patience(listed.size), set.reads());
        let Some(turn) = turn(&tier.reading, patience).await else {
            // Of a disk that is only slow others have had an answer meanwhile.
            if set.reads() == reads {
                set.reading_hangs();
            }
            return Ok((Look::Missing, Some(Claim::Nobodys)));
        };
        let since_opened = || kept.clock.now().saturating_sub(tier.opened);
        let or_younger = self.accepts_changes().then(since_opened);
        let (set, key, version, now) = (set.clone(), listed.key.clone(), listed.version.clone(), kept.clock.moment());
        let buffers = Engine::current()?.buffers();
        let (own, size) = (set.clone(), listed.size as usize);
        let looked = spawn_blocking(move || {
            let look = match set.get(&key, Wanted { version: &version, or_younger }, now, buffers) {
                Look::Found(found) if replaced.as_ref() == Some(&found.version) => Look::Outdated,
                look => look,
            };
            // What will not be kept need not be waited for by others.
            let is_kept = match look {
                Look::Found(_) => false,
                Look::Outdated => set.may_replace(size),
                Look::Missing => set.may_admit(size),
            };
            let claim = if is_kept { may_claim.then(|| set.claim(&key)) } else { Some(Claim::Nobodys) };
            // Not before: a disk that hangs has so many waiting for it and no more.
            drop(turn);
            (look, claim)
        });
        if let Ok(looked) = timeout(patience, looked).await {
            return looked.map_err(|cause| failed(cause.to_string()));
        }
        own.reading_hangs();
        Ok((Look::Missing, Some(Claim::Nobodys)))
    }

    /// What a record holds, if it is not too old, or its object is still the same; `None` when it no longer is.
    async fn opened_record(
        &self,
        kept: &Kept,
        source: &dyn Source,
        set: &Arc<Set>,
        listed: &ObjectMeta,
        found: Found,
    ) -> Result<Option<OnDiskAnswer>> {
        let Ok(value) = record::open(&found.record) else {
            // Whole, and not of this version of the format: it is written anew.
            return Ok(Some(OnDiskAnswer::Missing(Asks { replaces: true, ..Asks::default() })));
        };
        let mut age = found.age;
        if !source.is_pinned() && kept.ttl.is_some_and(|ttl| age >= ttl) {
            let asked = kept.clock.moment();
            let is_same = self.is_still(source, &listed.key, &found.version).await?;
            if !is_same {
                return Ok(None);
            }
            if let Some(tier) = &kept.on_disk {
                tier.renew_behind(set, &listed.key, &found.version, asked);
            }
            age = Duration::ZERO;
        }
        let packed = Arc::new(Packed::in_record(value, found.record, found.memory));
        Ok(Some(OnDiskAnswer::Found(packed, found.version, age)))
    }

    /// Puts a record where it outlives this process, beside everything else, unless too much waits for that. The `flight` ends with it.
    pub(super) fn write_behind(
        &self,
        kept: &Kept,
        unit: UnitId,
        brought: &Brought,
        packed: &Packed,
        flight: Option<Flight>,
    ) {
        let Some(version) = brought.on_disk.clone() else { return };
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
            // Given up with the wait, be the disk done or not.
            let _held = (waiting, flight);
            let writes = set.writes();
            let Some(turn) = turn(&writing, patience_in_all).await else {
                // Of a disk that is only slow others have had an answer meanwhile.
                return if set.writes() == writes { set.writing_hangs() } else { set.decline() };
            };
            let (asked, patience) = (Arc::downgrade(&set), patience(record.len() as u64));
            let written = spawn_blocking(move || {
                set.put(&listed.key, &version, &record, since);
                drop(turn);
            });
            if timeout(patience, written).await.is_err()
                && let Some(set) = asked.upgrade()
            {
                set.writing_hangs();
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
        if brought.replaces { set.may_replace(bytes) } else { set.may_admit(bytes) }
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
