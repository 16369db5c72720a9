//! Loading one unit: read its object, check that it is the listed one, decode it.
//!
//! A unit is loaded once at a time, whoever asks: see [`Flights`](crate::cache::Flights). What several asked for is shared by
//! them, and [`Loaded`] says so: memory that others see must be copied before a user may write to it.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::sharing::{Answer, Asking};
use super::{Inner, Kept};
use crate::buffer::BufferPool;
use crate::cache::{self, Lease, UnitId};
use crate::clock::Moment;
use crate::engine::{Engine, Workers, wait_here};
use crate::error::{Error, ErrorKind, Result};
use crate::format::decode_object;
use crate::metrics::{Metric, Timing};
use crate::source::{Edition, ObjectBytes, ObjectMeta, ReadRequest, Source, Version, check_version};
use crate::value::{Packed, Value};

/// What a load brings, to everybody who waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    value: Value,
    edition: Edition,
    origin: Origin,
    is_offered: bool,
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// Its source.
    Source(Arc<Brought>),
    /// The memory tier, which found it to be still right at that time of the cache's clock.
    Memory(Duration),
    /// The disk tier, where it had last been known to be right that long ago when it was found.
    Disk(Arc<Packed>, Aged),
}

/// How old something was at a time of the cache's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aged {
    pub(super) age: Duration,
    pub(super) at: Duration,
}

impl Aged {
    /// How old it is now.
    pub(super) fn by(self, now: Duration) -> Duration {
        self.age + now.saturating_sub(self.at)
    }
}

impl Read {
    /// Of the version that its source told; a replica's own says nothing, but it serves what was listed.
    fn new(value: Value, told: &ObjectMeta, listed: Version, brought: Brought) -> Self {
        let version = if told.version == Version::Unknown { listed } else { told.version.clone() };
        let edition = Edition { version, size: told.size };
        Self { value, edition, origin: Origin::Source(Arc::new(brought)), is_offered: false }
    }
}

/// How a value came from its source.
#[derive(Debug)]
pub(crate) struct Brought {
    /// Whether reading it once more costs less than a copy of it that somebody waits for.
    pub(super) is_local: bool,
    /// Whether it takes the place of a record that is no longer the right one.
    pub(super) replaces: bool,
    /// The edition that its record is kept under on disk; `None` where that would tell nobody that it is the right one.
    pub(super) on_disk: Option<Edition>,
    /// When it was asked for, by the cache's clock and for other processes: it may have been replaced since.
    pub(super) asked: Duration,
    pub(super) asked_at: Moment,
}

/// A value that was just read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) value: Value,
    pub(crate) edition: Edition,
    pub(crate) origin: Origin,
    /// Whether others hold the same memory.
    pub(crate) is_shared: bool,
    /// Whether it is being packed already.
    pub(crate) is_offered: bool,
}

impl From<(Read, bool)> for Loaded {
    fn from((read, is_shared): (Read, bool)) -> Self {
        let Read { value, edition, origin, is_offered } = read;
        let is_shared = is_shared || is_offered || !matches!(origin, Origin::Source(_));
        Self { value, edition, origin, is_shared, is_offered }
    }
}

impl Loaded {
    /// How long ago it was known to be right.
    pub(super) fn age(&self, now: Duration) -> Duration {
        match &self.origin {
            Origin::Source(brought) => now.saturating_sub(brought.asked),
            Origin::Disk(_, aged) => aged.by(now),
            Origin::Memory(found) => now.saturating_sub(*found),
        }
    }

    /// Whether it can be read again at the cost of a copy.
    pub(super) fn is_local(&self) -> bool {
        matches!(&self.origin, Origin::Source(brought) if brought.is_local)
    }

    /// The value in memory that nobody else sees.
    pub(crate) fn into_own(self, buffers: &BufferPool) -> Result<Value> {
        if self.is_shared { Ok(Packed::new(&self.value, buffers)?.into_value()) } else { Ok(self.value) }
    }
}

/// The sources of a dataset, one per field, or one for all.
pub(crate) type Sources = Arc<[Arc<dyn Source>]>;

