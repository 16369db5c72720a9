//! Reading samples on request.
//!
//! Units that are cached are copied; the others are loaded, and packed into the cache before they are handed out, since what
//! is handed out may be written to. Local objects are read by one job per unit — on the calling thread for a single
//! small sample, where a hand-over would cost as much as the read. Remote objects are all asked for at once, limited by their
//! source's policies, and decoded on the workers as they arrive.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::load::Sources;
use super::open::UNNAMED;
use super::{Inner, Kept, Outcomes, Verdict};
use crate::cache::{Lease, UnitId};
use crate::config::OnError;
use crate::engine::{Engine, Interrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metric;
use crate::order::substitute;
use crate::sample::Sample;
use crate::source::Source;
use crate::value::{self, Packed, Value};

/// A single sample below this is read on the calling thread.
const SHARED_READ_BYTES: u64 = 1 << 20;

pub(super) fn read_many(inner: &Arc<Inner>, indices: &[usize], interrupt: Interrupt<'_>) -> Result<Vec<Sample>> {
    let samples = read(inner, indices, false, interrupt).and_then(|read| read.into_iter().collect::<Result<Vec<_>>>());
    let samples = samples.map_err(|error| inner.raised_by_index(error));
    match &samples {
        Ok(samples) => inner.metrics.record(&[(Metric::SamplesRead, samples.len() as u64)]),
        Err(_) => inner.metrics.record(&[(Metric::SampleErrors, 1)]),
    }
    samples
}

/// One of a batch's samples, or what is tried in its place.
struct Place {
    wanted: usize,
    tried: usize,
    attempts: u64,
    sample: Option<Sample>,
}

/// Reads the samples of a batch as the dataset's `on_error` says. There is no epoch here: which sample stands in for another
/// depends on that one alone.
pub(super) fn read_batch(inner: &Arc<Inner>, indices: &[usize], interrupt: Interrupt<'_>) -> Result<Vec<Sample>> {
    if inner.config.on_error == OnError::Raise || indices.is_empty() {
        return read_many(inner, indices, interrupt);
    }
    let engine = Engine::current()?;
    let place = |&wanted: &usize| Place { wanted, tried: wanted, attempts: 0, sample: None };
    let mut places: Vec<_> = indices.iter().map(place).collect();
    let mut outcomes = Outcomes::default();
    loop {
        let tried: Vec<usize> = places.iter().filter(|place| place.sample.is_none()).map(|place| place.tried).collect();
        let others_are_read = tried.len() < places.len();
        let mut read = read(inner, &tried, true, interrupt)?.into_iter();
        let read: Vec<_> = tried.into_iter().zip(read.by_ref()).collect();
        let failed: Vec<_> = read.iter().map(|(tried, read)| (*tried, read.as_ref().err().cloned())).collect();
        let judge = {
            let (inner, mut outcomes) = (inner.clone(), std::mem::take(&mut outcomes));
            async move {
                let tried = failed.iter().map(|(tried, error)| (*tried, error.as_ref()));
                let verdicts = inner.judge(tried, others_are_read, &mut outcomes).await;
                verdicts.map(|verdicts| (verdicts, outcomes))
            }
        };
        let (verdicts, after) = engine.block_on("deciding about samples", judge, interrupt)??;
        outcomes = after;
        let (mut verdicts, mut read) = (verdicts.into_iter(), read.into_iter().map(|(_, read)| read));
        places.retain_mut(|place| {
            if place.sample.is_some() {
                return true;
            }
            place.sample = read.next().and_then(Result::ok);
            if place.sample.is_some() {
                return true;
            }
            place.tried = substitute(inner.manifest.len(), 0, 0, place.wanted as u64, place.attempts);
            place.attempts += 1;
            verdicts.next() == Some(Verdict::Substitute)
        });
        if places.iter().all(|place| place.sample.is_some()) {
            inner.metrics.record(&[(Metric::SamplesRead, places.len() as u64)]);
            return Ok(places.into_iter().filter_map(|place| place.sample).collect());
        }
    }
}

/// Reads samples; with `spares`, errors that `on_error` is about stand in their places.
fn read(inner: &Arc<Inner>, indices: &[usize], spares: bool, interrupt: Interrupt<'_>) -> Result<Vec<Result<Sample>>> {
    let engine = Engine::current()?;
    let sources = inner.sources(engine, interrupt)?;
    let units = inner.units_of(indices.iter().copied());
    let mut leases = Vec::with_capacity(units.len());
    let cache = &*inner.kept()?.cache;
    if cache.is_open() {
        cache.get_many(&units, &mut leases);
    } else {
        leases.resize_with(units.len(), || None);
    }
    let stale = inner.kept()?.take_stale(sources, &units, &mut leases, false);
    let stale_at = move |at: usize| stale.get(at).and_then(Clone::clone);
    let are_local = sources.iter().all(|source| source.is_local());
    let values: Vec<Result<Value>> = match indices {
        [index] if are_local && inner.stored_bytes(*index)? < SHARED_READ_BYTES => {
            let kept = inner.kept()?;
            let pairs = units.into_iter().zip(leases).enumerate();
            pairs
                .map(|(at, (unit, lease))| take_now(engine, inner, kept, sources, unit, lease.as_ref(), stale_at(at)))
                .map(|value| inner.or_raised(value, spares))
                .collect::<Result<_>>()?
        }
        _ if are_local => {
            let (shared, sources): (_, Sources) = (inner.clone(), sources.into());
            let job = move |number: usize| {
                let lease = leases[number].as_ref();
                let value = take_now(engine, &shared, shared.kept()?, &sources, units[number], lease, stale_at(number));
                shared.or_raised(value, spares)
            };
            engine.run_all("reading samples", indices.len() * inner.names.len(), job, interrupt)?
        }
        _ => {
            let wanted =
                units.into_iter().zip(leases).enumerate().map(|(at, (unit, lease))| (unit, lease, stale_at(at)));
            let read = take_all(engine, inner.clone(), sources.into(), wanted.collect(), spares);
            engine.block_on("reading samples", read, interrupt)??
        }
    };
    let mut values = values.into_iter();
    let sample = |&index: &usize| {
        // All of them, also after one that failed: what comes next is the next sample's.
        let of_sample: Vec<_> = values.by_ref().take(inner.names.len()).collect();
        inner.arrange(index, of_sample.into_iter().collect::<Result<_>>()?)
    };
    Ok(indices.iter().map(sample).collect())
}

/// A unit's value in memory of its own, from the cache or a local source.
fn take_now(
    engine: &'static Engine,
    inner: &Arc<Inner>,
    kept: &Kept,
    sources: &[Arc<dyn Source>],
    unit: UnitId,
    lease: Option<&Lease>,
    stale: Option<Lease>,
) -> Result<Value> {
    if let Some(lease) = lease {
        return Ok(Packed::new(lease.value().value(), engine.buffers())?.into_value());
    }
    let loaded = inner.load_now(kept, sources, unit, stale, engine.buffers())?;
    inner.hand_out(engine, kept, unit, loaded)
}

async fn take_all(
    engine: &'static Engine,
    inner: Arc<Inner>,
    sources: Sources,
    wanted: Vec<(UnitId, Option<Lease>, Option<Lease>)>,
    spares: bool,
) -> Result<Vec<Result<Value>>> {
    // A set rather than loose tasks: dropping it cancels what is still under way.
    let mut tasks = JoinSet::new();
    let mut values: Vec<Option<Result<Value>>> = wanted.iter().map(|_| None).collect();
    for (at, (unit, lease, stale)) in wanted.into_iter().enumerate() {
        let (inner, sources) = (inner.clone(), sources.clone());
        tasks.spawn(async move {
            let value = take(engine, inner.clone(), &sources, unit, lease, stale).await;
            Ok::<_, Error>((at, inner.or_raised(value, spares)?))
        });
    }
    while let Some(joined) = tasks.join_next().await {
        let (at, value) =
            joined.map_err(|cause| Error::new(ErrorKind::Internal, "read", "a sample").caused_by(cause)).flatten()?;
        values[at] = Some(value);
    }
    Ok(values.into_iter().flatten().collect())
}

async fn take(
    engine: &'static Engine,
    inner: Arc<Inner>,
    sources: &Sources,
    unit: UnitId,
    lease: Option<Lease>,
    stale: Option<Lease>,
) -> Result<Value> {
    let workers = engine.workers()?;
    if let Some(lease) = lease {
        return workers.run(move || Ok(Packed::new(lease.value().value(), engine.buffers())?.into_value())).await;
    }
    let loaded = inner.load(inner.kept()?, sources, unit, stale, workers, |_| ()).await?;
    workers.run(move || inner.hand_out(engine, inner.kept()?, unit, loaded)).await
}

impl Inner {
    /// An error on its own where it ends everything; otherwise it stands in a value's place.
    fn or_raised(&self, value: Result<Value>, spares: bool) -> Result<Result<Value>> {
        match value {
            Err(error) if !spares => Err(error),
            Err(error) => self.raised(&error).map_or(Ok(Err(error)), Err),
            outcome => Ok(outcome),
        }
    }

    /// The units of samples, field by field.
    pub(crate) fn units_of(&self, indices: impl IntoIterator<Item = usize>) -> Vec<UnitId> {
        let fields = self.names.len();
        indices.into_iter().flat_map(|sample| (0..fields).map(move |field| UnitId { sample, field })).collect()
    }

    pub(crate) fn stored_bytes(&self, index: usize) -> Result<u64> {
        (0..self.names.len()).map(|field| self.manifest.object_size(index, field)).sum()
    }

    /// Puts a sample together; the value of a single unnamed field becomes the sample when it is a dict of names.
    pub(crate) fn arrange(&self, index: usize, values: Vec<Value>) -> Result<Sample> {
        let key = self.manifest.key(index)?.to_owned();
        let restored = |value| Ok(self.restored(index, &value)?.unwrap_or(value));
        let values = values.into_iter().map(restored).collect::<Result<Vec<_>>>()?;
        let fields = self.spread(self.names.iter().cloned().zip(values).collect());
        Ok(Sample { index, key, fields })
    }

    /// A value of a sample as it is to be handed out, where that is another one than was stored.
    pub(crate) fn restored(&self, index: usize, value: &Value) -> Result<Option<Value>> {
        if !self.config.restore_latents {
            return Ok(None);
        }
        value::restored(value).map_err(|cause| {
            let key = self.manifest.key(index).unwrap_or_default();
            Error::new(cause.kind(), "take sample", key).caused_by(cause)
        })
    }

    /// What stands in a sample for its fields.
    pub(crate) fn spread(&self, fields: Vec<(Arc<str>, Value)>) -> Vec<(Arc<str>, Value)> {
        if self.is_spread && fields.len() == 1 {
            return fields.into_iter().flat_map(|(_, value)| spread(value)).collect();
        }
        fields
    }
}

fn spread(value: Value) -> Vec<(Arc<str>, Value)> {
    match value {
        Value::Dict(dict) if dict.items.iter().all(|(name, _)| matches!(name, Value::Str(_))) => {
            let named = |(name, value)| if let Value::Str(name) = name { Some((name.into(), value)) } else { None };
            dict.items.into_iter().filter_map(named).collect()
        }
        other => vec![(UNNAMED.into(), other)],
    }
}
