//! Bringing what a disk tier is for: from disk, or from its source once for all who want it.
//!
//! An object is claimed when its source has a turn for it ([`Gate`]) and not before: what waits for its turn, for however long, keeps
//! nobody from it. A claim ends when the record is on disk, or is given up. Whoever finds an object claimed gives its turn back and
//! looks for the record, for as long as [that may help](Set::is_in_vain) and never longer than it would try itself; then it asks
//! the source, whoever else does. What is given up is claimed by the first who sees that, and the others have waited since they began
//! to: what fails, or hangs, does so for all at once and not for one after the other.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::load::Sources;
use super::on_disk::{OnDisk, patience, turn};
use super::{Inner, Kept};
use crate::cache::UnitId;
use crate::cache::disk::{Claim, Flight, Found, Look, Owner, Set, Wanted};
use crate::clock::{Clock, Moment};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record;
use crate::metrics::Metric;
use crate::source::{Edition, Gate, ObjectBytes, ObjectMeta, ReadRequest, Source, Version};
use crate::value::Packed;

/// How often is looked whether another one has brought a record.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// An object that may be on disk.
pub(super) struct Sought<'a> {
    pub(super) inner: &'a Inner,
    pub(super) kept: &'a Kept,
    pub(super) tier: &'a OnDisk,
    pub(super) set: &'a Arc<Set>,
    pub(super) source: &'a dyn Source,
    pub(super) listed: &'a ObjectMeta,
    /// An edition that turned out to be no longer right.
    replaced: Option<Edition>,
    /// Since when others are waited for, and for how long by as many pauses: where the machine keeps this process from its work, it
    /// keeps them, too.
    waits: Option<Instant>,
    paused: Duration,
    is_given_up: bool,
}

/// What came of looking for it.
pub(super) enum Answer {
    /// Its record, of which edition that is, and how old.
    Disk(Arc<Packed>, Edition, Duration),
    /// What its source said.
    Source(Asking, Result<ObjectBytes>),
}

/// How a source was asked.
pub(super) struct Asking {
    /// Others wait for the record until it ends.
    pub(super) flight: Option<Flight>,
    /// Whether what comes takes the place of a record that is no longer the right one.
    pub(super) replaces: bool,
    pub(super) began: Instant,
    /// The same by the cache's clock, and for other processes.
    pub(super) asked: Duration,
    pub(super) asked_at: Moment,
}

impl Asking {
    pub(super) fn begin(clock: &Clock, replaces: bool) -> Self {
        Self { flight: None, replaces, began: Instant::now(), asked: clock.now(), asked_at: clock.moment() }
    }
}

/// What a turn at the source is for.
enum Turn {
    /// To fetch the object, with a claim for all. It takes the place of a record that is no longer right.
    Fetch(Option<Flight>, bool),
    /// For nothing: its record is there.
    Found(Found),
    /// For nothing: another one fetches it.
    Theirs(Option<Owner>),
}

/// What came of a turn.
enum Turned {
    Used(Asking, Result<ObjectBytes>),
    Found(Found),
    Theirs(Option<Owner>),
}

impl Inner {
    /// A unit's object, if the disk tier is for it.
    pub(super) fn sought<'a>(
        &'a self,
        kept: &'a Kept,
        sources: &'a Sources,
        unit: UnitId,
        listed: &'a ObjectMeta,
        replaced: Option<Edition>,
    ) -> Option<Sought<'a>> {
        let tier = kept.on_disk.as_ref()?;
        let set = tier.set(sources, unit.field, kept.is_ordered())?;
        if kept.is_ordered() {
            // It may have become known while the sets were made.
            tier.order_is_known();
        }
        let source = Self::source_of(sources, unit.field).as_ref();
        // What has no version cannot be told from what replaced it.
        let is_told = listed.version != Version::Unknown || self.accepts_changes();
        is_told.then_some(Sought {
            inner: self,
            kept,
            tier,
            set,
            source,
            listed,
            replaced,
            waits: None,
            paused: Duration::ZERO,
            is_given_up: false,
        })
    }
}