impl Inner {
    /// Loads a unit of local sources on the calling thread.
    pub(crate) fn load_now(
        self: &Arc<Self>,
        kept: &Kept,
        sources: &[Arc<dyn Source>],
        unit: UnitId,
        stale: Option<Lease>,
        buffers: &BufferPool,
    ) -> Result<Loaded> {
        let is_stale = stale.is_some();
        drop(stale);
        loop {
            match kept.flights.join(unit) {
                cache::Flight::Lead(leader) => {
                    if let Some(requested) = self.requested(kept, unit) {
                        return Ok(requested);
                    }
                    if is_stale {
                        // Reading it again costs what asking would.
                        self.metrics.record(&[(Metric::CacheExpired, 1)]);
                        kept.cache.remove(unit);
                    }
                    let read = self.read_now(kept, sources, unit, buffers);
                    let is_shared = leader.land(&read);
                    return read.map(|read| (read, is_shared).into());
                }
                cache::Flight::Follow(receiver) => {
                    if let Ok(read) = wait_here(receiver) {
                        return read.map(|read| (read, true).into());
                    }
                }
            }
        }
    }

    /// Loads a unit from anywhere, or finds that what is `stale` is still right; `fetched` is called when its bytes are here and
    /// decoding begins, and told whether an earlier use had left them.
    pub(crate) async fn load(
        self: &Arc<Self>,
        kept: &Kept,
        sources: &Sources,
        unit: UnitId,
        stale: Option<Lease>,
        workers: &Workers,
        fetched: impl FnOnce(bool) + Send,
    ) -> Result<Loaded> {
        let mut fetched = Some(fetched);
        let mut fetched = move |is_reused| {
            if let Some(fetched) = fetched.take() {
                fetched(is_reused);
            }
        };
        loop {
            match kept.flights.join(unit) {
                cache::Flight::Lead(leader) => {
                    if let Some(requested) = self.requested(kept, unit) {
                        fetched(false);
                        return Ok(requested);
                    }
                    let read = self.lead(kept, sources, unit, stale.as_ref(), workers, &mut fetched).await;
                    let is_shared = leader.land(&read);
                    return read.map(|read| (read, is_shared).into());
                }
                cache::Flight::Follow(receiver) => {
                    if let Ok(read) = receiver.await {
                        fetched(matches!(&read, Ok(Read { origin: Origin::Memory(_) | Origin::Disk(..), .. })));
                        return read.map(|read| (read, true).into());
                    }
                }
            }
        }
    }

    /// Loads a unit for all who wait for it.
    pub(super) async fn lead(
        self: &Arc<Self>,
        kept: &Kept,
        sources: &Sources,
        unit: UnitId,
        stale: Option<&Lease>,
        workers: &Workers,
        fetched: &mut (impl FnMut(bool) + Send),
    ) -> Result<Read> {
        if let Some(renewed) = self.renewed(kept, sources, unit, stale).await? {
            fetched(true);
            return Ok(renewed);
        }
        let replaced = stale.map(|lease| lease.value().edition().clone());
        self.from_disk_or_source(kept, sources, unit, workers, replaced, fetched).await
    }

    async fn from_disk_or_source(
        self: &Arc<Self>,
        kept: &Kept,
        sources: &Sources,
        unit: UnitId,
        workers: &Workers,
        replaced: Option<Edition>,
        fetched: &mut (impl FnMut(bool) + Send),
    ) -> Result<Read> {
        let (source, listed, request) = self.request(sources, unit)?;
        let answer = if let Some(sought) = self.sought(kept, sources, unit, &listed, replaced) {
            sought.bring(&request).await?
        } else {
            let asking = Asking::begin(&kept.clock, false);
            Answer::Source(asking, source.read(&request, Engine::current()?.buffers()).await)
        };
        match answer {
            Answer::Disk(packed, edition, age) => {
                fetched(true);
                Ok(Read {
                    value: packed.value().clone(),
                    edition,
                    origin: Origin::Disk(packed, Aged { age, at: kept.clock.now() }),
                    is_offered: false,
                })
            }
            Answer::Source(mut asking, read) => {
                let flight = asking.flight.take();
                let object = self.received(source.as_ref(), &listed, read, asking.began)?;
                fetched(false);
                let mut read = self.decoded(source, listed, object, asking, workers).await?;
                if let Some(flight) = flight {
                    // Others wait for its record, and must not have to wait for what this process waits for.
                    let loaded = Loaded::from((read.clone(), true));
                    read.is_offered = self.offer_behind(kept, unit, loaded, flight);
                }
                Ok(read)
            }
        }
    }

    /// Whether an object is still of this edition: one request.
    pub(super) async fn is_still(&self, source: &dyn Source, key: &str, edition: &Edition) -> Result<bool> {
        let (meta, version) = (source.head(key).await?, &edition.version);
        let is_same = meta.size == edition.size
            && *version != Version::Unknown
            && discriminant(version) == discriminant(&meta.version)
            && check_version(key, version, &meta.version).is_ok();
        self.metrics.record(&[(Metric::CacheExpired, 1), (Metric::CacheRenewed, u64::from(is_same))]);
        Ok(is_same)
    }

    /// What the cache has, if its object is still of the same edition: one request. Else it is removed.
    async fn renewed(
        &self,
        kept: &Kept,
        sources: &Sources,
        unit: UnitId,
        stale: Option<&Lease>,
    ) -> Result<Option<Read>> {
        let Some(lease) = stale else { return Ok(None) };
        let (source, listed, _) = self.request(sources, unit)?;
        let (now, item) = (kept.clock.now(), lease.value());
        let asked_at = kept.clock.moment();
        if !self.is_still(source.as_ref(), &listed.key, item.edition()).await? {
            kept.cache.remove(unit);
            return Ok(None);
        }
        item.renew(now);
        if let Some(tier) = &kept.on_disk
            && let Some(set) = tier.known_set(unit.field)
        {
            tier.renew_behind(set, &listed.key, item.edition(), asked_at);
        }
        Ok(Some(Read {
            value: item.value().clone(),
            edition: item.edition().clone(),
            origin: Origin::Memory(now),
            is_offered: false,
        }))
    }

    pub(super) fn read_now(
        &self,
        kept: &Kept,
        sources: &[Arc<dyn Source>],
        unit: UnitId,
        buffers: &BufferPool,
    ) -> Result<Read> {
        let (source, listed, request) = self.request(sources, unit)?;
        let began = Instant::now();
        let (asked, asked_at) = (kept.clock.now(), kept.clock.moment());
        let read = read_here(source.as_ref(), &request, buffers);
        let object = self.received(source.as_ref(), &listed, read, began)?;
        let value = self.decode(source.as_ref(), &listed.key, &object.bytes, buffers, began)?;
        let brought = Brought { is_local: true, replaces: false, on_disk: None, asked, asked_at };
        Ok(Read::new(value, &object.meta, listed.version, brought))
    }

    /// Reads a unit of local sources once more, for the cache alone: nobody asked for it, and no figure of sources counts it. Beside
    /// the value, the bytes of its object, in memory of `objects`.
    pub(super) fn read_again(
        &self,
        kept: &Kept,
        sources: &[Arc<dyn Source>],
        unit: UnitId,
        objects: &BufferPool,
        buffers: &BufferPool,
    ) -> Result<(Loaded, Bytes)> {
        let (source, listed, request) = self.request(sources, unit)?;
        let (asked, asked_at) = (kept.clock.now(), kept.clock.moment());
        let object = self.checked(source.as_ref(), &listed, read_here(source.as_ref(), &request, objects)?)?;
        let value = self.value_of(&source.uri_of(&listed.key), &object.bytes, buffers)?;
        let brought = Brought { is_local: true, replaces: false, on_disk: None, asked, asked_at };
        Ok(((Read::new(value, &object.meta, listed.version, brought), false).into(), object.bytes))
    }

    async fn decoded(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        listed: ObjectMeta,
        object: ObjectBytes,
        asking: Asking,
        workers: &Workers,
    ) -> Result<Read> {
        let (buffers, source) = (Engine::current()?.buffers(), source.clone());
        let Asking { replaces, began, asked, asked_at, .. } = asking;
        // Held to the listed version where that has to be, and of the source's own telling: a replica's is what others take it for.
        let told = &object.meta.version;
        let on_disk = if self.accepts_changes() { told } else { &listed.version };
        let on_disk = Some(on_disk).filter(|version| ![told, version].contains(&&Version::Unknown)).cloned();
        let on_disk = on_disk.map(|version| Edition { version, size: object.meta.size });
        let (inner, brought) = (self.clone(), Brought { is_local: false, replaces, on_disk, asked, asked_at });
        workers
            .run(move || {
                let value = inner.decode(source.as_ref(), &listed.key, &object.bytes, buffers, began)?;
                Ok(Read::new(value, &object.meta, listed.version, brought))
            })
            .await
    }