impl Sought<'_> {
    /// Brings it.
    pub(super) async fn bring(mut self, request: &ReadRequest) -> Result<Answer> {
        let mut look = self.look().await?;
        loop {
            if let Some(Look::Found(found)) = look {
                let edition = found.edition.clone();
                if let Some((packed, age)) = self.opened(found).await? {
                    self.set.count(true);
                    return Ok(Answer::Disk(packed, edition, age));
                }
                self.replaced = Some(edition);
                look = self.look().await?;
                continue;
            }
            match self.in_turn(request, look.as_ref()).await? {
                Turned::Found(found) => look = Some(Look::Found(found)),
                Turned::Theirs(owner) => look = self.wait_for(owner).await?,
                Turned::Used(asking, read) => {
                    self.set.count(false);
                    return Ok(Answer::Source(asking, read));
                }
            }
        }
    }

    /// Asks its source in turn, unless the turn is for nothing.
    async fn in_turn(&self, request: &ReadRequest, look: Option<&Look>) -> Result<Turned> {
        let buffers = Engine::current()?.buffers();
        let mut asking = Asking::begin(&self.kept.clock, matches!(look, Some(Look::Outdated)));
        // What will not be kept need not be waited for by others.
        if look.is_none() || !self.set.may_be_kept(self.listed.size as usize, asking.replaces) {
            return Ok(Turned::Used(asking, self.source.read(request, buffers).await));
        }
        let gate = Arc::new(Gate::default());
        let request = ReadRequest { gate: Some(gate.clone()), ..request.clone() };
        let mut reading = self.source.read(&request, buffers);
        if let Either::Left((read, _)) = select(&mut reading, pin!(gate.reached())).await {
            return Ok(Turned::Used(asking, read));
        }
        match self.claim(asking.replaces).await? {
            Turn::Found(found) => return Ok(Turned::Found(found)),
            Turn::Theirs(owner) if !self.is_in_vain(owner) => return Ok(Turned::Theirs(owner)),
            Turn::Theirs(_) => {}
            Turn::Fetch(flight, replaces) => (asking.flight, asking.replaces) = (flight, replaces),
        }
        gate.open();
        Ok(Turned::Used(asking, reading.await))
    }

    /// Claims it, and looks once more: it may have come since.
    async fn claim(&self, replaces: bool) -> Result<Turn> {
        let (key, look) = (self.listed.key.clone(), self.looking()?);
        let claimed = self.asked(move |set| match set.claim(&key) {
            Claim::Ours(flight) => match look(set) {
                Look::Found(found) => Turn::Found(found),
                look => Turn::Fetch(Some(flight), matches!(look, Look::Outdated)),
            },
            Claim::Theirs(owner) => Turn::Theirs(owner),
            Claim::Nobodys => Turn::Fetch(None, replaces),
        });
        Ok(claimed.await?.unwrap_or(Turn::Fetch(None, replaces)))
    }

    /// Looks for what another one is bringing, until that is there, is given up, or takes too long.
    async fn wait_for(&mut self, owner: Option<Owner>) -> Result<Option<Look>> {
        if self.waits.is_none() {
            self.inner.metrics.record(&[(Metric::DiskWaits, 1)]);
        }
        let since = *self.waits.get_or_insert_with(Instant::now);
        let mut pause = FIRST_LOOK;
        loop {
            sleep(pause).await;
            self.paused += pause;
            pause = (pause * 2).min(LAST_LOOK);
            let (key, look) = (self.listed.key.clone(), self.looking()?);
            // In this order: what is no longer claimed has been written, or will not be.
            let looked = self.asked(move |set| (set.is_still_claimed(&key, owner), look(set))).await?;
            let Some((is_claimed, look)) = looked else { return Ok(None) };
            let is_there = matches!(look, Look::Found(_));
            self.is_given_up = is_claimed && !is_there && self.is_in_vain(owner);
            if is_there || self.is_given_up {
                self.set.waited(owner, since.elapsed(), is_there);
            }
            if self.is_given_up {
                self.inner.metrics.record(&[(Metric::DiskWaitsInVain, 1)]);
            }
            if is_there || self.is_given_up || !is_claimed {
                return Ok(Some(look));
            }
        }
    }

    fn is_in_vain(&self, owner: Option<Owner>) -> bool {
        let size = self.listed.size;
        let most = self.inner.config.fetch.patience().for_bytes(size);
        let is_too_long = self.waits.is_some_and(|since| since.elapsed() >= most);
        self.is_given_up || is_too_long || self.set.is_in_vain(owner, size, self.paused)
    }

    /// What a record holds, and its age, if that is not too old or its object still the same.
    async fn opened(&self, found: Found) -> Result<Option<(Arc<Packed>, Duration)>> {
        // One that is whole and cannot be opened is of another version of the format.
        let Ok(value) = record::open(&found.record) else { return Ok(None) };
        let mut age = found.age;
        if !self.source.is_pinned() && self.kept.ttl.is_some_and(|ttl| age >= ttl) {
            let asked = self.kept.clock.moment();
            if !self.inner.is_still(self.source, &self.listed.key, &found.edition).await? {
                return Ok(None);
            }
            self.tier.renew_behind(self.set, &self.listed.key, &found.edition, asked);
            age = Duration::ZERO;
        }
        let packed = Arc::new(Packed::in_record(value, found.record, found.memory));
        Ok(Some((packed, age)))
    }

    /// `None`: the disk does not answer.
    async fn look(&self) -> Result<Option<Look>> {
        let look = self.looking()?;
        self.asked(move |set| look(set)).await
    }

    fn looking(&self) -> Result<impl FnOnce(&Set) -> Look + Send + 'static> {
        let or_since = self.inner.accepts_changes().then_some(self.tier.opened);
        let (key, edition) = (self.listed.key.clone(), self.listed.edition());
        let (clock, replaced, buffers) = (self.kept.clock.clone(), self.replaced.clone(), Engine::current()?.buffers());
        Ok(move |set: &Set| match set.look(&key, Wanted { edition: &edition, or_since }, &clock, buffers) {
            Look::Found(found) if replaced.as_ref() == Some(&found.edition) => Look::Outdated,
            look => look,
        })
    }

    /// Asks the disk on a thread that may wait for it; `None` when it does not answer.
    async fn asked<T: Send + 'static>(&self, ask: impl FnOnce(&Arc<Set>) -> T + Send + 'static) -> Result<Option<T>> {
        if !self.set.is_read() {
            return Ok(None);
        }
        let (patience, reads) = (patience(self.listed.size), self.set.reads());
        let Some(turn) = turn(&self.tier.reading, patience).await else {
            // Of a disk that is only slow others have had an answer meanwhile.
            if self.set.reads() == reads {
                self.set.reading_hangs();
            }
            return Ok(None);
        };
        let set = self.set.clone();
        let asking = spawn_blocking(move || {
            let answer = ask(&set);
            // Not before: a disk that hangs has so many waiting for it and no more.
            drop(turn);
            answer
        });
        let failed = |cause| Error::new(ErrorKind::Internal, "read", "the disk cache").caused_by(cause);
        if let Ok(answer) = timeout(patience, asking).await {
            return answer.map(Some).map_err(|cause| failed(cause.to_string()));
        }
        self.set.reading_hangs();
        Ok(None)
    }
}