    fn request<'a>(
        &self,
        sources: &'a [Arc<dyn Source>],
        unit: UnitId,
    ) -> Result<(&'a Arc<dyn Source>, ObjectMeta, ReadRequest)> {
        let listed = self.manifest.object(unit.sample, unit.field)?;
        let version = if self.accepts_changes() { Version::Unknown } else { listed.version.clone() };
        let size = if self.accepts_changes() { None } else { Some(listed.size) };
        let request = ReadRequest { version, size, ..ReadRequest::whole(&*listed.key) };
        Ok((Self::source_of(sources, unit.field), listed, request))
    }

    /// Counts a read and checks that it is the object that was listed.
    fn received(
        &self,
        source: &dyn Source,
        listed: &ObjectMeta,
        read: Result<ObjectBytes>,
        began: Instant,
    ) -> Result<ObjectBytes> {
        let nanoseconds = began.elapsed().as_nanos() as u64;
        let metrics = self.metrics.of_source(&source.name());
        metrics.record(&[
            (Metric::SourceRequests, 1),
            (Metric::SourceSeconds, nanoseconds),
            (Metric::SourceBytes, read.as_ref().map_or(0, |object| object.bytes.len() as u64)),
        ]);
        match &read {
            Ok(_) => metrics.time(Timing::Request, nanoseconds),
            Err(error) => metrics.failed(error.kind()),
        }
        let hint = "on_changed = \"reload\" reads it as it is now";
        let changed = |error: Error| if error.kind() == ErrorKind::Changed { error.because(hint) } else { error };
        self.checked(source, listed, read.map_err(changed)?).map_err(changed)
    }

    /// The object, if it has the size that was listed.
    fn checked(&self, source: &dyn Source, listed: &ObjectMeta, object: ObjectBytes) -> Result<ObjectBytes> {
        if object.meta.size != listed.size && !self.accepts_changes() {
            let reason = format!("it was replaced: {} bytes instead of the listed {}", object.meta.size, listed.size);
            return Err(Error::new(ErrorKind::Changed, "read", source.uri_of(&listed.key)).because(reason));
        }
        Ok(object)
    }

    fn decode(
        &self,
        source: &dyn Source,
        key: &str,
        bytes: &Bytes,
        buffers: &BufferPool,
        requested: Instant,
    ) -> Result<Value> {
        let began = Instant::now();
        let uri = source.uri_of(key);
        let value = self.value_of(&uri, bytes, buffers);
        self.metrics.record(&[
            (Metric::DecodeSeconds, began.elapsed().as_nanos() as u64),
            (Metric::DecodeErrors, u64::from(value.is_err())),
            (Metric::DecodeBytes, value.as_ref().map_or(0, |value| value.tensor_bytes() as u64)),
        ]);
        if let Ok(value) = &value {
            self.expansion.saw(key, bytes.len(), value.tensor_bytes());
        }
        self.metrics.time(Timing::Miss, requested.elapsed().as_nanos() as u64, 1);
        // What is there at the moment may be another version elsewhere.
        if self.accepts_changes() { value } else { value.map_err(Error::of_content) }
    }

    fn value_of(&self, uri: &str, bytes: &Bytes, buffers: &BufferPool) -> Result<Value> {
        let values = decode_object(uri, bytes, &self.limits, buffers)?;
        let last = values.into_iter().next_back();
        last.map(|(_, value)| value)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "decode", uri).because("it holds no value"))
    }
}

/// Reads an object of a local source on the calling thread.
fn read_here(source: &dyn Source, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
    source.read_blocking(request, buffers).unwrap_or_else(|| {
        Err(Error::new(ErrorKind::Internal, "read", source.uri()).because("a local source did not read by itself"))
    })
}
